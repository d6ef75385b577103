//! SIMD, SVE and SME registers, in every mode a caller may be in: streaming or not, with ZA or not, with FFR in streaming mode or
//! not, long vectors or short, and with the hint that only SIMD registers are in use (SMCCC 1.3).

use alloc::boxed::Box;
use core::arch::global_asm;
use realm_el2::sysreg::{isb, mrs, msr};

/// The longest vector in bytes.
const LONGEST: usize = 256;

/// Bytes of all vectors and predicates of the longest kind.
const BYTES: usize = 32 * LONGEST + 17 * LONGEST / 8;

/// Z0 to Z31, then P0 to P15 and FFR, as long as vectors are here.
#[repr(C, align(64))]
struct Content([u8; BYTES]);

/// A row of ZA.
#[repr(C, align(64))]
struct Row([u8; LONGEST]);

global_asm!(
    ".section .text.vectors_guard, \"ax\"",
    ".arch_extension sve",
    ".arch_extension sme",
    ".macro guard_each op, first",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "    \\op \\first\\n, [x0, #\\n, mul vl]",
    ".endr",
    ".endm",
    ".macro guard_high op",
    ".irp n, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
    "    \\op z\\n, [x0, #\\n, mul vl]",
    ".endr",
    "    addvl x0, x0, #31",
    "    addvl x0, x0, #1",
    ".endm",
    // X0: where, X1: whether there is an FFR.
    ".global guard_load",
    "guard_load:",
    "guard_each ldr, z",
    "guard_high ldr",
    "    cbz x1, 1f",
    "    ldr p0, [x0, #16, mul vl]",
    "    wrffr p0.b",
    "1:",
    "guard_each ldr, p",
    "    ret",
    ".global guard_store",
    "guard_store:",
    "guard_each str, z",
    "guard_high str",
    "guard_each str, p",
    "    cbz x1, 1f",
    "    rdffr p0.b",
    "    str p0, [x0, #16, mul vl]",
    "    ldr p0, [x0]",
    "1:  ret",
    ".global guard_length",
    "guard_length:",
    "    rdvl x0, #1",
    "    ret",
    ".global guard_streaming_length",
    "guard_streaming_length:",
    "    rdsvl x0, #1",
    "    ret",
    // X0: where, X1: the row of ZA.
    ".global guard_load_row",
    "guard_load_row:",
    "    mov w12, w1",
    "    ldr za[w12, 0], [x0]",
    "    ret",
    ".global guard_store_row",
    "guard_store_row:",
    "    mov w12, w1",
    "    str za[w12, 0], [x0]",
    "    ret",
);

unsafe extern "C" {
    fn guard_load(from: *const Content, ffr: u64);
    fn guard_store(to: *mut Content, ffr: u64);
    fn guard_length() -> usize;
    fn guard_streaming_length() -> u64;
    fn guard_load_row(from: *const Row, row: u64);
    fn guard_store_row(to: *mut Row, row: u64);
}

/// What a caller is doing: bits of a number.
#[derive(Clone, Copy, Debug)]
pub struct Mode(u64);

/// All modes, a bit each.
pub const ALL_MODES: u64 = u64::MAX >> (64 - Mode::COUNT);

impl Mode {
    const COUNT: u64 = 32;

    /// One of them.
    pub const fn new(number: u64) -> Self {
        Self(number % Self::COUNT)
    }
    /// Its bit in [`ALL_MODES`].
    pub const fn bit(self) -> u64 {
        1 << self.0
    }
    const fn is_streaming(self) -> bool {
        self.0 & 1 != 0
    }
    const fn has_za(self) -> bool {
        self.0 & 2 != 0
    }
    /// Streaming mode has all of SVE.
    const fn has_fa64(self) -> bool {
        self.0 & 4 != 0
    }
    const fn is_short(self) -> bool {
        self.0 & 8 != 0
    }
    /// Whether calls come with the hint.
    pub const fn has_hint(self) -> bool {
        self.0 & 16 != 0
    }
    const fn svcr(self) -> u64 {
        self.0 & 3
    }
    /// Whether there is an FFR.
    const fn has_ffr(self) -> bool {
        !self.is_streaming() || self.has_fa64()
    }
}

const FA64: u64 = 1 << 31;
const LONGEST_LENGTH: u64 = 0xf;

