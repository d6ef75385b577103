//! Realm lifecycle on a Host, as the KVM realm ioctls define it: the heart of Realmkit.
//!
//! The outermost face is the ioctl interface itself ([`File`]): a file, a number, an argument, user memory, and an errno
//! back. Everything the code needs of its surroundings comes through [`Host`], so that a Linux module, a bare-metal
//! program and a test process run the same logic.
//!
//! An ioctl goes down this list:
//!
//! | folder | what it is |
//! |---|---|
//! | [`files`] | files and their ioctls: the device, a VM, its interrupt controller |
//! | [`run`] | running a vCPU: its ioctls, REC_ENTER, and what an exit asks of the Host |
//! | [`memory`] | a VM's memory: slots, attributes, guest_memfd |
//! | [`realm`] | a realm from configuration to destruction, its RECs and translation tables |
//! | [`rmm`] | the RMM of the machine: its commands, who owns a granule, what was lost, VMIDs |
//! | [`host`] | what all of it needs of its surroundings |
//!
//! Nothing here can panic, and a path of calls has little on the stack: `cargo xtask object` proves both of the linked code. Where
//! a function is `#[inline(never)]`, that is so that its frame is there only while it runs.
#![no_std]
#![cfg_attr(not(test), forbid(unsafe_code))]
#![cfg_attr(test, deny(unsafe_code))]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "a test that panics has found something"
    )
)]

#[cfg(test)]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod error;
#[cfg(test)]
mod fake;
pub mod files;
pub mod host;
pub mod memory;
pub mod realm;
pub mod rmm;
mod room;
pub mod run;
mod shares;

pub use files::{Device, File, IrqchipFile, Limits, MemfdFile, Statistics, StillHeld, Vm};
pub use host::{Host, Lock, UserMemory};
pub use memory::guest_memfd;
pub use realm::ipa;
pub use realm_abi::errno::{self, Errno};
pub use realm_alloc::Arc;
pub use rmm::{granule, rmi};
pub use run::{Gic, Vcpu, irqchip};
