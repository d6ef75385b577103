//! Realm Execution Contexts: the virtual CPUs of a realm (RMM 1.0, RmmRec).

mod pending;
mod running;

pub(crate) use pending::{Pending, PendingWords, RipasChange};
pub(crate) use running::{Next, Realm, Running};

use crate::cpu::{CpuContext, Pmu};
use crate::granule::granule_content;
use crate::inject::PSTATE_EL1H_MASKED;
use crate::timer::Outputs;
use core::mem::offset_of;
use realm_abi::rmi::{MAX_REC_AUX, RecFlags, RecParams};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Auxiliary granules the RMM itself needs for a REC: one for the attestation token.
pub(crate) const OWN_AUX: usize = 1;

/// SCTLR_EL1 when a REC starts: MMU and caches off, the bits set that are RES1 without later features.
const SCTLR_RESET: u64 = 0x30d0_0800;
/// MDSCR_EL1.TDCC: no debug communication channel for EL0.
const MDSCR_TDCC: u64 = 1 << 12;
/// PMCR_EL0: DP and LC.
const PMCR_RESET: u64 = 1 << 6 | 1 << 5;
/// PMCR_EL0: C and P, which reset the counters.
const PMCR_CLEAR_COUNTERS: u64 = 1 << 2 | 1 << 1;

/// The content of a REC granule. It is only accessed under the granule's lock; the CPU that runs the REC works on a copy
/// (see [`Running`]), so that others can see whose it is and which MPIDR it has at any time.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Rec {
    /// The RD of the realm.
    pub(crate) owner: u64,
    /// See [`Mpidr`].
    mpidr: u64,
    /// 1 if the REC can be entered.
    runnable: u64,
    /// 1 if the realm has a PMU.
    has_pmu: u64,
    /// Auxiliary granules in `aux`.
    num_aux: u64,
    aux: [u64; MAX_REC_AUX],
    /// What the next entry completes.
    pending: PendingWords,
    /// Timer outputs in what the last exit reported.
    timer_outputs: u64,
    /// Registers.
    pub(crate) context: CpuContext,
}

granule_content!(Rec);

/// What of a [`Rec`] is not its PMU, which is the end of it.
const WITHOUT_PMU: usize = size_of::<Rec>() - size_of::<Pmu>();
const _: () = assert!(offset_of!(Rec, context) + offset_of!(CpuContext, pmu) == WITHOUT_PMU);

impl Rec {
    /// A REC before its first entry: reset state, but for what `params` say (RMM 1.0, RMI_REC_CREATE).
    pub(crate) fn new(owner: u64, mpidr: Mpidr, params: &RecParams, has_pmu: bool) -> Self {
        let mut rec = Self::new_zeroed();
        rec.owner = owner;
        rec.mpidr = mpidr.0;
        rec.set_runnable(RecFlags::from_bits_retain(params.flags).contains(RecFlags::RUNNABLE));
        rec.has_pmu = has_pmu.into();
        rec.num_aux = params.num_aux;
        rec.aux = params.aux;
        let context = &mut rec.context;
        for (to, from) in context.gprs.iter_mut().zip(params.gprs) {
            *to = from;
        }
        context.pc = params.pc;
        context.pstate = PSTATE_EL1H_MASKED;
        context.el1.sctlr_el1 = SCTLR_RESET;
        context.el1.mdscr_el1 = MDSCR_TDCC;
        context.pmu.pmcr = PMCR_RESET | if has_pmu { PMCR_CLEAR_COUNTERS } else { 0 };
        rec
    }

    /// Copies all that is in use to `to`, which is zeros or an earlier copy.
    pub(crate) fn copy_to(&self, to: &mut Self) {
        let size = if self.has_pmu != 0 { size_of::<Self>() } else { WITHOUT_PMU };
        if let (Some(to), Some(from)) = (to.as_mut_bytes().get_mut(..size), self.as_bytes().get(..size)) {
            to.copy_from_slice(from);
        }
    }

    /// Which virtual CPU of its realm it is.
    pub(crate) const fn mpidr(&self) -> Mpidr {
        Mpidr(self.mpidr)
    }
    /// Whether it can be entered.
    pub(crate) const fn is_runnable(&self) -> bool {
        self.runnable != 0
    }
    /// Turns it on or off.
    pub(crate) const fn set_runnable(&mut self, runnable: bool) {
        self.runnable = runnable as u64;
    }
    /// Its auxiliary granules: first those of the RMM, then those for SIMD state.
    pub(crate) fn aux(&self) -> &[u64] {
        used(&self.aux, self.num_aux)
    }
    /// What the platform needs to run it.
    pub(crate) fn context_and_simd(&mut self) -> (&mut CpuContext, &[u64]) {
        (&mut self.context, used(&self.aux, self.num_aux).get(OWN_AUX..).unwrap_or(&[]))
    }
    /// What the next entry completes.
    pub(crate) fn pending(&self) -> Pending {
        self.pending.get()
    }
    /// Replaces what the next entry completes.
    pub(crate) fn set_pending(&mut self, pending: Pending) {
        self.pending = PendingWords::from(pending);
    }
    /// The RIPAS change RTT_SET_RIPAS may work on: the last exit's, all zeros if that was none.
    pub(crate) fn ripas_change(&self) -> RipasChange {
        match self.pending() {
            Pending::RipasChange(change) => change,
            _ => RipasChange::NONE,
        }
    }
    /// Notes that the RIPAS change is done up to `addr`; nothing if there is none.
    pub(crate) fn set_ripas_addr(&mut self, addr: u64) {
        if let Pending::RipasChange(change) = self.pending() {
            self.set_pending(Pending::RipasChange(RipasChange { addr, ..change }));
        }
    }
    /// Makes it start at `entry` with `context_id` in X0, as PSCI_CPU_ON says, in the endianness of `caller`. The
    /// specification zeroes the other registers; system registers keep what they had, as in deployed firmware.
    pub(crate) fn turn_on(&mut self, entry: u64, context_id: u64, caller: &CpuContext) {
        const SCTLR_EE: u64 = 1 << 25;
        let context = &mut self.context;
        context.gprs = [0; _];
        let [x0, ..] = &mut context.gprs;
        *x0 = context_id;
        context.pc = entry;
        context.pstate = PSTATE_EL1H_MASKED;
        context.el1.sctlr_el1 = SCTLR_RESET | caller.el1.sctlr_el1 & SCTLR_EE;
        self.set_runnable(true);
    }

