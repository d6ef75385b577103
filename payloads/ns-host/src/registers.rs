//! Registers of the Non-secure world that a realm uses too: whoever runs a realm has them back afterwards (SMCCC; RMM 1.0,
//! RMI_REC_ENTER). They get a pattern before the run and are looked at after it.

use alloc::boxed::Box;
use core::arch::global_asm;
use realm_el2::sysreg::{isb, mrs, msr};

/// The longest vector in bytes.
const LONGEST: usize = 256;

/// Bytes of all vectors and predicates of the longest kind.
const BYTES: usize = 32 * LONGEST + 17 * LONGEST / 8;

/// Z0 to Z31, then P0 to P15 and FFR, as long as vectors are here.
#[repr(C, align(64))]
struct Vectors([u8; BYTES]);

global_asm!(
    ".section .text.vectors_guard, \"ax\"",
    ".arch_extension sve",
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
    ".global guard_load",
    "guard_load:",
    "guard_each ldr, z",
    "guard_high ldr",
    "    ldr p0, [x0, #16, mul vl]",
    "    wrffr p0.b",
    "guard_each ldr, p",
    "    ret",
    ".global guard_store",
    "guard_store:",
    "guard_each str, z",
    "guard_high str",
    "guard_each str, p",
    "    rdffr p0.b",
    "    str p0, [x0, #16, mul vl]",
    "    ldr p0, [x0]",
    "    ret",
);

unsafe extern "C" {
    fn guard_load(from: *const Vectors);
    fn guard_store(to: *mut Vectors);
}

/// Calls a macro with every register.
macro_rules! registers {
    ($each:ident) => {
        [
            $each!("sp_el0"),
            $each!("sp_el1"),
            $each!("elr_el1"),
            $each!("spsr_el1"),
            $each!("tpidr_el0"),
            $each!("tpidrro_el0"),
            $each!("tpidr_el1"),
            $each!("contextidr_el1"),
            $each!("csselr_el1"),
            $each!("sctlr_el1"),
            $each!("cpacr_el1"),
            $each!("ttbr0_el1"),
            $each!("ttbr1_el1"),
            $each!("tcr_el1"),
            $each!("mair_el1"),
            $each!("amair_el1"),
            $each!("vbar_el1"),
            $each!("esr_el1"),
            $each!("far_el1"),
            $each!("afsr0_el1"),
            $each!("afsr1_el1"),
            $each!("par_el1"),
            $each!("mdscr_el1"),
            $each!("cntkctl_el1"),
            $each!("cntp_cval_el0"),
            $each!("cntv_cval_el0"),
            $each!("cntvoff_el2"),
            $each!("vttbr_el2"),
            $each!("vtcr_el2"),
            $each!("vmpidr_el2"),
            $each!("vpidr_el2"),
            $each!("hstr_el2"),
            $each!("S3_0_C2_C1_0"),
            $each!("S3_0_C2_C1_1"),
            $each!("S3_0_C2_C1_2"),
            $each!("S3_0_C2_C1_3"),
            $each!("S3_0_C2_C2_0"),
            $each!("S3_0_C2_C2_1"),
            $each!("S3_0_C2_C2_2"),
            $each!("S3_0_C2_C2_3"),
            $each!("S3_0_C2_C3_0"),
            $each!("S3_0_C2_C3_1"),
            $each!("S3_3_C4_C4_0"),
            $each!("S3_3_C4_C4_1"),
        ]
    };
}

macro_rules! name {
    ($name:literal) => {
        $name
    };
}

macro_rules! get {
    ($name:literal) => {
        mrs!($name)
    };
}

const NAMES: &[&str] = &registers!(name);

fn read() -> [u64; NAMES.len()] {
    registers!(get)
}

/// What the registers held before the run.
pub struct Guard {
    system: [u64; NAMES.len()],
    vectors: Box<Vectors>,
}

impl Guard {
    /// Gives every register a pattern of its own.
    pub fn set(seed: u64) -> Self {
        let mut pattern = seed;
        macro_rules! put {
            ($name:literal) => {{
                pattern = pattern.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                msr!($name, pattern);
            }};
        }
        // EL1 and EL0 are not used here; a timer whose control is zero does nothing, whatever its deadline.
        registers!(put);
        // ZCR_EL2: the longest vectors.
        msr!("S3_4_C1_C2_0", 0xf);
        isb();
        let mut bytes = [0; BYTES];
        for (n, byte) in bytes.iter_mut().enumerate() {
            *byte = (n as u64).wrapping_mul(seed | 1).wrapping_shr(3) as u8 ^ n as u8;
        }
        // SAFETY: the area is as long as the longest vectors need; the program is built without vector registers.
        unsafe { guard_load(&Vectors(bytes)) };
        // What cannot hold the pattern (FFR must be monotonic, fields are RES0) is what was read back.
        Self { system: read(), vectors: vectors() }
    }

    /// The first register that is not what it was; its name, what it is and what it was.
    pub fn changed(&self) -> Option<(&'static str, u64, u64)> {
        let now = read();
        let system = NAMES.iter().zip(now).zip(self.system).find(|((_, now), was)| now != was);
        if let Some(((name, now), was)) = system {
            return Some((name, now, was));
        }
        let now = vectors();
        let at = now.0.iter().zip(self.vectors.0.iter()).position(|(now, was)| now != was)?;
        Some(("vectors, byte", at as u64, 0))
    }
}

fn vectors() -> Box<Vectors> {
    let mut vectors = Box::new(Vectors([0; BYTES]));
    // SAFETY: as in `set`.
    unsafe { guard_store(&mut *vectors) };
    vectors
}
