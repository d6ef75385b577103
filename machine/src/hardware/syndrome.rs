//! Syndromes of the exceptions a virtual CPU takes, as hardware builds them (Arm ARM, ESR_EL2 and HPFAR_EL2).

use crate::realm::program::Access;
use realm_rmm::cpu::RealmExit;
use realm_rmm::platform::SysReg;

/// 32-bit instruction.
const IL: u64 = 1 << 25;

/// Exception classes.
pub(crate) mod class {
    pub const WFX: u64 = 0x01;
    pub const HVC: u64 = 0x16;
    pub const SMC: u64 = 0x17;
    pub const SYSREG: u64 = 0x18;
    pub const INSTRUCTION_ABORT: u64 = 0x20;
    pub const INSTRUCTION_ABORT_SAME: u64 = 0x21;
    pub const DATA_ABORT: u64 = 0x24;
    pub const DATA_ABORT_SAME: u64 = 0x25;
    pub const SERROR: u64 = 0x2f;
}

/// An ESR with IL set.
pub(crate) const fn esr(class: u64, iss: u64) -> u64 {
    class << 26 | IL | iss
}

/// A synchronous exception to R-EL2 that no address belongs to.
pub(crate) const fn sync(class: u64, iss: u64) -> RealmExit {
    RealmExit::Sync { esr: esr(class, iss), far: 0, hpfar: 0 }
}

/// A stage 2 abort. FAR and HPFAR hold the same address: stage 1 is off.
pub(crate) const fn stage2_abort(class: u64, iss: u64, ipa: u64) -> RealmExit {
    RealmExit::Sync { esr: esr(class, iss), far: ipa, hpfar: (ipa >> 12) << 4 }
}

/// The ISS of a data abort of one load or store: ISV with everything it makes valid, WnR, DFSC.
pub(crate) const fn data_abort_iss(access: &Access, write: bool, status: u8) -> u64 {
    1 << 24
        | (access.size.trailing_zeros() as u64) << 22
        | (access.sign_extend as u64) << 21
        | ((access.rt & 0x1f) as u64) << 16
        | (access.wide as u64) << 15
        | (write as u64) << 6
        | status as u64
}

/// The ISS of a data abort without ISV.
pub(crate) const fn plain_abort_iss(write: bool, status: u8) -> u64 {
    (write as u64) << 6 | status as u64
}

/// The ISS of a trapped MSR or MRS.
pub(crate) const fn sysreg_iss(reg: SysReg, rt: u8, read: bool) -> u64 {
    (reg.op0 as u64) << 20
        | (reg.op2 as u64) << 17
        | (reg.op1 as u64) << 14
        | (reg.crn as u64) << 10
        | (rt as u64) << 5
        | (reg.crm as u64) << 1
        | read as u64
}
