//! The platform of Non-secure programs at EL2, which the monitor enters at 0x60000000 with the device tree in X0: entry and
//! stage 1, exceptions, the GIC, the console and calls. A program names its main functions with `entry!` and is linked
//! with `payload.ld`.
#![no_std]
#![cfg(target_os = "none")]

mod exception;
pub mod gic;
pub mod lock;
pub mod power;
pub mod probe;
pub mod smc;
mod start;
pub mod sysreg;
pub mod timer;
pub mod uart;

pub use start::{MAX_CPUS, cpu, image_end, secondary_entry};
