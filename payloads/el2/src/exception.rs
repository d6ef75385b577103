//! Exceptions: interrupts are taken, accesses that may fault are skipped, everything else ends the program.

use crate::sysreg::mrs;
use crate::{gic, power, probe, uart};
use core::arch::global_asm;

/// What an exception interrupted, as the vector stores it.
#[repr(C)]
struct Frame {
    x: [u64; 31],
    elr: u64,
    spsr: u64,
}

const SYNC: u64 = 4;
const IRQ: u64 = 5;

global_asm!(
    ".section .text.vectors, \"ax\"",
    ".macro el2_vector kind",
    "    .balign 128",
    "    sub sp, sp, #272",
    "    stp x0, x1, [sp]",
    "    mov x0, #\\kind",
    "    b el2_exception",
    ".endm",
    ".balign 2048",
    ".global el2_vectors",
    "el2_vectors:",
    ".irp kind, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "el2_vector \\kind",
    ".endr",
    "el2_exception:",
    ".irp n, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30",
    "    str x\\n, [sp, #8 * \\n]",
    ".endr",
    "    mrs x1, elr_el2",
    "    mrs x2, spsr_el2",
    "    stp x1, x2, [sp, #248]",
    "    mov x1, sp",
    "    bl {exception}",
    "    ldp x1, x2, [sp, #248]",
    "    msr elr_el2, x1",
    "    msr spsr_el2, x2",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30",
    "    ldr x\\n, [sp, #8 * \\n]",
    ".endr",
    "    add sp, sp, #272",
    "    eret",
    // Nothing is executed ahead of an exception return.
    "    dsb nsh",
    "    isb",
    exception = sym exception,
);

extern "C" fn exception(kind: u64, frame: &mut Frame) {
    let esr = mrs!("esr_el2");
    match kind {
        IRQ => gic::take(),
        SYNC if probe::may_fault(frame.elr) => {
            frame.x[1] = esr;
            frame.elr += 4;
        }
        _ => {
            let why = format_args!(
                "vector {kind} on CPU {}, ESR {esr:#x} ELR {:#x} FAR {:#x} X30 {:#x}",
                crate::cpu(),
                frame.elr,
                mrs!("far_el2"),
                frame.x[30],
            );
            uart::after_fault(why);
            power::off()
        }
    }
}
