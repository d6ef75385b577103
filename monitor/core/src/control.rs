//! The control registers of EL3, bit by bit (Arm ARM section D24.2): what each world may use. A bit that is never set has its reason,
//! too; bits that are not here are reserved.

use crate::features::Features;
use bitflags::bitflags;

/// The two worlds below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// Non-secure.
    NonSecure,
    /// Realm.
    Realm,
}

bitflags! {
    /// SCR_EL3: the world below, what of it comes to EL3, and what it may use.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[repr(transparent)]
    pub struct Scr: u64 {
        /// Not Secure: Non-secure, with `NSE` Realm. There is no Secure world.
        const NS = 1 << 0;
        /// Clear: IRQs are the worlds'.
        const IRQ = 1 << 1;
        /// FIQs come to EL3: those of Group 0, with which EL3 wakes CPUs.
        const FIQ = 1 << 2;
        /// Clear: external aborts and SErrors are of who caused them.
        const EA = 1 << 3;
        /// RES1.
        const RES1 = 0b11 << 4;
        /// Clear: SMC is how the worlds call.
        const SMD = 1 << 7;
        /// HVC is EL2's to serve.
        const HCE = 1 << 8;
        /// Clear: it limits the Secure world.
        const SIF = 1 << 9;
        /// EL2 is in AArch64.
        const RW = 1 << 10;
        /// Clear: the Secure timer is nobody's.
        const ST = 1 << 11;
        /// Clear: waiting is EL2's to trap.
        const TWI = 1 << 12;
        /// Clear, as TWI.
        const TWE = 1 << 13;
        /// Clear: LORegions are EL2's to trap.
        const TLOR = 1 << 14;
        /// Clear: error records are EL2's to use and to trap.
        const TERR = 1 << 15;
        /// PAuth keys, which are switched.
        const APK = 1 << 16;
        /// PAuth instructions.
        const API = 1 << 17;
        /// Clear: there is no Secure world.
        const EEL2 = 1 << 18;
        /// Clear: aborts of EL3 keep their vector.
        const EASE = 1 << 19;
        /// Clear: an SError waits while EL3 runs.
        const NMEA = 1 << 20;
        /// Clear: who injects errors into the memory could do so into another world's.
        const FIEN = 1 << 21;
        /// Clear: ID registers are EL2's to trap.
        const TID3 = 1 << 22;
        /// Clear, as TID3.
        const TID5 = 1 << 23;
        /// SCXTNUM_ELx, of which EL2's is switched.
        const EN_SCXT = 1 << 25;
        /// Allocation tags.
        const ATA = 1 << 26;
        /// Fine-grained traps, which are switched.
        const FGT_EN = 1 << 27;
        /// CNTPOFF_EL2, which is switched.
        const ECV_EN = 1 << 28;
        /// Clear: WFE does not trap here.
        const TWED_EN = 1 << 29;
        /// Clear, as TWED_EN.
        const TWEDEL = 0xf << 30;
        /// Clear: a transaction's state would have to be thought of at every change of worlds. Deployed EL3s leave it clear, too.
        const TME = 1 << 34;
        /// Virtual offsets of activity monitors.
        const AMVOFFEN = 1 << 35;
        /// ST64BV0, which stores ACCDATA_EL1.
        const EN_AS0 = 1 << 36;
        /// ACCDATA_EL1.
        const AD_EN = 1 << 37;
        /// HCRX_EL2, which is switched.
        const HX_EN = 1 << 38;
        /// Guarded control stacks.
        const GCS_EN = 1 << 39;
        /// Clear: random numbers are the CPU's to give.
        const TRNDR = 1 << 40;
        /// TPIDR2_EL0.
        const EN_TP2 = 1 << 41;
        /// RCWMASK_EL1, RCWSMASK_EL1.
        const RCWMASK_EN = 1 << 42;
        /// TCR2_ELx.
        const TCR2_EN = 1 << 43;
        /// SCTLR2_ELx.
        const SCTLR2_EN = 1 << 44;
        /// Permission indirection and overlays.
        const PI_EN = 1 << 45;
        /// MAIR2_ELx, AMAIR2_ELx.
        const AI_EN = 1 << 46;
        /// Clear: the upper halves of registers of 128 bits are not switched.
        const D128_EN = 1 << 47;
        /// Clear: a granule protection fault is of who caused it.
        const GPF = 1 << 48;
        /// Clear: the RMM uses one memory encryption context, 0.
        const MEC_EN = 1 << 49;
        /// FPMR.
        const EN_FPM = 1 << 50;
        /// Clear: as EA.
        const TMEA = 1 << 51;
        /// Clear: as TERR.
        const TWERR = 1 << 52;
        /// PFAR_ELx.
        const PFAR_EN = 1 << 53;
        /// Clear: no software is known to use the masks of control registers.
        const SRMASK_EN = 1 << 54;
        /// Clear: implementation-defined registers of 128 bits are not known.
        const EN_IDCP128 = 1 << 55;
        /// Clear: EL3 pends no SError.
        const DSE = 1 << 57;
        /// Clear, as DSE.
        const EN_DSE = 1 << 58;
        /// Fine-grained traps of FEAT_FGT2.
        const FGT_EN2 = 1 << 59;
        /// HDBSSBR_EL2, HDBSSPROD_EL2: act only with VTCR_EL2.HDBSS, which is switched.
        const HDBSS_EN = 1 << 60;
        /// Clear: what the CPU cleans by itself would go on in the other world.
        const HACDBS_EN = 1 << 61;
        /// With `NS`: Realm.
        const NSE = 1 << 62;
    }
}

