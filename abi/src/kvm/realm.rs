//! What the realm series adds: the commands carried by KVM_ENABLE_CAP and the completion of PSCI calls
//! (docs/kvm-realm-abi.md sections 2.1 and 2.2).

use crate::layout::assert_layout;
use crate::macros::open_enum;
use crate::rmi::RPV_SIZE;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

open_enum! {
    /// `args[0]` of the realm capability.
    pub struct RealmCommand(u64) {
        /// Sets a parameter: [`RmeConfig`].
        CONFIG_REALM = 0,
        /// Makes the realm.
        CREATE_REALM = 1,
        /// Makes a range RAM: [`RmeInitRipas`].
        INIT_RIPAS_REALM = 2,
        /// Copies initial content: [`RmePopulate`].
        POPULATE_REALM = 3,
        /// Ends construction.
        ACTIVATE_REALM = 4,
    }
}

open_enum! {
    /// Which parameter an [`RmeConfig`] sets.
    pub struct ConfigItem(u32) {
        /// Realm Personalization Value.
        RPV = 0,
        /// Hash of RIM and REMs.
        HASH_ALGO = 1,
    }
}

/// `struct arm_rme_config`: 4-byte aligned, the union follows `cfg` without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RmeConfig {
    /// What is set.
    pub cfg: ConfigItem,
    /// The union: 64 bytes of RPV, or the hash algorithm as a little-endian `u32`.
    pub value: [u8; 256],
}

assert_layout!(RmeConfig, 260, { cfg: 0, value: 4 });

impl RmeConfig {
    /// Sets the Realm Personalization Value.
    #[must_use]
    pub fn rpv(rpv: &[u8; RPV_SIZE]) -> Self {
        let mut config = Self { cfg: ConfigItem::RPV, ..Self::new_zeroed() };
        config.value[..RPV_SIZE].copy_from_slice(rpv);
        config
    }

    /// Sets the hash; known values are those of [`HashAlgorithm`](crate::rmi::HashAlgorithm).
    #[must_use]
    pub fn hash_algo(hash: u32) -> Self {
        let mut config = Self { cfg: ConfigItem::HASH_ALGO, ..Self::new_zeroed() };
        config.value[..4].copy_from_slice(&hash.to_le_bytes());
        config
    }

    /// The union as a Realm Personalization Value.
    #[must_use]
    pub fn as_rpv(&self) -> [u8; RPV_SIZE] {
        core::array::from_fn(|i| self.value[i])
    }

    /// The union as a hash algorithm.
    #[must_use]
    pub const fn as_hash_algo(&self) -> u32 {
        u32::from_le_bytes([self.value[0], self.value[1], self.value[2], self.value[3]])
    }
}

/// In [`RmePopulate::flags`]: the content goes into the measurement.
pub const POPULATE_MEASURE: u32 = 1 << 0;

/// `struct arm_rme_populate_realm`. The content is what the shared side of the memory slot holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RmePopulate {
    /// First IPA, page aligned.
    pub base: u64,
    /// Bytes, a multiple of the page size.
    pub size: u64,
    /// 0 or [`POPULATE_MEASURE`].
    pub flags: u32,
    /// Zero (version 8 does not check it).
    pub reserved: [u32; 3],
}

assert_layout!(RmePopulate, 32, { base: 0, size: 8, flags: 16, reserved: 20 });

/// `struct arm_rme_init_ripas`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RmeInitRipas {
    /// First IPA, page aligned.
    pub base: u64,
    /// Bytes, a multiple of the page size.
    pub size: u64,
    /// Zero (version 8 does not check it).
    pub reserved: [u64; 2],
}

assert_layout!(RmeInitRipas, 32, { base: 0, size: 8, reserved: 16 });

/// `struct kvm_arm_rmm_psci_complete`, made on the vCPU that called PSCI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PsciComplete {
    /// MPIDR of the vCPU the call named.
    pub target_mpidr: u64,
    /// [`PsciStatus`](crate::psci::PsciStatus) as 32 bits.
    pub psci_status: u32,
    /// Zero.
    pub padding: [u32; 3],
}

assert_layout!(PsciComplete, 24, { target_mpidr: 0, psci_status: 8, padding: 12 });

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    #[test]
    fn the_union_of_a_config_starts_right_behind_cfg() {
        let rpv = core::array::from_fn(|i| i as u8 + 1);
        let config = RmeConfig::rpv(&rpv);
        assert_eq!(config.as_bytes()[..4], [0, 0, 0, 0]);
        assert_eq!(config.as_bytes()[4..68], rpv);
        assert_eq!(config.as_rpv(), rpv);
        let hash = RmeConfig::hash_algo(1);
        assert_eq!(hash.as_bytes()[..8], [1, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(hash.as_hash_algo(), 1);
    }
}
