//! Registers of the worlds that EL3 does not switch: they survive that a CPU is off, that the RMM fails, and on real machines a
//! reset. Whoever runs next finds them as they would be after power came: nothing in them, and nothing on.
//!
//! What is switched (asm/world.s) has its first values in `context.rs`. What is left: breakpoints and watchpoints, which no realm
//! reaches (RMM) and MDSCR_EL1 turns off; error records and activity monitors, which are of the machine and not of a world.

use super::cpu;
use super::sysreg::{self, read, write};
use core::arch::global_asm;
use realm_monitor::control::{el1, el2};
use realm_monitor::features::Features;

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

/// Clears all of them. `actlr_el1` is what reset left in ACTLR_EL1, which only its implementation knows.
pub fn clear(actlr_el1: u64) {
    clear_realm(actlr_el1);
    // CNTHP, CNTHV: control and deadline.
    clear!("cnthp_ctl_el2", "cnthp_cval_el2", "S3_4_C14_C3_1", "S3_4_C14_C3_2");
    close_el1();
    close_el2();
}

/// Clears what a realm may have in them, if the RMM fails while one is loaded: the Non-secure world gets them next, and
/// must not learn from them. What that had there itself is lost.
pub fn clear_realm(actlr_el1: u64) {
    let features = cpu::features();
    clear!(
        "sp_el1",
        "elr_el1",
        "spsr_el1",
        "tpidr_el0",
        "tpidrro_el0",
        "tpidr_el1",
        "csselr_el1",
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
        // DISR_EL1.
        "S3_0_C12_C1_1",
    );
    write!("sctlr_el1", el1::SCTLR);
    write!("actlr_el1", actlr_el1);
    if features.contains(Features::CSV2_2) {
        // SCXTNUM_EL0, SCXTNUM_EL1.
        clear!("S3_3_C13_C0_7", "S3_0_C13_C0_7");
    }
    if features.contains(Features::MTE2) {
        // RGSR_EL1, GCR_EL1, TFSR_EL1, TFSRE0_EL1.
        clear!("S3_0_C1_C0_5", "S3_0_C1_C0_6", "S3_0_C5_C6_0", "S3_0_C5_C6_1");
    }
    if features.contains(Features::MPAM) {
        // MPAM0_EL1, MPAM1_EL1: the partition of a CPU out of reset.
        clear!("S3_0_C10_C5_1", "S3_0_C10_C5_0");
    }
    virtual_interrupts();
    if features.contains(Features::PMU) {
        counters();
    }
    vectors(features);
    sysreg::isb();
}

/// Registers of EL1 and EL0 that only the Non-secure world has.
fn close_el1() {
    let features = cpu::features();
    macro_rules! with {
        ($($feature:ident: $($name:literal),*;)*) => {
            $(if features.contains(Features::$feature) { clear!($($name),*); })*
        };
    }
    with! {
        // TCR2_EL1.
        TCR2: "S3_0_C2_C0_3";
        // SCTLR2_EL1.
        SCTLR2: "S3_0_C1_C0_3";
        // PIRE0_EL1, PIR_EL1.
        S1PIE: "S3_0_C10_C2_2", "S3_0_C10_C2_3";
        // POR_EL0, POR_EL1.
        S1POE: "S3_3_C10_C2_4", "S3_0_C10_C2_4";
        // S2POR_EL1.
        S2POE: "S3_0_C10_C2_5";
        // MAIR2_EL1, AMAIR2_EL1.
        AIE: "S3_0_C10_C2_1", "S3_0_C10_C3_1";
        // GCSCR_EL1, GCSCRE0_EL1, GCSPR_EL1, GCSPR_EL0.
        GCS: "S3_0_C2_C5_0", "S3_0_C2_C5_2", "S3_0_C2_C5_1", "S3_3_C2_C5_1";
        // RCWMASK_EL1, RCWSMASK_EL1.
        THE: "S3_0_C13_C0_6", "S3_0_C13_C0_3";
        // PFAR_EL1.
        PFAR: "S3_0_C6_C0_5";
        // FPMR.
        FPMR: "S3_3_C4_C4_2";
        // ACCDATA_EL1.
        ACCDATA: "S3_0_C13_C0_5";
        // TRFCR_EL1.
        TRF: "S3_0_C1_C2_1";
        // PMSCR_EL1, PMBLIMITR_EL1.
        SPE: "S3_0_C9_C9_0", "S3_0_C9_C10_0";
        // TRBLIMITR_EL1.
        TRBE: "S3_0_C9_C11_0";
        // BRBCR_EL1.
        BRBE: "S2_1_C9_C0_0";
        // MDSELR_EL1.
        DEBUG_BANKS: "S2_0_C0_C4_2";
    }
}

