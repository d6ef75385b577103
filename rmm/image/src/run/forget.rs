//! What is left of a realm on a CPU on which the RMM has failed.

use super::{el1, gic, pmu, simd};
use crate::control::{CNTHCTL_REALM, HCR_RMM};
use crate::features::optional;
use crate::slots;
use crate::sysreg::{instruction, msr};
use realm_rmm::cpu::{El1Registers, Gic, Pmu, Timers};

/// Forgets what this CPU has of a realm, if the RMM fails while it is loaded: the Non-secure world gets the registers next.
/// What that had in them is lost.
pub fn forget() {
    if slots::area().realm_loaded.replace(0) == 0 {
        return;
    }
    let optional = optional();
    msr!("hcr_el2", HCR_RMM);
    instruction!("isb");
    // EL1 and EL0: what [`super::run`] gives a realm.
    el1::load(&optional, &El1Registers::default());
    el1::load_timers(&Timers::default());
    if optional.pauth {
        el1::load_keys(&[0; 10]);
    }
    gic::load(&optional, &Gic::default());
    if optional.pmu {
        pmu::load(&optional, &Pmu::default());
    }
    simd::forget(&optional);
    // EL2: where the realm was and what it did, and what it was to be. EL3 does not switch CNTHCTL_EL2: without traps, by either of its
    // formats, and without masks.
    msr!("cnthctl_el2", CNTHCTL_REALM | 0b11);
    msr!("elr_el2", 0);
    msr!("spsr_el2", 0);
    msr!("esr_el2", 0);
    msr!("far_el2", 0);
    msr!("hpfar_el2", 0);
    msr!("vttbr_el2", 0);
    msr!("vmpidr_el2", 0);
    if optional.ras {
        msr!("S3_4_C5_C2_3", 0);
    }
    instruction!("isb");
}
