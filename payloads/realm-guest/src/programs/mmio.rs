//! Device accesses of every size and form, and those the VMM refuses.

use crate::device;
use crate::exception::{Fault, LOAD_SEA, STORE_SEA, attempt};
use crate::memory::{probe_load, probe_store};
use crate::report::Run;

const WORD: u64 = 0x8899_aabb_ccdd_eeff;

/// Loads by one instruction into a register that was all ones.
macro_rules! load {
    ($text:literal, $address:expr) => {{
        let value: u64;
        // SAFETY: a device's address; nothing of the program's is there.
        unsafe {
            core::arch::asm!($text, address = in(reg) $address, value = inout(reg) u64::MAX => value, options(nostack));
        }
        value
    }};
}

/// Stores a register by one instruction.
macro_rules! store {
    ($text:literal, $address:expr, $value:expr) => {
        // SAFETY: as for `load`.
        unsafe {
            core::arch::asm!($text, address = in(reg) $address, value = in(reg) $value, options(nostack));
        }
    };
}

pub fn run(run: &Run) {
    let at = device::scratch();
    stores(run, at);
    loads(run, at);
    registers(run, at);
    // IGROUPR1 of the distributor, and IGROUPR0 of the redistributor before it.
    for groups in [device::distributor() + 0x84, device::distributor() - 0xff80] {
        store!("str {value:w}, [{address}]", groups, 0xffff_ff7f_u64);
        run.equal("gic-frame", load!("ldr {value:w}, [{address}]", groups), 0xffff_ff7f);
    }
    refused(run, at);
    run.end();
}

fn double(at: u64) -> u64 {
    load!("ldr {value}, [{address}]", at)
}

fn stores(run: &Run, at: u64) {
    run.state("stores");
    run.equal("zero-at-first", double(at), 0);
    store!("str {value}, [{address}]", at, WORD);
    run.equal("str-x", double(at), WORD);
    store!("str {value:w}, [{address}, #8]", at, u64::MAX);
    run.equal("str-w", double(at + 8), 0xffff_ffff);
    store!("strh {value:w}, [{address}, #18]", at, u64::MAX);
    run.equal("strh", double(at + 16), 0xffff_0000);
    store!("strb {value:w}, [{address}, #31]", at, 0xabcd_ef12_u64);
    run.equal("strb", double(at + 24), 0x12 << 56);
    store!("str xzr, [{address}] // {value}", at + 8, 0_u64);
    run.equal("str-xzr", double(at + 8), 0);
    store!("str {value}, [{address}]", at + 32, u64::MAX);
    store!("strh wzr, [{address}, #2] // {value}", at + 32, 0_u64);
    store!("strb wzr, [{address}, #7] // {value}", at + 32, 0_u64);
    run.equal("wzr", double(at + 32), 0x00ff_ffff_0000_ffff);
    store!("stlr {value}, [{address}]", at + 40, WORD);
    run.equal("stlr", double(at + 40), WORD);
    store!("stur {value}, [{address}, #-8]", at + 56, WORD + 1);
    run.equal("stur", double(at + 48), WORD + 1);
    store!("str {value}, [{address}, xzr]", at + 56, WORD + 2);
    run.equal("str-register-offset", double(at + 56), WORD + 2);
    store!("str {value}, [{address}]", at + 0xff8, WORD + 3);
    run.equal("last-word", double(at + 0xff8), WORD + 3);
    run.equal("neighbour", double(at + 0xff0), 0);
}

