//! A REC while a CPU runs it.

use super::{Mpidr, Pending, Rec};
use crate::cpu::RunControls;
use crate::granule::GranuleState;
use crate::platform::{Broken, Platform};
use crate::realm::{LastRan, RealmDescriptor, RealmState};
use crate::rtt::Stage2;
use crate::timer::Outputs;
use crate::{Rmm, exit, gic, timer};
use realm_abi::rmi::{EnterFlags, ExitReason, RecEnter, RecExit, ReturnCode, Status};

/// What of its realm a running REC needs; none of it changes once the realm is active.
#[derive(Clone, Debug)]
pub(crate) struct Realm {
    /// The RD, which exists at least as long as a REC of it.
    pub(crate) rd: u64,
    pub(crate) stage2: Stage2,
    /// SVE vector length in quadwords minus one, if the realm has SVE.
    pub(crate) sve_vl: Option<u8>,
    /// PMU event counters, if the realm has a PMU.
    pub(crate) pmu_counters: Option<u8>,
    /// Breakpoints minus one.
    pub(crate) num_bps: u8,
    /// Watchpoints minus one.
    pub(crate) num_wps: u8,
}

impl Realm {
    fn of(rd: u64, descriptor: &RealmDescriptor) -> Self {
        Self {
            rd,
            stage2: descriptor.stage2(),
            sve_vl: (descriptor.sve != 0).then_some(descriptor.sve_vl),
            pmu_counters: (descriptor.pmu != 0).then_some(descriptor.pmu_num_ctrs),
            num_bps: descriptor.num_bps,
            num_wps: descriptor.num_wps,
        }
    }
}

/// What comes after an exit from the realm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The realm goes on.
    Resume,
    /// The Host gets the exit.
    Exit,
}

/// A REC granule marked as running. Its reference count keeps everybody else from changing or destroying the REC, and
/// the REC keeps its realm. Dropping it ends that.
struct Claim<'r, 'a, P: Platform> {
    rmm: &'r Rmm<'a, P>,
    pa: u64,
}

impl<'r, 'a, P: Platform> Claim<'r, 'a, P> {
    /// Marks the REC as running and copies it to `copy`.
    fn new(rmm: &'r Rmm<'a, P>, pa: u64, copy: &mut Rec) -> Result<Self, ReturnCode> {
        let mut granule = rmm.granules.lock(pa, GranuleState::Rec)?;
        // rec_state
        if granule.refcount() != 0 {
            return Err(ReturnCode::ERROR_REC);
        }
        rmm.must(granule.count(1), Broken::Count);
        granule.with(&rmm.platform, |rec: &mut Rec| rec.copy_to(copy));
        Ok(Self { rmm, pa })
    }
}

impl<P: Platform> Drop for Claim<'_, '_, P> {
    fn drop(&mut self) {
        let mut granule = self.rmm.must(self.rmm.granules.lock(self.pa, GranuleState::Rec), Broken::State);
        self.rmm.must(granule.count(-1), Broken::Count);
    }
}

/// A REC in state RUNNING: this CPU's alone until this is dropped, which makes it READY. No lock is held while the realm
/// runs. The large parts are the caller's, so that they are not moved about.
pub(crate) struct Running<'r, 'a, P: Platform> {
    claim: Claim<'r, 'a, P>,
    pub(crate) rmm: &'r Rmm<'a, P>,
    /// The copy this CPU works on.
    pub(crate) rec: &'r mut Rec,
    pub(crate) realm: Realm,
    /// What the Host sees after [`Self::run`].
    pub(crate) exit: &'r mut RecExit,
}

impl<'r, 'a, P: Platform> Running<'r, 'a, P> {
    /// Makes the REC at `pa` RUNNING, if everything REC_ENTER demands is so (RMM 1.0, RMI_REC_ENTER). Else nothing has
    /// changed. `rec` and `exit` are zeros.
    ///
    /// # Errors
    /// `rec_align`, `rec_bound`, `rec_gran_state`: `RMI_ERROR_INPUT`. `realm_new`, `system_off`: `RMI_ERROR_REALM`. All
    /// others: `RMI_ERROR_REC`.
    pub(crate) fn enter(
        rmm: &'r Rmm<'a, P>,
        pa: u64,
        enter: &RecEnter,
        rec: &'r mut Rec,
        exit: &'r mut RecExit,
    ) -> Result<Self, ReturnCode> {
        let claim = Claim::new(rmm, pa, rec)?;
        let mut rd = rmm.granules.lock(rec.owner, GranuleState::Rd)?;
        let (state, realm) =
            rd.with(&rmm.platform, |rd| (RealmDescriptor::state(rd), Realm::of(rec.owner, rd)));
        match state {
            // realm_new, system_off
            RealmState::New => return Err(ReturnCode::new(Status::ERROR_REALM, 0)),
            RealmState::SystemOff => return Err(ReturnCode::new(Status::ERROR_REALM, 1)),
            RealmState::Active => {}
        }
        let answered = is_answerable(rec.pending(), EnterFlags::from_bits_retain(enter.flags));
        // rec_runnable, rec_mmio and rec_psci, rec_gicv3
        if !rec.is_runnable() || !answered || !gic::is_valid_entry(enter, &rmm.cpu) {
            return Err(ReturnCode::ERROR_REC);
        }
        // Virtual CPUs need not agree on what an ASID or an address means, nor on whether the caches are on; on CPUs of their
        // own they would not see each other's translations and instructions. A REC that comes back after it ran elsewhere
        // finds nothing old: what it invalidates there is invalidated here too (HCR_EL2.FB).
        let (cpu, index) = (rmm.platform.cpu(), rec.mpidr().index());
        let another = rd.with(&rmm.platform, |last: &mut LastRan| last.replace(cpu, index));
        drop(rd);
        if another {
            rmm.platform.forget_virtual_cpu(realm.stage2.vmid);
        }
        Ok(Self { claim, rmm, rec, realm, exit })
    }

