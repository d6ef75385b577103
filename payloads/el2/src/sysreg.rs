//! System registers by name.

/// Reads a system register.
#[macro_export]
macro_rules! read_register {
    ($name:expr) => {{
        let value: u64;
        // SAFETY: reading a register of EL2 or below changes no memory.
        unsafe {
            core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nostack, preserves_flags));
        }
        value
    }};
}

/// Writes a system register; not one of this level's own translation.
#[macro_export]
macro_rules! write_register {
    ($name:expr, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: interrupts, timers and registers of lower levels do not decide what memory this program sees.
        unsafe {
            core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags));
        }
    }};
}

pub use crate::{read_register as mrs, write_register as msr};

/// Waits for what was written to registers to take effect.
#[inline]
pub fn isb() {
    // SAFETY: a barrier.
    unsafe { core::arch::asm!("isb", options(nostack, preserves_flags)) };
}

/// Waits until all memory accesses have completed.
#[inline]
pub fn dsb() {
    // SAFETY: a barrier.
    unsafe { core::arch::asm!("dsb sy", options(nostack, preserves_flags)) };
}

/// Waits for an interrupt, masked or not.
#[inline]
pub fn wfi() {
    // SAFETY: only waits.
    unsafe { core::arch::asm!("dsb sy", "wfi", options(nostack, preserves_flags)) };
}

/// Keeps IRQs away until [`unmask`].
#[inline]
pub fn mask() {
    // SAFETY: an interrupt that comes later is none that does not come.
    unsafe { core::arch::asm!("msr daifset, #2", options(nostack, preserves_flags)) };
}

/// Lets IRQs in.
#[inline]
pub fn unmask() {
    // SAFETY: the handler of this crate changes nothing but the interrupt controller and the timer.
    unsafe { core::arch::asm!("msr daifclr, #2", "isb", options(nostack, preserves_flags)) };
}
