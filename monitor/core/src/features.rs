//! What a CPU has, from its ID registers: what the firmware cannot do without, what EL3 opens to a world, and whether the
//! CPUs of the machine are alike.

use bitflags::bitflags;

/// The ID registers that say so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdRegisters {
    /// ID_AA64PFR0_EL1.
    pub pfr0: u64,
    /// ID_AA64PFR1_EL1.
    pub pfr1: u64,
    /// ID_AA64PFR2_EL1.
    pub pfr2: u64,
    /// ID_AA64SMFR0_EL1.
    pub smfr0: u64,
    /// ID_AA64DFR0_EL1.
    pub dfr0: u64,
    /// ID_AA64DFR1_EL1.
    pub dfr1: u64,
    /// ID_AA64DFR2_EL1.
    pub dfr2: u64,
    /// ID_AA64ISAR1_EL1.
    pub isar1: u64,
    /// ID_AA64ISAR2_EL1.
    pub isar2: u64,
    /// ID_AA64MMFR0_EL1.
    pub mmfr0: u64,
    /// ID_AA64MMFR1_EL1.
    pub mmfr1: u64,
    /// ID_AA64MMFR2_EL1.
    pub mmfr2: u64,
    /// ID_AA64MMFR3_EL1.
    pub mmfr3: u64,
    /// MPAMIDR_EL1; zero without MPAM.
    pub mpamidr: u64,
}

bitflags! {
    /// Features EL3 has to know of.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u64 {
        /// FEAT_RME.
        const RME = 1 << 0;
        /// FEAT_PAuth: its keys are switched.
        const PAUTH = 1 << 1;
        /// FEAT_FGT.
        const FGT = 1 << 2;
        /// FEAT_ECV with CNTPOFF_EL2.
        const ECV = 1 << 3;
        /// FEAT_HCX.
        const HCX = 1 << 4;
        /// FEAT_RAS.
        const RAS = 1 << 5;
        /// FEAT_VHE.
        const VHE = 1 << 6;
        /// FEAT_SB.
        const SB = 1 << 7;
        /// The CPU interface of a GICv3 by system registers.
        const GIC = 1 << 8;
        /// Translation granules of 4 KiB.
        const TGRAN4 = 1 << 9;
        /// Physical addresses of 40 bits and more.
        const PA40 = 1 << 10;
        /// FEAT_AMUv1: HAFGRTR_EL2.
        const AMU = 1 << 11;
        /// FEAT_AMUv1p1.
        const AMU_OFFSETS = 1 << 12;
        /// FEAT_CSV2_2: SCXTNUM_ELx.
        const CSV2_2 = 1 << 13;
        /// FEAT_NV2: VNCR_EL2.
        const NV2 = 1 << 14;
        /// FEAT_MTE2: tags, TFSR_EL2.
        const MTE2 = 1 << 15;
        /// FEAT_MPAM, of any version.
        const MPAM = 1 << 16;
        /// FEAT_SVE.
        const SVE = 1 << 17;
        /// FEAT_SME.
        const SME = 1 << 18;
        /// FEAT_SME2: ZT0.
        const SME2 = 1 << 19;
        /// FEAT_SME_FA64.
        const SME_FA64 = 1 << 20;
        /// FEAT_NMI.
        const NMI = 1 << 21;
        /// FEAT_GCS.
        const GCS = 1 << 22;
        /// FEAT_THE: RCWMASK_EL1, RCWSMASK_EL1.
        const THE = 1 << 23;
        /// FEAT_PFAR.
        const PFAR = 1 << 24;
        /// FEAT_FPMR.
        const FPMR = 1 << 25;
        /// FEAT_FGT2.
        const FGT2 = 1 << 26;
        /// FEAT_TCR2.
        const TCR2 = 1 << 27;
        /// FEAT_SCTLR2.
        const SCTLR2 = 1 << 28;
        /// FEAT_S1PIE.
        const S1PIE = 1 << 29;
        /// FEAT_S2PIE.
        const S2PIE = 1 << 30;
        /// FEAT_S1POE.
        const S1POE = 1 << 31;
        /// FEAT_S2POE.
        const S2POE = 1 << 32;
        /// FEAT_AIE.
        const AIE = 1 << 33;
        /// MPAMHCR_EL2.
        const MPAM_VIRTUAL = 1 << 34;
        /// FEAT_LS64_ACCDATA.
        const ACCDATA = 1 << 35;
        /// FEAT_HDBSS.
        const HDBSS = 1 << 36;
        /// FEAT_PMUv3.
        const PMU = 1 << 37;
        /// FEAT_PMUv3p7: counters can be kept out of EL3.
        const PMU_P7 = 1 << 38;
        /// Registers that MDCR_EL3.EnPM2 opens: FEAT_PMUv3p9, FEAT_PMUv3_ICNTR, FEAT_SPMU.
        const PMU_P9 = 1 << 39;
        /// FEAT_PMUv3_SS.
        const PMU_SNAPSHOT = 1 << 40;
        /// FEAT_SPE.
        const SPE = 1 << 41;
        /// FEAT_TRBE.
        const TRBE = 1 << 42;
        /// FEAT_BRBE.
        const BRBE = 1 << 43;
        /// FEAT_TRF: TRFCR_EL1, TRFCR_EL2.
        const TRF = 1 << 44;
        /// FEAT_ITE.
        const ITE = 1 << 45;
        /// FEAT_Debugv8p9: banks of breakpoints.
        const DEBUG_BANKS = 1 << 46;
        /// FEAT_STEP2: MDSTEPOP_EL1.
        const STEP2 = 1 << 47;
        /// FEAT_EBEP: PSTATE.PM.
        const EBEP = 1 << 48;
    }
}

