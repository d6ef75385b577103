//! Virtual CPUs: their features, registers and events (`linux/kvm.h`, `asm/kvm.h` of arm64).

use crate::layout::assert_layout;
use crate::macros::open_enum;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// KVM_ARM_TARGET_GENERIC_V8, what KVM_ARM_PREFERRED_TARGET answers today.
pub const TARGET_GENERIC_V8: u32 = 5;
/// Feature numbers a realm kernel of version 8 knows: 0 to 9.
pub const MAX_VCPU_FEATURES: u32 = 10;

/// MPIDR affinity fields of the vCPU with this id, as KVM on arm64 numbers them: 16 to a cluster. It is also the value
/// `RmiRecMpidr` takes, and RECs are made in this order (docs/kvm-realm-abi.md section 2.4).
#[must_use]
pub const fn vcpu_mpidr(id: u32) -> u64 {
    (id & 0xf) as u64 | ((id >> 4 & 0xff) as u64) << 8 | ((id >> 12 & 0xff) as u64) << 16
}

open_enum! {
    /// A bit of [`VcpuInit::features`]. "This vCPU is a REC" is not here:
    /// [`Generation::vcpu_rec`](super::Generation::vcpu_rec).
    pub struct VcpuFeature(u32) {
        /// The vCPU starts powered off.
        POWER_OFF = 0,
        /// 32-bit EL1.
        EL1_32BIT = 1,
        /// PSCI 0.2 and later.
        PSCI_0_2 = 2,
        /// A PMU.
        PMU_V3 = 3,
        /// SVE.
        SVE = 4,
        /// Pointer authentication, addresses.
        PTRAUTH_ADDRESS = 5,
        /// Pointer authentication, generic.
        PTRAUTH_GENERIC = 6,
        /// EL2 for the guest.
        HAS_EL2 = 7,
        /// EL2 without VHE for the guest.
        HAS_EL2_E2H0 = 8,
    }
}

/// `struct kvm_vcpu_init`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuInit {
    /// [`TARGET_GENERIC_V8`].
    pub target: u32,
    /// A bitmap of [`VcpuFeature`]s.
    pub features: [u32; 7],
}

assert_layout!(VcpuInit, 32, { target: 0, features: 4 });

impl VcpuInit {
    /// The same with a feature switched on; numbers from 224 on have no bit and change nothing.
    #[must_use]
    pub fn with(mut self, feature: VcpuFeature) -> Self {
        if let Some(word) = self.features.get_mut(feature.0 as usize / 32) {
            *word |= 1 << (feature.0 % 32);
        }
        self
    }

    /// Whether a feature is on.
    #[must_use]
    pub fn has(&self, feature: VcpuFeature) -> bool {
        self.features.get(feature.0 as usize / 32).is_some_and(|word| word >> (feature.0 % 32) & 1 != 0)
    }

    /// Whether a feature with a number from `limit` on is on.
    #[must_use]
    pub fn has_beyond(&self, limit: u32) -> bool {
        (limit..224).any(|number| self.has(VcpuFeature(number)))
    }
}

/// `struct kvm_one_reg`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OneReg {
    /// [`RegId`](super::reg::RegId).
    pub id: u64,
    /// User address of the value.
    pub addr: u64,
}

assert_layout!(OneReg, 16, { id: 0, addr: 8 });

/// `struct kvm_reg_list` without the identifiers that follow it. The kernel writes back how many there are and
/// answers E2BIG when there is no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RegListHeader {
    /// Number of identifiers.
    pub n: u64,
}

assert_layout!(RegListHeader, 8, { n: 0 });

open_enum! {
    /// `struct kvm_mp_state`: whether a vCPU runs.
    pub struct MpState(u32) {
        /// It runs.
        RUNNABLE = 0,
        /// It is powered off.
        STOPPED = 5,
        /// It is suspended.
        SUSPENDED = 10,
    }
}

/// `struct kvm_vcpu_events`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuEvents {
    /// An SError is pending.
    pub serror_pending: u8,
    /// The SError has a syndrome.
    pub serror_has_esr: u8,
    /// An external data abort is to be injected.
    pub ext_dabt_pending: u8,
    /// Zero.
    pub pad: [u8; 5],
    /// The SError's syndrome.
    pub serror_esr: u64,
    /// Zero.
    pub reserved: [u32; 12],
}

assert_layout!(VcpuEvents, 64, {
    serror_pending: 0, serror_has_esr: 1, ext_dabt_pending: 2, pad: 3, serror_esr: 8, reserved: 16,
});

/// `struct kvm_guest_debug`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GuestDebug {
    /// What is debugged.
    pub control: u32,
    /// Zero.
    pub pad: u32,
    /// DBGBCR, DBGBVR, DBGWCR, DBGWVR: 16 of each.
    pub debug_regs: [[u64; 16]; 4],
}

assert_layout!(GuestDebug, 520, { control: 0, debug_regs: 8 });

/// `struct kvm_arm_counter_offset`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CounterOffset {
    /// Ticks taken off both counters.
    pub counter_offset: u64,
    /// Zero.
    pub reserved: u64,
}

assert_layout!(CounterOffset, 16, { counter_offset: 0, reserved: 8 });

/// `struct reg_mask_range`: which bits of the identification registers can be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RegMaskRange {
    /// User address of 192 masks of 64 bits.
    pub addr: u64,
    /// Which registers: 0 is op0 = 3, op1 in {0, 1, 3}, CRn = 0, CRm in 0..8, op2 in 0..8.
    pub range: u32,
    /// Zero.
    pub reserved: [u32; 13],
}

assert_layout!(RegMaskRange, 64, { addr: 0, range: 8, reserved: 12 });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vcpus_are_numbered_16_to_a_cluster() {
        assert_eq!([0, 15, 16, 4095, 4096].map(vcpu_mpidr), [0, 0xf, 0x100, 0xff0f, 0x1_0000]);
    }

    #[test]
    fn features_are_bits_of_the_init_structure() {
        let init = VcpuInit::default().with(VcpuFeature::PSCI_0_2).with(VcpuFeature(9)).with(VcpuFeature(40));
        assert_eq!(init.features[..2], [0x204, 0x100]);
        assert!(init.has(VcpuFeature(9)) && !init.has(VcpuFeature::SVE));
        assert!(init.has_beyond(MAX_VCPU_FEATURES));
        assert!(!init.has_beyond(41));
        assert_eq!(init.with(VcpuFeature(224)), init);
    }
}