/// Registers of EL2 that only the Non-secure world has, as software that does not know them has to find them.
pub fn close_el2() {
    let features = cpu::features();
    macro_rules! with {
        ($($feature:ident: $($name:literal),*;)*) => {
            $(if features.contains(Features::$feature) { clear!($($name),*); })*
        };
    }
    with! {
        // TCR2_EL2.
        TCR2: "S3_4_C2_C0_3";
        // SCTLR2_EL2.
        SCTLR2: "S3_4_C1_C0_3";
        // PIRE0_EL2, PIR_EL2.
        S1PIE: "S3_4_C10_C2_2", "S3_4_C10_C2_3";
        // POR_EL2.
        S1POE: "S3_4_C10_C2_4";
        // S2PIR_EL2.
        S2PIE: "S3_4_C10_C2_5";
        // MAIR2_EL2, AMAIR2_EL2.
        AIE: "S3_4_C10_C1_1", "S3_4_C10_C3_1";
        // GCSCR_EL2, GCSPR_EL2.
        GCS: "S3_4_C2_C5_0", "S3_4_C2_C5_1";
        // PFAR_EL2.
        PFAR: "S3_4_C6_C0_5";
        // HDBSSBR_EL2, HDBSSPROD_EL2.
        HDBSS: "S3_4_C2_C3_2", "S3_4_C2_C3_3";
        // TRFCR_EL2.
        TRF: "S3_4_C1_C2_1";
        // PMSCR_EL2.
        SPE: "S3_4_C9_C9_0";
        // BRBCR_EL2.
        BRBE: "S2_4_C9_C0_0";
        // ZCR_EL2.
        SVE: "S3_4_C1_C2_0";
        // SMCR_EL2.
        SME: "S3_4_C1_C2_6";
    }
    if features.contains(Features::FGT2) {
        // HFGRTR2, HFGWTR2, HFGITR2, HDFGRTR2, HDFGWTR2.
        write!("S3_4_C3_C1_2", el2::HFGRTR2);
        write!("S3_4_C3_C1_3", el2::HFGRTR2);
        write!("S3_4_C3_C1_7", el2::HFGITR2);
        write!("S3_4_C3_C1_0", el2::HDFGRTR2);
        write!("S3_4_C3_C1_1", el2::HDFGRTR2);
    }
}

/// SIMD, SVE and SME.
fn vectors(features: Features) {
    if features.contains(Features::SME) {
        // SVCR: no streaming mode, and with that nothing in ZA and ZT0. SMCR_EL1, SMPRI_EL1, TPIDR2_EL0.
        clear!("S3_3_C4_C2_2", "S3_0_C1_C2_6", "S3_0_C1_C2_4", "S3_3_C13_C0_5");
    }
    if features.contains(Features::SVE) {
        // SAFETY: `init_el3` has opened SVE, with the longest vectors; nothing at EL3 uses it.
        unsafe { forget_sve() };
        // ZCR_EL1.
        clear!("S3_0_C1_C2_0");
    } else {
        // SAFETY: nothing traps SIMD at EL3, which does not use it.
        unsafe { forget_simd() };
    }
    // FPCR, FPSR.
    clear!("S3_3_C4_C4_0", "S3_3_C4_C4_1");
}

/// ICH_LR<n>_EL2, ICH_AP0R<n>_EL2 and ICH_AP1R<n>_EL2, as many as ICH_VTR_EL2 says there are.
fn virtual_interrupts() {
    let vtr = read!("S3_4_C12_C11_1");
    macro_rules! each {
        ($count:expr; $($n:literal $name:literal),*) => {
            let count = $count;
            $(if $n < count { write!($name, 0); })*
        };
    }
    each!(
        (vtr & 0x1f) + 1;
        0 "S3_4_C12_C12_0", 1 "S3_4_C12_C12_1", 2 "S3_4_C12_C12_2", 3 "S3_4_C12_C12_3", 4 "S3_4_C12_C12_4",
        5 "S3_4_C12_C12_5", 6 "S3_4_C12_C12_6", 7 "S3_4_C12_C12_7", 8 "S3_4_C12_C13_0", 9 "S3_4_C12_C13_1",
        10 "S3_4_C12_C13_2", 11 "S3_4_C12_C13_3", 12 "S3_4_C12_C13_4", 13 "S3_4_C12_C13_5",
        14 "S3_4_C12_C13_6", 15 "S3_4_C12_C13_7"
    );
    // PREbits, minus one: a register for each 32 of the priorities they can tell apart.
    let priorities = match vtr >> 26 & 7 {
        0..=4 => 1,
        5 => 2,
        _ => 4,
    };
    each!(
        priorities;
        0 "S3_4_C12_C8_0", 1 "S3_4_C12_C8_1", 2 "S3_4_C12_C8_2", 3 "S3_4_C12_C8_3"
    );
    each!(
        priorities;
        0 "S3_4_C12_C9_0", 1 "S3_4_C12_C9_1", 2 "S3_4_C12_C9_2", 3 "S3_4_C12_C9_3"
    );
}

/// The performance monitors.
fn counters() {
    const ALL: u64 = 0xffff_ffff;
    write!("pmcntenclr_el0", ALL);
    write!("pmintenclr_el1", ALL);
    write!("pmovsclr_el0", ALL);
    clear!("pmuserenr_el0", "pmccfiltr_el0", "pmccntr_el0");
    for counter in 0..read!("pmcr_el0") >> 11 & 0x1f {
        write!("pmselr_el0", counter);
        sysreg::isb();
        clear!("pmxevtyper_el0", "pmxevcntr_el0");
    }
    clear!("pmselr_el0");
}
