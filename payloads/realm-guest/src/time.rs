//! The counter, and waiting with a limit.

use crate::sysreg::{instruction, mrs};

/// The virtual counter, not read ahead of what came before.
pub fn now() -> u64 {
    instruction!("isb");
    mrs!("cntvct_el0")
}

/// Ticks in so many microseconds.
pub fn micros(count: u64) -> u64 {
    mrs!("cntfrq_el0") * count / 1_000_000
}

/// Waits for `done`, as long as a machine needs that shares its CPUs with others; whether it came to that.
pub fn wait_for(mut done: impl FnMut() -> bool) -> bool {
    let end = now() + micros(30_000_000);
    while !done() {
        if now() > end {
            return false;
        }
        instruction!("yield");
    }
    true
}
