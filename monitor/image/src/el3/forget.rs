//! What a realm has in registers that EL3 does not switch, if the RMM faults while it is loaded: the Non-secure world gets them
//! next, and must not learn from them. What that had there itself is lost.

use super::sysreg::{self, field, read, write};
use core::arch::global_asm;

global_asm!(
    ".section .text.forget, \"ax\"",
    ".arch_extension fp",
    ".arch_extension simd",
    ".arch_extension sve",
    "forget_simd:",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
    "    movi v\\n\\().2d, #0",
    ".endr",
    "    ret",
    "forget_sve:",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
    "    mov z\\n\\().d, #0",
    ".endr",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "    pfalse p\\n\\().b",
    ".endr",
    "    wrffr p0.b",
    "    ret",
);

unsafe extern "C" {
    fn forget_simd();
    fn forget_sve();
}

macro_rules! clear {
    ($($name:literal),* $(,)?) => { $(write!($name, 0);)* };
}

/// Clears them.
pub fn realm() {
    clear!(
        "sp_el1",
        "elr_el1",
        "spsr_el1",
        "tpidr_el0",
        "tpidrro_el0",
        "tpidr_el1",
        "csselr_el1",
        "sctlr_el1",
        "actlr_el1",
        "cpacr_el1",
        "ttbr0_el1",
        "ttbr1_el1",
        "tcr_el1",
        "esr_el1",
        "afsr0_el1",
        "afsr1_el1",
        "far_el1",
        "mair_el1",
        "amair_el1",
        "vbar_el1",
        "contextidr_el1",
        "cntkctl_el1",
        "par_el1",
        "mdscr_el1",
        "mdccint_el1",
        "cntp_ctl_el0",
        "cntp_cval_el0",
        "cntv_ctl_el0",
        "cntv_cval_el0",
        "S3_4_C12_C8_0",
        "S3_4_C12_C9_0",
    );
    list_registers();
    counters();
    if field(read!("id_aa64pfr0_el1"), 32) != 0 {
        // SAFETY: `init_el3` has opened SVE, with the longest vectors; nothing at EL3 uses it.
        unsafe { forget_sve() };
    } else {
        // SAFETY: nothing traps SIMD at EL3, which does not use it.
        unsafe { forget_simd() };
    }
    // FPCR, FPSR.
    clear!("S3_3_C4_C4_0", "S3_3_C4_C4_1");
    sysreg::isb();
}

/// ICH_LR<n>_EL2, as many as ICH_VTR_EL2 says there are.
fn list_registers() {
    macro_rules! each {
        ($($n:literal $name:literal),*) => {
            let count = (read!("S3_4_C12_C11_1") & 0x1f) + 1;
            $(if $n < count { write!($name, 0); })*
        };
    }
    each!(
        0 "S3_4_C12_C12_0", 1 "S3_4_C12_C12_1", 2 "S3_4_C12_C12_2", 3 "S3_4_C12_C12_3", 4 "S3_4_C12_C12_4",
        5 "S3_4_C12_C12_5", 6 "S3_4_C12_C12_6", 7 "S3_4_C12_C12_7", 8 "S3_4_C12_C13_0", 9 "S3_4_C12_C13_1",
        10 "S3_4_C12_C13_2", 11 "S3_4_C12_C13_3", 12 "S3_4_C12_C13_4", 13 "S3_4_C12_C13_5",
        14 "S3_4_C12_C13_6", 15 "S3_4_C12_C13_7"
    );
}

/// The performance monitors.
fn counters() {
    const ALL: u64 = 0xffff_ffff;
    if !matches!(field(read!("id_aa64dfr0_el1"), 8), 0 | 0xf) {
        write!("pmcntenclr_el0", ALL);
        write!("pmintenclr_el1", ALL);
        write!("pmovsclr_el0", ALL);
        clear!("pmuserenr_el0", "pmccfiltr_el0", "pmccntr_el0");
        for counter in 0..read!("pmcr_el0") >> 11 & 0x1f {
            write!("pmselr_el0", counter);
            sysreg::isb();
            clear!("pmxevtyper_el0", "pmxevcntr_el0");
        }
    }
}
