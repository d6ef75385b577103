//! SMC Calling Convention (DEN0028): function identifiers and the codes every conduit shares.

/// "Not supported", as 64-bit sign-extended X0.
pub const NOT_SUPPORTED: u64 = u64::MAX;
/// `SMCCC_VERSION`.
pub const VERSION: u64 = 0x8000_0000;
/// `SMCCC_ARCH_FEATURES`.
pub const ARCH_FEATURES: u64 = 0x8000_0001;
/// Version word 1.2 (major 30:16, minor 15:0).
pub const VERSION_1_2: u64 = 0x1_0002;
/// The hint that the caller has no live SVE state (SMCCC 1.3), carried in the function identifier.
pub const SVE_HINT: u64 = 1 << 16;

/// The fields of a function identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionId(pub u32);

impl FunctionId {
    /// Fast call, bit 31.
    #[must_use]
    pub const fn is_fast(self) -> bool {
        self.0 & (1 << 31) != 0
    }
    /// SMC64 convention, bit 30.
    #[must_use]
    pub const fn is_smc64(self) -> bool {
        self.0 & (1 << 30) != 0
    }
    /// Owning entity, bits 29:24 (4 is the standard secure service).
    #[must_use]
    pub const fn owner(self) -> u8 {
        ((self.0 >> 24) & 0x3f) as u8
    }
    /// Function number, bits 15:0.
    #[must_use]
    pub const fn number(self) -> u16 {
        (self.0 & 0xffff) as u16
    }
    /// The SVE hint, bit 16.
    #[must_use]
    pub const fn sve_hint(self) -> bool {
        self.0 as u64 & SVE_HINT != 0
    }
}
