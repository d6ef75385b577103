//! What a VMM does for a realm: load a kernel, write a device tree, plan the memory and drive the KVM ioctls from
//! the first to the last, over any [`System`].
#![forbid(unsafe_code)]

pub mod cpio;
mod devices;
pub mod dtb;
mod guest;
mod image;
pub mod layout;
mod lifecycle;
mod output;
mod system;
mod uart;

pub use dtb::DtbError;
pub use guest::{Guest, GuestConfig, GuestError, Part};
pub use image::{ImageError, KernelImage};
pub use layout::{Layout, LayoutConfig, LayoutError, Region};
pub use lifecycle::{Call, Progress, RealmSettings, RealmVm, Step, Stop, VmError};
pub use realm_abi::Errno;
pub use system::{Fd, System};

/// A panicked vCPU thread leaves consistent data behind: every change under these locks is a single one, or a device that can
/// be reset.
fn lock<T: ?Sized>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
