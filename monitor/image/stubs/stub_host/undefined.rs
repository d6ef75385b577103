//! Accesses that EL3 refuses, made on the second CPU: they are UNDEFINED where they are made, and the CPU goes on.

use super::*;

core::arch::global_asm!(include_str!("../stub_probe.s"));

unsafe extern "C" {
    fn trap(results: u64, pstate: u64);
    fn trap_32(results: u64);
    fn probe(results: u64, level: u64);
    static trapped: u8;
    static trapped_32: u8;
    static vectors_32: u8;
}

/// Results, instructions to try, and a page for what they do.
const RESULTS: u64 = 0x7000_8000;

const UNDEFINED: u64 = RESULTS;
const OTHER: u64 = RESULTS + 0x08;
const SYNDROME: u64 = RESULTS + 0x10;
const VECTOR: u64 = RESULTS + 0x40;
const TAKEN_SYNDROME: u64 = RESULTS + 0x48;
const LINK: u64 = RESULTS + 0x50;
const SAVED: u64 = RESULTS + 0x58;
const MASKS: u64 = RESULTS + 0x60;
const CALL: u64 = RESULTS + 0x68;

/// Of ESR_ELx: IL.
const UNKNOWN_REASON: u64 = 1 << 25;
/// Of PSTATE: D, A, I, F.
const MASKED: u64 = 0xf << 6;
const CARRY: u64 = 1 << 29;

/// What the second CPU does.
pub fn on_second() {
    let mut run = Run::begin("undefined");
    for (check, pstate, vector) in [
        ("el2h", MASKED | CARRY | 0x9, 0x200),
        ("el2t", MASKED | 0x8, 0x0),
        ("el1h", MASKED | CARRY | 0x5, 0x200),
        ("el1t", 0x4, 0x0),
        ("el0", MASKED, 0x400),
    ] {
        clear(RESULTS);
        // SAFETY: the pages of results are this program's, and the vectors are its own.
        unsafe { trap(RESULTS, pstate) };
        run.equal(check, get(VECTOR), vector);
        run.equal("esr", get(TAKEN_SYNDROME), UNKNOWN_REASON);
        run.equal("elr", get(LINK), &raw const trapped as u64);
        run.equal("spsr", get(SAVED), pstate);
        run.equal("masks", get(MASKS), MASKED);
    }
    if has_aarch32() {
        clear(RESULTS);
        // SAFETY: as above.
        unsafe { trap_32(RESULTS) };
        run.equal("call32", get(CALL), 0x1_0003);
        // HVC says the address behind itself.
        run.equal("undefined32", get(VECTOR), &raw const vectors_32 as u64 + 8);
        run.equal("lr32", get(LINK), &raw const trapped_32 as u64 + 4);
        run.equal("spsr32", get(SAVED), 0x1d3);
        run.equal("mode32", get(MASKS) & 0xff, 0xdb);
    }
    for (check, level) in [("probe-el2", 2), ("probe-el1", 1), ("probe-el0", 0)] {
        clear(RESULTS);
        // SAFETY: what the instructions change of this CPU is put back, and their addresses are this program's.
        unsafe { probe(RESULTS, level) };
        run.equal(check, u64::from(get(UNDEFINED) > 0x8000), 1);
        run.equal("others", get(OTHER), 0);
        run.equal("their-syndrome", get(SYNDROME), 0);
        let _ = writeln!(Uart, "@value undefined {check} {}", get(UNDEFINED));
    }
    run.end();
}

/// Whether EL1 can be in AArch32.
fn has_aarch32() -> bool {
    let pfr0: u64;
    // SAFETY: only tells.
    unsafe { asm!("mrs {}, id_aa64pfr0_el1", out(reg) pfr0) };
    pfr0 >> 4 & 0xf == 2
}