impl Scr {
    /// For both worlds: all of it EL3 switches, or every RMM has to.
    const ALWAYS: Self = Self::NS
        .union(Self::FIQ)
        .union(Self::RES1)
        .union(Self::HCE)
        .union(Self::RW)
        .union(Self::APK)
        .union(Self::API)
        .union(Self::FGT_EN)
        .union(Self::ECV_EN)
        .union(Self::HX_EN);

    /// With this the registers of EL2 can be reached at boot, before EL3 knows what there is.
    pub const BOOT: Self = Self::NS.union(Self::RES1).union(Self::RW);

    /// What a world may use on a CPU with `features`.
    ///
    /// Later features have registers in EL1 and EL2 that no RMM of RMM 1.0 has to know. They are the Non-secure world's alone: in
    /// the Realm world such an access is UNDEFINED, and what the registers hold has no effect (it counts as zero while the
    /// bit here is clear). So they need not be switched, and a realm can neither see nor use what the Non-secure world left.
    #[must_use]
    pub fn of(world: World, features: Features) -> Self {
        let both = [
            (Features::CSV2_2, Self::EN_SCXT),
            (Features::MTE2, Self::ATA),
            (Features::AMU_OFFSETS, Self::AMVOFFEN),
            // A change of streaming mode clears it, so an RMM that leaves that has to keep the Non-secure world's.
            (Features::FPMR, Self::EN_FPM),
        ];
        let non_secure = [
            (Features::SME, Self::EN_TP2),
            (Features::ACCDATA, Self::EN_AS0.union(Self::AD_EN)),
            (Features::GCS, Self::GCS_EN),
            (Features::THE, Self::RCWMASK_EN),
            (Features::TCR2, Self::TCR2_EN),
            (Features::SCTLR2, Self::SCTLR2_EN),
            (Features::S1PIE, Self::PI_EN),
            (Features::S2PIE, Self::PI_EN),
            (Features::S1POE, Self::PI_EN),
            (Features::S2POE, Self::PI_EN),
            (Features::AIE, Self::AI_EN),
            (Features::PFAR, Self::PFAR_EN),
            (Features::FGT2, Self::FGT_EN2),
            (Features::HDBSS, Self::HDBSS_EN),
        ];
        let open = |all: Self, table: &[(Features, Self)]| {
            table
                .iter()
                .filter(|(feature, _)| features.contains(*feature))
                .fold(all, |all, (_, bit)| all | *bit)
        };
        let scr = open(Self::ALWAYS, &both);
        match world {
            World::NonSecure => open(scr, &non_secure),
            World::Realm => scr | Self::NSE,
        }
    }
}

