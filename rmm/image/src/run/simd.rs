//! SIMD and SVE registers, switched only when a realm uses them.
//!
//! The image itself is built without them. EL3 leaves them to the RMM: the Non-secure world's, and its vector length, are
//! kept here from the realm's first use until the run ends. With SVE, a write to a SIMD register changes all of the
//! vector, so the whole vectors are saved even if the realm has no SVE.

use crate::control::{CPTR_FPEN, CPTR_TRAPS, CPTR_ZEN};
use crate::features::Optional;
use crate::simd::{HEAD, LONGEST, allow, trap_all, with_simd};
use crate::slots::{self, Wide};
use crate::sysreg::{instruction, mrs, msr};
use core::arch::global_asm;
use realm_abi::smccc::SVE_HINT;
use realm_rmm::cpu::RunControls;

/// SVCR.SM: the registers are those of the streaming mode.
const SVCR_SM: u64 = 1;

const EC_SIMD: u64 = 0x07;
const EC_SVE: u64 = 0x19;

global_asm!(
    ".section .text.simd, \"ax\"",
    ".arch_extension fp",
    ".arch_extension simd",
    ".arch_extension sve",
    // x0: the area behind its head.
    ".global rmm_simd_save",
    "rmm_simd_save:",
    "    stp q0, q1, [x0]",
    "    stp q2, q3, [x0, #32]",
    "    stp q4, q5, [x0, #64]",
    "    stp q6, q7, [x0, #96]",
    "    stp q8, q9, [x0, #128]",
    "    stp q10, q11, [x0, #160]",
    "    stp q12, q13, [x0, #192]",
    "    stp q14, q15, [x0, #224]",
    "    stp q16, q17, [x0, #256]",
    "    stp q18, q19, [x0, #288]",
    "    stp q20, q21, [x0, #320]",
    "    stp q22, q23, [x0, #352]",
    "    stp q24, q25, [x0, #384]",
    "    stp q26, q27, [x0, #416]",
    "    stp q28, q29, [x0, #448]",
    "    stp q30, q31, [x0, #480]",
    "    ret",
    ".global rmm_simd_load",
    "rmm_simd_load:",
    "    ldp q0, q1, [x0]",
    "    ldp q2, q3, [x0, #32]",
    "    ldp q4, q5, [x0, #64]",
    "    ldp q6, q7, [x0, #96]",
    "    ldp q8, q9, [x0, #128]",
    "    ldp q10, q11, [x0, #160]",
    "    ldp q12, q13, [x0, #192]",
    "    ldp q14, q15, [x0, #224]",
    "    ldp q16, q17, [x0, #256]",
    "    ldp q18, q19, [x0, #288]",
    "    ldp q20, q21, [x0, #320]",
    "    ldp q22, q23, [x0, #352]",
    "    ldp q24, q25, [x0, #384]",
    "    ldp q26, q27, [x0, #416]",
    "    ldp q28, q29, [x0, #448]",
    "    ldp q30, q31, [x0, #480]",
    "    ret",
    // x1: 0 for the vectors alone, 1 for the predicates too, 2 for FFR too.
    ".global rmm_sve_save",
    "rmm_sve_save:",
    "    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "    str z\\n, [x0, #\\n, mul vl]",
    "    .endr",
    "    .irp n, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
    "    str z\\n, [x0, #\\n, mul vl]",
    "    .endr",
    "    cbz x1, 1f",
    "    addvl x0, x0, #31",
    "    addvl x0, x0, #1",
    "    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "    str p\\n, [x0, #\\n, mul vl]",
    "    .endr",
    "    tbz x1, #1, 1f",
    "    rdffr p0.b",
    "    str p0, [x0, #16, mul vl]",
    "    ldr p0, [x0]",
    "1:  ret",
    ".global rmm_sve_load",
    "rmm_sve_load:",
    "    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "    ldr z\\n, [x0, #\\n, mul vl]",
    "    .endr",
    "    .irp n, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
    "    ldr z\\n, [x0, #\\n, mul vl]",
    "    .endr",
    "    cbz x1, 2f",
    "    addvl x0, x0, #31",
    "    addvl x0, x0, #1",
    "    tbz x1, #1, 1f",
    "    ldr p0, [x0, #16, mul vl]",
    "    wrffr p0.b",
    "1:  .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "    ldr p\\n, [x0, #\\n, mul vl]",
    "    .endr",
    "2:  ret",
    // What a shorter vector length would hide, and a longer one show again.
    ".global rmm_sve_clear",
    "rmm_sve_clear:",
    "    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "    mov z\\n\\().d, #0",
    "    pfalse p\\n\\().b",
    "    .endr",
    "    .irp n, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
    "    mov z\\n\\().d, #0",
    "    .endr",
    "    wrffr p0.b",
    "    ret",
    // Returns 1, or 0 if there is no FFR: the exception vector knows the instruction.
    ".global rmm_try_ffr",
    ".global rmm_try_ffr_fault",
    "rmm_try_ffr:",
    "    rdffr p0.b",
    "    mov x0, #1",
    "    ret",
    "rmm_try_ffr_fault:",
    "    mov x0, #0",
    "    ret",
);

unsafe extern "C" {
    fn rmm_simd_save(registers: *mut u8);
    fn rmm_simd_load(registers: *const u8);
    fn rmm_sve_save(registers: *mut u8, what: u64);
    fn rmm_sve_load(registers: *const u8, what: u64);
    fn rmm_sve_clear();
    fn rmm_try_ffr() -> u64;
}

/// Lets a realm use what is in `allowed`, and no SME.
fn trap_realm(allowed: u64) {
    msr!("cptr_el2", CPTR_TRAPS | allowed);
    instruction!("isb");
}

/// Which registers there are to save or load.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Registers {
    Simd,
    /// Z0 to Z31, which SIMD registers are part of.
    Vectors,
    /// And the predicates: in streaming mode that has no FFR.
    Predicates,
    /// And FFR.
    Sve,
}

impl Registers {
    const fn sve_part(self) -> u64 {
        match self {
            Self::Simd | Self::Vectors => 0,
            Self::Predicates => 1,
            Self::Sve => 2,
        }
    }
}

/// Stores registers.
///
/// # Safety
/// They must be usable and `area` valid for writes of the area for their length.
unsafe fn save(area: *mut u8, registers: Registers) {
    let control: [u64; 2] = [mrs!("S3_3_C4_C4_1"), mrs!("S3_3_C4_C4_0")];
    // SAFETY: as the caller promises; the head has room for more.
    unsafe { area.cast::<[u64; 2]>().write(control) };
    let to = area.wrapping_add(HEAD);
    if registers == Registers::Simd {
        // SAFETY: as the caller promises.
        unsafe { rmm_simd_save(to) };
    } else {
        // SAFETY: as the caller promises.
        unsafe { rmm_sve_save(to, registers.sve_part()) };
    }
}

/// Loads registers.
///
/// # Safety
/// As for [`save`].
unsafe fn load(area: *const u8, registers: Registers) {
    // SAFETY: as the caller promises.
    let [status, control] = unsafe { area.cast::<[u64; 2]>().read() };
    let from = area.wrapping_add(HEAD);
    if registers == Registers::Simd {
        // SAFETY: as the caller promises.
        unsafe { rmm_simd_load(from) };
    } else {
        // SAFETY: as the caller promises.
        unsafe { rmm_sve_load(from, registers.sve_part()) };
    }
    msr!("S3_3_C4_C4_1", status);
    msr!("S3_3_C4_C4_0", control);
}

/// The Non-secure world's registers, saved in this CPU's area.
///
/// | when it calls | kept |
/// |---|---|
/// | no SVE | SIMD registers |
/// | not in streaming mode | as long as its ZCR_EL2 makes them: vectors, predicates and FFR; vectors alone if nothing else changes |
/// | likewise, with the SVE hint | SIMD registers; the rest becomes zero |
/// | in streaming mode | as long as its SMCR_EL2 makes them: vectors and predicates; FFR, if FA64 gives that mode one |
/// | with ZA | ZA and ZT0 stay where they are: nobody here uses SME |
///
/// In streaming mode SIMD instructions would trap: it is left, and entered again afterwards, which clears all that is saved here
/// and FPSR. (FPMR too, of a CPU with FEAT_FPMR; whether EL3 lets the RMM at it cannot be found out.)
struct Host {
    registers: Registers,
    svcr: u64,
    /// What is not kept becomes zero.
    clear: bool,
}

impl Host {
    /// Saves them; they must be usable.
    fn save(cpu: &Optional, all: bool) -> Self {
        let svcr = if cpu.sme { mrs!("S3_3_C4_C2_2") } else { 0 };
        let streaming = svcr & SVCR_SM != 0;
        let clear = cpu.sve && !streaming && slots::area().function.get() & SVE_HINT != 0;
        let registers = match (streaming, cpu.sve, all) {
            (true, ..) if has_streaming_ffr() => Registers::Sve,
            (true, ..) => Registers::Predicates,
            (false, true, true) if !clear => Registers::Sve,
            (false, true, false) if !clear => Registers::Vectors,
            (false, ..) => Registers::Simd,
        };
        // SAFETY: they are usable, and the area has room for any vector length.
        unsafe { save(slots::area().simd.address(), registers) };
        if streaming {
            msr!("S3_3_C4_C2_2", svcr & !SVCR_SM);
        }
        Self { registers, svcr, clear }
    }

    /// Restores them.
    fn restore(&self) {
        if self.svcr & SVCR_SM != 0 {
            msr!("S3_3_C4_C2_2", self.svcr);
        }
        if self.clear {
            // SAFETY: SVE is usable, and what is to be kept is in memory.
            unsafe { rmm_sve_clear() };
        }
        // SAFETY: as they were saved.
        unsafe { load(slots::area().simd.address(), self.registers) };
    }
}

/// SMCR_EL2.FA64: streaming mode has all of SVE.
const SMCR_FA64: u64 = 1 << 31;

/// Whether FFR is there in the Non-secure world's streaming mode; SME must be usable.
fn has_streaming_ffr() -> bool {
    slots::area().streaming_ffr.get() != 0 && mrs!("S3_4_C1_C2_6") & SMCR_FA64 != 0
}

/// Finds out whether EL3 lets streaming mode have an FFR, which no register below it tells. For a CPU that starts: nobody has
/// anything in its registers yet.
pub fn find_streaming_ffr(cpu: &Optional) {
    let found = cpu.sve && cpu.sme && cpu.fa64 && {
        allow(true);
        let (smcr, svcr) = (mrs!("S3_4_C1_C2_6"), mrs!("S3_3_C4_C2_2"));
        msr!("S3_4_C1_C2_6", smcr | SMCR_FA64);
        msr!("S3_3_C4_C2_2", SVCR_SM);
        instruction!("isb");
        // SAFETY: SVE is usable; where FFR is not there the exception makes it return 0.
        let found = unsafe { rmm_try_ffr() } != 0;
        msr!("S3_3_C4_C2_2", svcr);
        msr!("S3_4_C1_C2_6", smcr);
        trap_all();
        found
    };
    slots::area().streaming_ffr.set(found.into());
}

/// Clears all registers.
pub fn forget(cpu: &Optional) {
    allow(cpu.sve);
    if cpu.sme {
        // Streaming mode need not have FFR. ZA is not the realm's.
        let svcr = mrs!("S3_3_C4_C2_2");
        msr!("S3_3_C4_C2_2", svcr & !SVCR_SM);
    }
    if cpu.sve {
        // The realm's length may be shorter, and hide what it leaves.
        msr!("S3_4_C1_C2_0", LONGEST as u64 - 1);
        instruction!("isb");
        // SAFETY: SVE is usable, and nobody needs what is in the registers.
        unsafe { rmm_sve_clear() };
        // ZCR_EL1 may be the realm's.
        msr!("S3_5_C1_C2_0", 0);
    } else {
        let zeros = [0_u8; 512];
        // SAFETY: SIMD is usable, and as many bytes are there.
        unsafe { rmm_simd_load(zeros.as_ptr()) };
    }
    msr!("S3_3_C4_C4_1", 0);
    msr!("S3_3_C4_C4_0", 0);
    trap_all();
}

/// Runs `f`, which may change the vector registers, but no predicates.
pub fn with_vectors(cpu: &Optional, f: impl FnOnce()) {
    with_simd(cpu.sve, || {
        let host = Host::save(cpu, false);
        f();
        host.restore();
    });
}

/// Where ZCR_EL1 is in a realm's area.
fn zcr(area: &Wide) -> *mut u64 {
    area.address().cast::<u64>().wrapping_add(2)
}

/// The SIMD registers during one run.
pub struct Lazy<'a> {
    cpu: &'a Optional,
    /// ZCR_EL2.LEN, if the realm has SVE.
    realm_sve: Option<u8>,
    /// The realm's area.
    granules: &'a [u64],
    /// The Non-secure world's, while the registers are the realm's; its ZCR_EL2 and ZCR_EL1.
    host: Option<(Host, [u64; 2])>,
}

impl<'a> Lazy<'a> {
    pub fn new(cpu: &'a Optional, controls: &RunControls, granules: &'a [u64]) -> Self {
        let mut lazy = Self { cpu, realm_sve: controls.sve_vl, granules, host: None };
        if cpu.sme && mrs!("S3_3_C4_C2_2") & SVCR_SM != 0 {
            // A realm never runs in streaming mode.
            lazy.load();
        } else {
            trap_realm(0);
        }
        lazy
    }

    const fn realm_registers(&self) -> Registers {
        if self.realm_sve.is_some() { Registers::Sve } else { Registers::Simd }
    }

    /// Gives the registers to the realm if `esr` says that it wants them. Returns whether it can go on.
    pub fn load_for(&mut self, esr: u64) -> bool {
        let wanted = match esr >> 26 & 0x3f {
            EC_SIMD => true,
            EC_SVE => self.realm_sve.is_some(),
            _ => false,
        };
        if wanted && self.host.is_none() {
            self.load();
            return true;
        }
        false
    }

    fn load(&mut self) {
        allow(self.cpu.sve);
        let host = Host::save(self.cpu, true);
        let mut lengths = [0; 2];
        let mapping = Wide::new(self.granules);
        if let Some(length) = self.realm_sve {
            lengths = [mrs!("S3_4_C1_C2_0"), mrs!("S3_5_C1_C2_0")];
            msr!("S3_4_C1_C2_0", u64::from(length));
            // SAFETY: the head of the realm's area.
            let zcr_el1 = unsafe { zcr(&mapping).read() };
            msr!("S3_5_C1_C2_0", zcr_el1);
            instruction!("isb");
        }
        // SAFETY: the granules have room for the longest vector this RMM offers.
        unsafe { load(mapping.address(), self.realm_registers()) };
        self.host = Some((host, lengths));
        trap_realm(CPTR_FPEN | if self.realm_sve.is_some() { CPTR_ZEN } else { 0 });
    }

    /// Takes the registers back at the end of the run.
    pub fn finish(self) {
        if let Some((host, [zcr_el2, zcr_el1])) = &self.host {
            allow(self.cpu.sve);
            let mapping = Wide::new(self.granules);
            // SAFETY: as in `load`.
            unsafe { save(mapping.address(), self.realm_registers()) };
            if self.realm_sve.is_some() {
                let realm = mrs!("S3_5_C1_C2_0");
                // SAFETY: the head of the realm's area.
                unsafe { zcr(&mapping).write(realm) };
                // SAFETY: SVE is usable, and what is in the registers is saved.
                unsafe { rmm_sve_clear() };
                msr!("S3_4_C1_C2_0", *zcr_el2);
                msr!("S3_5_C1_C2_0", *zcr_el1);
                instruction!("isb");
            }
            host.restore();
        }
        trap_all();
    }
}