/// What a CPU must have, and its name: RME requires Armv9.1 and with it all but the last three. The monitor uses them without asking
/// again.
const REQUIRED: [(Features, &str); 11] = [
    (Features::RME, "RME"),
    (Features::PAUTH, "PAuth"),
    (Features::FGT, "FGT"),
    (Features::ECV, "ECV with CNTPOFF_EL2"),
    (Features::HCX, "HCX"),
    (Features::RAS, "RAS"),
    (Features::VHE, "VHE"),
    (Features::SB, "SB"),
    (Features::GIC, "system registers of a GICv3"),
    (Features::TGRAN4, "4 KiB translation granules"),
    (Features::PA40, "40 bits of physical address"),
];

/// The field of four bits at `shift`.
const fn field(value: u64, shift: u32) -> u64 {
    value >> (shift & 63) & 0xf
}

impl IdRegisters {
    /// What they say.
    #[must_use]
    pub fn features(&self) -> Features {
        // 0b1111 is an implementation's own PMU.
        let pmu = match field(self.dfr0, 8) {
            0xf => 0,
            version => version,
        };
        let pauth = self.isar1 & 0xff00_0ff0 != 0 || self.isar2 & 0xff00 != 0;
        let csv2_2 = field(self.pfr0, 56) >= 2 || field(self.pfr1, 32) >= 2;
        let sme2 = field(self.pfr1, 24) >= 2;
        let found = [
            (Features::RME, field(self.pfr0, 52) != 0),
            (Features::PAUTH, pauth),
            (Features::FGT, field(self.mmfr0, 56) != 0),
            (Features::ECV, field(self.mmfr0, 60) >= 2),
            (Features::HCX, field(self.mmfr1, 40) != 0),
            (Features::RAS, field(self.pfr0, 28) != 0),
            (Features::VHE, field(self.mmfr1, 8) != 0),
            (Features::SB, field(self.isar1, 36) != 0),
            (Features::GIC, field(self.pfr0, 24) != 0),
            (Features::TGRAN4, field(self.mmfr0, 28) != 0xf),
            (Features::PA40, field(self.mmfr0, 0) >= 2),
            (Features::AMU, field(self.pfr0, 44) != 0),
            (Features::AMU_OFFSETS, field(self.pfr0, 44) >= 2),
            (Features::CSV2_2, csv2_2),
            (Features::NV2, field(self.mmfr2, 24) >= 2),
            (Features::MTE2, field(self.pfr1, 8) >= 2),
            (Features::MPAM, field(self.pfr0, 40) != 0 || field(self.pfr1, 16) != 0),
            (Features::SVE, field(self.pfr0, 32) != 0),
            (Features::SME, field(self.pfr1, 24) != 0),
            (Features::SME2, sme2),
            (Features::SME_FA64, self.smfr0 >> 63 != 0),
            (Features::NMI, field(self.pfr1, 36) != 0),
            (Features::GCS, field(self.pfr1, 44) != 0),
            (Features::THE, field(self.pfr1, 48) != 0),
            (Features::PFAR, field(self.pfr1, 60) != 0),
            (Features::FPMR, field(self.pfr2, 32) != 0),
            (Features::FGT2, field(self.mmfr0, 56) >= 2),
            (Features::TCR2, field(self.mmfr3, 0) != 0),
            (Features::SCTLR2, field(self.mmfr3, 4) != 0),
            (Features::S1PIE, field(self.mmfr3, 8) != 0),
            (Features::S2PIE, field(self.mmfr3, 12) != 0),
            (Features::S1POE, field(self.mmfr3, 16) != 0),
            (Features::S2POE, field(self.mmfr3, 20) != 0),
            (Features::AIE, field(self.mmfr3, 24) != 0),
            (Features::MPAM_VIRTUAL, self.mpamidr >> 17 & 1 != 0),
            (Features::ACCDATA, field(self.isar1, 60) >= 3),
            (Features::HDBSS, field(self.mmfr1, 0) >= 4),
            (Features::PMU, pmu != 0),
            (Features::PMU_P7, pmu >= 7),
            (Features::PMU_P9, pmu >= 9 || field(self.dfr1, 36) != 0 || field(self.dfr1, 32) != 0),
            (Features::PMU_SNAPSHOT, field(self.dfr0, 16) != 0),
            (Features::SPE, field(self.dfr0, 32) != 0),
            (Features::TRBE, field(self.dfr0, 44) != 0),
            (Features::BRBE, field(self.dfr0, 52) != 0),
            (Features::TRF, field(self.dfr0, 40) != 0),
            (Features::ITE, field(self.dfr1, 44) != 0),
            (Features::DEBUG_BANKS, field(self.dfr0, 0) >= 0b1011),
            (Features::STEP2, field(self.dfr2, 0) != 0),
            (Features::EBEP, field(self.dfr1, 48) != 0),
        ];
        found.iter().filter(|(_, there)| *there).fold(Features::empty(), |all, (feature, _)| all | *feature)
    }
}

