//! From the first instruction to the report.

use crate::bench::{self, Bench};
use core::arch::global_asm;

global_asm!(
    ".section .text.start, \"ax\"",
    ".global _start",
    "_start:",
    // The first Non-secure instruction: everything before it was the boot.
    "    mrs x20, cntpct_el0",
    "    hint #121",
    "    adrp x1, bss_start",
    "    adrp x2, bss_end",
    "1:  stp xzr, xzr, [x1], #16",
    "    cmp x1, x2",
    "    b.lo 1b",
    "    adrp x1, stack_top",
    "    mov sp, x1",
    "    mov x0, x20",
    "    b {main}",
    main = sym main,
);

extern "C" fn main(boot: u64) -> ! {
    let mut bench = Bench::new();
    bench.value("boot", boot);
    crate::cpu::describe(&bench);
    crate::life::all(&mut bench);
    bench.end()
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    bench::give_up(format_args!("{info}"))
}
