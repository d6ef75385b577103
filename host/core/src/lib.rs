//! Realm lifecycle on a Host, as the KVM realm ioctls define it: the heart of Realmkit.
//!
//! The outermost face is the ioctl interface itself ([`file`]): a file, a number, an argument, user memory, and an errno
//! back. Everything the code needs of its surroundings comes through [`Host`], so that a Linux module, a bare-metal
//! program and a test process run the same logic.
//!
//! | module | what it knows |
//! |---|---|
//! | [`rmm`] | whether there is an RMM, and what all realms share of it |
//! | [`rmi`] | the commands, as typed calls |
//! | [`granule`] | who owns a granule; what was lost |
//! | [`ipa`] | the shape of an IPA space and of its tables |
//! | [`realm`] | a realm from configuration to destruction |
//! | [`stage2`] | its translation tables |
//! | [`guest_memfd`] | its private memory |
#![no_std]
#![forbid(unsafe_code)]
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

extern crate alloc;
#[cfg(test)]
extern crate std;

mod device;
#[cfg(test)]
mod fake;
pub mod file;
pub mod granule;
pub mod guest_memfd;
pub mod host;
pub mod ipa;
pub mod irqchip;
pub mod realm;
pub mod rmi;
pub mod rmm;
pub mod stage2;
mod vcpu;
mod vm;
pub mod vmid;

pub use device::Device;
pub use file::File;
pub use host::{Host, Lock, UserMemory};
pub use realm_abi::errno::{self, Errno};
pub use vcpu::Vcpu;
pub use vm::{IrqchipFile, Vm};
