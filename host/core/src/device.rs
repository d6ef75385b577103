//! The device file: what the machine offers, and the VMs made from it.

use crate::{Errno, Host, UserMemory};
use alloc::sync::Arc;

/// The device, one for a machine.
pub struct Device<H: Host> {
    host: Arc<H>,
}

impl<H: Host> Device<H> {
    /// Looks for an RMM and makes the device. A machine without one, or with an RMM of another version, has a device
    /// that offers no realms.
    pub fn new(host: Arc<H>) -> Arc<Self> {
        Arc::new(Self { host })
    }

    /// What the device runs on.
    #[must_use]
    pub fn host(&self) -> &Arc<H> {
        &self.host
    }

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
