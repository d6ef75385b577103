//! The interrupt controller as a file: KVM_SET_DEVICE_ATTR.

use crate::{Errno, Host, UserMemory, Vm};
use alloc::sync::Arc;

/// The GICv3 of a VM, from KVM_CREATE_DEVICE.
pub struct IrqchipFile<H: Host> {
    vm: Arc<Vm<H>>,
}

impl<H: Host> IrqchipFile<H> {
    /// The VM it belongs to.
    #[must_use]
    pub fn vm(&self) -> &Arc<Vm<H>> {
        &self.vm
    }

    pub(crate) fn ioctl(&self, _user: &impl UserMemory, _cmd: u32, _arg: u64) -> Result<i64, Errno> {
        Err(Errno::ENOTTY)
    }

    pub(crate) fn release(&self) {}
}
