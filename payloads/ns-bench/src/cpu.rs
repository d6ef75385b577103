//! What the CPU has that costs instructions when it is switched.

use crate::bench::Bench;
use core::arch::asm;

macro_rules! mrs {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reading an ID register only tells.
        unsafe { asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack)) };
        value
    }};
}

const fn field(register: u64, shift: u32) -> u64 {
    register >> shift & 0xf
}

/// Reports it.
pub fn describe(bench: &Bench) {
    let pfr0 = mrs!("id_aa64pfr0_el1");
    let pfr1 = mrs!("id_aa64pfr1_el1");
    let (isar0, isar1) = (mrs!("id_aa64isar0_el1"), mrs!("id_aa64isar1_el1"));
    let mmfr0 = mrs!("id_aa64mmfr0_el1");
    let vtr = mrs!("ich_vtr_el2");
    // The line size of the caches is the logarithm of words.
    let line = 4 << field(mrs!("ctr_el0"), 16);
    for (name, value) in [
        ("SVE", field(pfr0, 32)),
        ("SME", field(pfr1, 24)),
        ("MPAM", field(pfr0, 40)),
        ("RAS", field(pfr0, 28)),
        ("SHA2", field(isar0, 12)),
        ("PAuth", field(isar1, 4) | field(isar1, 8)),
        ("TGRAN4", field(mmfr0, 28)),
        ("list-registers", (vtr & 0x1f) + 1),
        ("event-counters", mrs!("pmcr_el0") >> 11 & 0x1f),
        ("cache-line", line),
    ] {
        bench.cpu_value(name, value);
    }
}
