//! What the first CPU finds out and all CPUs serve the worlds with.

use realm_monitor::psci::Psci;
use realm_monitor::services::Services;
use spin::Once;

/// Set by the first CPU when it knows how many there are.
pub static PSCI: Once<Psci> = Once::new();
/// Set by the first CPU when it has read the package.
pub static SERVICES: Once<Services> = Once::new();

/// What EL3 does for the RMM.
///
/// # Panics
/// Before the first CPU has read the package.
pub fn services() -> &'static Services {
    SERVICES.get().expect("the first CPU sets this before it releases the others")
}

/// The power states of the CPUs.
///
/// # Panics
/// Before the first CPU has found out how many there are.
pub fn psci() -> &'static Psci {
    PSCI.get().expect("the first CPU sets this before it releases the others")
}
