//! Ioctl numbers, and which file understands which.

use super::encoding::{io, ior, iow, iowr};
use super::{
    CounterOffset, CreateDevice, CreateGuestMemfd, DeviceAttr, EnableCap, Generation, GuestDebug, IrqLevel,
    MemoryAttributes, MpState, OneReg, RegListHeader, RegMaskRange, UserMemoryRegion, UserMemoryRegion2,
    VcpuEvents, VcpuInit,
};

/// What a file descriptor of the KVM world stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// `/dev/kvm`.
    Device,
    /// What KVM_CREATE_VM returned.
    Vm,
    /// What KVM_CREATE_VCPU returned.
    Vcpu,
    /// What KVM_CREATE_DEVICE returned, for example the GIC.
    Emulated,
}

macro_rules! ioctls {
    ($($(#[$meta:meta])* $variant:ident $name:ident = $number:expr, $known:literal on $($kind:ident)|+;)*) => {
        /// Ioctl numbers by the kernel's names without the `KVM_` in front.
        pub mod numbers {
            #[allow(clippy::wildcard_imports, reason = "the table names most of what its parent imports")]
            use super::*;
            $(
                #[doc = concat!("`KVM_", stringify!($name), "`.")]
                pub const $name: u32 = $number;
            )*
        }

        const _: () = {
            $(assert!(numbers::$name == $known, concat!("number of KVM_", stringify!($name)));)*
        };

        /// An ioctl together with the kind of file that understands it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Ioctl {
            $($(#[$meta])* $variant,)*
            /// KVM_ARM_VCPU_RMM_PSCI_COMPLETE: [`PsciComplete`](super::PsciComplete); its number depends on the
            /// [`Generation`].
            ArmVcpuRmmPsciComplete,
            /// A number this file does not understand (ENOTTY).
            Unknown(u32),
        }

        impl Ioctl {
            /// Every ioctl with a fixed number: the kind of file, the number and what it means there.
            pub const TABLE: &'static [(FileKind, u32, Self)] =
                &[$($((FileKind::$kind, numbers::$name, Self::$variant),)+)*];

            /// What `cmd` means on a file of this kind. Only the low 32 bits of an ioctl number count.
            #[must_use]
            pub const fn parse(generation: &Generation, kind: FileKind, cmd: u32) -> Self {
                if matches!(kind, FileKind::Vcpu)
                    && let Some(psci_complete) = generation.psci_complete
                    && psci_complete == cmd
                {
                    return Self::ArmVcpuRmmPsciComplete;
                }
                match (kind, cmd) {
                    $(($(FileKind::$kind)|+, numbers::$name) => Self::$variant,)*
                    _ => Self::Unknown(cmd),
                }
            }

            /// The number a caller passes; `None` if this generation has no such ioctl.
            #[must_use]
            pub const fn number(self, generation: &Generation) -> Option<u32> {
                match self {
                    $(Self::$variant => Some(numbers::$name),)*
                    Self::ArmVcpuRmmPsciComplete => generation.psci_complete,
                    Self::Unknown(cmd) => Some(cmd),
                }
            }

            /// The kernel's name, `None` for an unknown one.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$variant => Some(concat!("KVM_", stringify!($name))),)*
                    Self::ArmVcpuRmmPsciComplete => Some("KVM_ARM_VCPU_RMM_PSCI_COMPLETE"),
                    Self::Unknown(_) => None,
                }
            }
        }
    };
}

ioctls! {
    /// Returns [`API_VERSION`](super::API_VERSION).
    GetApiVersion GET_API_VERSION = io(0x00), 0xAE00 on Device;
    /// Argument: [`VmType`](super::VmType) by [`Generation::vm_type_arg`]. Returns a file.
    CreateVm CREATE_VM = io(0x01), 0xAE01 on Device;
    /// Argument: a [`Cap`](super::Cap). Returns 0 for "no".
    CheckExtension CHECK_EXTENSION = io(0x03), 0xAE03 on Device | Vm;
    /// Returns the bytes of [`Run`](super::Run) to map from a vCPU file.
    GetVcpuMmapSize GET_VCPU_MMAP_SIZE = io(0x04), 0xAE04 on Device;
    /// Argument: the vCPU's id. Returns a file.
    CreateVcpu CREATE_VCPU = io(0x41), 0xAE41 on Vm;
    /// [`UserMemoryRegion`].
    SetUserMemoryRegion SET_USER_MEMORY_REGION = iow::<UserMemoryRegion>(0x46), 0x4020_AE46 on Vm;
    /// [`UserMemoryRegion2`].
    SetUserMemoryRegion2 SET_USER_MEMORY_REGION2 = iow::<UserMemoryRegion2>(0x49), 0x40A0_AE49 on Vm;
    /// Makes the default GIC; GICv2 on arm64.
    CreateIrqchip CREATE_IRQCHIP = io(0x60), 0xAE60 on Vm;
    /// [`IrqLevel`].
    IrqLine IRQ_LINE = iow::<IrqLevel>(0x61), 0x4008_AE61 on Vm;
    /// Runs a vCPU. No argument.
    Run RUN = io(0x80), 0xAE80 on Vcpu;
    /// [`MpState`].
    GetMpState GET_MP_STATE = ior::<MpState>(0x98), 0x8004_AE98 on Vcpu;
    /// [`MpState`].
    SetMpState SET_MP_STATE = iow::<MpState>(0x99), 0x4004_AE99 on Vcpu;
    /// [`GuestDebug`].
    SetGuestDebug SET_GUEST_DEBUG = iow::<GuestDebug>(0x9b), 0x4208_AE9B on Vcpu;
    /// [`VcpuEvents`].
    GetVcpuEvents GET_VCPU_EVENTS = ior::<VcpuEvents>(0x9f), 0x8040_AE9F on Vcpu;
    /// [`VcpuEvents`].
    SetVcpuEvents SET_VCPU_EVENTS = iow::<VcpuEvents>(0xa0), 0x4040_AEA0 on Vcpu;
    /// [`EnableCap`]; on a VM it carries the realm commands.
    EnableCap ENABLE_CAP = iow::<EnableCap>(0xa3), 0x4068_AEA3 on Vm | Vcpu;
    /// [`OneReg`].
    GetOneReg GET_ONE_REG = iow::<OneReg>(0xab), 0x4010_AEAB on Vcpu;
    /// [`OneReg`].
    SetOneReg SET_ONE_REG = iow::<OneReg>(0xac), 0x4010_AEAC on Vcpu;
    /// [`VcpuInit`].
    ArmVcpuInit ARM_VCPU_INIT = iow::<VcpuInit>(0xae), 0x4020_AEAE on Vcpu;
    /// [`VcpuInit`].
    ArmPreferredTarget ARM_PREFERRED_TARGET = ior::<VcpuInit>(0xaf), 0x8020_AEAF on Vm;
    /// [`RegListHeader`] and the identifiers behind it.
    GetRegList GET_REG_LIST = iowr::<RegListHeader>(0xb0), 0xC008_AEB0 on Vcpu;
    /// [`CounterOffset`].
    ArmSetCounterOffset ARM_SET_COUNTER_OFFSET = iow::<CounterOffset>(0xb5), 0x4010_AEB5 on Vm;
    /// [`RegMaskRange`].
    ArmGetRegWritableMasks ARM_GET_REG_WRITABLE_MASKS = ior::<RegMaskRange>(0xb6), 0x8040_AEB6 on Vm;
    /// Argument: a pointer to an `int` with a vCPU feature number.
    ArmVcpuFinalize ARM_VCPU_FINALIZE = iow::<i32>(0xc2), 0x4004_AEC2 on Vcpu;
    /// [`MemoryAttributes`].
    SetMemoryAttributes SET_MEMORY_ATTRIBUTES = iow::<MemoryAttributes>(0xd2), 0x4020_AED2 on Vm;
    /// [`CreateGuestMemfd`]. Returns a file.
    CreateGuestMemfd CREATE_GUEST_MEMFD = iowr::<CreateGuestMemfd>(0xd4), 0xC040_AED4 on Vm;
    /// [`CreateDevice`].
    CreateDevice CREATE_DEVICE = iowr::<CreateDevice>(0xe0), 0xC00C_AEE0 on Vm;
    /// [`DeviceAttr`].
    SetDeviceAttr SET_DEVICE_ATTR = iow::<DeviceAttr>(0xe1), 0x4018_AEE1 on Vm | Vcpu | Emulated;
    /// [`DeviceAttr`].
    GetDeviceAttr GET_DEVICE_ATTR = iow::<DeviceAttr>(0xe2), 0x4018_AEE2 on Vm | Vcpu | Emulated;
    /// [`DeviceAttr`].
    HasDeviceAttr HAS_DEVICE_ATTR = iow::<DeviceAttr>(0xe3), 0x4018_AEE3 on Vm | Vcpu | Emulated;
}

impl core::fmt::Display for Ioctl {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match (self.name(), self) {
            (Some(name), _) => f.write_str(name),
            (None, Self::Unknown(cmd)) => write!(f, "ioctl {cmd:#010x}"),
            (None, other) => write!(f, "{other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V8: Generation = Generation::V8;

    #[test]
    fn every_ioctl_is_found_by_its_number_on_its_files() {
        for &(kind, cmd, ioctl) in Ioctl::TABLE {
            assert_eq!(Ioctl::parse(&V8, kind, cmd), ioctl);
            assert_eq!(ioctl.number(&V8), Some(cmd));
        }
    }

    #[test]
    fn an_ioctl_of_another_file_is_unknown() {
        assert_eq!(Ioctl::parse(&V8, FileKind::Vm, numbers::RUN), Ioctl::Unknown(0xAE80));
        assert_eq!(Ioctl::parse(&V8, FileKind::Emulated, numbers::ENABLE_CAP), Ioctl::Unknown(0x4068_AEA3));
    }

    #[test]
    fn psci_complete_exists_only_where_the_generation_has_it() {
        let without = Generation { psci_complete: None, ..V8 };
        assert_eq!(Ioctl::parse(&V8, FileKind::Vcpu, 0x4018_AED6), Ioctl::ArmVcpuRmmPsciComplete);
        assert_eq!(Ioctl::parse(&V8, FileKind::Vm, 0x4018_AED6), Ioctl::Unknown(0x4018_AED6));
        assert_eq!(Ioctl::parse(&without, FileKind::Vcpu, 0x4018_AED6), Ioctl::Unknown(0x4018_AED6));
        assert_eq!(Ioctl::ArmVcpuRmmPsciComplete.number(&without), None);
    }

    #[test]
    fn ioctls_are_shown_by_the_kernels_names() {
        extern crate std;
        use std::string::ToString;
        assert_eq!(Ioctl::CreateGuestMemfd.to_string(), "KVM_CREATE_GUEST_MEMFD");
        assert_eq!(Ioctl::Unknown(0xAE77).to_string(), "ioctl 0x0000ae77");
        assert_eq!(Ioctl::ArmVcpuRmmPsciComplete.to_string(), "KVM_ARM_VCPU_RMM_PSCI_COMPLETE");
    }
}
