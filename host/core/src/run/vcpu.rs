//! A virtual CPU.

mod events;
mod init;
mod registers;

use crate::error::RealmError;
use crate::host::user;
use crate::host::{Event, PageBlock};
use crate::realm::rec::Rec;
use crate::run::irqchip::Irqchip;
use crate::run::kvm_run::RunPage;
use crate::run::pending::Pending;
use crate::run::regs::{CoreRegisters, VectorLengths};
use crate::{Errno, Host, Lock, UserMemory, Vm};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use realm_abi::kvm::{FileKind, Ioctl, MpState, VcpuInit, vcpu_mpidr};
use realm_abi::rmi::RecRun;

/// What one thread at a time works on: held over every ioctl of the vCPU, also KVM_RUN.
pub(crate) struct State {
    /// Set by KVM_ARM_VCPU_INIT.
    pub(crate) init: Option<VcpuInit>,
    pub(crate) registers: CoreRegisters,
    /// From KVM_ARM_VCPU_FINALIZE of the REC on.
    pub(crate) rec: Option<Rec>,
    /// From the first KVM_RUN on.
    pub(crate) irqchip: Option<Arc<dyn Irqchip>>,
    pub(crate) pending: Pending,
    /// The realm's CPU_OFF met a CPU_ON, and the RMM has not shown yet which came last.
    pub(crate) maybe_off: bool,
    /// CPU_ON calls before the last entry.
    pub(crate) calls_before_entry: u64,
    /// A copy of the page shared with the RMM.
    pub(crate) run: Box<RecRun>,
    run_block: Option<PageBlock>,
}

/// What the realm's creation needs of a vCPU; its lock is never held for long.
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

/// A vCPU of a realm VM.
pub struct Vcpu<H: Host> {
    vm: Arc<Vm<H>>,
    id: u32,
    number: u32,
    run_page: u64,
    state: H::Lock<State>,
    sve: H::Lock<Sve>,
    /// Changed by other vCPUs' PSCI calls.
    power: H::Lock<Power>,
    /// The thread is to look around before it enters the realm again.
    kicked: AtomicBool,
    in_realm: AtomicBool,
    event: H::Event,
    /// Physical address of the REC for the PSCI calls of other vCPUs, 0 while there is none.
    rec_pa: AtomicU64,
    open: AtomicBool,
}

impl<H: Host> Vcpu<H> {
    pub(crate) fn new(vm: &Arc<Vm<H>>, id: u32) -> Result<Arc<Self>, Errno> {
        let block = vm.host().alloc(1).ok_or(Errno::ENOMEM)?;
        Ok(Arc::new(Self {
            vm: vm.clone(),
            id,
            number: vm.device().next_vcpu_number(),
            run_page: block.pa,
            state: H::Lock::new(State {
                init: None,
                registers: CoreRegisters::default(),
                rec: None,
                irqchip: None,
                pending: Pending::Nothing,
                maybe_off: false,
                calls_before_entry: 0,
                run: Box::default(),
                run_block: Some(block),
            }),
            sve: H::Lock::new(Sve {
                enabled: false,
                finalized: false,
                lengths: VectorLengths::new(vm.info.features),
            }),
            power: H::Lock::new(Power { state: MpState::STOPPED, calls: 0 }),
            kicked: AtomicBool::new(false),
            in_realm: AtomicBool::new(false),
            event: H::Event::new(),
            rec_pa: AtomicU64::new(0),
            open: AtomicBool::new(true),
        }))
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
        self.number
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

    pub(crate) fn kvm_run(&self) -> RunPage<'_, H> {
        RunPage::new(self.vm.host(), self.run_page)
    }

    /// Makes the thread that runs this vCPU look around: at signals it has, interrupts, the state of the VM.
    pub fn kick(&self) {
        self.kicked.store(true, Ordering::SeqCst);
        self.event.signal();
        self.vm.host().kick(self.number);
    }

    pub(crate) fn take_kick(&self) -> bool {
        self.kicked.swap(false, Ordering::SeqCst)
    }

    pub(crate) fn is_kicked(&self) -> bool {
        self.kicked.load(Ordering::SeqCst)
    }

    pub(crate) fn event(&self) -> &H::Event {
        &self.event
    }

    /// Whether its thread is about to enter the realm, in it, or just leaving it.
    pub(crate) fn is_in_realm(&self) -> bool {
        self.in_realm.load(Ordering::SeqCst)
    }

    pub(crate) fn set_in_realm(&self, inside: bool) {
        self.in_realm.store(inside, Ordering::SeqCst);
    }

    pub(crate) fn power(&self) -> MpState {
        self.power.lock().state
    }

    pub(crate) fn set_power(&self, state: MpState) {
        self.power.lock().state = state;
        self.kick();
    }

    /// A CPU_ON that names this vCPU is completed.
    pub(crate) fn power_on(&self) {
        {
            let mut power = self.power.lock();
            *power = Power { state: MpState::RUNNABLE, calls: power.calls.wrapping_add(1) };
        }
        self.kick();
    }

    /// How many CPU_ON calls named this vCPU.
    pub(crate) fn power_calls(&self) -> u64 {
        self.power.lock().calls
    }

    /// The vCPU is off, unless a CPU_ON was completed since [`Self::power_calls`] gave `calls`; whether it is off.
    pub(crate) fn power_off_unless_called(&self, calls: u64) -> bool {
        let mut power = self.power.lock();
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
        let sve = *self.sve.lock();
        Ok(sve.enabled.then(|| sve.lengths.sve_vl()))
    }

    /// Whether nothing of SVE is left to choose: it is finalized, or the vCPU has none.
    pub(crate) fn sve_is_final(&self) -> bool {
        let sve = *self.sve.lock();
        sve.finalized || !sve.enabled
    }

    pub(crate) fn ioctl(self: &Arc<Self>, user: &impl UserMemory, cmd: u32, arg: u64) -> Result<i64, Errno> {
        let ioctl = Ioctl::parse(self.vm.device().generation(), FileKind::Vcpu, cmd);
        if self.vm.is_dead() {
            return Err(Errno::EIO);
        }
        let mut state = self.state.lock();
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

    /// Destroys the REC (trigger B). Waits until the vCPU's thread has left its ioctl.
    pub(crate) fn destroy_rec(&self) -> Result<(), RealmError> {
        Rec::destroy(&mut self.state.lock().rec, self.vm.device().rmm())?;
        self.rec_pa.store(0, Ordering::SeqCst);
        Ok(())
    }

    /// Frees the page shared with the VMM, which no process maps any more.
    pub(crate) fn free_run_page(&self) {
        if let Some(block) = self.state.lock().run_block.take() {
            self.vm.host().free(block);
        }
    }

    /// The vCPU's file is closed. The vCPU itself stays until the VM goes.
    pub(crate) fn release(&self) {
        if self.open.swap(false, Ordering::SeqCst) {
            self.vm.file_closed();
        }
    }
}
