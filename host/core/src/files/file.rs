//! The outermost face: files, ioctl numbers, arguments and errno values, as a process sees them.
//!
//! A Linux module only forwards: `unlocked_ioctl` to [`File::ioctl`], `release` to [`File::release`], `mmap` of a vCPU
//! to [`Vcpu::run_page`], a reboot notifier to [`Device::shut_down`].

use crate::{Device, Errno, Host, IrqchipFile, MemfdFile, UserMemory, Vcpu, Vm};
use realm_alloc::Arc;

/// An open file. Clones are the same file.
pub enum File<H: Host> {
    /// The device itself, as `/dev/kvm`.
    Device(Arc<Device<H>>),
    /// A virtual machine, from KVM_CREATE_VM.
    Vm(Arc<Vm<H>>),
    /// A vCPU, from KVM_CREATE_VCPU.
    Vcpu(Arc<Vcpu<H>>),
    /// An interrupt controller, from KVM_CREATE_DEVICE.
    Irqchip(Arc<IrqchipFile<H>>),
    /// Private memory, from KVM_CREATE_GUEST_MEMFD. It has no ioctls.
    GuestMemfd(Arc<MemfdFile<H>>),
}

impl<H: Host> Clone for File<H> {
    fn clone(&self) -> Self {
        match self {
            Self::Device(file) => Self::Device(file.clone()),
            Self::Vm(file) => Self::Vm(file.clone()),
            Self::Vcpu(file) => Self::Vcpu(file.clone()),
            Self::Irqchip(file) => Self::Irqchip(file.clone()),
            Self::GuestMemfd(file) => Self::GuestMemfd(file.clone()),
        }
    }
}

impl<H: Host> File<H> {
    /// An ioctl of the calling process: `cmd` is the whole 32-bit number, `arg` its argument, a value or an address in
    /// `user`. Returns what the system call returns.
    ///
    /// # Errors
    /// As KVM; `EIO` on a file of another process's VM; `ENOTTY` for a number that is none of this file's.
    pub fn ioctl(&self, user: &impl UserMemory, cmd: u32, arg: u64) -> Result<i64, Errno> {
        match self {
            Self::Device(device) => Device::ioctl(device, user, cmd, arg),
            Self::Vm(vm) => Vm::ioctl(vm, user, cmd, arg),
            Self::Vcpu(vcpu) => vcpu.ioctl(user, cmd, arg),
            Self::Irqchip(irqchip) => irqchip.ioctl(user, cmd, arg),
            Self::GuestMemfd(_) => Err(Errno::ENOTTY),
        }
    }

    /// The last descriptor of this file went away, whoever closed it. Files may be released in any order, also while other
    /// threads are in an ioctl of another file of the same VM; the VM is torn down with the last of its files, in this
    /// call. A second call does nothing.
    pub fn release(&self) {
        match self {
            Self::Device(device) => device.release(),
            Self::Vm(vm) => Vm::release(vm),
            Self::Vcpu(vcpu) => vcpu.release(),
            Self::Irqchip(irqchip) => irqchip.release(),
            // The slots keep the memory as long as they need it.
            Self::GuestMemfd(_) => {}
        }
    }
}
