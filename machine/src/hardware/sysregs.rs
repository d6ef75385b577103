//! System registers Realm EL1 uses without a trap; all others trap.

use realm_rmm::cpu::{CpuContext, RunControls};
use realm_rmm::platform::{CpuFeatures, SysReg};

/// The encoding `op0`, `op1`, `CRn`, `CRm`, `op2`.
#[must_use]
pub const fn encoding(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> SysReg {
    SysReg { op0, op1, crn, crm, op2 }
}

/// MPIDR_EL1.
pub const MPIDR_EL1: SysReg = encoding(3, 0, 0, 0, 5);
/// MIDR_EL1.
pub const MIDR_EL1: SysReg = encoding(3, 0, 0, 0, 0);
/// VBAR_EL1.
pub const VBAR_EL1: SysReg = encoding(3, 0, 12, 0, 0);
/// TPIDR_EL1.
pub const TPIDR_EL1: SysReg = encoding(3, 0, 13, 0, 4);
/// SCTLR_EL1.
pub const SCTLR_EL1: SysReg = encoding(3, 0, 1, 0, 0);
/// CNTPCT_EL0.
pub const CNTPCT_EL0: SysReg = encoding(3, 3, 14, 0, 1);
/// CNTVCT_EL0.
pub const CNTVCT_EL0: SysReg = encoding(3, 3, 14, 0, 2);
/// ICC_SGI1R_EL1.
pub const ICC_SGI1R_EL1: SysReg = encoding(3, 0, 12, 11, 5);
/// ID_AA64PFR0_EL1.
pub const ID_AA64PFR0_EL1: SysReg = encoding(3, 0, 0, 4, 0);
/// ID_AA64DFR0_EL1.
pub const ID_AA64DFR0_EL1: SysReg = encoding(3, 0, 0, 5, 0);
/// ID_AA64ISAR0_EL1.
pub const ID_AA64ISAR0_EL1: SysReg = encoding(3, 0, 0, 6, 0);
/// ID_AA64MMFR0_EL1.
pub const ID_AA64MMFR0_EL1: SysReg = encoding(3, 0, 0, 7, 0);

/// MIDR_EL1 of this machine: implementer 0 (software), part 0x524 ("R").
const MIDR: u64 = 0x000f_5240;

/// Reads a register that does not trap.
pub(crate) fn read(context: &CpuContext, controls: &RunControls, now: u64, reg: SysReg) -> Option<u64> {
    Some(match reg {
        MPIDR_EL1 => controls.vmpidr,
        MIDR_EL1 => MIDR,
        VBAR_EL1 => context.el1.vbar_el1,
        TPIDR_EL1 => context.el1.tpidr_el1,
        SCTLR_EL1 => context.el1.sctlr_el1,
        CNTPCT_EL0 | CNTVCT_EL0 => now,
        _ => return None,
    })
}

/// Writes a register that does not trap.
pub(crate) fn write(context: &mut CpuContext, reg: SysReg, value: u64) -> bool {
    match reg {
        VBAR_EL1 => context.el1.vbar_el1 = value & !0x7ff,
        TPIDR_EL1 => context.el1.tpidr_el1 = value,
        SCTLR_EL1 => context.el1.sctlr_el1 = value,
        _ => return false,
    }
    true
}

/// The hardware value of an ID register.
pub(crate) fn id_register(features: &CpuFeatures, reg: SysReg) -> u64 {
    match reg {
        // EL0 to EL3 in AArch64, SIMD, system register GIC, SVE, AMUv1, RME.
        ID_AA64PFR0_EL1 => 0x1111 | 1 << 24 | u64::from(features.sve_vl.is_some()) << 32 | 1 << 44 | 1 << 52,
        // Armv8.8 debug, trace, PMUv3p5, breakpoints, watchpoints, context-aware breakpoints, SPE.
        ID_AA64DFR0_EL1 => {
            0xa | 1 << 4
                | (u64::from(features.pmu_counters.is_some()) * (6 << 8))
                | u64::from(features.num_bps & 0xf) << 12
                | u64::from(features.num_wps & 0xf) << 20
                | 1 << 28
                | 1 << 32
        }
        // AES with PMULL, SHA1, SHA512, CRC32, LSE.
        ID_AA64ISAR0_EL1 => 2 << 4 | 1 << 8 | 2 << 12 | 1 << 16 | 2 << 20,
        // PARange, 16-bit ASIDs, 4 KiB granule at both stages, FEAT_ECV.
        ID_AA64MMFR0_EL1 => {
            let range = match features.pa_bits {
                0..=32 => 0,
                33..=36 => 1,
                37..=40 => 2,
                41..=42 => 3,
                43..=44 => 4,
                45..=48 => 5,
                _ => 6,
            };
            let lpa2 = u64::from(features.lpa2);
            range | 2 << 4 | lpa2 << 28 | (2 + lpa2) << 40 | 2 << 60
        }
        _ => 0,
    }
}
