//! A virtual CPU.

use crate::{Errno, Host, UserMemory, Vm};
use alloc::sync::Arc;

/// A vCPU of a realm VM.
pub struct Vcpu<H: Host> {
    vm: Arc<Vm<H>>,
    number: u32,
    run_page: u64,
}

impl<H: Host> Vcpu<H> {
    /// The VM it belongs to.
    #[must_use]
    pub fn vm(&self) -> &Arc<Vm<H>> {
        &self.vm
    }

    /// A number that no other vCPU of this host has, for [`Host::kick`].
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Physical address of the page a process maps at offset 0 of the vCPU's file (`struct kvm_run`).
    #[must_use]
    pub fn run_page(&self) -> u64 {
        self.run_page
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