fn loads(run: &Run, at: u64) {
    run.state("loads");
    store!("str {value}, [{address}]", at, WORD);
    store!("str {value}, [{address}]", at + 8, 0x7f01_7f02_7f03_7f04_u64);
    run.equal("ldr-x", load!("ldr {value}, [{address}]", at), WORD);
    run.equal("ldr-w", load!("ldr {value:w}, [{address}]", at), 0xccdd_eeff);
    run.equal("ldr-w-high", load!("ldr {value:w}, [{address}, #4]", at), 0x8899_aabb);
    run.equal("ldrh", load!("ldrh {value:w}, [{address}, #6]", at), 0x8899);
    run.equal("ldrb", load!("ldrb {value:w}, [{address}, #7]", at), 0x88);
    run.equal("ldrsw", load!("ldrsw {value}, [{address}]", at), 0xffff_ffff_ccdd_eeff);
    run.equal("ldrsh-x", load!("ldrsh {value}, [{address}, #2]", at), 0xffff_ffff_ffff_ccdd);
    run.equal("ldrsh-w", load!("ldrsh {value:w}, [{address}, #2]", at), 0xffff_ccdd);
    run.equal("ldrsb-x", load!("ldrsb {value}, [{address}, #1]", at), 0xffff_ffff_ffff_ffee);
    run.equal("ldrsb-w", load!("ldrsb {value:w}, [{address}, #1]", at), 0xffff_ffee);
    run.equal("ldrsw-positive", load!("ldrsw {value}, [{address}, #8]", at), 0x7f03_7f04);
    run.equal("ldrsh-positive", load!("ldrsh {value}, [{address}, #10]", at), 0x7f03);
    run.equal("ldrsb-positive", load!("ldrsb {value}, [{address}, #9]", at), 0x7f);
    run.equal("ldrsh-w-positive", load!("ldrsh {value:w}, [{address}, #8]", at), 0x7f04);
    run.equal("ldar", load!("ldar {value}, [{address}]", at), WORD);
    run.equal("ldarb", load!("ldarb {value:w}, [{address}]", at), 0xff);
    run.equal("ldur", load!("ldur {value:w}, [{address}, #-4]", at + 8), 0x8899_aabb);
    run.equal("ldr-register-offset", load!("ldr {value}, [{address}, wzr, uxtw #3]", at), WORD);
    // To nowhere, which changes nothing.
    run.equal("ldr-xzr", load!("ldr xzr, [{address}] // {value}", at), u64::MAX);
}

/// Other registers, those a compiler seldom takes among them.
fn registers(run: &Run, at: u64) {
    run.state("registers");
    macro_rules! through {
        ($($register:tt)+) => {$({
            let found: u64;
            // SAFETY: as for `load`; the register is free at the end.
            unsafe {
                core::arch::asm!(
                    concat!("mov ", $register, ", {value}"),
                    concat!("str ", $register, ", [{address}]"),
                    concat!("mov ", $register, ", #-1"),
                    concat!("ldr ", $register, ", [{address}]"),
                    concat!("mov {value}, ", $register),
                    address = in(reg) at + 64,
                    value = inout(reg) WORD => found,
                    out($register) _,
                    options(nostack),
                );
            }
            run.equal($register, found, WORD);
        })+};
    }
    through!("x0" "x1" "x8" "x16" "x17" "x20" "x27" "x28" "x30");
}

fn refused(run: &Run, at: u64) {
    run.state("refused accesses");
    let absent = device::absent();
    for address in [absent, absent + 0xff8] {
        run.equal("absent-load", probe_load(address), Err(Fault { esr: LOAD_SEA, far: address, skew: 0 }));
        run.equal(
            "absent-store",
            probe_store(address, 1),
            Err(Fault { esr: STORE_SEA, far: address, skew: 0 }),
        );
    }
    // Forms whose syndrome does not tell what they do: the Host cannot emulate them, and neither the device nor the base
    // register has changed.
    store!("str {value}, [{address}]", at + 128, WORD);
    let mut base = at + 128;
    let found =
        attempt!("ldr xzr, [{base}], #8", base = inout(reg) base).map_err(|fault| (fault.esr, fault.far));
    run.equal("post-index-load", found, Err((LOAD_SEA, at + 128)));
    run.equal("post-index-base", base, at + 128);
    let found =
        attempt!("str xzr, [{base}, #-8]!", base = inout(reg) base).map_err(|fault| (fault.esr, fault.far));
    run.equal("pre-index-store", found, Err((STORE_SEA, at + 120)));
    run.equal("pre-index-base", base, at + 128);
    let found = attempt!("stp xzr, xzr, [{base}]", base = in(reg) base).map_err(|fault| fault.esr);
    run.equal("pair-store", found, Err(STORE_SEA));
    let found =
        attempt!("ldp xzr, x9, [{base}]", base = in(reg) base, out("x9") _).map_err(|fault| fault.esr);
    run.equal("pair-load", found, Err(LOAD_SEA));
    run.equal("refused-changed-nothing", (double(at + 128), double(at + 120)), (WORD, 0));
}
