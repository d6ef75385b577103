//! What a VMM does for a realm: load a kernel, write a device tree, plan the memory and drive the KVM ioctls from
//! the first to the last, over any [`System`].
#![forbid(unsafe_code)]

mod system;

pub use realm_abi::Errno;
pub use system::{Fd, System};
