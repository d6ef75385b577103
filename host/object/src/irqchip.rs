//! An interrupt controller with one line for each vCPU: just what it takes to link every path to one. The GICv3 of the module
//! is to take its place.

use core::sync::atomic::{AtomicU64, Ordering};
use realm_abi::Errno;
use realm_host::irqchip::{GicConfig, GicEntry, GicExit, GicRegister, Irqchip, Wake};

/// One bit for each of the first 64 vCPUs.
#[derive(Default)]
pub struct Lines(AtomicU64);

impl Lines {
    fn drive(&self, vcpu: u32, level: bool, wake: &dyn Wake) -> Result<(), Errno> {
        let bit = 1_u64.checked_shl(vcpu).ok_or(Errno::EINVAL)?;
        if level {
            self.0.fetch_or(bit, Ordering::SeqCst);
            wake.wake(vcpu);
        } else {
            self.0.fetch_and(!bit, Ordering::SeqCst);
        }
        Ok(())
    }
}

impl Irqchip for Lines {
    fn init(&self, _config: &GicConfig) -> Result<(), Errno> {
        Ok(())
    }

    fn flush(&self, _vcpu: u32, _lrs: usize) -> GicEntry {
        GicEntry::default()
    }

    fn sync(&self, vcpu: u32, exit: &GicExit, wake: &dyn Wake) {
        if exit.misr != 0 {
            wake.wake(vcpu);
        }
    }

    fn pending(&self, vcpu: u32) -> bool {
        1_u64.checked_shl(vcpu).is_some_and(|bit| self.0.load(Ordering::SeqCst) & bit != 0)
    }

    fn set_private(&self, vcpu: u32, _intid: u32, level: bool, wake: &dyn Wake) -> Result<(), Errno> {
        self.drive(vcpu, level, wake)
    }

    fn set_shared(&self, _intid: u32, level: bool, wake: &dyn Wake) -> Result<(), Errno> {
        self.drive(0, level, wake)
    }

    fn write_register(&self, vcpu: u32, register: GicRegister, _value: u64, wake: &dyn Wake) {
        if register == GicRegister::Sgi1r {
            wake.wake(vcpu);
        }
    }

    fn mmio_read(&self, _vcpu: u32, _ipa: u64, _size: usize) -> Option<u64> {
        None
    }

    fn mmio_write(&self, _vcpu: u32, _ipa: u64, _size: usize, _value: u64, _wake: &dyn Wake) -> bool {
        false
    }
}
