//! EL1 and EL0 system registers, the timers and the keys of pointer authentication.
//!
//! With HCR_EL2.E2H the EL1 registers that have an EL2 counterpart are reached by other encodings. What a realm reads and
//! writes as DISR_EL1 is VDISR_EL2, as HCR_EL2.AMO is set; DISR_EL1 itself is never in its reach.

use crate::features::Optional;
use crate::sysreg::{mrs, msr};
use realm_rmm::cpu::{El1Registers, Timers};

/// Calls a macro with every register that is always there.
macro_rules! registers {
    ($each:ident) => {
        $each!(sp_el0, "sp_el0");
        $each!(sp_el1, "sp_el1");
        $each!(elr_el1, "S3_5_C4_C0_1");
        $each!(spsr_el1, "S3_5_C4_C0_0");
        $each!(tpidrro_el0, "tpidrro_el0");
        $each!(tpidr_el0, "tpidr_el0");
        $each!(tpidr_el1, "tpidr_el1");
        $each!(csselr_el1, "csselr_el1");
        $each!(sctlr_el1, "S3_5_C1_C0_0");
        $each!(actlr_el1, "actlr_el1");
        $each!(cpacr_el1, "S3_5_C1_C0_2");
        $each!(ttbr0_el1, "S3_5_C2_C0_0");
        $each!(ttbr1_el1, "S3_5_C2_C0_1");
        $each!(tcr_el1, "S3_5_C2_C0_2");
        $each!(esr_el1, "S3_5_C5_C2_0");
        $each!(afsr0_el1, "S3_5_C5_C1_0");
        $each!(afsr1_el1, "S3_5_C5_C1_1");
        $each!(far_el1, "S3_5_C6_C0_0");
        $each!(mair_el1, "S3_5_C10_C2_0");
        $each!(amair_el1, "S3_5_C10_C3_0");
        $each!(vbar_el1, "S3_5_C12_C0_0");
        $each!(contextidr_el1, "S3_5_C13_C0_1");
        $each!(cntkctl_el1, "S3_5_C14_C1_0");
        $each!(par_el1, "par_el1");
        $each!(mdscr_el1, "mdscr_el1");
        $each!(mdccint_el1, "mdccint_el1");
    };
}

/// Loads a realm's registers, or the Non-secure world's.
pub fn load(optional: &Optional, from: &El1Registers) {
    macro_rules! each {
        ($field:ident, $name:literal) => {
            msr!($name, from.$field)
        };
    }
    registers!(each);
    if optional.ras {
        msr!("S3_4_C12_C1_1", from.disr_el1);
    }
    if optional.mpam {
        msr!("S3_0_C10_C5_1", from.mpam0_el1);
    }
}

/// Stores them.
pub fn store(optional: &Optional, to: &mut El1Registers) {
    macro_rules! each {
        ($field:ident, $name:literal) => {
            to.$field = mrs!($name)
        };
    }
    registers!(each);
    if optional.ras {
        to.disr_el1 = mrs!("S3_4_C12_C1_1");
    }
    if optional.mpam {
        to.mpam0_el1 = mrs!("S3_0_C10_C5_1");
    }
}

/// Loads both EL1 timers; the deadlines first, so that none fires by an old one.
pub fn load_timers(from: &Timers) {
    msr!("S3_5_C14_C2_2", from.cntp_cval);
    msr!("S3_5_C14_C2_1", from.cntp_ctl);
    msr!("S3_5_C14_C3_2", from.cntv_cval);
    msr!("S3_5_C14_C3_1", from.cntv_ctl);
}

/// Stores them.
pub fn store_timers(to: &mut Timers) {
    to.cntp_ctl = mrs!("S3_5_C14_C2_1");
    to.cntp_cval = mrs!("S3_5_C14_C2_2");
    to.cntv_ctl = mrs!("S3_5_C14_C3_1");
    to.cntv_cval = mrs!("S3_5_C14_C3_2");
}

/// Calls a macro with every half of a key and its place.
macro_rules! keys {
    ($each:ident) => {
        $each!(0, "S3_0_C2_C1_0");
        $each!(1, "S3_0_C2_C1_1");
        $each!(2, "S3_0_C2_C1_2");
        $each!(3, "S3_0_C2_C1_3");
        $each!(4, "S3_0_C2_C2_0");
        $each!(5, "S3_0_C2_C2_1");
        $each!(6, "S3_0_C2_C2_2");
        $each!(7, "S3_0_C2_C2_3");
        $each!(8, "S3_0_C2_C3_0");
        $each!(9, "S3_0_C2_C3_1");
    };
}

/// Loads a realm's keys. The Non-secure world's are EL3's to keep, and the RMM has none.
pub fn load_keys(from: &[u64; 10]) {
    macro_rules! each {
        ($index:literal, $name:literal) => {
            msr!($name, from[$index])
        };
    }
    keys!(each);
}

/// Stores them.
pub fn store_keys(to: &mut [u64; 10]) {
    macro_rules! each {
        ($index:literal, $name:literal) => {
            to[$index] = mrs!($name)
        };
    }
    keys!(each);
}

/// What the Non-secure world has in registers EL3 does not switch.
pub struct El1 {
    registers: El1Registers,
    timers: Timers,
    cnthctl: u64,
}

impl El1 {
    /// Saves it.
    pub fn save(optional: &Optional) -> Self {
        let mut saved = Self {
            registers: El1Registers::default(),
            timers: Timers::default(),
            cnthctl: mrs!("cnthctl_el2"),
        };
        store(optional, &mut saved.registers);
        store_timers(&mut saved.timers);
        saved
    }

    /// Restores it.
    pub fn restore(&self, optional: &Optional) {
        load(optional, &self.registers);
        load_timers(&self.timers);
        msr!("cnthctl_el2", self.cnthctl);
    }
}
