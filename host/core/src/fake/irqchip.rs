//! An interrupt controller without interrupts: a line that goes up wakes the first vCPU.

use crate::Errno;
use crate::run::irqchip::{GicEntry, GicExit, GicRegister, Irqchip, Wake};

pub(crate) struct FakeIrqchip;

impl Irqchip for FakeIrqchip {
    fn flush(&self, _vcpu: u32, _lrs: usize) -> GicEntry {
        GicEntry::default()
    }
    fn sync(&self, _vcpu: u32, _exit: &GicExit, _wake: &dyn Wake) {}
    fn pending(&self, _vcpu: u32) -> bool {
        false
    }
    fn set_private(&self, _vcpu: u32, _intid: u32, _level: bool, _wake: &dyn Wake) -> Result<(), Errno> {
        Ok(())
    }
    fn set_shared(&self, _intid: u32, level: bool, wake: &dyn Wake) -> Result<(), Errno> {
        if level {
            wake.wake(0);
        }
        Ok(())
    }
    fn write_register(&self, _vcpu: u32, _register: GicRegister, _value: u64, _wake: &dyn Wake) {}
    fn mmio_read(&self, _vcpu: u32, _ipa: u64, _size: usize) -> Option<u64> {
        None
    }
    fn mmio_write(&self, _vcpu: u32, _ipa: u64, _size: usize, _value: u64, _wake: &dyn Wake) -> bool {
        false
    }
}
