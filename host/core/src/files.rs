//! Files and their ioctls, as a process sees them: the device, a VM, its interrupt controller, its private memory. The
//! ioctls of a vCPU are in [`run`](crate::run).

pub(crate) mod caps;
mod device;
mod file;
pub mod statistics;
#[cfg(test)]
mod tests;
pub(crate) mod vm;

pub use device::{Device, Limits, StillHeld};
pub use file::File;
pub use statistics::Statistics;
pub use vm::{IrqchipFile, MemfdFile, Vm};
