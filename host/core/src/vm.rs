//! A virtual machine.

mod irqchip_file;

pub use irqchip_file::IrqchipFile;

use crate::{Device, Errno, Host, UserMemory};
use alloc::sync::Arc;

/// A realm VM.
pub struct Vm<H: Host> {
    device: Arc<Device<H>>,
}

impl<H: Host> Vm<H> {
    /// The device this VM was made from.
    #[must_use]
    pub fn device(&self) -> &Arc<Device<H>> {
        &self.device
    }

    /// The process unmapped, moved or write-protected `[start, end)` of its memory: nothing of it may stay mapped into
    /// the realm (its shared half; private memory is not the process's).
    pub fn invalidate_user_range(&self, _start: u64, _end: u64) {}

    /// The process that owns the VM gives up its memory: makes the vCPUs leave, takes the VM's memory back and lets no
    /// vCPU run again (trigger A of the order of teardown).
    pub fn process_exits(&self) {}

    pub(crate) fn ioctl(
        self: &Arc<Self>,
        _user: &impl UserMemory,
        _cmd: u32,
        _arg: u64,
    ) -> Result<i64, Errno> {
        Err(Errno::ENOTTY)
    }

    pub(crate) fn release(&self) {}
}