/// The controls of this world's vector lengths, which nobody else may change either.
fn controls() -> [u64; 5] {
    // ZCR_EL2, ZCR_EL1, SMCR_EL2, SMCR_EL1, TPIDR2_EL0.
    [
        mrs!("S3_4_C1_C2_0"),
        mrs!("S3_0_C1_C2_0"),
        mrs!("S3_4_C1_C2_6"),
        mrs!("S3_0_C1_C2_6"),
        mrs!("S3_3_C13_C0_5"),
    ]
}

/// What the registers held before the call.
pub struct Vectors {
    mode: Mode,
    /// Bytes of a vector.
    length: usize,
    controls: [u64; 5],
    content: Box<Content>,
    /// The first and the last row of ZA, if there is a ZA.
    rows: [[u8; LONGEST]; 2],
}

impl Vectors {
    pub fn set(seed: u64, mode: Mode) -> Self {
        let length = if mode.is_short() { 0 } else { LONGEST_LENGTH };
        msr!("S3_4_C1_C2_0", length);
        msr!("S3_0_C1_C2_0", seed & 0xf);
        msr!("S3_4_C1_C2_6", length | if mode.has_fa64() { FA64 } else { 0 });
        msr!("S3_0_C1_C2_6", seed >> 4 & 0xf);
        msr!("S3_3_C13_C0_5", seed);
        msr!("S3_3_C4_C2_2", mode.svcr());
        isb();
        let byte = |n: usize| (n as u64).wrapping_mul(seed | 1).wrapping_shr(3) as u8 ^ n as u8;
        // SAFETY: the area is as long as the longest vectors need; the program is built without vector registers.
        unsafe { guard_load(&Content(core::array::from_fn(byte)), mode.has_ffr().into()) };
        if mode.has_za() {
            let row = Row(core::array::from_fn(|n| !byte(n)));
            for number in [0, last_row()] {
                // SAFETY: ZA is on, the row is there, and the area is as long as the longest.
                unsafe { guard_load_row(&row, number) };
            }
        }
        // SAFETY: reads the length of vectors.
        let length = unsafe { guard_length() };
        // FFR cannot hold the pattern: it is monotonic.
        Self { mode, length, controls: controls(), content: content(mode), rows: rows(mode) }
    }

    /// The first register that is not what it was, or not zero where the hint gave it up and `uses_simd`. Afterwards nobody streams,
    /// and vectors are long.
    pub fn changed(self, uses_simd: bool) -> Option<(&'static str, u64, u64)> {
        let svcr = mrs!("S3_3_C4_C2_2");
        let controls = controls();
        let changed = if svcr != self.mode.svcr() {
            Some(("svcr", svcr, self.mode.svcr()))
        } else if let Some((now, was)) = controls.iter().zip(self.controls).find(|(now, was)| *now != was) {
            Some(("vector controls", *now, was))
        } else if rows(self.mode) != self.rows {
            Some(("za", self.mode.0, 0))
        } else {
            let now = content(self.mode);
            self.first_wrong(&now, uses_simd).map(|at| ("vectors: mode, byte", self.mode.0, at as u64))
        };
        msr!("S3_3_C4_C2_2", 0);
        msr!("S3_4_C1_C2_0", LONGEST_LENGTH);
        isb();
        changed
    }

    /// The first byte that is not what it was; of what the hint gives up, also one that was zeroed, or must be and was not.
    fn first_wrong(&self, now: &Content, uses_simd: bool) -> Option<usize> {
        // Streaming mode is state of SME: the hint says nothing of it.
        let given_up = |at: usize| {
            let simd = at < 32 * self.length && at % self.length < 16;
            self.mode.has_hint() && !self.mode.is_streaming() && !simd
        };
        let mut each = now.0.iter().zip(&self.content.0).enumerate();
        let wrong = each.find(|(at, (now, was))| match (given_up(*at), **now == 0) {
            (true, zero) => !zero && (uses_simd || now != was),
            (false, _) => now != was,
        });
        wrong.map(|(at, _)| at)
    }
}

/// The last row of ZA, which must be on.
fn last_row() -> u64 {
    // SAFETY: reads the streaming vector length.
    unsafe { guard_streaming_length() - 1 }
}

fn rows(mode: Mode) -> [[u8; LONGEST]; 2] {
    if !mode.has_za() {
        return [[0; LONGEST]; 2];
    }
    [0, last_row()].map(|number| {
        let mut row = Row([0; LONGEST]);
        // SAFETY: as in `set`.
        unsafe { guard_store_row(&mut row, number) };
        row.0
    })
}

fn content(mode: Mode) -> Box<Content> {
    let mut content = Box::new(Content([0; BYTES]));
    // SAFETY: as in `set`.
    unsafe { guard_store(&mut *content, mode.has_ffr().into()) };
    content
}
