//! Access to system registers by name. Registers the assembler has no name for without an extension are written as
//! `S<op0>_<op1>_C<n>_C<m>_<op2>`.

/// Reads a system register.
macro_rules! mrs {
    ($name:expr) => {{
        let value: u64;
        // SAFETY: reading a register has no effect on memory. One that does not exist is an exception, which is reported.
        unsafe {
            core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nostack, preserves_flags));
        }
        value
    }};
}

/// Writes a system register.
macro_rules! msr {
    ($name:expr, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: programs write registers that hold data, and controls of timers, interrupts and optional instructions; none
        // of those that decide about translation (`boot` alone writes them).
        unsafe {
            core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags));
        }
    }};
}

/// A barrier, a hint or a change of interrupt masks.
macro_rules! instruction {
    ($text:literal) => {
        // SAFETY: barriers, hints, masks and TLB invalidations change no memory.
        unsafe { core::arch::asm!($text, options(nostack)) }
    };
}

pub(crate) use {instruction, mrs, msr};
