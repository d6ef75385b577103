//! An RME machine in one process: memory behind a Granule Protection Table, CPUs as threads, EL3, the real RMM core, the
//! real Host core, and scripted realms whose every access goes through their stage 2.
//!
//! ```text
//!   Non-secure                        Realm                        Root
//!   process::Process (VMM)            program / guest (EL1)
//!        | ioctl                           | traps, aborts
//!   host::MachineHost + realm-host    realm-rmm + platform  ---->  el3: GTSI, keys
//!        `------------- smc: machine::Machine ----'
//!                     memory: GPT checked on every access
//! ```
//!
//! What must not happen ends up in [`log::EventLog`]; a test asserts that it is empty.
#![forbid(unsafe_code)]

pub mod bare;
pub mod clock;
pub mod config;
mod cpus;
pub mod el3;
pub mod fault;
pub mod guest;
mod hardware;
pub mod host;
pub mod log;
mod machine;
pub mod memory;
mod mmu;
mod platform;
pub mod process;
pub mod program;
mod realm_cpu;
mod syndrome;
pub mod sysregs;
mod tlb;
pub mod trace;

pub use config::MachineConfig;
pub use guest::Guest;
pub use host::MachineHost;
pub use machine::Machine;
pub use platform::MachinePlatform;
pub use process::Process;
