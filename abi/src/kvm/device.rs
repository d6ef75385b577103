//! Devices the kernel emulates and interrupts into them (`linux/kvm.h`, `asm/kvm.h` of arm64).

use crate::layout::assert_layout;
use crate::macros::open_enum;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

open_enum! {
    /// The kind of a device for KVM_CREATE_DEVICE.
    pub struct DeviceType(u32) {
        /// GICv2; a realm cannot have it (ENODEV).
        ARM_VGIC_V2 = 5,
        /// GICv3.
        ARM_VGIC_V3 = 7,
        /// Interrupt Translation Service of a GICv3.
        ARM_VGIC_ITS = 8,
    }
}

/// Attribute group of the GIC's base addresses.
pub const VGIC_GRP_ADDR: u32 = 0;
/// Attribute group with the number of interrupts (a `u32`, SGIs and PPIs included).
pub const VGIC_GRP_NR_IRQS: u32 = 3;
/// Attribute group of commands.
pub const VGIC_GRP_CTRL: u32 = 4;
/// In [`VGIC_GRP_CTRL`]: the configuration is complete.
pub const VGIC_CTRL_INIT: u64 = 0;
/// In [`VGIC_GRP_ADDR`]: the distributor, 64 KiB (a `u64`).
pub const VGIC_V3_ADDR_DIST: u64 = 2;
/// In [`VGIC_GRP_ADDR`]: the redistributors, 128 KiB for each vCPU (a `u64`).
pub const VGIC_V3_ADDR_REDIST: u64 = 3;

/// `struct kvm_create_device`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CreateDevice {
    /// [`DeviceType`].
    pub device_type: u32,
    /// The file, written by the kernel.
    pub fd: u32,
    /// Bit 0: only test whether the type exists.
    pub flags: u32,
}

assert_layout!(CreateDevice, 12, { device_type: 0, fd: 4, flags: 8 });

/// `struct kvm_device_attr`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DeviceAttr {
    /// None are defined.
    pub flags: u32,
    /// Group, by device.
    pub group: u32,
    /// Attribute in the group.
    pub attr: u64,
    /// User address of the value.
    pub addr: u64,
}

assert_layout!(DeviceAttr, 24, { flags: 0, group: 4, attr: 8, addr: 16 });

/// `struct kvm_irq_level`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IrqLevel {
    /// [`IrqLine`].
    pub irq: u32,
    /// 1 raises the line, 0 lowers it.
    pub level: u32,
}

assert_layout!(IrqLevel, 8, { irq: 0, level: 4 });

/// The interrupt a KVM_IRQ_LINE names: vCPU index bits 11:8 in bits 31:28, type in 27:24, vCPU index bits 7:0 in
/// 23:16, number in 15:0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IrqLine(pub u32);

impl IrqLine {
    const TYPE_SPI: u32 = 1;
    const TYPE_PPI: u32 = 2;

    /// A shared interrupt; `intid` is the GIC's number, from 32 on.
    #[must_use]
    pub const fn spi(intid: u16) -> Self {
        Self(Self::TYPE_SPI << 24 | intid as u32)
    }
    /// A private interrupt (16 to 31) of a vCPU (at most 4095; higher bits are dropped).
    #[must_use]
    pub const fn ppi(vcpu: u32, intid: u16) -> Self {
        Self((vcpu >> 8 & 0xf) << 28 | Self::TYPE_PPI << 24 | (vcpu & 0xff) << 16 | intid as u32)
    }
    /// Whether this is a shared interrupt.
    #[must_use]
    pub const fn is_spi(self) -> bool {
        self.0 >> 24 & 0xf == Self::TYPE_SPI
    }
    /// Whether this is a private interrupt.
    #[must_use]
    pub const fn is_ppi(self) -> bool {
        self.0 >> 24 & 0xf == Self::TYPE_PPI
    }
    /// The vCPU's index.
    #[must_use]
    pub const fn vcpu(self) -> u32 {
        (self.0 >> 28) << 8 | self.0 >> 16 & 0xff
    }
    /// The GIC's interrupt number.
    #[must_use]
    pub const fn intid(self) -> u16 {
        (self.0 & 0xffff) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_line_keeps_its_parts() {
        let line = IrqLine::ppi(0x1ab, 27);
        assert_eq!((line.is_ppi(), line.is_spi(), line.vcpu(), line.intid()), (true, false, 0x1ab, 27));
        assert_eq!(line.0, 0x12ab_001b);
        assert_eq!(IrqLine::spi(33).0, 0x0100_0021);
        assert!(IrqLine::spi(33).is_spi());
    }
}
