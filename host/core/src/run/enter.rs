//! KVM_RUN: the loop around REC_ENTER (docs/kvm-realm-abi.md section 3.17).

use crate::error::Phase;
use crate::host::Entry;
use crate::run::gic::Gic;
use crate::run::irqchip::{GicEntry, GicExit};
use crate::run::pending::{Next, Pending};
use crate::run::timer::{PMU_INTID, Timers};
use crate::run::vcpu::State;
use crate::{Errno, Host, Lock, UserMemory, Vcpu};
use realm_abi::kvm::{ExitReason as KvmExit, MpState};
use realm_abi::rmi::{EnterFlags, GICV3_HCR_HOST_BITS, GPRS, RecEnter, RecExit, RecRun, ReturnCode, Status};
use zerocopy::{FromZeros, transmute_mut};

/// ERROR_REALM with this index: the realm switched itself off (RMM 1.0, RMI_REC_ENTER, `system_off`).
const SYSTEM_OFF: ReturnCode = ReturnCode::new(Status::ERROR_REALM, 1);

/// List register fields (`ICH_LR<n>_EL2`).
mod lr {
    /// State, bits 63:62.
    pub const STATE: u64 = 3 << 62;
    /// vINTID, bits 31:0.
    pub const VINTID: u64 = 0xffff_ffff;
    /// The interrupt is tied to a physical one; the RMM refuses it.
    pub const HW: u64 = 1 << 61;
    /// pINTID, of which only bit 41 has a meaning without HW.
    pub const PINTID: u64 = 0x1fff << 32;
    /// Without HW: tell when the realm ends this interrupt.
    pub const EOI: u64 = 1 << 41;
}

impl<H: Host> Vcpu<H> {
    pub(crate) fn run(&self, state: &mut State<H>, user: &impl UserMemory) -> Result<i64, Errno> {
        self.prepare_run(state)?;
        if let Pending::Mmio(access) = state.pending {
            let data = u64::from_le_bytes(self.kvm_run().mmio_data());
            let value = if access.write { 0 } else { access.truncate(data) };
            state.pending = Pending::Emulated { value };
        }
        if self.kvm_run().immediate_exit() {
            return Err(Errno::EINTR);
        }
        loop {
            if self.vm().is_dead() {
                return Err(Errno::EIO);
            }
            if self.vm().is_off() {
                self.kvm_run().exit(KvmExit::SHUTDOWN);
                return Ok(0);
            }
            if user.must_return() {
                self.kvm_run().exit(KvmExit::INTR);
                return Err(Errno::EINTR);
            }
            if user.has_work() {
                user.do_work();
                continue;
            }
            // What is asked of this thread from here on is asked again by the flag.
            self.waker().take_kick();
            if self.power() == MpState::STOPPED {
                self.waker().wait(None);
                continue;
            }
            if let Pending::RipasChange(_) = state.pending {
                self.commit_ripas(state, user)?;
                continue;
            }
            if !self.enter(state, user)? {
                continue;
            }
            match self.handle_exit(state, user)? {
                Next::Resume => {}
                Next::Return => return Ok(0),
            }
        }
    }

    /// What KVM_RUN needs before it can start, in KVM's order.
    fn prepare_run(&self, state: &mut State<H>) -> Result<(), Errno> {
        if state.init.is_none() {
            return Err(Errno::ENOEXEC);
        }
        let active = match self.vm().realm.phase() {
            Phase::Active => true,
            Phase::Dying | Phase::Dead => return Err(Errno::EIO),
            Phase::None | Phase::New => false,
        };
        if state.rec.is_none() || !active || !self.sve_is_final() {
            return Err(Errno::EPERM);
        }
        if state.gic.is_none() {
            state.gic = Some(self.vm().config.lock_killable()?.gic.for_run()?);
        }
        Ok(())
    }