    pub(crate) const fn timer_outputs(&self) -> Outputs {
        Outputs::from_bits(self.timer_outputs)
    }
    pub(crate) const fn set_timer_outputs(&mut self, outputs: Outputs) {
        self.timer_outputs = outputs.to_bits();
    }
}

fn used(aux: &[u64; MAX_REC_AUX], num_aux: u64) -> &[u64] {
    usize::try_from(num_aux).ok().and_then(|count| aux.get(..count)).unwrap_or(&[])
}

/// `RmiRecMpidr`: Aff0 in bits 3:0, Aff1 in 15:8, Aff2 in 23:16, Aff3 in 31:24.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mpidr(u64);

impl Mpidr {
    const BITS: u64 = 0xffff_ff0f;

    /// From the form in which the Host writes it; `None` if a bit that should be zero is not.
    pub(crate) const fn from_rmi(value: u64) -> Option<Self> {
        if value & !Self::BITS == 0 { Some(Self(value)) } else { None }
    }
    /// From the layout of MPIDR_EL1, Aff3 in bits 39:32, as PSCI passes it; `None` if any other bit is set.
    pub(crate) const fn from_register(value: u64) -> Option<Self> {
        if value & !0xff_00ff_ff0f == 0 {
            Some(Self(value & 0xff_ffff | (value >> 8) & 0xff00_0000))
        } else {
            None
        }
    }
    /// VMPIDR_EL2: bit 31 is RES1.
    pub(crate) const fn to_register(self) -> u64 {
        self.0 & 0xff_ffff | (self.0 & 0xff00_0000) << 8 | 1 << 31
    }
    /// `RecIndex`: the number of the REC in its realm.
    pub(crate) const fn index(self) -> u64 {
        self.0 & 0xf | (self.0 >> 8 & 0xff_ffff) << 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rec_indices_are_those_of_the_specification() {
        for (mpidr, index) in [(0, 0), (0xf, 15), (0x100, 16), (0x1_0000, 4096), (0x100_0000, 1_048_576)] {
            assert_eq!(Mpidr::from_rmi(mpidr).unwrap().index(), index);
        }
        assert_eq!(Mpidr::from_rmi(0x10), None);
        assert_eq!(Mpidr::from_rmi(1 << 32), None);
    }

    #[test]
    fn an_mpidr_has_its_third_affinity_elsewhere_in_a_register() {
        let mpidr = Mpidr::from_rmi(0xab12_340f).unwrap();
        assert_eq!(mpidr.to_register(), 0xab_8012_340f);
        assert_eq!(Mpidr::from_register(0xab_0012_340f), Some(mpidr));
        for bad in [0x10, 1 << 31, 1 << 24, 1 << 40] {
            assert_eq!(Mpidr::from_register(bad), None);
        }
    }

    #[test]
    fn a_new_rec_is_reset_but_for_what_the_host_gives_it() {
        let mut params = RecParams::default();
        params.flags = 1;
        params.pc = 0x1000;
        params.gprs = [7; 8];
        params.num_aux = 2;
        params.aux = [0x5000; 16];
        let rec = Rec::new(0x3000, Mpidr(0x102), &params, false);
        assert!(rec.is_runnable());
        assert_eq!(rec.aux(), [0x5000; 2]);
        assert_eq!(rec.context.gprs[..8], [7; 8]);
        assert_eq!(rec.context.gprs[8..], [0; 23]);
        assert_eq!((rec.context.pc, rec.context.pstate), (0x1000, 0x3c5));
        assert_eq!(rec.pending(), Pending::Nothing);
        assert_eq!(rec.ripas_change(), RipasChange::NONE);
    }

    #[test]
    fn progress_of_a_ripas_change_is_kept_only_while_there_is_one() {
        let mut rec = Rec::new_zeroed();
        rec.set_ripas_addr(0x5000);
        assert_eq!(rec.pending(), Pending::Nothing);
        let change =
            RipasChange { addr: 0x1000, top: 0x9000, ripas: realm_abi::rmi::Ripas::RAM, destroyed: true };
        rec.set_pending(Pending::RipasChange(change));
        rec.set_ripas_addr(0x5000);
        assert_eq!(rec.ripas_change(), RipasChange { addr: 0x5000, ..change });
    }
}
