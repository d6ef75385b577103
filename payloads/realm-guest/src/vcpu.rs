//! This vCPU: which it is, where it starts, whether it takes interrupts.

use crate::sysreg::{instruction, mrs};

/// vCPUs there is room for.
pub const MAX_VCPUS: usize = 4;

/// What a vCPU that was turned on starts with.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Which vCPU it is.
    pub vcpu: usize,
    /// X0.
    pub context: u64,
    /// X1 to X30, all bits that are one in any of them.
    pub others: u64,
}

unsafe extern "C" {
    /// Where vCPUs start that are turned on.
    pub fn guest_secondary();
}

/// The address of [`guest_secondary`].
pub fn secondary_entry() -> u64 {
    guest_secondary as *const () as u64
}

/// Which vCPU this is: Aff0.
pub fn vcpu() -> usize {
    mrs!("mpidr_el1") as usize % MAX_VCPUS
}

/// Takes no interrupts any more.
pub fn mask() {
    instruction!("msr daifset, #0x2");
}

/// Takes interrupts.
pub fn unmask() {
    instruction!("msr daifclr, #0x2");
}

/// Waits for nothing, after the realm is over.
pub fn halt() -> ! {
    loop {
        instruction!("wfe");
    }
}