bitflags! {
    /// MDCR_EL3: debug, trace and counters.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Mdcr: u64 {
        /// Clear: no trace of the Realm world.
        const RLTE = 1 << 0;
        /// Clear, with those of its like: what a debugger may do from outside is said by the board's authentication signals.
        const EPMADE = 1 << 2;
        /// Clear, as EPMADE.
        const ETADE = 1 << 3;
        /// Clear, as EPMADE.
        const EDADE = 1 << 4;
        /// Clear: counters are EL2's to trap.
        const TPM = 1 << 6;
        /// Later registers of the PMU. The Non-secure world's, as no RMM has to know them.
        const EN_PM2 = 1 << 7;
        /// Clear: debug registers are EL2's to trap.
        const TDA = 1 << 9;
        /// Clear, as TDA.
        const TDOSA = 1 << 10;
        /// Clear: the owner of the profiling buffer is Non-secure.
        const NSPBE = 1 << 11;
        /// The Non-secure world owns the profiling buffer, and its registers are open there alone.
        const NSPB = 0b11 << 12;
        /// No debug exceptions at AArch32 Secure EL1: it does not exist, and this is the value that says no.
        const SPD32_NO = 0b10 << 14;
        /// No debug exceptions in the Secure world, which does not exist.
        const SDD = 1 << 16;
        /// Clear: no events of the Secure world are counted; with `MPMX` none of EL3.
        const SPME = 1 << 17;
        /// Clear: no trace of the Secure world.
        const STE = 1 << 18;
        /// Trace filters trap. The Realm world has no trace.
        const TTRF = 1 << 19;
        /// Clear, as EPMADE.
        const EDAD = 1 << 20;
        /// Clear, as EPMADE.
        const EPMAD = 1 << 21;
        /// Clear, as EPMADE.
        const ETAD = 1 << 22;
        /// The cycle counter stands still in the Secure world.
        const SCCD = 1 << 23;
        /// The Non-secure world owns the trace buffer, and its registers are open there alone.
        const NSTB = 0b11 << 24;
        /// Clear: as NSPBE.
        const NSTBE = 1 << 26;
        /// Clear: the debug communication channel is EL2's to trap.
        const TDCC = 1 << 27;
        /// Clear: what another thread of the core does may be a realm's, so it is not counted here.
        const MTPME = 1 << 28;
        /// Clear: no snapshots are taken but by an instruction.
        const PMSSE = 0b11 << 30;
        /// Branch records of EL1 and EL2, and their registers: in the Non-secure world.
        const SBRBE_NS = 0b01 << 32;
        /// The cycle counter stands still at EL3.
        const MCCD = 1 << 34;
        /// With `SPME` clear no event counter counts at EL3.
        const MPMX = 1 << 35;
        /// PMSNEVFR_EL1, part of the profiling that is the Non-secure world's.
        const EN_PMSN = 1 << 36;
        /// Clear: no branch records of EL3.
        const E3BREW = 1 << 37;
        /// Clear, as E3BREW.
        const E3BREC = 1 << 38;
        /// Later registers of the trace buffer.
        const EN_TB2 = 1 << 39;
        /// Clear: overflow is an interrupt.
        const PMEE = 0b11 << 40;
        /// Later registers of the profiling buffer.
        const EN_PMS3 = 1 << 42;
        /// Breakpoints and watchpoints above 16. The Non-secure world's, as no RMM has to know MDSELR_EL1.
        const EBWE = 1 << 43;
        /// Snapshots of counters.
        const EN_PMSS = 1 << 44;
        /// Clear, as EPMADE.
        const EPMSSAD = 0b11 << 45;
        /// Instrumentation trace.
        const EN_ITE = 1 << 47;
        /// Clear, as EPMADE.
        const ETBAD = 0b11 << 48;
        /// MDSTEPOP_EL1.
        const EN_STEPOP = 1 << 50;
        /// Clear: as PMEE.
        const PMSEE = 0b11 << 51;
        /// Clear: as PMEE.
        const TRBEE = 0b11 << 53;
        /// Later registers of profiling.
        const EN_PMS4 = 1 << 55;
    }
}

impl Mdcr {
    /// For both worlds and EL3 itself.
    const ALWAYS: Self =
        Self::SPD32_NO.union(Self::SDD).union(Self::SCCD).union(Self::MCCD).union(Self::MPMX);

