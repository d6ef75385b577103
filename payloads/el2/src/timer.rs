//! The counter, and the timer of this level.

use crate::sysreg::{isb, mrs, msr};

/// The interrupt of the EL2 physical timer.
pub const INTID: u32 = 26;

/// The physical counter now.
#[inline]
#[must_use]
pub fn now() -> u64 {
    isb();
    mrs!("cntpct_el0")
}

/// Ticks a second.
#[must_use]
pub fn frequency() -> u64 {
    mrs!("cntfrq_el0")
}

/// Interrupts this CPU when the counter reaches `deadline`.
pub fn set(deadline: u64) {
    msr!("cnthp_cval_el2", deadline);
    msr!("cnthp_ctl_el2", 1);
    isb();
}

/// Turns the timer off.
pub fn clear() {
    msr!("cnthp_ctl_el2", 0);
    isb();
}
