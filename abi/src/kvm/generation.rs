//! What differs between the postings of the Linux realm series.

use super::encoding::iow;
use super::{Cap, PsciComplete, VcpuFeature};

/// The numbers one generation of the realm ABI uses (docs/kvm-realm-abi.md section 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Name for people.
    pub name: &'static str,
    /// The capability that answers whether realms can be made and that carries the realm commands.
    pub cap_realm: Cap,
    /// Bit of the "this vCPU is a REC" feature, and the argument of KVM_ARM_VCPU_FINALIZE.
    pub vcpu_rec: u32,
    /// Number of the ioctl that completes a PSCI call; `None` where the kernel does it by itself.
    pub psci_complete: Option<u32>,
    /// The bits of the KVM_CREATE_VM argument that hold the VM type.
    pub vm_type_mask: u64,
    /// How far the VM type is shifted within the argument.
    pub vm_type_shift: u32,
    /// The VM type of a realm, unshifted.
    pub vm_type_realm: u64,
}

/// Bits of the KVM_CREATE_VM argument that hold the IPA width.
const IPA_BITS_MASK: u64 = 0xff;

/// What KVM_CREATE_VM is asked to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmType {
    /// Whether the VM is a realm.
    pub realm: bool,
    /// IPA width in bits; 0 stands for the legacy 40.
    pub ipa_bits: u8,
}

/// Why a KVM_CREATE_VM argument has no meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmTypeError {
    /// A bit outside of IPA width and type is set.
    ReservedBits,
    /// The type is neither a normal VM nor a realm.
    UnknownType,
}

impl Generation {
    /// Version 8 of the series: April 2025, Linux 6.15-rc1, RMM 1.0.
    pub const V8: Self = Self {
        name: "v8",
        cap_realm: Cap(240),
        vcpu_rec: 9,
        psci_complete: Some(iow::<PsciComplete>(0xd6)),
        vm_type_mask: 0xf00,
        vm_type_shift: 8,
        vm_type_realm: 1,
    };

    /// The KVM_CREATE_VM argument for `vm`.
    #[must_use]
    pub const fn vm_type_arg(&self, vm: VmType) -> u64 {
        let vm_type = if vm.realm { self.vm_type_realm.wrapping_shl(self.vm_type_shift) } else { 0 };
        vm_type | vm.ipa_bits as u64
    }

    /// Reads a KVM_CREATE_VM argument.
    ///
    /// # Errors
    /// Both are EINVAL to the caller.
    pub const fn parse_vm_type(&self, arg: u64) -> Result<VmType, VmTypeError> {
        if arg & !(self.vm_type_mask | IPA_BITS_MASK) != 0 {
            return Err(VmTypeError::ReservedBits);
        }
        let vm_type = (arg & self.vm_type_mask).wrapping_shr(self.vm_type_shift);
        let realm = match vm_type {
            0 => false,
            realm if realm == self.vm_type_realm => true,
            _ => return Err(VmTypeError::UnknownType),
        };
        Ok(VmType { realm, ipa_bits: (arg & IPA_BITS_MASK) as u8 })
    }

    /// The bit of the REC feature in a vCPU's feature words.
    #[must_use]
    pub const fn rec_feature(&self) -> VcpuFeature {
        VcpuFeature(self.vcpu_rec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V8: Generation = Generation::V8;

    #[test]
    fn a_realm_of_33_bits_is_0x121() {
        assert_eq!(V8.vm_type_arg(VmType { realm: true, ipa_bits: 33 }), 0x121);
    }

    #[test]
    fn the_argument_of_create_vm_survives_the_round_trip() {
        for arg in 0..0x1_0000 {
            match V8.parse_vm_type(arg) {
                Ok(vm) => assert_eq!(V8.vm_type_arg(vm), arg),
                Err(VmTypeError::ReservedBits) => assert!(arg > 0xfff),
                Err(VmTypeError::UnknownType) => assert!(arg & 0xf00 > 0x100),
            }
        }
    }

    #[test]
    fn psci_complete_has_the_number_of_version_8() {
        assert_eq!(V8.psci_complete, Some(0x4018_AED6));
    }
}
