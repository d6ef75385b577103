//! Exceptions: those of realms end a run, those of the RMM itself are granule protection faults and external aborts of a copy, aborts of
//! the translation of a realm's address, an FFR that is not there, or fatal.

use crate::{mmu, stop};
use core::arch::global_asm;

/// What ended a run, in the order of the vectors.
pub const SYNC: u64 = 0;
pub const IRQ: u64 = 1;
pub const FIQ: u64 = 2;

global_asm!(
    ".section .text.vectors, \"ax\"",
    ".macro fatal",
    "    .balign 128",
    "    b rmm_fatal_entry",
    ".endm",
    ".macro lower kind",
    "    .balign 128",
    "    stp x0, x1, [sp, #-16]!",
    "    mov x0, #\\kind",
    "    b rmm_leave",
    ".endm",
    ".balign 2048",
    ".global rmm_vectors",
    "rmm_vectors:",
    // From EL2 with SP_EL0, which is not used.
    "fatal",
    "fatal",
    "fatal",
    "fatal",
    // From EL2.
    "    .balign 128",
    "    b rmm_sync_here",
    "fatal",
    "fatal",
    "fatal",
    // From realms, AArch64 and AArch32.
    "lower 0",
    "lower 1",
    "lower 2",
    "lower 3",
    "lower 0",
    "lower 1",
    "lower 2",
    "lower 3",
    ".balign 128",
    // From EL2: what the RMM expects to trap, and how it goes on then.
    "rmm_sync_here:",
    "    mrs x17, elr_el2",
    "    adr x16, rmm_try_ffr",
    "    cmp x16, x17",
    "    adr x16, rmm_try_ffr_fault",
    "    b.eq 1f",
    "    adr x16, rmm_trap_later_registers",
    "    cmp x16, x17",
    "    adr x16, rmm_trap_later_registers_fault",
    "    b.eq 1f",
    "    mrs x16, esr_el2",
    "    ubfx x16, x16, #26, #6",
    "    cmp x16, #0x25", // data abort, same level
    "    b.ne rmm_fatal_entry",
    "    adr x16, rmm_translate",
    "    cmp x16, x17",
    "    adr x16, rmm_translate_fault",
    "    b.eq 1f",
    "    adr x16, rmm_copy",
    "    cmp x17, x16",
    "    b.lo rmm_fatal_entry",
    "    adr x16, rmm_copy_end",
    "    cmp x17, x16",
    "    b.hs rmm_fatal_entry",
    "    mrs x16, esr_el2",
    "    and x16, x16, #0x3f",
    "    cmp x16, #0x28", // granule protection fault, not of a table walk
    "    mov x17, #0x18", // parity or ECC error of the access, not of a walk
    "    ccmp x16, x17, #4, ne",
    "    mov x17, #0x10", // external abort of the access, not of a walk
    "    ccmp x16, x17, #4, ne",
    "    b.ne rmm_fatal_entry",
    "    adr x16, rmm_copy_fault",
    "1:  msr elr_el2, x16",
    "    eret",
    // Nothing is executed ahead of an exception return.
    "    dsb nsh",
    "    isb",
    ".balign 128",
    // Runs a realm: x0 names X0 to X30. Returns which vector it came back through.
    ".global rmm_enter",
    "rmm_enter:",
    "    stp x29, x30, [sp, #-112]!",
    "    stp x19, x20, [sp, #16]",
    "    stp x21, x22, [sp, #32]",
    "    stp x23, x24, [sp, #48]",
    "    stp x25, x26, [sp, #64]",
    "    stp x27, x28, [sp, #80]",
    "    str x0, [sp, #96]",
    "    ldp x2, x3, [x0, #16]",
    "    ldp x4, x5, [x0, #32]",
    "    ldp x6, x7, [x0, #48]",
    "    ldp x8, x9, [x0, #64]",
    "    ldp x10, x11, [x0, #80]",
    "    ldp x12, x13, [x0, #96]",
    "    ldp x14, x15, [x0, #112]",
    "    ldp x16, x17, [x0, #128]",
    "    ldp x18, x19, [x0, #144]",
    "    ldp x20, x21, [x0, #160]",
    "    ldp x22, x23, [x0, #176]",
    "    ldp x24, x25, [x0, #192]",
    "    ldp x26, x27, [x0, #208]",
    "    ldp x28, x29, [x0, #224]",
    "    ldr x30, [x0, #240]",
    "    ldp x0, x1, [x0]",
    "    eret",
    "    dsb nsh",
    "    isb",
    "rmm_leave:",
    "    ldr x1, [sp, #112]",
    "    stp x2, x3, [x1, #16]",
    "    stp x4, x5, [x1, #32]",
    "    stp x6, x7, [x1, #48]",
    "    stp x8, x9, [x1, #64]",
    "    stp x10, x11, [x1, #80]",
    "    stp x12, x13, [x1, #96]",
    "    stp x14, x15, [x1, #112]",
    "    stp x16, x17, [x1, #128]",
    "    stp x18, x19, [x1, #144]",
    "    stp x20, x21, [x1, #160]",
    "    stp x22, x23, [x1, #176]",
    "    stp x24, x25, [x1, #192]",
    "    stp x26, x27, [x1, #208]",
    "    stp x28, x29, [x1, #224]",
    "    str x30, [x1, #240]",
    "    ldp x2, x3, [sp], #16",
    "    stp x2, x3, [x1]",
    "    ldp x19, x20, [sp, #16]",
    "    ldp x21, x22, [sp, #32]",
    "    ldp x23, x24, [sp, #48]",
    "    ldp x25, x26, [sp, #64]",
    "    ldp x27, x28, [sp, #80]",
    "    ldp x29, x30, [sp], #112",
    "    ret",
    // Translates X0 by stage 1 of the realm whose registers are loaded, as for a read at EL1, and returns PAR_EL1.
    ".global rmm_translate",
    "rmm_translate:",
    "    at s1e1r, x0",
    "    isb",
    "    mrs x0, par_el1",
    "    ret",
    // The walk met memory that is not there: an external abort, taken as an exception. Reads as a failure.
    "rmm_translate_fault:",
    "    mov x0, #1",
    "    ret",
    "rmm_fatal_entry:",
    "    movz x16, #:abs_g2:{emergency}",
    "    movk x16, #:abs_g1_nc:{emergency}",
    "    movk x16, #:abs_g0_nc:{emergency}",
    "    mov sp, x16",
    "    mrs x0, esr_el2",
    "    mrs x1, elr_el2",
    "    mrs x2, far_el2",
    "    mov x3, x30",
    "    bl {fatal}",
    emergency = const mmu::EMERGENCY_TOP,
    fatal = sym fatal,
);

unsafe extern "C" {
    /// See above.
    ///
    /// # Safety
    /// `gprs` must be valid for reads and writes of 31 registers, and the system registers must be the realm's.
    pub fn rmm_enter(gprs: *mut u64) -> u64;

    /// See above.
    ///
    /// # Safety
    /// HCR_EL2 and the registers of stage 1 at EL1 must be a realm's, which loses its PAR_EL1. ELR_EL2 and SPSR_EL2 may change.
    pub fn rmm_translate(va: u64) -> u64;
}

/// An exception the RMM cannot have caused unless it is broken.
extern "C" fn fatal(esr: u64, elr: u64, far: u64, link: u64) -> ! {
    stop::fail(format_args!("exception in the RMM: ESR {esr:#x} ELR {elr:#x} FAR {far:#x} X30 {link:#x}"))
}
