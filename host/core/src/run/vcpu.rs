//! A virtual CPU.

mod events;
mod init;
mod registers;

use crate::error::RealmError;
use crate::files::statistics::{ExitCounters, Exits};
use crate::host::{LockClass, PageBlock, Purpose, user};
use crate::realm::rec::Rec;
use crate::rmm::numbers::Number;
use crate::run::exit_record::Exit;
use crate::run::gic::Gic;
use crate::run::kvm_run::RunPage;
use crate::run::pending::Pending;
use crate::run::regs::{CoreRegisters, VectorLengths};
use crate::run::waker::Waker;
use crate::{Errno, Host, Lock, UserMemory, Vm};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use realm_abi::kvm::{FileKind, Ioctl, MpState, VcpuInit, vcpu_mpidr};
use realm_alloc::{Arc, Box, try_zeroed_box};

/// What one thread at a time works on: held over every ioctl of the vCPU, also KVM_RUN.
pub(crate) struct State<H: Host> {
    /// Set by KVM_ARM_VCPU_INIT.
    pub(crate) init: Option<VcpuInit>,
    pub(crate) registers: Box<CoreRegisters>,
    /// From KVM_ARM_VCPU_FINALIZE of the REC on.
    pub(crate) rec: Option<Rec>,
    /// From the first KVM_RUN on.
    pub(crate) gic: Option<Arc<Gic<H>>>,
    pub(crate) pending: Pending,
    /// The realm's CPU_OFF met a CPU_ON, and the RMM has not shown yet which came last.
    pub(crate) off_is_uncertain: bool,
    /// CPU_ON calls before the last entry.
    pub(crate) calls_before_entry: u64,
    /// What the last exit said.
    pub(crate) exit: Box<Exit>,
    run_block: Option<PageBlock>,
    number: Option<Number>,
    /// The VM is over: nothing of it runs again.
    retired: bool,
}

/// What the realm's creation needs of a vCPU.
#[derive(Clone, Copy)]
struct Sve {
    enabled: bool,
    finalized: bool,
    lengths: VectorLengths,
}

/// Whether a vCPU is on, as far as the Host knows: the RMM decides, and tells only the realm. When a CPU_ON is completed
/// while the vCPU is in the realm, the Host cannot know whether it found the vCPU on or already off again.
#[derive(Clone, Copy)]
struct Power {
    state: MpState,
    /// CPU_ON calls that named this vCPU.
    calls: u64,
}

/// What other threads ask of a vCPU; its lock is never held for long.
struct Public {
    sve: Sve,
    power: Power,
}

/// A vCPU of a realm VM.
pub struct Vcpu<H: Host> {
    vm: Arc<Vm<H>>,
    id: u32,
    run_page: u64,
    state: H::Lock<State<H>>,
    public: H::Lock<Public>,
    waker: Arc<Waker<H>>,
    exits: ExitCounters,
    /// Physical address of the REC for the PSCI calls of other vCPUs, 0 while there is none.
    rec_pa: AtomicU64,
    open: AtomicBool,
}

impl<H: Host> Vcpu<H> {
    /// A vCPU of a VM, with a page and a number of its own. With no lock held.
    #[inline(never)]
    pub(crate) fn new(vm: &Arc<Vm<H>>, id: u32) -> Result<Arc<Self>, Errno> {
        let number = vm.device().reserve_vcpu_number(vm)?;
        let Some(run_block) = vm.host().alloc(1, Purpose::RunPage) else {
            vm.device().release_vcpu_number(vm, number);
            return Err(Errno::ENOMEM);
        };
        match Self::empty(vm, id, run_block.pa, u32::from(number.get())) {
            Ok(vcpu) => {
                let mut state = vcpu.state.lock();
                (state.run_block, state.number) = (Some(run_block), Some(number));
                drop(state);
                Ok(vcpu)
            }
            Err(errno) => {
                vm.host().free(run_block);
                vm.device().release_vcpu_number(vm, number);
                Err(errno)
            }
        }
    }

