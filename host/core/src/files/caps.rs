//! KVM_CHECK_EXTENSION: what a realm VM of this device can do (docs/kvm-realm-abi.md section 2.6).
//!
//! A device of this core makes realms only, so the device file answers as a VM file does. What a realm cannot have
//! (guest debugging, a counter offset, read-only slots, stolen time) is 0, as is everything unknown.

use crate::memory::memslot::MAX_SLOTS;
use crate::rmm::RmmInfo;
use realm_abi::kvm::{Cap, Generation, MEMORY_ATTRIBUTE_PRIVATE};

/// Most vCPUs KVM gives a VM on arm64 with a GICv3.
const KVM_MAX_VCPUS: u64 = 512;

/// How many vCPUs a VM can have: KVM's limit or the RMM's.
#[must_use]
pub fn max_vcpus(info: &RmmInfo) -> u64 {
    info.features.max_recs().min(KVM_MAX_VCPUS)
}

/// The answer to KVM_CHECK_EXTENSION; without an RMM no VM can be made.
#[must_use]
pub fn check_extension(generation: &Generation, info: Option<&RmmInfo>, cap: Cap) -> i64 {
    let Some(info) = info else { return 0 };
    let count = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    match cap {
        cap if cap == generation.cap_realm => 1,
        Cap::IRQCHIP
        | Cap::USER_MEMORY
        | Cap::MP_STATE
        | Cap::DESTROY_MEMORY_REGION_WORKS
        | Cap::VCPU_EVENTS
        | Cap::ONE_REG
        | Cap::ARM_PSCI
        | Cap::ARM_PSCI_0_2
        | Cap::DEVICE_CTRL
        | Cap::ENABLE_CAP_VM
        | Cap::CHECK_EXTENSION_VM
        | Cap::IMMEDIATE_EXIT
        | Cap::ARM_IRQ_LINE_LAYOUT_2
        | Cap::ARM_INJECT_EXT_DABT
        | Cap::ARM_SUPPORTED_REG_MASK_RANGES
        | Cap::USER_MEMORY2
        | Cap::MEMORY_FAULT_INFO
        | Cap::GUEST_MEMFD => 1,
        Cap::MEMORY_ATTRIBUTES => count(MEMORY_ATTRIBUTE_PRIVATE),
        Cap::NR_MEMSLOTS => i64::from(MAX_SLOTS),
        Cap::NR_VCPUS | Cap::MAX_VCPUS | Cap::MAX_VCPU_ID => count(max_vcpus(info)),
        Cap::ARM_VM_IPA_SIZE => i64::from(info.max_ipa_bits()),
        Cap::ARM_SVE => count(info.features.sve_en()),
        Cap::ARM_PMU_V3 => count(info.features.pmu_en()),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use realm_abi::rmi::{FeatureRegister0, Version};

    const V8: Generation = Generation::V8;

    fn info(features: FeatureRegister0) -> RmmInfo {
        RmmInfo { version: Version::V1_0, higher: Version::V1_0, features }
    }

    #[test]
    fn what_a_realm_cannot_have_is_hidden() {
        let info = info(FeatureRegister0::default().with_s2sz(48).with_max_recs_order(4));
        for cap in [
            Cap::SET_GUEST_DEBUG,
            Cap::GUEST_DEBUG_HW_BPS,
            Cap::GUEST_DEBUG_HW_WPS,
            Cap::COUNTER_OFFSET,
            Cap::READONLY_MEM,
            Cap::STEAL_TIME,
            Cap::ARM_SVE,
            Cap(12345),
        ] {
            assert_eq!(check_extension(&V8, Some(&info), cap), 0, "{cap}");
        }
        assert_eq!(check_extension(&V8, Some(&info), Cap(240)), 1);
        assert_eq!(check_extension(&V8, Some(&info), Cap::MAX_VCPUS), 15);
    }

    #[test]
    fn sve_is_what_the_rmm_has() {
        let info = info(FeatureRegister0::default().with_sve_en(1));
        assert_eq!(check_extension(&V8, Some(&info), Cap::ARM_SVE), 1);
    }

    #[test]
    fn without_an_rmm_there_is_nothing() {
        assert_eq!(check_extension(&V8, None, Cap(240)), 0);
        assert_eq!(check_extension(&V8, None, Cap::USER_MEMORY2), 0);
    }
}