    /// What a world may use on a CPU with `features`. Buffers belong to the Non-secure world whichever runs: what it set up to
    /// record itself records nothing of realms.
    #[must_use]
    pub fn of(world: World, features: Features) -> Self {
        let both = [(Features::SPE, Self::NSPB), (Features::TRBE, Self::NSTB)];
        let non_secure = [
            (Features::PMU_P9, Self::EN_PM2),
            (Features::PMU_SNAPSHOT, Self::EN_PMSS),
            (Features::SPE, Self::EN_PMSN.union(Self::EN_PMS3).union(Self::EN_PMS4)),
            (Features::TRBE, Self::EN_TB2),
            (Features::BRBE, Self::SBRBE_NS),
            (Features::ITE, Self::EN_ITE),
            (Features::DEBUG_BANKS, Self::EBWE),
            (Features::STEP2, Self::EN_STEPOP),
        ];
        let realm = [(Features::TRF, Self::TTRF)];
        let open = |all: Self, table: &[(Features, Self)]| {
            table
                .iter()
                .filter(|(feature, _)| features.contains(*feature))
                .fold(all, |all, (_, bit)| all | *bit)
        };
        let mdcr = open(Self::ALWAYS, &both);
        match world {
            World::NonSecure => open(mdcr, &non_secure),
            World::Realm => open(mdcr, &realm),
        }
    }
}

bitflags! {
    /// CPTR_EL3, the same for both worlds: vectors are the RMM's to switch, the rest EL2's to trap.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Cptr: u64 {
        /// SVE.
        const EZ = 1 << 8;
        /// Clear: SIMD does not trap.
        const TFP = 1 << 10;
        /// SME.
        const ESM = 1 << 12;
        /// Clear: trace registers do not trap.
        const TTA = 1 << 20;
        /// Clear: activity monitors do not trap.
        const TAM = 1 << 30;
        /// Clear: CPACR_EL1 and CPTR_EL2 do not trap.
        const TCPAC = 1 << 31;
    }
}

impl Cptr {
    /// On a CPU with `features`.
    #[must_use]
    pub fn of(features: Features) -> Self {
        let (sve, sme) = (features.contains(Features::SVE), features.contains(Features::SME));
        let mut cptr = Self::empty();
        cptr.set(Self::EZ, sve);
        cptr.set(Self::ESM, sme);
        cptr
    }
}

bitflags! {
    /// SCTLR_EL3.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SctlrEl3: u64 {
        /// Translation.
        const M = 1 << 0;
        /// Clear: compiled code may access what is not aligned.
        const A = 1 << 1;
        /// Data caches.
        const C = 1 << 2;
        /// The stack pointer must be aligned.
        const SA = 1 << 3;
        /// RES1, bits 4 and 5.
        const RES1_LOW = 0b11 << 4;
        /// Clear, as A.
        const NAA = 1 << 6;
        /// Leaving EL3 is a context synchronization event; RES1 where that is always so.
        const EOS = 1 << 11;
        /// Instruction caches.
        const I = 1 << 12;
        /// Clear, with EN_DA, EN_IB and EN_IA: EL3 uses no PAuth, as the keys are the worlds'.
        const EN_DB = 1 << 13;
        /// RES1, bits 16 and 18.
        const RES1_MIDDLE = 0b101 << 16;
        /// What can be written cannot be executed.
        const WXN = 1 << 19;
        /// Clear: errors wait until the world they are of runs again.
        const IESB = 1 << 21;
        /// Entering EL3 is a context synchronization event; RES1 where that is always so.
        const EIS = 1 << 22;
        /// RES1, bit 23.
        const RES1_23 = 1 << 23;
        /// Clear: little-endian.
        const EE = 1 << 25;
        /// Clear, as EN_DB.
        const EN_DA = 1 << 27;
        /// RES1, bits 28 and 29.
        const RES1_HIGH = 0b11 << 28;
        /// Clear, as EN_DB.
        const EN_IB = 1 << 30;
        /// Clear, as EN_DB.
        const EN_IA = 1 << 31;
        /// Clear: the monitor has no branch targets.
        const BT = 1 << 36;
        /// Clear, with TCF and ATA: EL3 uses no tags.
        const ITFSB = 1 << 37;
        /// Clear, as ITFSB.
        const TCF = 0b11 << 40;
        /// Clear, as ITFSB.
        const ATA = 1 << 43;
        /// Clear: no load of EL3 passes a store to the same address by speculation.
        const DSSBS = 1 << 44;
        /// Clear: EL3 runs with all interrupts masked.
        const NMI = 1 << 61;
        /// Clear, as NMI.
        const SPINTMASK = 1 << 62;
    }
}

