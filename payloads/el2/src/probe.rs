//! Accesses that may be refused: the exception vector knows them, and they return its syndrome.

use core::arch::global_asm;

global_asm!(
    ".section .text.probe, \"ax\"",
    ".global el2_probe_load",
    ".global el2_probe_load_at",
    ".global el2_probe_store",
    ".global el2_probe_store_at",
    // X0: address; the value and, in X1, the syndrome or 0.
    "el2_probe_load:",
    "    mov x1, #0",
    "el2_probe_load_at:",
    "    ldr x0, [x0]",
    "    ret",
    // X0: address, X1: value; the syndrome in X1.
    "el2_probe_store:",
    "    mov x2, x1",
    "    mov x1, #0",
    "el2_probe_store_at:",
    "    str x2, [x0]",
    "    ret",
);

/// What the two routines return in X0 and X1.
#[repr(C)]
struct Outcome {
    value: u64,
    esr: u64,
}

unsafe extern "C" {
    fn el2_probe_load(address: *const u64) -> Outcome;
    fn el2_probe_store(address: *mut u64, value: u64) -> Outcome;
    safe static el2_probe_load_at: u8;
    safe static el2_probe_store_at: u8;
}

/// Whether the instruction at `elr` may fault.
pub(crate) fn may_fault(elr: u64) -> bool {
    [&raw const el2_probe_load_at, &raw const el2_probe_store_at].iter().any(|at| *at as u64 == elr)
}

/// Why an access was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// ESR_EL2.
    pub esr: u64,
}

impl Refused {
    /// Whether it was a granule protection fault of the access itself (DFSC 0b101000).
    #[must_use]
    pub const fn is_granule_protection(self) -> bool {
        self.esr >> 26 & 0x3f == 0x25 && self.esr & 0x3f == 0x28
    }
}

/// Loads.
///
/// # Safety
/// `address` must be 8-byte aligned and either memory nobody writes to meanwhile, or memory of another world.
///
/// # Errors
/// If the access was refused.
pub unsafe fn load(address: u64) -> Result<u64, Refused> {
    // SAFETY: as the caller promises; a fault is skipped by the vector.
    match unsafe { el2_probe_load(address as *const u64) } {
        Outcome { value, esr: 0 } => Ok(value),
        Outcome { esr, .. } => Err(Refused { esr }),
    }
}

/// Stores.
///
/// # Safety
/// `address` must be 8-byte aligned and either memory nobody else uses, or memory of another world.
///
/// # Errors
/// If the access was refused.
pub unsafe fn store(address: u64, value: u64) -> Result<(), Refused> {
    // SAFETY: as the caller promises; a fault is skipped by the vector.
    match unsafe { el2_probe_store(address as *mut u64, value) } {
        Outcome { esr: 0, .. } => Ok(()),
        Outcome { esr, .. } => Err(Refused { esr }),
    }
}