impl Features {
    /// The first feature that the firmware needs and that is not there.
    #[must_use]
    pub fn missing(self) -> Option<&'static str> {
        REQUIRED.iter().find(|(feature, _)| !self.contains(*feature)).map(|(_, name)| *name)
    }

    /// How a CPU with these differs from the one that booted: both worlds go from CPU to CPU, and their registers with them.
    /// The name of the first feature that only one of them has.
    #[must_use]
    pub fn mismatch(self, boot: Self) -> Option<&'static str> {
        (self ^ boot).iter_names().next().map(|(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `-cpu max,x-rme=on` of QEMU 10.0.
    const QEMU_10: IdRegisters = IdRegisters {
        pfr0: 0x1311_0011_2111_2222,
        pfr1: 0x0000_0010_0100_0121,
        pfr2: 0,
        smfr0: 0x80f1_00fd_0000_0000,
        dfr0: 0x1000_0000_1030_560a,
        dfr1: 0,
        dfr2: 0,
        isar1: 0x0111_2111_1021_1502,
        isar2: 0x0011_0012,
        mmfr0: 0x2100_0323_1020_1126,
        mmfr1: 0x0110_1120_1031_2122,
        mmfr2: 0x1221_0111_1201_1011,
        mmfr3: 0x1000_0000_0000_0000,
        mpamidr: 0,
    };

    /// The same of QEMU 11.1.
    const QEMU_11: IdRegisters = IdRegisters {
        pfr0: 0x1331_0011_2111_2222,
        pfr1: 0x0010_1010_1200_0121,
        pfr2: 0x1_0000_0111,
        smfr0: 0x92f1_5fff_7180_0001,
        mmfr3: 0x1000_0000_1100_1111,
        ..QEMU_10
    };

    #[test]
    fn the_features_of_emulated_cpus_are_those_their_registers_announce() {
        let old = QEMU_10.features();
        assert_eq!(old.missing(), None);
        assert!(old.contains(Features::SVE | Features::SME | Features::NMI | Features::NV2 | Features::PMU));
        assert!(!old.intersects(Features::TCR2 | Features::GCS | Features::SME2 | Features::PMU_P7));
        let new = Features::TCR2
            | Features::SCTLR2
            | Features::S1PIE
            | Features::S2PIE
            | Features::AIE
            | Features::GCS
            | Features::FPMR
            | Features::SME2;
        assert_eq!(QEMU_11.features() - old, new);
    }

    #[test]
    fn what_is_missing_is_named() {
        let without = |isar1: u64| IdRegisters { isar1: QEMU_10.isar1 & !isar1, ..QEMU_10 }.features();
        assert_eq!(without(0xff00_0ff0).missing(), Some("PAuth"));
        assert_eq!(without(0xf << 36).missing(), Some("SB"));
        let pfr0 = QEMU_10.pfr0 & !(0xf << 52);
        assert_eq!(IdRegisters { pfr0, ..QEMU_10 }.features().missing(), Some("RME"));
        assert_eq!(IdRegisters::default().features().missing(), Some("RME"));
    }

    #[test]
    fn keys_of_any_algorithm_are_pauth() {
        for (isar1, isar2) in
            [(1 << 4, 0), (1 << 8, 0), (1 << 24, 0), (1 << 28, 0), (0, 1 << 8), (0, 1 << 12)]
        {
            let registers = IdRegisters { isar1, isar2, ..IdRegisters::default() };
            assert!(registers.features().contains(Features::PAUTH), "{isar1:#x} {isar2:#x}");
        }
    }

    #[test]
    fn a_cpu_that_differs_from_the_boot_cpu_is_told_by_the_feature() {
        assert_eq!(QEMU_10.features().mismatch(QEMU_10.features()), None);
        let boot = QEMU_10.features();
        assert_eq!((boot - Features::SVE).mismatch(boot), Some("SVE"));
        assert_eq!((boot | Features::MTE2).mismatch(boot), Some("MTE2"));
    }

    #[test]
    fn an_implementations_own_pmu_is_not_the_architectures() {
        let registers = IdRegisters { dfr0: 0xf00, ..IdRegisters::default() };
        assert!(!registers.features().intersects(Features::PMU | Features::PMU_P7 | Features::PMU_P9));
    }
}
