//! How the RMM ends: on a CPU on which it has failed, or on all.

use crate::el3::{self, RMI_REQ_COMPLETE};
use crate::run::forget::forget;
use crate::{console, slots};
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use realm_rmm::platform::Broken;
use spin::RelaxStrategy;

/// Whether the RMM has found that it is broken, or has failed, on any CPU: then no other goes on either. It may have failed in the
/// midst of a command, with granules locked whose content is half of what it was to become.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// Whether the RMM has stopped on all CPUs.
pub fn is_stopped() -> bool {
    STOPPED.load(Ordering::Relaxed)
}

/// Stops the RMM on all CPUs: no command is served from now on, so no granule changes hands, and no realm is entered again. One that
/// runs on another CPU goes on in its own memory until it exits.
pub fn stop(why: Broken) -> ! {
    fail(format_args!("the RMM stops: {why:?} is not what it must be"))
}

/// Ends the RMM, which has failed on this CPU, on all.
pub fn fail(how: fmt::Arguments<'_>) -> ! {
    STOPPED.store(true, Ordering::SeqCst);
    console::report(how);
    refuse()
}

/// How a CPU waits for what another has: until the RMM stops.
pub struct Stoppable;

impl RelaxStrategy for Stoppable {
    fn relax() {
        if is_stopped() {
            refuse()
        }
        core::hint::spin_loop();
    }
}

/// Never runs anything of the RMM again on this CPU, also when it is turned on anew: every command fails.
pub fn refuse() -> ! {
    slots::area().failed.set(1);
    forget();
    slots::abandon();
    refuse_after(0)
}

/// Fails the command that waits, whose caller has `kept` in X4, and all that come.
pub fn refuse_after(mut kept: u64) -> ! {
    loop {
        [_, _, _, _, kept, ..] = el3::wait_for_command([RMI_REQ_COMPLETE, u64::MAX, 0, 0, 0, kept]);
    }
}
