//! Copies that survive what other worlds do to the memory, and wiping.
//!
//! All copies from and to memory that somebody else may write are done by one routine in assembly. A granule protection fault or an
//! external abort in it makes it return 1; the exception vector knows its bounds.

use crate::slots::Mapping;
use core::arch::{asm, global_asm};
use realm_abi::GRANULE_SIZE;

global_asm!(
    ".section .text.copy, \"ax\"",
    ".global rmm_copy",
    ".global rmm_copy_end",
    ".global rmm_copy_fault",
    ".balign 64",
    // x0 to, x1 from, x2 bytes; the vector may change x16 and x17.
    "rmm_copy:",
    "    subs x2, x2, #128",
    "    b.lo 2f",
    "1:  ldp x3, x4, [x1], #16",
    "    ldp x5, x6, [x1], #16",
    "    ldp x7, x8, [x1], #16",
    "    ldp x9, x10, [x1], #16",
    "    stp x3, x4, [x0], #16",
    "    stp x5, x6, [x0], #16",
    "    stp x7, x8, [x0], #16",
    "    stp x9, x10, [x0], #16",
    "    ldp x3, x4, [x1], #16",
    "    ldp x5, x6, [x1], #16",
    "    ldp x7, x8, [x1], #16",
    "    ldp x9, x10, [x1], #16",
    "    stp x3, x4, [x0], #16",
    "    stp x5, x6, [x0], #16",
    "    stp x7, x8, [x0], #16",
    "    stp x9, x10, [x0], #16",
    "    subs x2, x2, #128",
    "    b.hs 1b",
    "2:  adds x2, x2, #112",
    "    b.lo 4f",
    "3:  ldp x3, x4, [x1], #16",
    "    stp x3, x4, [x0], #16",
    "    subs x2, x2, #16",
    "    b.hs 3b",
    "4:  adds x2, x2, #16",
    "    b.eq 6f",
    "    tbz x2, #3, 7f",
    "    ldr x3, [x1], #8",
    "    str x3, [x0], #8",
    "    subs x2, x2, #8",
    "    b.eq 6f",
    "7:",
    "5:  ldrb w3, [x1], #1",
    "    strb w3, [x0], #1",
    "    subs x2, x2, #1",
    "    b.ne 5b",
    "6:  mov x0, #0",
    "    ret",
    "rmm_copy_end:",
    "rmm_copy_fault:",
    "    mov x0, #1",
    "    ret",
);

// What the compiler calls for larger values. Its own is made for CPUs that may not access memory unaligned.
global_asm!(
    ".section .text.memory, \"ax\"",
    ".global memcpy",
    ".global memset",
    ".balign 64",
    "memcpy:",
    "    mov x15, x0",
    "    mov x14, x30",
    "    bl rmm_copy",
    // Memory of the RMM's own that cannot be read: what was copied is no value.
    "    cbz x0, 7f",
    "    brk #1",
    "7:  mov x0, x15",
    "    ret x14",
    // Larger zeros by blocks of 64 bytes, if that is what DC ZVA fills: head and tail, which overlap them, by words.
    "memset:",
    "    mov x15, x0",
    "    tst w1, #0xff",
    "    b.ne 8f",
    "    cmp x2, #256",
    "    b.lo 8f",
    "    mrs x3, dczid_el0",
    "    cmp x3, #4",
    "    b.ne 8f",
    "    add x4, x0, x2",
    "    stp xzr, xzr, [x0]",
    "    stp xzr, xzr, [x0, #16]",
    "    stp xzr, xzr, [x0, #32]",
    "    stp xzr, xzr, [x0, #48]",
    "    add x0, x0, #64",
    "    and x0, x0, #-64",
    // The first address from which four blocks are too many, and one is.
    "    sub x5, x4, #255",
    "    sub x6, x4, #64",
    "    cmp x0, x5",
    "    b.hs 11f",
    "10: dc zva, x0",
    "    add x0, x0, #64",
    "    dc zva, x0",
    "    add x0, x0, #64",
    "    dc zva, x0",
    "    add x0, x0, #64",
    "    dc zva, x0",
    "    add x0, x0, #64",
    "    cmp x0, x5",
    "    b.lo 10b",
    "11: cmp x0, x6",
    "    b.hi 12f",
    "    dc zva, x0",
    "    add x0, x0, #64",
    "    b 11b",
    "12: stp xzr, xzr, [x6]",
    "    stp xzr, xzr, [x6, #16]",
    "    stp xzr, xzr, [x6, #32]",
    "    stp xzr, xzr, [x6, #48]",
    "    mov x0, x15",
    "    ret",
    "8:  and x3, x1, #0xff",
    "    orr x3, x3, x3, lsl #8",
    "    orr x3, x3, x3, lsl #16",
    "    orr x3, x3, x3, lsl #32",
    "    subs x2, x2, #128",
    "    b.lo 2f",
    "1:  stp x3, x3, [x0]",
    "    stp x3, x3, [x0, #16]",
    "    stp x3, x3, [x0, #32]",
    "    stp x3, x3, [x0, #48]",
    "    stp x3, x3, [x0, #64]",
    "    stp x3, x3, [x0, #80]",
    "    stp x3, x3, [x0, #96]",
    "    stp x3, x3, [x0, #112]",
    "    add x0, x0, #128",
    "    subs x2, x2, #128",
    "    b.hs 1b",
    "2:  adds x2, x2, #120",
    "    b.lo 4f",
    "3:  str x3, [x0], #8",
    "    subs x2, x2, #8",
    "    b.hs 3b",
    "4:  adds x2, x2, #8",
    "    b.eq 6f",
    "5:  strb w3, [x0], #1",
    "    subs x2, x2, #1",
    "    b.ne 5b",
    "6:  mov x0, x15",
    "    ret",
);

