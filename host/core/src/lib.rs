//! Realm lifecycle on a Host, as the KVM realm ioctls define it: the heart of Realmkit.
//!
//! The outermost face is the ioctl interface itself ([`file`]): a file, a number, an argument, user memory, and an errno
//! back. Everything the code needs of its surroundings comes through [`Host`], so that a Linux module, a bare-metal
//! program and a test process run the same logic.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod device;
pub mod file;
pub mod host;
pub mod irqchip;
mod vcpu;
mod vm;

pub use device::Device;
pub use file::File;
pub use host::{Host, Lock, UserMemory};
pub use realm_abi::errno::{self, Errno};
pub use vcpu::Vcpu;
pub use vm::{IrqchipFile, Vm};
