//! Secure monitor calls.

/// SMC #0 with X0 to X7; X0 to X7 afterwards (SMCCC 1.2: X8 to X17 are preserved, but no caller relies on that).
///
/// The callee may write memory the arguments name: whoever passes an address owns what is there.
#[inline]
#[must_use]
pub fn call(regs: [u64; 8]) -> [u64; 8] {
    let mut x = regs;
    // SAFETY: EL3 and the RMM write no memory of this program but what the arguments name, and the asm is a barrier to the
    // compiler.
    unsafe {
        core::arch::asm!(
            "smc #0",
            inout("x0") x[0], inout("x1") x[1], inout("x2") x[2], inout("x3") x[3],
            inout("x4") x[4], inout("x5") x[5], inout("x6") x[6], inout("x7") x[7],
            out("x8") _, out("x9") _, out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _,
            out("x15") _, out("x16") _, out("x17") _,
            options(nostack),
        );
    }
    x
}
