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

pub mod config;
mod hardware;
pub mod host;
mod machine;
mod pas;
mod platform;
mod probe;
mod realm;

pub use config::MachineConfig;
pub use guest::Guest;
pub use hardware::{clock, el3, memory, sysregs};
pub use host::{MachineHost, bare, process};
pub use machine::Machine;
pub use platform::MachinePlatform;
pub use probe::{fault, log, trace};
pub use process::Process;
pub use realm::{guest, program};