impl SctlrEl3 {
    /// Out of reset: no translation.
    pub const RESET: Self = Self::RES1_LOW
        .union(Self::EOS)
        .union(Self::I)
        .union(Self::RES1_MIDDLE)
        .union(Self::EIS)
        .union(Self::RES1_23)
        .union(Self::RES1_HIGH);
    /// While the monitor runs.
    pub const ON: Self = Self::RESET.union(Self::M).union(Self::C).union(Self::SA).union(Self::WXN);
}

/// Registers of EL2 that are not zero when a world starts at EL2, out of reset.
pub mod el2 {
    /// SCTLR_EL2: translation, caches and checks off, and the bits that are RES1 as long as HCR_EL2.E2H is clear. With E2H these are,
    /// from bit 4 on: SA0, CP15BEN, EOS, nTWI, nTWE, EIS, SPAN, nTLSMD, LSMAOE.
    pub const SCTLR: u64 =
        1 << 4 | 1 << 5 | 1 << 11 | 1 << 16 | 1 << 18 | 1 << 22 | 1 << 23 | 1 << 28 | 1 << 29;
    /// CPTR_EL2: TCPAC, TAM, TTA, TSM, TFP and TZ clear, so that nothing traps, and the bits that are RES1 as long as HCR_EL2.E2H is
    /// clear: 0 to 7, 9 and 13.
    pub const CPTR: u64 = 0xff | 1 << 9 | 1 << 13;
    /// CNTHCTL_EL2: EL1PCTEN and EL1PCEN, as EL1 need not know of EL2's traps.
    pub const CNTHCTL: u64 = 1 << 0 | 1 << 1;
    /// ICC_SRE_EL2: SRE, DFB, DIB, Enable.
    pub const ICC_SRE: u64 = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3;
    /// HFGRTR_EL2, HFGWTR_EL2: nothing traps. Where a feature's registers trap if its bit is clear, it is set, so that software that knows
    /// nothing of the bit is not disturbed: nACCDATA, nGCS, nSMPRI, nTPIDR2, nRCWMASK, nPIR, nPOR, nS2POR, nMAIR2, nAMAIR2.
    pub const HFGRTR: u64 = 0x3fff << 50 & !(1 << 51);
    /// HFGITR_EL2: nothing traps; nBRBINJ, nBRBIALL, nGCSPUSHM, nGCSSTR, nGCSEPP.
    pub const HFGITR: u64 = 0x1f << 55;
    /// HDFGRTR_EL2: nothing traps; nBRBIDR, nBRBCTL, nBRBDATA, nPMSNEVFR.
    pub const HDFGRTR: u64 = 0xf << 59;
    /// HDFGWTR_EL2: nothing traps; nBRBCTL, nBRBDATA, nPMSNEVFR.
    pub const HDFGWTR: u64 = 0x7 << 60;
    /// HFGRTR2_EL2, HFGWTR2_EL2: nothing traps; nPFAR to nACTLRALIAS.
    pub const HFGRTR2: u64 = 0x7fff;
    /// HFGITR2_EL2: nothing traps; nDCCIVAPS.
    pub const HFGITR2: u64 = 1;
    /// HDFGRTR2_EL2, HDFGWTR2_EL2: nothing traps; nPMECR to nPMBMAR.
    pub const HDFGRTR2: u64 = 0x1ff_ffff;
}

/// Registers of EL1 that are not zero when a CPU starts.
pub mod el1 {
    /// SCTLR_EL1: translation and caches off, EL0 traps; the bits that are RES1 without the features that gave them names: EOS, TSCXT,
    /// EIS, SPAN, nTLSMD, LSMAOE.
    pub const SCTLR: u64 = 1 << 11 | 1 << 20 | 1 << 22 | 1 << 23 | 1 << 28 | 1 << 29;
}

#[cfg(test)]
mod tests;
