//! Realm lifecycle on a Host, as the KVM realm ioctls define it: the heart of Realmkit.
//!
//! The outermost face is the ioctl interface itself ([`mod@file`]): a file, a number, an argument, user memory, and an errno
//! back. Everything the code needs of its surroundings comes through [`Host`], so that a Linux module, a bare-metal
//! program and a test process run the same logic.
//!
//! | module | what it knows |
//! |---|---|
//! | [`mod@file`] | files and ioctls, as a process sees them |
//! | `device`, `vm`, `vcpu` | what stands behind the files; `vm/` and `vcpu/` hold their ioctls |
//! | `run`, `exit`, `fault`, `psci` | KVM_RUN: entering a REC and serving its exits |
//! | [`irqchip`] | what is asked of an emulated GICv3 |
//! | [`rmm`] | whether there is an RMM, and what all realms share of it |
//! | [`rmi`] | the commands, as typed calls |
//! | [`granule`] | who owns a granule; what was lost |
//! | [`ipa`] | the shape of an IPA space and of its tables |
//! | [`realm`] | a realm from configuration to destruction |
//! | `stage2` | its translation tables |
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

mod attributes;
mod caps;
mod device;
mod exit;
#[cfg(test)]
mod fake;
mod fault;
pub mod file;
pub mod granule;
pub mod guest_memfd;
pub mod host;
pub mod ipa;
pub mod irqchip;
mod kvm_run;
mod memslot;
mod mmio;
mod psci;
pub mod realm;
mod rec;
mod regs;
pub mod rmi;
pub mod rmm;
mod run;
mod stage2;
pub mod statistics;
mod timer;
mod user;
mod vcpu;
mod vm;
pub mod vmid;

pub use device::Device;
pub use file::File;
pub use host::{Host, Lock, UserMemory};
pub use realm_abi::errno::{self, Errno};
pub use statistics::Statistics;
pub use vcpu::Vcpu;
pub use vm::{IrqchipFile, MemfdFile, Vm};
