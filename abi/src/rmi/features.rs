//! RMI feature register 0 (RMM 1.0, `RmiFeatureRegister0`).

/// The value of RMI_FEATURES index 0, kept whole.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FeatureRegister0(pub u64);

macro_rules! fields {
    ($($(#[$meta:meta])* $get:ident $with:ident $high:literal : $low:literal,)*) => {
        impl FeatureRegister0 {
            $(
                $(#[$meta])*
                #[must_use]
                pub const fn $get(self) -> u64 {
                    (self.0 >> $low) & ((1 << ($high - $low + 1)) - 1)
                }
                #[doc = concat!("The register with [`Self::", stringify!($get), "`] replaced; excess bits are dropped.")]
                #[must_use]
                pub const fn $with(self, value: u64) -> Self {
                    let mask = ((1 << ($high - $low + 1)) - 1) << $low;
                    Self(self.0 & !mask | (value << $low) & mask)
                }
            )*
        }

        impl core::fmt::Debug for FeatureRegister0 {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.debug_struct("FeatureRegister0")$(.field(stringify!($get), &self.$get()))*.finish()
            }
        }
    };
}

fields! {
    /// Largest IPA width in bits.
    s2sz with_s2sz 7:0,
    /// 1 if LPA2 is available for stage 2.
    lpa2 with_lpa2 8:8,
    /// 1 if SVE is available.
    sve_en with_sve_en 9:9,
    /// Largest SVE vector length, in quadwords minus one.
    sve_vl with_sve_vl 13:10,
    /// Breakpoints minus one; 0 is reserved.
    num_bps with_num_bps 19:14,
    /// Watchpoints minus one; 0 is reserved.
    num_wps with_num_wps 25:20,
    /// 1 if a PMU is available.
    pmu_en with_pmu_en 26:26,
    /// PMU event counters.
    pmu_num_ctrs with_pmu_num_ctrs 31:27,
    /// 1 if SHA-256 is supported.
    hash_sha_256 with_hash_sha_256 32:32,
    /// 1 if SHA-512 is supported.
    hash_sha_512 with_hash_sha_512 33:33,
    /// GICv3 list registers the Host can use, minus one.
    gicv3_num_lrs with_gicv3_num_lrs 37:34,
    /// At most 2^value - 1 RECs in a realm.
    max_recs_order with_max_recs_order 41:38,
}

impl FeatureRegister0 {
    /// Most RECs in one realm.
    #[must_use]
    pub const fn max_recs(self) -> u64 {
        (1 << self.max_recs_order()) - 1
    }
    /// Whether `hash` is offered; an unknown one is not.
    #[must_use]
    pub const fn supports_hash(self, hash: super::HashAlgorithm) -> bool {
        match hash {
            super::HashAlgorithm::SHA_256 => self.hash_sha_256() != 0,
            super::HashAlgorithm::SHA_512 => self.hash_sha_512() != 0,
            _ => false,
        }
    }
}
