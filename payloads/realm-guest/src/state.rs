//! Registers that are filled, left alone for a while and compared: general-purpose, SIMD, SVE, pointer authentication.

use crate::memory::{self, FREE};
use crate::sysreg::{instruction, mrs, msr};
use crate::{time, vcpu};
use core::arch::{asm, global_asm};

/// What of it this realm has.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    /// SVE.
    pub sve: bool,
    /// Pointer authentication, addresses and generic.
    pub pauth: bool,
    /// Performance monitors.
    pub pmu: bool,
}

/// CPACR_EL1: FPEN, ZEN.
const CPACR_FPEN: u64 = 0b11 << 20;
const CPACR_ZEN: u64 = 0b11 << 16;
/// ZCR_EL1.LEN: as long as there are.
const LONGEST: u64 = 0xf;

impl Features {
    /// Looks at the ID registers, and turns on what there is.
    pub fn find() -> Self {
        let sve = mrs!("id_aa64pfr0_el1") >> 32 & 0xf != 0;
        let isar1 = mrs!("id_aa64isar1_el1");
        let pauth = isar1 & 0xff0 != 0 && isar1 & 0xff00_0000 != 0;
        msr!("cpacr_el1", CPACR_FPEN | if sve { CPACR_ZEN } else { 0 });
        instruction!("isb");
        if sve {
            msr!("S3_0_C1_C2_0", LONGEST);
            instruction!("isb");
        }
        if pauth {
            /// EnIA, EnIB, EnDA, EnDB.
            const ENABLED: u64 = 1 << 31 | 1 << 30 | 1 << 27 | 1 << 13;
            let sctlr = mrs!("sctlr_el1") | ENABLED;
            // SAFETY: only turns on instructions this image uses nowhere else.
            unsafe { asm!("msr sctlr_el1, {}", "isb", in(reg) sctlr, options(nostack)) };
        }
        let pmu = !matches!(mrs!("id_aa64dfr0_el1") >> 8 & 0xf, 0 | 0xf);
        Self { sve, pauth, pmu }
    }
}

/// Does nothing for so many ticks.
pub fn wait(ticks: u64) {
    let end = time::now() + ticks;
    while time::now() < end {}
}

fn mix(seed: u64, n: u64) -> u64 {
    (seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29)
}

