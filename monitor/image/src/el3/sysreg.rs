//! System registers and barriers.

/// Reads a system register.
macro_rules! read {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reading this register has no effect on memory or control flow.
        unsafe {
            core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags));
        }
        value
    }};
}

/// Writes a system register; for those that do not change how memory is seen by the code that runs.
macro_rules! write {
    ($name:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: the register controls lower exception levels or devices, not the monitor's own execution.
        unsafe {
            core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags));
        }
    }};
}

pub(crate) use {read, write};

/// Makes earlier changes of system registers take effect.
pub fn isb() {
    // SAFETY: a barrier only orders.
    unsafe { core::arch::asm!("isb", options(nostack, preserves_flags)) };
}

/// Completes all earlier memory accesses and maintenance.
pub fn dsb() {
    // SAFETY: a barrier only orders.
    unsafe { core::arch::asm!("dsb sy", options(nostack, preserves_flags)) };
}

/// Waits for an interrupt, masked or not.
pub fn wfi() {
    // SAFETY: waiting changes nothing.
    unsafe { core::arch::asm!("dsb sy", "wfi", options(nostack, preserves_flags)) };
}

/// Wakes CPUs that wait for an event.
pub fn sev() {
    // SAFETY: an event changes nothing.
    unsafe { core::arch::asm!("dsb sy", "sev", options(nostack, preserves_flags)) };
}