    /// Completes what the last exit left, runs the realm until the Host has to see something, and fills `self.exit`.
    pub(crate) fn run(&mut self, enter: &RecEnter) {
        gic::load(&mut self.rec.context.gic, enter, &self.rmm.cpu);
        let controls = self.controls(EnterFlags::from_bits_retain(enter.flags));
        if self.complete(enter) == Next::Resume {
            while self.step(&controls) == Next::Resume {}
        }
        self.report();
    }

    /// One run of the realm, up to what it did.
    fn step(&mut self, controls: &RunControls) -> Next {
        let platform = &self.rmm.platform;
        // A timer whose output is not what the Host was told of last (RMM 1.0, realm timers).
        if Outputs::at(&self.rec.context.timers, platform.counter()) != self.rec.timer_outputs() {
            return self.exit_for(ExitReason::IRQ);
        }
        let (context, simd) = self.rec.context_and_simd();
        let exit = platform.run_realm(context, controls, simd);
        self.handle(exit)
    }

    fn controls(&self, flags: EnterFlags) -> RunControls {
        let stage2 = &self.realm.stage2;
        let reported = self.rec.timer_outputs();
        RunControls {
            vttbr: stage2.vttbr(),
            vtcr: stage2.vtcr(self.rmm.cpu.pa_bits, self.rmm.cpu.vmid16),
            vmpidr: self.rec.mpidr().to_register(),
            trap_wfi: flags.contains(EnterFlags::TRAP_WFI),
            trap_wfe: flags.contains(EnterFlags::TRAP_WFE),
            // What the Host knows of already must not exit again and again.
            mask_vtimer: reported.virtual_timer,
            mask_ptimer: reported.physical_timer,
            sve_vl: self.realm.sve_vl,
            pmu_counters: self.realm.pmu_counters,
        }
    }

    /// Fills what every exit shows (RMM 1.0, RmiRecExit).
    fn report(&mut self) {
        let context = &self.rec.context;
        gic::report(&context.gic, self.exit);
        let outputs = timer::report(&context.timers, self.rmm.platform.counter(), self.exit);
        if self.realm.pmu_counters.is_some() {
            self.exit.pmu_ovf_status = exit::pmu_overflow(&context.pmu).into();
        }
        self.rec.set_timer_outputs(outputs);
    }

    /// An exit for `reason`, with nothing pending.
    pub(crate) fn exit_for(&mut self, reason: ExitReason) -> Next {
        self.exit_with(reason, Pending::Nothing)
    }
    /// An exit for `reason`, with `pending` for the next entry.
    pub(crate) fn exit_with(&mut self, reason: ExitReason, pending: Pending) -> Next {
        self.exit.exit_reason = reason;
        self.rec.set_pending(pending);
        Next::Exit
    }

    /// Steps over the instruction that trapped.
    pub(crate) const fn advance_pc(&mut self) {
        self.rec.context.pc = self.rec.context.pc.wrapping_add(4);
    }
    /// A general-purpose register, 0 for XZR.
    pub(crate) fn gpr(&self, register: Option<usize>) -> u64 {
        register.and_then(|n| self.rec.context.gprs.get(n)).copied().unwrap_or(0)
    }
    /// Writes a general-purpose register, nothing for XZR.
    pub(crate) fn set_gpr(&mut self, register: Option<usize>, value: u64) {
        if let Some(slot) = register.and_then(|n| self.rec.context.gprs.get_mut(n)) {
            *slot = value;
        }
    }
    /// X0 and on, as many as asked for.
    pub(crate) fn first_gprs<const N: usize>(&self) -> [u64; N] {
        core::array::from_fn(|n| self.gpr(Some(n)))
    }
    /// Writes X0 and on.
    pub(crate) fn set_first_gprs<const N: usize>(&mut self, values: [u64; N]) {
        for (slot, value) in self.rec.context.gprs.iter_mut().zip(values) {
            *slot = value;
        }
    }
    /// Which virtual CPU it is.
    pub(crate) const fn mpidr(&self) -> Mpidr {
        self.rec.mpidr()
    }
}

/// Whether what is pending can be gone on from with `flags`. An external abort that answers no data abort at an
/// unprotected IPA is refused, as in deployed firmware; the specification is silent. When one is injected, `emul_mmio`
/// does not count.
const fn is_answerable(pending: Pending, flags: EnterFlags) -> bool {
    let inject = flags.contains(EnterFlags::INJECT_SEA);
    let emulated = flags.contains(EnterFlags::EMUL_MMIO) && !inject;
    match pending {
        Pending::Psci { .. } => false,
        Pending::UnprotectedAbort { emulatable, .. } => emulatable || !emulated,
        _ => !inject && !emulated,
    }
}

impl<P: Platform> Drop for Running<'_, '_, P> {
    fn drop(&mut self) {
        let granule = self.rmm.granules.lock(self.claim.pa, GranuleState::Rec);
        let mut granule = self.rmm.must(granule, Broken::State);
        granule.with(&self.rmm.platform, |rec: &mut Rec| self.rec.copy_to(rec));
    }
}
