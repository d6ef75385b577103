//! Register identifiers of KVM_GET_ONE_REG on arm64 (`asm/kvm.h`; docs/kvm-realm-abi.md section 2.7).

/// Architecture field: arm64.
const ARM64: u64 = 0x6000_0000_0000_0000;
/// Size field: log2 of the bytes in bits 55:52.
const SIZE_SHIFT: u32 = 52;
const SIZE_U32: u64 = 2 << SIZE_SHIFT;
const SIZE_U64: u64 = 3 << SIZE_SHIFT;
const SIZE_U128: u64 = 4 << SIZE_SHIFT;
const SIZE_U512: u64 = 6 << SIZE_SHIFT;
/// Kinds of register, bits 27:16.
const KIND_MASK: u64 = 0x0fff_0000;
const CORE: u64 = 0x0010 << 16;
const SYSREG: u64 = 0x0013 << 16;
const FIRMWARE: u64 = 0x0014 << 16;
const SVE: u64 = 0x0015 << 16;

/// Core registers are numbered by their offset in `struct kvm_regs`, in words of 4 bytes.
const CORE_SP: u64 = 0x3e;
const CORE_PC: u64 = 0x40;
const CORE_PSTATE: u64 = 0x42;

/// A register identifier.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegId(pub u64);

impl RegId {
    /// Stack pointer of EL0.
    pub const SP: Self = Self(ARM64 | SIZE_U64 | CORE | CORE_SP);
    /// Program counter.
    pub const PC: Self = Self(ARM64 | SIZE_U64 | CORE | CORE_PC);
    /// Processor state.
    pub const PSTATE: Self = Self(ARM64 | SIZE_U64 | CORE | CORE_PSTATE);
    /// PMCR_EL0; its N field is the number of event counters.
    pub const PMCR_EL0: Self = Self::sys(3, 3, 9, 12, 0);
    /// ID_AA64DFR0_EL1; breakpoints, watchpoints and context comparators.
    pub const ID_AA64DFR0_EL1: Self = Self::sys(3, 0, 0, 5, 0);
    /// MPIDR_EL1.
    pub const MPIDR_EL1: Self = Self::sys(3, 0, 0, 0, 5);
    /// KVM_REG_ARM64_SVE_VLS: the vector lengths as a bitmap of 512 bits, bit n for n + 1 quadwords.
    pub const SVE_VLS: Self = Self(ARM64 | SIZE_U512 | SVE | 0xffff);
    /// KVM_REG_ARM_PSCI_VERSION, a firmware pseudo register.
    pub const PSCI_VERSION: Self = Self(ARM64 | SIZE_U64 | FIRMWARE);

    /// X0 to X30.
    ///
    /// `None` for any other number.
    #[must_use]
    pub const fn x(n: u8) -> Option<Self> {
        if n > 30 {
            return None;
        }
        Some(Self(ARM64 | SIZE_U64 | CORE | (2 * n as u64)))
    }

    /// A system register by its encoding; excess bits are dropped.
    #[must_use]
    pub const fn sys(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> Self {
        let encoding = (op0 as u64 & 3) << 14
            | (op1 as u64 & 7) << 11
            | (crn as u64 & 15) << 7
            | (crm as u64 & 15) << 3
            | op2 as u64 & 7;
        Self(ARM64 | SIZE_U64 | SYSREG | encoding)
    }

    /// SIMD and floating-point register V0 to V31, 128 bits wide; `None` for any other number.
    #[must_use]
    pub const fn v(n: u8) -> Option<Self> {
        const CORE_FP: u64 = 0x54;
        if n > 31 {
            return None;
        }
        Some(Self(ARM64 | SIZE_U128 | CORE | (CORE_FP + 4 * n as u64)))
    }

    /// Bytes of the value; `None` if the size field is beyond 256 bytes (2048 bits).
    #[must_use]
    pub const fn size(self) -> Option<usize> {
        match self.0 >> SIZE_SHIFT & 0xf {
            order @ 0..=8 => Some(1 << order),
            _ => None,
        }
    }

    /// What the identifier names.
    #[must_use]
    pub const fn kind(self) -> RegKind {
        let order = self.0 & 0xf << SIZE_SHIFT;
        if self.0 & !(0xf << SIZE_SHIFT | 0x0fff_ffff) != ARM64 {
            return RegKind::Unknown;
        }
        let index = self.0 & 0xffff;
        match (self.0 & KIND_MASK, order, index) {
            (CORE, SIZE_U64, 0..=60) if index.is_multiple_of(2) => RegKind::X((index / 2) as u8),
            (CORE, SIZE_U64, CORE_SP) => RegKind::Sp,
            (CORE, SIZE_U64, CORE_PC) => RegKind::Pc,
            (CORE, SIZE_U64, CORE_PSTATE) => RegKind::Pstate,
            (CORE, SIZE_U32 | SIZE_U64 | SIZE_U128, _) => RegKind::OtherCore,
            (SYSREG, SIZE_U64, _) => RegKind::Sys(index as u16),
            (SVE, SIZE_U512, 0xffff) => RegKind::SveVls,
            (FIRMWARE, SIZE_U64, _) => RegKind::Firmware(index as u16),
            _ => RegKind::Unknown,
        }
    }
}

/// What a [`RegId`] names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegKind {
    /// X0 to X30.
    X(u8),
    /// Stack pointer.
    Sp,
    /// Program counter.
    Pc,
    /// Processor state.
    Pstate,
    /// Another member of `struct kvm_regs`.
    OtherCore,
    /// A system register, by its encoding.
    Sys(u16),
    /// The SVE vector lengths.
    SveVls,
    /// A firmware pseudo register.
    Firmware(u16),
    /// Not an arm64 register known here.
    Unknown,
}

