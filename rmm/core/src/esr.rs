//! ESR_EL2: classes and the fields of the syndromes a realm causes (Arm architecture; RMM 1.0, RmiRecExit.esr).

pub(crate) const EC_SHIFT: u32 = 26;
const EC_MASK: u64 = 0x3f << EC_SHIFT;
/// Instruction length: 1 for 32 bits.
pub(crate) const IL: u64 = 1 << 25;

pub(crate) const EC_WFX: u64 = 0x01;
pub(crate) const EC_SIMD: u64 = 0x07;
pub(crate) const EC_HVC: u64 = 0x16;
pub(crate) const EC_SMC: u64 = 0x17;
pub(crate) const EC_SYSREG: u64 = 0x18;
pub(crate) const EC_SVE: u64 = 0x19;
pub(crate) const EC_SME: u64 = 0x1d;
pub(crate) const EC_INSTRUCTION_ABORT: u64 = 0x20;
pub(crate) const EC_INSTRUCTION_ABORT_SAME: u64 = 0x21;
pub(crate) const EC_DATA_ABORT: u64 = 0x24;
pub(crate) const EC_DATA_ABORT_SAME: u64 = 0x25;

/// Data abort: the fields below ISV down to SF are valid.
pub(crate) const ISV: u64 = 1 << 24;
/// Data abort: access size.
pub(crate) const SAS: u64 = 0x3 << 22;
/// Data abort: sign extend.
pub(crate) const SSE: u64 = 1 << 21;
/// Data abort: the register is 64 bits wide.
pub(crate) const SF: u64 = 1 << 15;
/// Abort: synchronous error type.
pub(crate) const SET: u64 = 0x3 << 11;
/// Abort: FAR is not valid.
pub(crate) const FNV: u64 = 1 << 10;
/// Abort: external abort type.
pub(crate) const EA: u64 = 1 << 9;
/// Data abort: cache maintenance.
pub(crate) const CM: u64 = 1 << 8;
/// Data abort: write.
pub(crate) const WNR: u64 = 1 << 6;
/// Abort: fault status code.
pub(crate) const FSC: u64 = 0x3f;

/// WFx: which of WFI, WFE, WFIT, WFET.
pub(crate) const WFX_TI: u64 = 0x3;
/// WFIT and WFET have bit 1 of TI.
pub(crate) const WFX_TI_TIMEOUT: u64 = 0x2;

/// WFx: RN is valid.
pub(crate) const WFX_RV: u64 = 1 << 2;

/// MSR, MRS: Rt; WFIT, WFET: RN.
pub(crate) const OPERAND: u64 = 0x1f << OPERAND_SHIFT;
const OPERAND_SHIFT: u32 = 5;

/// SError: the rest is implementation defined.
pub(crate) const SERROR_IDS: u64 = 1 << 24;
/// SError: all that VSESR_EL2 holds.
pub(crate) const SERROR_ISS: u64 = 0x1ff_ffff;
/// SError: asynchronous error type.
pub(crate) const SERROR_AET: u64 = 0x7 << 10;

/// A value of ESR_EL2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Syndrome(pub u64);

impl Syndrome {
    /// Exception class.
    pub(crate) const fn class(self) -> u64 {
        (self.0 & EC_MASK) >> EC_SHIFT
    }
    /// The class and the bits of `mask`.
    pub(crate) const fn keep(self, mask: u64) -> u64 {
        self.0 & (EC_MASK | mask)
    }
    /// Whether all bits of `mask` are set.
    pub(crate) const fn has(self, mask: u64) -> bool {
        self.0 & mask == mask
    }
    /// Whether it is of an instruction abort from below.
    pub(crate) const fn is_instruction_abort(self) -> bool {
        self.class() == EC_INSTRUCTION_ABORT
    }
    /// Fault status code of an abort.
    pub(crate) const fn fault_status(self) -> u64 {
        self.0 & FSC
    }
    /// Whether an abort is a synchronous external one, on an access or on a table walk.
    pub(crate) const fn is_external_abort(self) -> bool {
        matches!(self.fault_status(), 0x10 | 0x13..=0x17)
    }
    /// Whether an abort is a granule protection fault, on an access or on a table walk.
    pub(crate) const fn is_granule_protection_fault(self) -> bool {
        matches!(self.fault_status(), 0x23..=0x28)
    }
    /// Data abort: the register read or written (SRT, bits 20:16), `None` for XZR.
    pub(crate) const fn data_register(self) -> Option<usize> {
        register((self.0 >> 16) & 0x1f)
    }
    /// Data abort: a mask as wide as the access.
    pub(crate) const fn access_mask(self) -> u64 {
        match (self.0 & SAS) >> 22 {
            0 => 0xff,
            1 => 0xffff,
            2 => 0xffff_ffff,
            _ => u64::MAX,
        }
    }
    /// WFIT, WFET: the timeout's register (RN, bits 9:5), `None` for XZR. MSR, MRS: the register (Rt).
    pub(crate) const fn operand_register(self) -> Option<usize> {
        register((self.0 & OPERAND) >> OPERAND_SHIFT)
    }
}

const fn register(number: u64) -> Option<usize> {
    if number < 31 { Some(number as usize) } else { None }
}

/// FSC of a translation fault at `level`, -1 to 3.
pub(crate) const fn translation_fault(level: i64) -> u64 {
    match level {
        0..=3 => 0b000100 | level.cast_unsigned(),
        _ => 0b101011,
    }
}

/// HPFAR_EL2 of a fault at `ipa`: IPA\[55:12\] in bits 47:4.
pub(crate) const fn hpfar(ipa: u64) -> u64 {
    (ipa >> 12) << 4
}

/// The IPA, granule aligned, that HPFAR_EL2 tells. Bit 63 is not part of it.
pub(crate) const fn faulting_ipa(hpfar: u64) -> u64 {
    (hpfar & 0xffff_ffff_fff0) << 8
}
