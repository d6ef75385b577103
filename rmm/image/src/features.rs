//! What the CPUs have.

use crate::simd::with_simd;
use crate::sysreg::{instruction, mrs, msr};
use realm_rmm::platform::{CpuFeatures, SysReg};

/// Features that decide which registers exist and what has to be saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Optional {
    pub ras: bool,
    pub mpam: bool,
    /// CNTPOFF_EL2.
    pub counter_offset: bool,
    pub hcrx: bool,
    pub fine_grained_traps: bool,
    /// FEAT_FGT2.
    pub fine_grained_traps_2: bool,
    /// VMIDs of 16 bits.
    pub vmid16: bool,
    pub sve: bool,
    pub sme: bool,
    /// FEAT_SME_FA64.
    pub fa64: bool,
    pub pauth: bool,
    pub sha256: bool,
    pub sha512: bool,
    /// Active priority registers of a group.
    pub active_priorities: usize,
    /// Performance monitors.
    pub pmu: bool,
    /// Event counters, those for EL2 included.
    pub event_counters: u64,
    pub list_registers: usize,
}

fn field(register: u64, shift: u32) -> u64 {
    (register >> shift) & 0xf
}

/// What the RMM itself has to know.
pub fn optional() -> Optional {
    let pfr0 = mrs!("id_aa64pfr0_el1");
    let pfr1 = mrs!("id_aa64pfr1_el1");
    let isar0 = mrs!("id_aa64isar0_el1");
    let isar1 = mrs!("id_aa64isar1_el1");
    let isar2 = mrs!("S3_0_C0_C6_2");
    let mmfr0 = mrs!("id_aa64mmfr0_el1");
    let mmfr1 = mrs!("id_aa64mmfr1_el1");
    let vtr = mrs!("ich_vtr_el2");
    Optional {
        ras: field(pfr0, 28) != 0,
        mpam: field(pfr0, 40) != 0 || field(pfr1, 16) != 0,
        counter_offset: field(mmfr0, 60) >= 2,
        hcrx: field(mmfr1, 40) != 0,
        fine_grained_traps: field(mmfr0, 56) != 0,
        fine_grained_traps_2: field(mmfr0, 56) >= 2,
        vmid16: field(mmfr1, 4) == 2,
        sve: field(pfr0, 32) != 0,
        sme: field(pfr1, 24) != 0,
        fa64: mrs!("S3_0_C0_C4_5") >> 63 != 0,
        pauth: isar1 & 0xff00_0ff0 != 0 || isar2 & 0xff00 != 0,
        sha256: field(isar0, 12) >= 1,
        sha512: field(isar0, 12) >= 2,
        active_priorities: match (vtr >> 26) & 0x7 {
            0..=4 => 1,
            5 => 2,
            _ => 4,
        },
        pmu: has_pmu(),
        event_counters: if has_pmu() { (mrs!("pmcr_el0") >> 11) & 0x1f } else { 0 },
        list_registers: (vtr & 0x1f) as usize + 1,
    }
}

fn has_pmu() -> bool {
    let version = field(mrs!("id_aa64dfr0_el1"), 8);
    version != 0 && version != 0xf
}

/// What realms can be offered.
pub fn offered(optional: &Optional) -> CpuFeatures {
    let mmfr0 = mrs!("id_aa64mmfr0_el1");
    let dfr0 = mrs!("id_aa64dfr0_el1");
    let vtr = mrs!("ich_vtr_el2");
    // TGRAN4_2: 0 is as stage 1, 3 has 52 bits.
    let lpa2 = field(mmfr0, 28) == 1 && matches!(field(mmfr0, 40), 0 | 3);
    CpuFeatures {
        pa_bits: match field(mmfr0, 0) {
            0 => 32,
            1 => 36,
            2 => 40,
            3 => 42,
            4 => 44,
            5 => 48,
            _ => 52,
        },
        lpa2,
        vmid16: optional.vmid16,
        sve_vl: optional.sve.then(longest_vector),
        num_bps: field(dfr0, 12) as u8,
        num_wps: field(dfr0, 20) as u8,
        pmu_counters: has_pmu().then_some(optional.event_counters as u8),
        hpmn0: field(dfr0, 60) == 1,
        gic_num_lrs: (vtr & 0x1f).min(15) as u8,
        gic_priority_bits: ((vtr >> 29) & 0x7) as u8 + 1,
        gic_id_bits: if (vtr >> 23) & 0x7 == 0 { 16 } else { 24 },
        gic_extended_range: mrs!("icc_ctlr_el1") & 1 << 19 != 0,
    }
}

/// In quadwords, minus one.
fn longest_vector() -> u8 {
    const LONGEST: u64 = 0xf;
    with_simd(true, || {
        let before = mrs!("S3_4_C1_C2_0");
        msr!("S3_4_C1_C2_0", LONGEST);
        instruction!("isb");
        let bytes: u64;
        // SAFETY: reads the vector length, which SVE has.
        unsafe {
            core::arch::asm!(".arch_extension sve", "rdvl {}, #1", out(reg) bytes, options(nomem, nostack));
        }
        msr!("S3_4_C1_C2_0", before);
        (bytes / 16).saturating_sub(1) as u8
    })
}

/// Calls a macro with CRm and op2 of every ID register that describes AArch64; all exist, if only as zero.
macro_rules! id_registers {
    ($each:ident) => {
        $each!(4 0, 4 1, 4 2, 4 4, 4 5, 5 0, 5 1, 5 4, 5 5, 6 0, 6 1, 6 2, 7 0, 7 1, 7 2, 7 3, 7 4)
    };
}

/// An ID register: op0 3, op1 0, CRn 0.
pub fn id_register(reg: SysReg) -> u64 {
    macro_rules! find {
        ($($crm:literal $op2:literal),*) => {
            match (reg.crm, reg.op2) {
                $(($crm, $op2) => mrs!(concat!("S3_0_C0_C", $crm, "_", $op2)),)*
                _ => 0,
            }
        };
    }
    if (reg.op0, reg.op1, reg.crn) != (3, 0, 0) {
        return 0;
    }
    id_registers!(find)
}

/// ID registers, CTR_EL0 and DCZID_EL0.
pub const IDENTITY_LEN: usize = 19;

/// What software has read of one CPU and believes of all: features, and how caches are maintained.
pub fn identity() -> [u64; IDENTITY_LEN] {
    macro_rules! all {
        ($($crm:literal $op2:literal),*) => {
            [$(mrs!(concat!("S3_0_C0_C", $crm, "_", $op2)),)* mrs!("ctr_el0"), mrs!("dczid_el0")]
        };
    }
    id_registers!(all)
}
