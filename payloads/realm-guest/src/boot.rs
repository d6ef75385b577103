//! From the entry point to a program, on the first vCPU and on those turned on later.

use crate::report::fail;
use crate::vcpu::{MAX_VCPUS, Start, mask, vcpu};
use crate::{device, memory, programs, smc};
use core::arch::global_asm;
use core::panic::PanicInfo;

/// SCTLR_EL1: the bits that are RES1 without later features, SPAN; M, C, SA, I.
const SCTLR: u64 = 0x30d0_0800 | 1 << 0 | 1 << 2 | 1 << 3 | 1 << 12;
/// MAIR_EL1: Normal Write-Back, Device-nGnRE.
pub const MAIR: u64 = 0xff | 0x04 << 8;
/// TCR_EL1: TTBR0 with 48 bits, 4 KiB granules, cacheable, Inner Shareable; no TTBR1.
const TCR: u64 = 16 | 0b01 << 8 | 0b01 << 10 | 0b11 << 12 | 1 << 23;

// Nothing is written before translation and caches are on, so that nothing written past them can be hidden by them: the first
// tables are constants.
global_asm!(
    ".section .text.entry, \"ax\"",
    ".global guest_entry",
    "guest_entry:",
    "    mov x19, x0",
    "    mov x20, xzr",
    "    mov x21, #1",
    "    mov x22, xzr",
    "    b 3f",
    // A vCPU that was turned on: all but X0 should be zero.
    ".global guest_secondary",
    "guest_secondary:",
    "    .irp n, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16",
    "    orr x1, x1, x\\n",
    "    .endr",
    "    .irp n, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30",
    "    orr x1, x1, x\\n",
    "    .endr",
    "    mov x19, x0",
    "    mrs x20, mpidr_el1",
    "    and x20, x20, #{last}",
    "    mov x21, xzr",
    "    mov x22, x1",
    "3:  msr daifset, #0xf",
    "    adrp x0, {l0}",
    "    msr ttbr0_el1, x0",
    "    ldr x0, ={mair}",
    "    msr mair_el1, x0",
    "    ldr x0, ={tcr}",
    "    mrs x1, id_aa64mmfr0_el1",
    "    and x1, x1, #0xf",
    "    cmp x1, #5",
    "    mov x2, #5", // 48 bits: the most a descriptor holds
    "    csel x1, x1, x2, lo",
    "    orr x0, x0, x1, lsl #32",
    "    msr tcr_el1, x0",
    "    adrp x0, guest_vectors",
    "    add x0, x0, #:lo12:guest_vectors",
    "    msr vbar_el1, x0",
    "    isb",
    "    tlbi vmalle1",
    "    ic iallu",
    "    dsb nsh",
    "    isb",
    "    ldr x0, ={sctlr}",
    "    msr sctlr_el1, x0",
    "    isb",
    "    adrp x0, guest_stacks",
    "    add x1, x20, #1",
    "    add x0, x0, x1, lsl #15",
    "    mov sp, x0",
    "    cbz x21, 5f",
    "    adrp x0, __bss_start",
    "    adrp x1, __bss_end",
    "4:  stp xzr, xzr, [x0], #16",
    "    cmp x0, x1",
    "    b.lo 4b",
    "5:  mov x0, x19",
    "    mov x1, x21",
    "    mov x2, x22",
    "    mov x29, xzr",
    "    mov x30, xzr",
    "    b {main}",
    last = const MAX_VCPUS - 1,
    l0 = sym memory::guest_l0,
    mair = const MAIR,
    tcr = const TCR,
    sctlr = const SCTLR,
    main = sym main,
);

extern "C" fn main(argument: u64, first: u64, others: u64) -> ! {
    if first == 0 {
        programs::secondary(Start { vcpu: vcpu(), context: argument, others });
    }
    let width = memory::ipa_width();
    memory::init(width);
    device::init(1 << (width - 1));
    programs::run(argument);
    smc::system_off()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    mask();
    fail(format_args!("vCPU {} {info}", vcpu()))
}
