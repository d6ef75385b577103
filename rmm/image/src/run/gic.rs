//! The virtual CPU interface (RMM 1.0 section A6.1). The Host keeps what it needs of it; only Realm state is switched.

use crate::features::Optional;
use crate::sysreg::{instruction, mrs, msr};
use realm_rmm::cpu::Gic;

/// Calls a macro with every list register and its number.
macro_rules! list_registers {
    ($each:ident) => {
        $each!(0, "S3_4_C12_C12_0");
        $each!(1, "S3_4_C12_C12_1");
        $each!(2, "S3_4_C12_C12_2");
        $each!(3, "S3_4_C12_C12_3");
        $each!(4, "S3_4_C12_C12_4");
        $each!(5, "S3_4_C12_C12_5");
        $each!(6, "S3_4_C12_C12_6");
        $each!(7, "S3_4_C12_C12_7");
        $each!(8, "S3_4_C12_C13_0");
        $each!(9, "S3_4_C12_C13_1");
        $each!(10, "S3_4_C12_C13_2");
        $each!(11, "S3_4_C12_C13_3");
        $each!(12, "S3_4_C12_C13_4");
        $each!(13, "S3_4_C12_C13_5");
        $each!(14, "S3_4_C12_C13_6");
        $each!(15, "S3_4_C12_C13_7");
    };
}

/// Loads a REC's interface.
pub fn load(optional: &Optional, from: &Gic) {
    macro_rules! each {
        ($n:literal, $name:literal) => {
            if $n < optional.list_registers {
                msr!($name, from.ich_lrs[$n]);
            }
        };
    }
    list_registers!(each);
    msr!("ich_vmcr_el2", from.ich_vmcr);
    msr!("S3_4_C12_C8_0", from.ich_ap0r[0]);
    msr!("S3_4_C12_C9_0", from.ich_ap1r[0]);
    if optional.active_priorities > 1 {
        msr!("S3_4_C12_C8_1", from.ich_ap0r[1]);
        msr!("S3_4_C12_C9_1", from.ich_ap1r[1]);
    }
    if optional.active_priorities > 2 {
        msr!("S3_4_C12_C8_2", from.ich_ap0r[2]);
        msr!("S3_4_C12_C9_2", from.ich_ap1r[2]);
        msr!("S3_4_C12_C8_3", from.ich_ap0r[3]);
        msr!("S3_4_C12_C9_3", from.ich_ap1r[3]);
    }
    msr!("ich_hcr_el2", from.ich_hcr);
}

/// Stores it and turns it off.
pub fn store(optional: &Optional, to: &mut Gic) {
    macro_rules! each {
        ($n:literal, $name:literal) => {
            if $n < optional.list_registers {
                to.ich_lrs[$n] = mrs!($name);
            }
        };
    }
    list_registers!(each);
    to.ich_misr = mrs!("ich_misr_el2");
    to.ich_hcr = mrs!("ich_hcr_el2");
    to.ich_vmcr = mrs!("ich_vmcr_el2");
    to.ich_ap0r[0] = mrs!("S3_4_C12_C8_0");
    to.ich_ap1r[0] = mrs!("S3_4_C12_C9_0");
    if optional.active_priorities > 1 {
        to.ich_ap0r[1] = mrs!("S3_4_C12_C8_1");
        to.ich_ap1r[1] = mrs!("S3_4_C12_C9_1");
    }
    if optional.active_priorities > 2 {
        to.ich_ap0r[2] = mrs!("S3_4_C12_C8_2");
        to.ich_ap1r[2] = mrs!("S3_4_C12_C9_2");
        to.ich_ap0r[3] = mrs!("S3_4_C12_C8_3");
        to.ich_ap1r[3] = mrs!("S3_4_C12_C9_3");
    }
    msr!("ich_hcr_el2", 0);
    instruction!("isb");
}
