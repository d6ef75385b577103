//! System registers a realm does not reach itself: ID registers that describe what it has, interrupt controller
//! registers the Host emulates, and the rest (RMM 1.0, trapped system registers, realm interrupts).

use crate::esr::Syndrome;
use crate::platform::{Platform, SysReg};
use crate::rec::Realm;

/// A trapped MRS or MSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) reg: SysReg,
    /// Rt, `None` for XZR.
    pub(crate) register: Option<usize>,
    pub(crate) is_read: bool,
}

impl Access {
    /// What the syndrome of class 0x18 describes.
    pub(crate) const fn of(esr: Syndrome) -> Self {
        let iss = esr.0;
        Self {
            reg: SysReg {
                op0: (iss >> 20 & 0x3) as u8,
                op1: (iss >> 14 & 0x7) as u8,
                crn: (iss >> 10 & 0xf) as u8,
                crm: (iss >> 1 & 0xf) as u8,
                op2: (iss >> 17 & 0x7) as u8,
            },
            register: esr.operand_register(),
            is_read: iss & 1 != 0,
        }
    }
}

/// What a trapped access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A read gives this value, a write nothing.
    Read(u64),
    /// The Host emulates the write.
    Forward,
    /// The register does not exist.
    Undefined,
}

const fn sys_reg(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> SysReg {
    SysReg { op0, op1, crn, crm, op2 }
}

const ICC_DIR_EL1: SysReg = sys_reg(3, 0, 12, 11, 1);
const ICC_SGI1R_EL1: SysReg = sys_reg(3, 0, 12, 11, 5);
const ICC_ASGI1R_EL1: SysReg = sys_reg(3, 0, 12, 11, 6);
const ICC_SGI0R_EL1: SysReg = sys_reg(3, 0, 12, 11, 7);

const ID_AA64PFR0_EL1: SysReg = id_reg(4, 0);
const ID_AA64PFR1_EL1: SysReg = id_reg(4, 1);
const ID_AA64ZFR0_EL1: SysReg = id_reg(4, 4);
const ID_AA64DFR0_EL1: SysReg = id_reg(5, 0);
const ID_AA64DFR1_EL1: SysReg = id_reg(5, 1);
const ID_AA64AFR0_EL1: SysReg = id_reg(5, 4);
const ID_AA64AFR1_EL1: SysReg = id_reg(5, 5);
const ID_AA64ISAR0_EL1: SysReg = id_reg(6, 0);
const ID_AA64ISAR1_EL1: SysReg = id_reg(6, 1);
const ID_AA64MMFR0_EL1: SysReg = id_reg(7, 0);
const ID_AA64MMFR1_EL1: SysReg = id_reg(7, 1);
const ID_AA64MMFR2_EL1: SysReg = id_reg(7, 2);

const fn id_reg(crm: u8, op2: u8) -> SysReg {
    sys_reg(3, 0, 0, crm, op2)
}

/// What the RMM does with a trapped access.
pub(crate) fn emulate<P: Platform>(platform: &P, realm: &Realm, access: &Access) -> Action {
    match access.reg {
        ICC_DIR_EL1 | ICC_SGI0R_EL1 | ICC_SGI1R_EL1 | ICC_ASGI1R_EL1 if !access.is_read => Action::Forward,
        SysReg { op0: 3, op1: 0, crn: 0, .. } => Action::Read(id_register(platform, realm, access.reg)),
        // IMPLEMENTATION DEFINED registers and instructions. Of debug and trace registers none is there, but a CPU may trap them
        // alike.
        SysReg { crn: 11 | 15, .. } => Action::Undefined,
        _ => Action::Read(0),
    }
}

/// The value of an ID register for this realm: the hardware's, without what a realm does not have. One that is not
/// known here reads as zero, "not there", as it could announce state the RMM does not switch.
fn id_register<P: Platform>(platform: &P, realm: &Realm, reg: SysReg) -> u64 {
    let hardware = || platform.id_register(reg);
    match reg {
        // MPAM and AMU; SCXTNUM_EL1, which CSV2_2 brings, is not switched.
        ID_AA64PFR0_EL1 => {
            let sve = if realm.sve_vl.is_none() { field(35, 32) } else { 0 };
            at_most(hardware() & !(field(43, 40) | field(47, 44) | sve), 56, 1)
        }
        // MTE, MPAM and SME; NMI, as ALLINT is not the realm's and no list register may say NMI; THE, GCS, DF2 and PFAR, whose
        // registers are not switched; what says more of MTE; and SCXTNUM_EL1 again, by CSV2_frac.
        ID_AA64PFR1_EL1 => {
            const NMI: u64 = field(39, 36);
            let kept = hardware() & !(field(11, 8) | field(19, 16) | field(27, 24) | NMI | field(63, 40));
            at_most(kept, 32, 1)
        }
        ID_AA64ZFR0_EL1 if realm.sve_vl.is_some() => hardware(),
        ID_AA64DFR0_EL1 => debug_features(hardware(), realm),
        // Counts of breakpoints and watchpoints that do not fit ID_AA64DFR0_EL1. All else in it has registers of its own: system
        // PMU, PMICNTR_EL0, exceptions of the PMU, instrumentation trace.
        ID_AA64DFR1_EL1 => large_count(realm.num_bps) << 8 | large_count(realm.num_wps) << 16,
        // Transactional memory.
        ID_AA64ISAR0_EL1 => hardware() & !field(27, 24),
        // LS64: ACCDATA_EL1 is not switched.
        ID_AA64ISAR1_EL1 => hardware() & !field(63, 60),
        // LORegions, whose registers are not switched.
        ID_AA64MMFR1_EL1 => hardware() & !field(19, 16),
        ID_AA64AFR0_EL1 | ID_AA64AFR1_EL1 | ID_AA64MMFR0_EL1 | ID_AA64MMFR2_EL1 => hardware(),
        _ => 0,
    }
}

/// ID_AA64DFR0_EL1 without trace, SPE, TRBE and BRBE, with the breakpoints, watchpoints and PMU of the realm. PMUv3p9 is more
/// registers: PMUv3p8 is the most.
fn debug_features(hardware: u64, realm: &Realm) -> u64 {
    const TRACE_VER: u64 = field(7, 4);
    const PMU_VER: u64 = field(11, 8);
    const BRPS: u64 = field(15, 12);
    const PMSS: u64 = field(19, 16);
    const WRPS: u64 = field(23, 20);
    const SEBEP: u64 = field(27, 24);
    const CTX_CMPS: u64 = field(31, 28);
    const PMS_VER: u64 = field(35, 32);
    const TRACE_FILT: u64 = field(43, 40);
    const TRACE_BUFFER: u64 = field(47, 44);
    const BRBE: u64 = field(55, 52);
    const EXT_TRC_BUFF: u64 = field(59, 56);
    const HPMN0: u64 = field(63, 60);
    const HIDDEN: u64 =
        TRACE_VER | PMSS | SEBEP | CTX_CMPS | PMS_VER | TRACE_FILT | TRACE_BUFFER | BRBE | EXT_TRC_BUFF;
    let pmu = if realm.pmu_counters.is_none() { PMU_VER | HPMN0 } else { 0 };
    let kept = at_most(hardware & !(HIDDEN | BRPS | WRPS | pmu), 8, 8);
    kept | u64::from(realm.num_bps.min(15)) << 12 | u64::from(realm.num_wps.min(15)) << 20
}

/// A count minus one where the field is only used for counts above 16.
const fn large_count(minus_one: u8) -> u64 {
    if minus_one > 15 { minus_one as u64 } else { 0 }
}

/// `value` with at most `most` in the field of four bits from `low` on. In PMUVer, whose 0xf means that it is none of the
/// architecture's, that stays.
const fn at_most(value: u64, low: u32, most: u64) -> u64 {
    let mask = 0xf << (low & 63);
    let found = (value & mask) >> (low & 63);
    if found > most && !(low == 8 && found == 0xf) { value & !mask | most << (low & 63) } else { value }
}

/// The bits from `high` down to `low`.
const fn field(high: u32, low: u32) -> u64 {
    (u64::MAX >> (63_u32.saturating_sub(high) & 63)) & (u64::MAX << (low & 63))
}
