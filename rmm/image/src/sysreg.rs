//! Access to system registers by name. Registers the assembler has no name for without an extension are written as
//! `S<op0>_<op1>_C<n>_C<m>_<op2>`.

/// Reads a system register.
macro_rules! mrs {
    ($name:expr) => {{
        let value: u64;
        // SAFETY: reading one of the registers this image names has no effect on memory; the caller has checked that it
        // exists where it is optional.
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
        // SAFETY: the registers this image writes either belong to the lower exception levels or trap and timer controls,
        // which the RMM does not depend on for memory safety; those of its own translation are written by `boot` only.
        unsafe {
            core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags));
        }
    }};
}

/// A barrier or another instruction without operands.
macro_rules! instruction {
    ($text:literal) => {
        // SAFETY: barriers order what is there and change nothing; the others named invalidate translations.
        unsafe { core::arch::asm!($text, options(nostack, preserves_flags)) }
    };
}

pub(crate) use {instruction, mrs, msr};