// Each takes in X0 what to load, in X1 where to store what is left of it, in X2 the count to wait for.
global_asm!(
    ".section .text.state, \"ax\"",
    ".arch_extension fp",
    ".arch_extension simd",
    ".arch_extension sve",
    ".macro guest_wait",
    "9:  isb",
    "    mrs x0, cntvct_el0",
    "    cmp x0, x2",
    "    b.lo 9b",
    ".endm",
    ".global guest_general",
    "guest_general:",
    "    stp x29, x30, [sp, #-112]!",
    "    stp x19, x20, [sp, #16]",
    "    stp x21, x22, [sp, #32]",
    "    stp x23, x24, [sp, #48]",
    "    stp x25, x26, [sp, #64]",
    "    stp x27, x28, [sp, #80]",
    "    stp x1, x18, [sp, #96]",
    "    ldp x3, x4, [x0, #24]",
    "    ldp x5, x6, [x0, #40]",
    "    ldp x7, x8, [x0, #56]",
    "    ldp x9, x10, [x0, #72]",
    "    ldp x11, x12, [x0, #88]",
    "    ldp x13, x14, [x0, #104]",
    "    ldp x15, x16, [x0, #120]",
    "    ldp x17, x18, [x0, #136]",
    "    ldp x19, x20, [x0, #152]",
    "    ldp x21, x22, [x0, #168]",
    "    ldp x23, x24, [x0, #184]",
    "    ldp x25, x26, [x0, #200]",
    "    ldp x27, x28, [x0, #216]",
    "    ldp x29, x30, [x0, #232]",
    "    guest_wait",
    "    ldr x1, [sp, #96]",
    "    stp x3, x4, [x1, #24]",
    "    stp x5, x6, [x1, #40]",
    "    stp x7, x8, [x1, #56]",
    "    stp x9, x10, [x1, #72]",
    "    stp x11, x12, [x1, #88]",
    "    stp x13, x14, [x1, #104]",
    "    stp x15, x16, [x1, #120]",
    "    stp x17, x18, [x1, #136]",
    "    stp x19, x20, [x1, #152]",
    "    stp x21, x22, [x1, #168]",
    "    stp x23, x24, [x1, #184]",
    "    stp x25, x26, [x1, #200]",
    "    stp x27, x28, [x1, #216]",
    "    stp x29, x30, [x1, #232]",
    "    ldp x19, x20, [sp, #16]",
    "    ldp x21, x22, [sp, #32]",
    "    ldp x23, x24, [sp, #48]",
    "    ldp x25, x26, [sp, #64]",
    "    ldp x27, x28, [sp, #80]",
    "    ldr x18, [sp, #104]",
    "    ldp x29, x30, [sp], #112",
    "    ret",
    // FPSR, FPCR, Q0 to Q31.
    ".global guest_simd",
    "guest_simd:",
    "    ldp x3, x4, [x0], #16",
    "    msr fpsr, x3",
    "    msr fpcr, x4",
    "    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "    ldr q\\n, [x0], #16",
    "    .endr",
    "    .irp n, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
    "    ldr q\\n, [x0], #16",
    "    .endr",
    "    guest_wait",
    "    mrs x3, fpsr",
    "    mrs x4, fpcr",
    "    stp x3, x4, [x1], #16",
    "    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "    str q\\n, [x1], #16",
    "    .endr",
    "    .irp n, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
    "    str q\\n, [x1], #16",
    "    .endr",
    "    ret",
    // Z0 to Z31, P0 to P15, FFR.
    ".global guest_sve",
    "guest_sve:",
    "    addvl x3, x0, #31",
    "    addvl x3, x3, #1",
    "    addvl x4, x1, #31",
    "    addvl x4, x4, #1",
    "    ldr p0, [x3, #16, mul vl]",
    "    wrffr p0.b",
    "    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "    ldr z\\n, [x0, #\\n, mul vl]",
    "    ldr p\\n, [x3, #\\n, mul vl]",
    "    .endr",
    "    .irp n, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
    "    ldr z\\n, [x0, #\\n, mul vl]",
    "    .endr",
    "    guest_wait",
    "    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "    str z\\n, [x1, #\\n, mul vl]",
    "    str p\\n, [x4, #\\n, mul vl]",
    "    .endr",
    "    .irp n, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
    "    str z\\n, [x1, #\\n, mul vl]",
    "    .endr",
    "    rdffr p0.b",
    "    str p0, [x4, #16, mul vl]",
    "    ret",
    ".global guest_vector_length",
    "guest_vector_length:",
    "    rdvl x0, #1",
    "    ret",
);

unsafe extern "C" {
    fn guest_general(from: u64, to: u64, end: u64);
    fn guest_simd(from: u64, to: u64, end: u64);
    fn guest_sve(from: u64, to: u64, end: u64);
    fn guest_vector_length() -> u64;
}

/// Free RAM of this vCPU for what is loaded, and for what comes out.
fn areas() -> (u64, u64) {
    let base = FREE + vcpu::vcpu() as u64 * 0x1_0000;
    (base, base + 0x8000)
}

/// Whether `words` from the two areas are the same.
fn same((from, to): (u64, u64), words: u64) -> bool {
    (0..words).all(|n| memory::read(from + 8 * n) == memory::read(to + 8 * n))
}

/// X3 to X30.
pub fn general_registers_stay(seed: u64, ticks: u64) -> bool {
    let (from, to) = areas();
    (0..31).for_each(|n| memory::write(from + 8 * n, mix(seed, n)));
    (0..31).for_each(|n| memory::write(to + 8 * n, 0));
    // SAFETY: both areas have room, and the routine keeps what a function has to.
    unsafe { guest_general(from, to, time::now() + ticks) };
    same((from + 24, to + 24), 28)
}

/// V0 to V31, FPSR and FPCR.
pub fn simd_stays(seed: u64, ticks: u64) -> bool {
    let (from, to) = areas();
    // Cumulative flags; rounding mode.
    memory::write(from, seed & 0x0800_009f);
    memory::write(from + 8, seed & 0x00c0_0000);
    (2..66).for_each(|n| memory::write(from + 8 * n, mix(seed, n)));
    (0..66).for_each(|n| memory::write(to + 8 * n, 0));
    // SAFETY: both areas have room; the image uses no SIMD registers otherwise.
    unsafe { guest_simd(from, to, time::now() + ticks) };
    same((from, to), 66)
}

/// Z0 to Z31, P0 to P15, FFR and the vector length.
pub fn sve_stays(seed: u64, ticks: u64) -> bool {
    let (from, to) = areas();
    // SAFETY: only called if there is SVE.
    let length = unsafe { guest_vector_length() };
    let (vectors, predicate) = (32 * length, length / 8);
    let bytes = vectors + 17 * predicate;
    let words = bytes.div_ceil(8);
    (0..words).for_each(|n| memory::write(from + 8 * n, mix(seed, n)));
    (0..words).for_each(|n| memory::write(to + 8 * n, 0));
    // FFR has to be ones and behind them zeros; an eighth of a vector is two bytes at least.
    for n in 0..predicate {
        let at = from + vectors + 16 * predicate + n;
        let shift = at % 8 * 8;
        let rest = memory::read(at & !7) & !(0xff << shift);
        let byte = if n == 0 { 0xff >> (seed % 8) } else { 0 };
        memory::write(at & !7, rest | byte << shift);
    }
    // What is behind the end is not stored.
    if bytes % 8 != 0 {
        let last = from + bytes / 8 * 8;
        memory::write(last, memory::read(last) & ((1 << (bytes % 8 * 8)) - 1));
    }
    // SAFETY: both areas have room for the longest vectors; the image uses none of these registers otherwise.
    unsafe { guest_sve(from, to, time::now() + ticks) };
    // SAFETY: as above.
    same((from, to), words) && length == unsafe { guest_vector_length() }
}

/// One of some common events.
fn event(seed: u64, n: u64) -> u64 {
    0x10 | (mix(seed, !n) & 7)
}

/// The performance monitors: what is set stays, and the cycle counter goes on.
pub fn pmu_stays(seed: u64, ticks: u64) -> bool {
    /// PMCR_EL0: E, LC. PMCNTENSET_EL0: the cycle counter.
    const COUNTING: u64 = 1 << 0 | 1 << 6;
    const CYCLES: u64 = 1 << 31;
    let counters = mrs!("pmcr_el0") >> 11 & 0x1f;
    msr!("pmcntenclr_el0", u64::from(u32::MAX));
    for n in 0..counters {
        msr!("pmselr_el0", n);
        instruction!("isb");
        msr!("pmxevtyper_el0", event(seed, n));
        msr!("pmxevcntr_el0", mix(seed, n) & 0xffff_ffff);
    }
    msr!("pmselr_el0", seed % counters.max(1));
    msr!("pmuserenr_el0", seed >> 8 & 0xf);
    msr!("pmccfiltr_el0", seed << 27 & 0x4000_0000);
    msr!("pmcntenset_el0", CYCLES);
    msr!("pmcr_el0", COUNTING);
    instruction!("isb");
    let read = || {
        [
            mrs!("pmcr_el0"),
            mrs!("pmselr_el0"),
            mrs!("pmuserenr_el0"),
            mrs!("pmccfiltr_el0"),
            mrs!("pmcntenset_el0"),
        ]
    };
    let (before, cycles) = (read(), mrs!("pmccntr_el0"));
    wait(ticks);
    let mut same = read() == before && mrs!("pmccntr_el0") >= cycles;
    for n in 0..counters {
        msr!("pmselr_el0", n);
        instruction!("isb");
        same &=
            mrs!("pmxevcntr_el0") == mix(seed, n) & 0xffff_ffff && mrs!("pmxevtyper_el0") == event(seed, n);
    }
    msr!("pmcr_el0", 0);
    same
}

/// The five keys, and what is signed with them.
pub fn pauth_stays(seed: u64, ticks: u64) -> bool {
    macro_rules! keys {
        ($($name:literal)+) => {{
            let mut n = 0;
            $(
                n += 1;
                msr!($name, mix(seed, n));
            )+
            instruction!("isb");
            let before = sign(seed);
            wait(ticks);
            let after = sign(seed);
            let mut n = 0;
            let mut same = before == after && authentic(&after, seed);
            $(
                n += 1;
                same &= mrs!($name) == mix(seed, n);
            )+
            same
        }};
    }
    keys!(
        "S3_0_C2_C1_0" "S3_0_C2_C1_1" "S3_0_C2_C1_2" "S3_0_C2_C1_3" "S3_0_C2_C2_0" "S3_0_C2_C2_1" "S3_0_C2_C2_2"
        "S3_0_C2_C2_3" "S3_0_C2_C3_0" "S3_0_C2_C3_1"
    )
}

/// A pointer to sign.
const POINTER: u64 = 0x1234_5678_9ab0;

macro_rules! pauth {
    ($name:literal, $value:expr, $context:expr) => {{
        let mut value: u64 = $value;
        // SAFETY: computes with registers; only called if there is pointer authentication.
        unsafe {
            asm!(
                ".arch_extension pauth",
                concat!($name, " {value}, {context}"),
                value = inout(reg) value,
                context = in(reg) $context,
                options(nomem, nostack)
            );
        }
        value
    }};
}

/// [`POINTER`] signed with the four address keys, and a code of it by the generic one.
fn sign(context: u64) -> [u64; 5] {
    [
        pauth!("pacia", POINTER, context),
        pauth!("pacib", POINTER, context),
        pauth!("pacda", POINTER, context),
        pauth!("pacdb", POINTER, context),
        pauth!("pacga {value}, {value}, {context} //", POINTER, context),
    ]
}

/// Whether they are signed, and genuinely.
fn authentic(&[ia, ib, da, db, ga]: &[u64; 5], context: u64) -> bool {
    let plain = [
        pauth!("autia", ia, context),
        pauth!("autib", ib, context),
        pauth!("autda", da, context),
        pauth!("autdb", db, context),
    ];
    // One of them may happen to have a code of zero, not all.
    plain == [POINTER; 4] && [ia, ib, da, db] != [POINTER; 4] && ga != 0
}