    /// Enters the REC once; `false` if it did not come to that and the reason has to be looked for.
    #[inline(never)]
    fn enter(&self, state: &mut State<H>, user: &impl UserMemory) -> Result<bool, Errno> {
        let (Some(rec), Some(gic)) = (&state.rec, &state.gic) else { return Err(Errno::EPERM) };
        let (rec_pa, run_pa) = (rec.pa(), rec.run_pa());
        let vm = self.vm();
        let lrs = self.list_registers();
        let interface = allowed(gic.flush(self.id(), lrs), lrs);
        vm.host().with_granule(run_pa, |bytes| {
            let run: &mut RecRun = transmute_mut!(bytes);
            fill(&mut run.enter, state.pending, &state.registers.x, &interface);
        });
        state.calls_before_entry = self.power_calls();

        let entry = Entry { vcpu: self.number(), mask_pmu: state.exit.pmu_overflow || holds_pmu(&interface) };
        vm.host().vcpu_load(&entry);
        // From here on a kick, also that of a signal, reaches the thread in the realm; what came before is found here.
        let wanted =
            self.waker().is_kicked() || vm.is_dead() || vm.is_off() || user.must_return() || user.has_work();
        let entered = (!wanted).then(|| vm.device().rmm().rmi().rec_enter(rec_pa, run_pa));
        vm.host().vcpu_put(&entry);

        // If the realm did not run, the list registers are as they were.
        let untouched = || GicExit { hcr: interface.hcr, lrs: interface.lrs, misr: 0, vmcr: None };
        match entered {
            None => {
                gic.sync(self.id(), &untouched());
                Ok(false)
            }
            Some(Err(error)) => {
                gic.sync(self.id(), &untouched());
                if error.code() == Some(SYSTEM_OFF) {
                    // Another vCPU switched the realm off while this one was on its way; the loop tells the VMM.
                    vm.switch_off();
                    return Ok(false);
                }
                let not_ready = error.code().is_some_and(|code| code.status() == Status::ERROR_REC);
                if not_ready && state.off_is_uncertain {
                    // So the CPU_ON came first. If another one came since, the next entry shows.
                    state.off_is_uncertain = !self.power_off_unless_called(state.calls_before_entry);
                    return Ok(false);
                }
                vm.host().explain(format_args!("KVM_RUN of vCPU {}: {error}", self.id()));
                Err(match error.code().map(ReturnCode::status) {
                    // Not runnable yet although the VMM lets it run, or a PSCI call is not completed: later it may work.
                    Some(Status::ERROR_REC) => Errno::EAGAIN,
                    Some(Status::ERROR_REALM) => Errno::EINVAL,
                    _ => Errno::ENXIO,
                })
            }
            Some(Ok(())) => {
                vm.host().with_granule(run_pa, |bytes| {
                    let run: &mut RecRun = transmute_mut!(bytes);
                    state.exit.read(&run.exit);
                    gic.sync(self.id(), &interface_of(&run.exit, lrs));
                });
                // What was to be answered is answered; nothing of it may reach a later entry.
                state.pending = Pending::Nothing;
                state.off_is_uncertain = false;
                self.exit_counters().count(state.exit.reason);
                self.drive_lines(gic, &state.exit.timers, state.exit.pmu_overflow);
                Ok(true)
            }
        }
    }

    /// How many list registers the RMM saves; interrupts in any other would be lost.
    fn list_registers(&self) -> usize {
        usize::try_from(self.vm().info.features.gicv3_num_lrs()).unwrap_or(0).saturating_add(1)
    }

    /// The lines of what interrupts without a GIC's help: both timers, and the PMU.
    #[inline(never)]
    fn drive_lines(&self, gic: &Gic<H>, timers: &Timers, pmu: bool) {
        let lines = timers.lines().into_iter().chain([(PMU_INTID, pmu)]);
        for (intid, level) in lines {
            // A GIC without these interrupts was told by its configuration that it has them: nothing to do about it.
            let _: Result<(), Errno> = gic.set_private(self.id(), intid, level);
        }
    }

    /// Sleeps until the vCPU has an interrupt, one of its timers or `deadline` (counter ticks) fires, or the thread is
    /// wanted elsewhere.
    pub(crate) fn block(&self, state: &State<H>, user: &impl UserMemory, deadline: Option<u64>) {
        let Some(gic) = &state.gic else { return };
        let timers = state.exit.timers;
        let until = [timers.deadline(), deadline].into_iter().flatten().min();
        loop {
            let (now, _) = self.vm().host().counter();
            if until.is_some_and(|until| until <= now) {
                self.drive_lines(gic, &timers.at(now), state.exit.pmu_overflow);
                return;
            }
            let wanted = self.vm().is_dead() || self.vm().is_off() || self.power() == MpState::STOPPED;
            if wanted || gic.pending(self.id()) || user.must_return() {
                return;
            }
            self.waker().wait(until);
        }
    }
}

/// Whether the realm's own PMU interrupt is pending or active in a list register.
fn holds_pmu(interface: &GicEntry) -> bool {
    interface.lrs.iter().any(|value| value & lr::STATE != 0 && value & lr::VINTID == u64::from(PMU_INTID))
}

/// The GIC's part of an exit.
fn interface_of(exit: &RecExit, lrs: usize) -> GicExit {
    GicExit {
        hcr: exit.gicv3_hcr,
        lrs: folded(exit.gicv3_lrs, lrs),
        misr: exit.gicv3_misr,
        vmcr: Some(exit.gicv3_vmcr),
    }
}