unsafe extern "C" {
    fn rmm_copy(to: *mut u8, from: *const u8, bytes: usize) -> u64;
}

/// The memory turned out to be another world's, or not to answer.
#[derive(Debug)]
pub struct Fault;

/// Copies `bytes`.
///
/// # Safety
/// `to` must be valid for writes and `from` for reads of `bytes` bytes, but that each access may raise a granule protection fault or an
/// external abort. Others may write either at the same time.
///
/// # Errors
/// If it did; `to` then holds anything.
#[inline]
pub unsafe fn copy(to: *mut u8, from: *const u8, bytes: usize) -> Result<(), Fault> {
    // SAFETY: as the caller promises; the routine follows the procedure call standard.
    match unsafe { rmm_copy(to, from, bytes) } {
        0 => Ok(()),
        _ => Err(Fault),
    }
}

/// Fills memory with zeros by blocks.
///
/// # Safety
/// `start` must be valid for writes of `bytes` bytes; both must be multiples of 4096, and `bytes` not zero.
#[inline]
pub unsafe fn wipe(start: *mut u8, bytes: usize) {
    const PROHIBITED: u64 = 1 << 4;
    const GRANULE: usize = 4096;
    let dczid = crate::sysreg::mrs!("dczid_el0");
    if dczid & PROHIBITED != 0 {
        // SAFETY: as the caller promises.
        unsafe { core::ptr::write_bytes(start, 0, bytes) };
        return;
    }
    let block = 4_usize << (dczid & 0xf);
    // Thirty-two blocks a round: this loop is most of what wiping costs.
    let end = start as usize + bytes;
    if block <= GRANULE / 32 {
        // SAFETY: a round lies in the range, which is a multiple of it.
        unsafe {
            asm!(
                "2:",
                ".rept 32",
                "dc zva, {at}",
                "add {at}, {at}, {block}",
                ".endr",
                "cmp {at}, {end}",
                "b.lo 2b",
                at = inout(reg) start as usize => _,
                block = in(reg) block,
                end = in(reg) end,
                options(nostack)
            );
        }
        return;
    }
    let mut at = start as usize;
    while at < end {
        // SAFETY: a block lies in the range, as it is aligned and at most 2 KiB.
        unsafe { asm!("dc zva, {}", in(reg) at, options(nostack, preserves_flags)) };
        at += block;
    }
}

/// Cleans a granule to where instructions are fetched from, if `clean`, and invalidates what any CPU has fetched.
pub fn sync_instructions(granule: &Mapping, clean: bool) {
    /// The shortest line there can be.
    const LINE: usize = 16;
    for offset in (0..if clean { GRANULE_SIZE as usize } else { 0 }).step_by(LINE) {
        // SAFETY: cleaning a line of a mapped granule changes nothing that can be read through the cache.
        unsafe {
            asm!("dc cvau, {}", in(reg) granule.address().wrapping_add(offset), options(nostack, preserves_flags));
        }
    }
    crate::sysreg::instruction!("dsb ish\nic ialluis\ndsb ish\nisb");
}
