//! Registers of the Non-secure world that a realm uses too: whoever runs a realm has them back afterwards (SMCCC; RMM 1.0,
//! RMI_REC_ENTER). They get a pattern before the run and are looked at after it.

mod vectors;

use realm_el2::sysreg::{isb, mrs, msr};
use vectors::Vectors;
pub use vectors::{ALL_MODES, Mode};

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

/// What the registers held before the call.
pub struct Guard {
    system: [u64; NAMES.len()],
    vectors: Vectors,
}

impl Guard {
    /// Gives every register a pattern of its own, those of SIMD in this mode.
    pub fn set(seed: u64, mode: Mode) -> Self {
        let mut pattern = seed;
        macro_rules! put {
            ($name:literal) => {{
                pattern = pattern.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                msr!($name, pattern);
            }};
        }
        // EL1 and EL0 are not used here; a timer whose control is zero does nothing, whatever its deadline.
        registers!(put);
        let vectors = Vectors::set(seed, mode);
        // What cannot hold the pattern (FPSR and others have fields that are RES0) is what was read back. Streaming mode changes FPSR.
        Self { system: read(), vectors }
    }

    /// The first register that is not what it was after a call that `uses_simd` for certain, or may; its name, what it is and what it
    /// was. No more patterns then.
    pub fn changed(self, uses_simd: bool) -> Option<(&'static str, u64, u64)> {
        let now = read();
        let vectors = self.vectors.changed(uses_simd);
        let system = NAMES.iter().zip(now).zip(self.system).find(|((_, now), was)| now != was);
        system.map(|((name, now), was)| (*name, now, was)).or(vectors)
    }
}

/// This world's cycle counter, which counts at EL1 and EL0 alone, where this program never is: it stands still.
pub struct Cycles(u64);

impl Cycles {
    /// Starts it.
    pub fn start() -> Self {
        // PMCCFILTR_EL0: P, U and NSH are zero, so neither EL1 nor EL0 is left out, and EL2 is.
        msr!("pmccfiltr_el0", 0);
        // PMCR_EL0.E; PMCNTENSET_EL0.C.
        msr!("pmcr_el0", mrs!("pmcr_el0") | 1);
        msr!("pmcntenset_el0", 1 << 31);
        isb();
        Self(mrs!("pmccntr_el0"))
    }

    /// Stops it; what it has counted, or all ones if somebody else stopped it.
    pub fn stop(self) -> u64 {
        let (counted, enabled) = (mrs!("pmccntr_el0").wrapping_sub(self.0), mrs!("pmcntenset_el0"));
        msr!("pmcntenclr_el0", 1 << 31);
        if enabled >> 31 & 1 == 1 { counted } else { u64::MAX }
    }
}