/// Fills the enter half of the run page.
fn fill(enter: &mut RecEnter, pending: Pending, registers: &[u64; GPRS], gic: &GicEntry) {
    enter.zero();
    // A vCPU that has nothing to do gives the CPU back; one with an interrupt it would take does not wait at a WFI, and that is not
    // trapped then (Arm ARM, HCR_EL2.TWI).
    let mut flags = EnterFlags::TRAP_WFI;
    match pending {
        // The loop turns these into others before it enters.
        Pending::Nothing | Pending::Mmio(_) | Pending::RipasChange(_) => {}
        Pending::Emulated { value } => {
            flags |= EnterFlags::EMUL_MMIO;
            set_first(&mut enter.gprs, value);
        }
        Pending::InjectSea => flags |= EnterFlags::INJECT_SEA,
        Pending::RejectRipas => flags |= EnterFlags::RIPAS_RESPONSE,
        Pending::HostCall => enter.gprs = *registers,
        Pending::Register(value) => set_first(&mut enter.gprs, value),
    }
    enter.flags = flags.bits();
    enter.gicv3_hcr = gic.hcr;
    enter.gicv3_lrs = gic.lrs;
}

fn set_first(gprs: &mut [u64; GPRS], value: u64) {
    if let Some(x0) = gprs.first_mut() {
        *x0 = value;
    }
}

/// What of a GIC's wishes the RMM accepts (RMM 1.0, RmiRecEnter): the Host's bits of ICH_HCR_EL2; list registers it
/// has, without HW.
fn allowed(entry: GicEntry, count: usize) -> GicEntry {
    let mut lrs = entry.lrs;
    for (index, value) in lrs.iter_mut().enumerate() {
        if index >= count || *value & lr::STATE == 0 {
            *value = 0;
        } else if *value & lr::HW != 0 {
            *value &= !(lr::HW | lr::PINTID);
        } else {
            *value &= !(lr::PINTID & !lr::EOI);
        }
    }
    GicEntry { hcr: entry.hcr & GICV3_HCR_HOST_BITS, lrs }
}

/// The list registers after a run: those the RMM has, and of the empty ones only those whose end was to be told.
fn folded(mut lrs: [u64; realm_abi::rmi::MAX_LRS], count: usize) -> [u64; realm_abi::rmi::MAX_LRS] {
    for (index, value) in lrs.iter_mut().enumerate() {
        let told = *value & (lr::HW | lr::EOI) == lr::EOI;
        if index >= count || (*value & lr::STATE == 0 && !told) {
            *value = 0;
        }
    }
    lrs
}

#[cfg(test)]
mod tests {
    use super::*;

    const PENDING: u64 = 1 << 62;

    fn gic(lrs: &[u64]) -> GicEntry {
        let mut entry = GicEntry { hcr: u64::MAX, ..GicEntry::default() };
        entry.lrs[..lrs.len()].copy_from_slice(lrs);
        entry
    }

    #[test]
    fn only_what_the_rmm_accepts_goes_into_the_list_registers() {
        let entry = allowed(
            gic(&[PENDING | lr::HW | 33 << 32 | 27, 0x55, PENDING | lr::EOI | 1 << 40 | 28, PENDING]),
            3,
        );
        assert_eq!(entry.lrs[..4], [PENDING | 27, 0, PENDING | lr::EOI | 28, 0]);
        assert_eq!(entry.hcr, GICV3_HCR_HOST_BITS);
    }

    #[test]
    fn an_empty_list_register_comes_back_as_zero_unless_its_end_was_to_be_told() {
        let mut lrs = [0; 16];
        lrs[..4].copy_from_slice(&[27, lr::EOI | 28, PENDING | 29, PENDING | 30]);
        assert_eq!(folded(lrs, 3)[..4], [0, lr::EOI | 28, PENDING | 29, 0]);
    }

    #[test]
    fn a_pending_answer_becomes_flags_and_registers() {
        let flags = |pending, entry: &GicEntry| {
            let mut enter = RecEnter::default();
            enter.gprs[5] = 7;
            fill(&mut enter, pending, &[8; GPRS], entry);
            let expected = if pending == Pending::HostCall { 8 } else { 0 };
            assert_eq!(enter.gprs[5], expected, "nothing is left of the last entry");
            (EnterFlags::from_bits_retain(enter.flags), enter.gprs[0])
        };
        let (idle, busy) = (gic(&[]), gic(&[PENDING | 27]));
        let wfi = EnterFlags::TRAP_WFI;
        assert_eq!(flags(Pending::Nothing, &idle), (wfi, 0));
        assert_eq!(flags(Pending::Nothing, &busy), (wfi, 0));
        assert_eq!(flags(Pending::Emulated { value: 9 }, &busy), (EnterFlags::EMUL_MMIO | wfi, 9));
        assert_eq!(flags(Pending::InjectSea, &idle), (EnterFlags::INJECT_SEA | wfi, 0));
        assert_eq!(flags(Pending::RejectRipas, &busy), (EnterFlags::RIPAS_RESPONSE | wfi, 0));
        assert_eq!(flags(Pending::Register(3), &busy), (wfi, 3));
        assert_eq!(flags(Pending::HostCall, &busy), (wfi, 8));
    }
}
