//! What a VMM does for a realm: load a kernel, write a device tree, plan the memory and drive the KVM ioctls from
//! the first to the last, over any [`System`].
#![forbid(unsafe_code)]

pub mod dtb;
mod image;
pub mod layout;
mod system;

pub use dtb::DtbError;
pub use image::{ImageError, KernelImage};
pub use layout::{Layout, LayoutConfig, LayoutError, Region};
pub use realm_abi::Errno;
pub use system::{Fd, System};
