//! Realm lifecycle on a Host, as the KVM realm ioctls define it: the heart of Realmkit.
//!
//! The outermost face is the ioctl interface itself ([`file`]): a file, a number, an argument, user memory, and an errno
//! back. Everything the code needs of its surroundings comes through [`Host`], so that a Linux module, a bare-metal
//! program and a test process run the same logic.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod errno;
pub mod host;

pub use errno::Errno;
pub use host::{Host, Lock, UserMemory};
