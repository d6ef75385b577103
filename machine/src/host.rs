//! The Host core's surroundings in this process: std locks, pages from the machine's DRAM, its CPUs and its time; and the
//! processes on it.

pub mod bare;
mod event_state;
mod locks;
mod machine_host;
mod pages;
pub mod process;
mod rules;
mod surroundings;

pub use locks::{StdEvent, StdGuard, StdLock};
pub use machine_host::MachineHost;