    #[inline(never)]
    fn empty(vm: &Arc<Vm<H>>, id: u32, run_page: u64, number: u32) -> Result<Arc<Self>, Errno> {
        let state = State {
            init: None,
            registers: try_zeroed_box()?,
            rec: None,
            gic: None,
            pending: Pending::Nothing,
            off_is_uncertain: false,
            calls_before_entry: 0,
            exit: try_zeroed_box()?,
            run_block: None,
            number: None,
            retired: false,
        };
        let public = Public {
            sve: Sve { enabled: false, finalized: false, lengths: VectorLengths::new(vm.info.features) },
            power: Power { state: MpState::STOPPED, calls: 0 },
        };
        let state = H::Lock::new(LockClass::Vcpu, state)?;
        let public = H::Lock::new(LockClass::VcpuPublic, public)?;
        let waker = Arc::try_new(Waker::new(number)?)?;
        let exits = ExitCounters::default();
        let (rec_pa, open) = (AtomicU64::new(0), AtomicBool::new(false));
        Ok(Arc::try_new(Self { vm: vm.clone(), id, run_page, state, public, waker, exits, rec_pa, open })?)
    }

    /// The VM it belongs to.
    #[must_use]
    pub fn vm(&self) -> &Arc<Vm<H>> {
        &self.vm
    }

    /// The id the VMM gave it, also its index for the interrupt controller.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// A number that no other vCPU of this host has, for [`Host::kick`].
    #[must_use]
    pub fn number(&self) -> u32 {
        self.waker.number()
    }

    /// Its affinity fields.
    #[must_use]
    pub fn mpidr(&self) -> u64 {
        vcpu_mpidr(self.id)
    }

    /// Physical address of the page a process maps at offset 0 of the vCPU's file (`struct kvm_run`).
    #[must_use]
    pub fn run_page(&self) -> u64 {
        self.run_page
    }

    /// REC exits so far.
    #[must_use]
    pub fn exits(&self) -> Exits {
        self.exits.snapshot()
    }

    pub(crate) fn exit_counters(&self) -> &ExitCounters {
        &self.exits
    }

