//! The interrupt controller of a VM that runs, with the vCPUs it wakes. Interrupts are raised through it in any context: a
//! queue kick or an interrupt file holds a [`Gic`] and needs neither the VM nor a lock of it.

use crate::run::irqchip::{GicEntry, GicExit, GicRegister, Irqchip};
use crate::run::waker::Wakers;
use crate::{Errno, Host};
use realm_alloc::Arc;

/// See the module.
pub struct Gic<H: Host> {
    chip: Arc<H::Irqchip>,
    wakers: Wakers<H>,
}

impl<H: Host> Gic<H> {
    pub(crate) const fn new(chip: Arc<H::Irqchip>, wakers: Wakers<H>) -> Self {
        Self { chip, wakers }
    }

    pub(crate) fn flush(&self, vcpu: u32, lrs: usize) -> GicEntry {
        self.chip.flush(vcpu, lrs)
    }

    pub(crate) fn sync(&self, vcpu: u32, exit: &GicExit) {
        self.chip.sync(vcpu, exit, &self.wakers);
    }

    pub(crate) fn pending(&self, vcpu: u32) -> bool {
        self.chip.pending(vcpu)
    }

    /// Drives the line of a private interrupt (16 to 31). Any context.
    ///
    /// # Errors
    /// `EINVAL` for an interrupt that is not one.
    pub fn set_private(&self, vcpu: u32, intid: u32, level: bool) -> Result<(), Errno> {
        self.chip.set_private(vcpu, intid, level, &self.wakers)
    }

    /// Drives the line of a shared interrupt (from 32). Any context.
    ///
    /// # Errors
    /// `EINVAL` for an interrupt the GIC does not have.
    pub fn set_shared(&self, intid: u32, level: bool) -> Result<(), Errno> {
        self.chip.set_shared(intid, level, &self.wakers)
    }

    pub(crate) fn write_register(&self, vcpu: u32, register: GicRegister, value: u64) {
        self.chip.write_register(vcpu, register, value, &self.wakers);
    }

    pub(crate) fn mmio_read(&self, vcpu: u32, ipa: u64, size: usize) -> Option<u64> {
        self.chip.mmio_read(vcpu, ipa, size)
    }

    pub(crate) fn mmio_write(&self, vcpu: u32, ipa: u64, size: usize, value: u64) -> bool {
        self.chip.mmio_write(vcpu, ipa, size, value, &self.wakers)
    }
}
