//! Entry and stage 1: everything is mapped where it is, devices below 1 GiB, memory above, so that what other worlds own can be
//! touched on purpose.

use crate::sysreg::mrs;
use core::arch::global_asm;
use core::cell::UnsafeCell;

/// Most CPUs the board has.
pub const MAX_CPUS: usize = 8;
const STACK_SIZE: usize = 256 << 10;

#[repr(C, align(4096))]
struct Stacks(UnsafeCell<[[u8; STACK_SIZE]; MAX_CPUS]>);

// SAFETY: each CPU uses its own stack, and nothing else names the memory.
unsafe impl Sync for Stacks {}

#[unsafe(link_section = ".stacks")]
static STACKS: Stacks = Stacks(UnsafeCell::new([[0; STACK_SIZE]; MAX_CPUS]));

/// Stage 1 descriptors: a block, AP[1] (RES1 at EL2), accessed; by attribute.
const BLOCK: u64 = 1 | 1 << 6 | 1 << 10;
const MEMORY: u64 = BLOCK | 0b11 << 8;
const DEVICE: u64 = BLOCK | 1 << 2 | 1 << 54;

/// One entry a GiB.
#[repr(C, align(4096))]
struct Stage1([u64; 512]);

static TABLE: Stage1 = Stage1(table());

const fn table() -> [u64; 512] {
    let mut table = [0; 512];
    let mut gib = 0;
    while gib < table.len() {
        table[gib] = (gib as u64) << 30 | if gib == 0 { DEVICE } else { MEMORY };
        gib += 1;
    }
    table
}

/// MAIR_EL2: 0 is Normal write-back, 1 is Device-nGnRE.
const MAIR: u64 = 0x04ff;
/// TCR_EL2 without PS: 39 bits, write-back inner shareable walks.
const TCR: u64 = 1 << 31 | 1 << 23 | 25 | 0b01 << 8 | 0b01 << 10 | 0b11 << 12;
/// SCTLR_EL2: RES1 bits; M, C, SA, I.
const SCTLR: u64 = 0x30c5_0830 | 1 << 0 | 1 << 2 | 1 << 3 | 1 << 12;
/// HCR_EL2: RW; FMO, IMO, AMO: interrupts come here.
const HCR: u64 = 1 << 31 | 1 << 3 | 1 << 4 | 1 << 5;
/// CPTR_EL2 without traps.
const CPTR: u64 = 0x22ff;

global_asm!(
    ".section .text.start, \"ax\"",
    ".global _start",
    "_start:",
    "    msr daifset, #0xf",
    "    mov x19, x0",
    "    mov x20, xzr",
    "    adrp x0, __bss_start",
    "    adrp x1, __bss_end",
    "1:  cmp x0, x1",
    "    b.hs 2f",
    "    stp xzr, xzr, [x0], #16",
    "    b 1b",
    ".global el2_secondary",
    "el2_secondary:",
    "    msr daifset, #0xf",
    "    mov x20, x0",
    "    mov x19, xzr",
    "2:  ldr x0, ={hcr}",
    "    msr hcr_el2, x0",
    "    mov x0, #{cptr}",
    "    msr cptr_el2, x0",
    "    ldr x0, ={mair}",
    "    msr mair_el2, x0",
    "    ldr x0, ={tcr}",
    "    mrs x1, id_aa64mmfr0_el1",
    "    and x1, x1, #0xf",
    "    cmp x1, #5",
    "    mov x2, #5",
    "    csel x1, x1, x2, lo",
    "    orr x0, x0, x1, lsl #16",
    "    msr tcr_el2, x0",
    "    adrp x0, {table}",
    "    add x0, x0, #:lo12:{table}",
    "    msr ttbr0_el2, x0",
    "    adrp x0, el2_vectors",
    "    add x0, x0, #:lo12:el2_vectors",
    "    msr vbar_el2, x0",
    "    msr tpidr_el2, x20",
    "    tlbi alle2",
    "    ic iallu",
    "    dsb nsh",
    "    isb",
    "    ldr x0, ={sctlr}",
    "    msr sctlr_el2, x0",
    "    isb",
    "    add x0, x20, #1",
    "    ldr x1, ={stack_size}",
    "    adrp x2, {stacks}",
    "    add x2, x2, #:lo12:{stacks}",
    "    madd x0, x0, x1, x2",
    "    mov sp, x0",
    "    mov x29, xzr",
    "    mov x30, xzr",
    "    mov x0, x20",
    "    mov x1, x19",
    "    b el2_main",
    ".ltorg",
    hcr = const HCR,
    cptr = const CPTR,
    mair = const MAIR,
    tcr = const TCR,
    sctlr = const SCTLR,
    table = sym TABLE,
    stacks = sym STACKS,
    stack_size = const STACK_SIZE,
);

unsafe extern "C" {
    safe static __image_end: u8;
    safe fn el2_secondary();
}

/// Where PSCI_CPU_ON enters another CPU, with its index as context.
#[must_use]
pub fn secondary_entry() -> u64 {
    el2_secondary as *const () as u64
}

/// The first address behind the program and its stacks.
#[must_use]
pub fn image_end() -> u64 {
    &raw const __image_end as u64
}

/// The index of this CPU.
#[must_use]
pub fn cpu() -> usize {
    mrs!("tpidr_el2") as usize
}

/// Names a program's main function: `fn(cpu: usize, device_tree: u64) -> !`, called on the first CPU with index 0 and the address of
/// the device tree, on others with their index and 0.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn el2_main(cpu: usize, device_tree: u64) -> ! {
            let main: fn(usize, u64) -> ! = $main;
            main(cpu, device_tree)
        }
    };
}