    pub(crate) fn kvm_run(&self) -> RunPage<'_, H> {
        RunPage::new(self.vm.host(), self.run_page)
    }

    pub(crate) fn waker(&self) -> &Arc<Waker<H>> {
        &self.waker
    }

    /// Makes the thread that runs this vCPU look around: at signals it has, interrupts, the state of the VM. Any context.
    pub fn kick(&self) {
        self.waker.wake(self.vm.host());
    }

    pub(crate) fn power(&self) -> MpState {
        self.public.lock().power.state
    }

    pub(crate) fn set_power(&self, state: MpState) {
        self.public.lock().power.state = state;
        self.kick();
    }

    /// A CPU_ON that names this vCPU is completed.
    pub(crate) fn power_on(&self) {
        {
            let power = &mut self.public.lock().power;
            *power = Power { state: MpState::RUNNABLE, calls: power.calls.wrapping_add(1) };
        }
        self.kick();
    }

    /// How many CPU_ON calls named this vCPU.
    pub(crate) fn power_calls(&self) -> u64 {
        self.public.lock().power.calls
    }

    /// The vCPU is off, unless a CPU_ON was completed since [`Self::power_calls`] gave `calls`; whether it is off.
    pub(crate) fn power_off_unless_called(&self, calls: u64) -> bool {
        let power = &mut self.public.lock().power;
        let off = power.calls == calls;
        if off {
            power.state = MpState::STOPPED;
        }
        off
    }

    /// Physical address of its REC.
    pub(crate) fn rec_pa(&self) -> Option<u64> {
        match self.rec_pa.load(Ordering::SeqCst) {
            0 => None,
            pa => Some(pa),
        }
    }

    /// The vector length in quadwords minus one for the realm's parameters, `None` without SVE.
    pub(crate) fn sve_length(&self) -> Result<Option<u8>, Errno> {
        if !self.sve_is_final() {
            self.vm.host().explain(format_args!("vCPU {} has SVE that is not finalized", self.id));
            return Err(Errno::EINVAL);
        }
        let sve = self.public.lock().sve;
        Ok(sve.enabled.then(|| sve.lengths.sve_vl()))
    }

    /// Whether nothing of SVE is left to choose: it is finalized, or the vCPU has none.
    pub(crate) fn sve_is_final(&self) -> bool {
        let sve = self.public.lock().sve;
        sve.finalized || !sve.enabled
    }

    #[inline(never)]
    pub(crate) fn ioctl(&self, user: &impl UserMemory, cmd: u32, arg: u64) -> Result<i64, Errno> {
        let ioctl = Ioctl::parse(self.vm.device().generation(), FileKind::Vcpu, cmd);
        let _inside = self.vm.enter(user)?;
        let mut state = self.state.lock_killable()?;
        let state = &mut *state;
        let done = match ioctl {
            Ioctl::Run if arg == 0 => return self.run(state, user),
            Ioctl::Run => Err(Errno::EINVAL),
            Ioctl::ArmVcpuInit => self.init(state, &user::read(user, arg)?),
            Ioctl::ArmVcpuFinalize => self.finalize(state, user::read(user, arg)?),
            Ioctl::SetOneReg => self.set_one_reg(state, user, &user::read(user, arg)?),
            Ioctl::GetOneReg => self.get_one_reg(state, user, &user::read(user, arg)?),
            Ioctl::GetRegList => self.get_reg_list(state, user, arg),
            Ioctl::GetMpState => user::write(user, arg, &self.power()),
            Ioctl::SetMpState => match user::read(user, arg)? {
                power @ (MpState::RUNNABLE | MpState::STOPPED) => {
                    self.set_power(power);
                    Ok(())
                }
                _ => Err(Errno::EINVAL),
            },
            Ioctl::GetVcpuEvents => self.get_events(user, arg),
            Ioctl::SetVcpuEvents => self.set_events(state, &user::read(user, arg)?),
            Ioctl::ArmVcpuRmmPsciComplete if state.rec.is_none() => Err(Errno::EPERM),
            Ioctl::ArmVcpuRmmPsciComplete => self.psci_complete(&user::read(user, arg)?),
            // Nobody but the realm debugs a realm, and no capability of a vCPU can be switched on.
            Ioctl::SetGuestDebug | Ioctl::EnableCap => Err(Errno::EINVAL),
            Ioctl::SetDeviceAttr | Ioctl::GetDeviceAttr | Ioctl::HasDeviceAttr => Err(Errno::ENXIO),
            _ => Err(Errno::ENOTTY),
        };
        done.map(|()| 0)
    }

    /// Destroys the REC (trigger B). No ioctl of the vCPU is under way.
    #[inline(never)]
    pub(crate) fn destroy_rec(&self) -> Result<(), RealmError> {
        Rec::destroy(&mut self.state.lock().rec, self.vm.device().rmm())?;
        self.rec_pa.store(0, Ordering::SeqCst);
        Ok(())
    }

    /// Takes back what the REC was made of, if the RMM would not destroy it: the realm is destroyed.
    #[inline(never)]
    pub(crate) fn take_back_rec(&self) {
        Rec::take_back(&mut self.state.lock().rec, self.vm.device().rmm());
        self.rec_pa.store(0, Ordering::SeqCst);
    }

    /// Lets go of what a vCPU has that no realm needs: its number and its interrupt controller; and the page shared with the VMM,
    /// unless the file is still open, as in a shutdown: a process may map the page then.
    pub(crate) fn retire(&self) {
        let (number, gic) = {
            let mut state = self.state.lock();
            state.retired = true;
            (state.number.take(), state.gic.take())
        };
        drop(gic);
        self.free_run_page();
        if let Some(number) = number {
            self.vm.device().release_vcpu_number(&self.vm, number);
        }
    }

    /// The vCPU gets a file.
    pub(crate) fn opened(&self) {
        self.open.store(true, Ordering::SeqCst);
        self.vm.file_opened();
    }

    /// The vCPU's file is closed. The vCPU itself stays until the VM goes.
    pub(crate) fn release(&self) {
        if self.open.swap(false, Ordering::SeqCst) {
            self.free_run_page();
            Vm::file_closed(&self.vm);
        }
    }

    /// Frees the page shared with the VMM, if the vCPU is retired and its file closed.
    fn free_run_page(&self) {
        let block = {
            let mut state = self.state.lock();
            let unused = state.retired && !self.open.load(Ordering::SeqCst);
            if unused { state.run_block.take() } else { None }
        };
        if let Some(block) = block {
            self.vm.host().free(block);
        }
    }
}
