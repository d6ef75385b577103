//! What a VMM does for a realm: load a kernel, write a device tree, plan the memory and drive the KVM ioctls from
//! the first to the last, over any [`System`].
#![forbid(unsafe_code)]

pub mod cpio;
pub mod dtb;
mod guest;
mod image;
pub mod layout;
mod lifecycle;
mod system;
mod uart;

pub use dtb::DtbError;
pub use guest::{Guest, GuestConfig, GuestError, Part};
pub use image::{ImageError, KernelImage};
pub use layout::{Layout, LayoutConfig, LayoutError, Region};
pub use lifecycle::{Call, Progress, RealmSettings, RealmVm, Step, Stop, VmError};
pub use realm_abi::Errno;
pub use system::{Fd, System};