impl core::fmt::Debug for RegId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.kind() {
            RegKind::X(n) => write!(f, "x{n}"),
            RegKind::Sp => f.write_str("sp"),
            RegKind::Pc => f.write_str("pc"),
            RegKind::Pstate => f.write_str("pstate"),
            RegKind::SveVls => f.write_str("SVE_VLS"),
            RegKind::Sys(_) if *self == Self::PMCR_EL0 => f.write_str("PMCR_EL0"),
            RegKind::Sys(_) if *self == Self::ID_AA64DFR0_EL1 => f.write_str("ID_AA64DFR0_EL1"),
            _ => write!(f, "RegId({:#x})", self.0),
        }
    }
}

impl core::fmt::Display for RegId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn the_identifiers_are_those_of_the_kernel() {
        assert_eq!(RegId::x(0).map(|id| id.0), Some(0x6030_0000_0010_0000));
        assert_eq!(RegId::x(30).map(|id| id.0), Some(0x6030_0000_0010_003c));
        assert_eq!(RegId::x(31), None);
        assert_eq!(RegId::PC.0, 0x6030_0000_0010_0040);
        assert_eq!(RegId::PMCR_EL0.0, 0x6030_0000_0013_DCE0);
        assert_eq!(RegId::ID_AA64DFR0_EL1.0, 0x6030_0000_0013_C028);
        assert_eq!(RegId::SVE_VLS.0, 0x6060_0000_0015_FFFF);
        assert_eq!(RegId::PSCI_VERSION.0, 0x6030_0000_0014_0000);
    }

    #[test]
    fn an_identifier_is_read_as_what_it_was_made_of() {
        for n in 0..=30 {
            assert_eq!(RegId::x(n).map(RegId::kind), Some(RegKind::X(n)));
        }
        assert_eq!(RegId::SP.kind(), RegKind::Sp);
        assert_eq!(RegId::PC.kind(), RegKind::Pc);
        assert_eq!(RegId::PSTATE.kind(), RegKind::Pstate);
        assert_eq!(RegId::v(3).map(RegId::kind), Some(RegKind::OtherCore));
        assert_eq!(RegId::SVE_VLS.kind(), RegKind::SveVls);
        assert_eq!(RegId::PMCR_EL0.kind(), RegKind::Sys(0xDCE0));
    }

    #[test]
    fn a_wrong_size_or_architecture_is_not_a_register() {
        let x0 = ARM64 | SIZE_U64 | CORE;
        assert_eq!(RegId(x0 & !ARM64).kind(), RegKind::Unknown);
        assert_eq!(RegId(x0 | 1 << 40).kind(), RegKind::Unknown);
        assert_eq!(RegId(ARM64 | SIZE_U32 | SVE | 0xffff).kind(), RegKind::Unknown);
        assert_eq!(RegId(ARM64 | 7 << SIZE_SHIFT | CORE).kind(), RegKind::Unknown);
    }

    #[test]
    fn the_size_field_tells_the_bytes() {
        assert_eq!(RegId::PC.size(), Some(8));
        assert_eq!(RegId::SVE_VLS.size(), Some(64));
        assert_eq!(RegId(ARM64 | 9 << SIZE_SHIFT).size(), None);
    }

    #[test]
    fn registers_are_shown_by_name() {
        assert_eq!(RegId::x(7).map(|id| id.to_string()), Some("x7".into()));
        assert_eq!(RegId::ID_AA64DFR0_EL1.to_string(), "ID_AA64DFR0_EL1");
    }
}
