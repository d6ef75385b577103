//! Guest memory (`linux/kvm.h`; docs/kvm-realm-abi.md section 2.9).

use crate::layout::assert_layout;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

bitflags::bitflags! {
    /// Flags of a memory slot; unknown bits are kept.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct MemRegionFlags: u32 {
        /// Writes are logged.
        const LOG_DIRTY_PAGES = 1 << 0;
        /// Writes exit to user space.
        const READONLY = 1 << 1;
        /// Private memory comes from a guest_memfd.
        const GUEST_MEMFD = 1 << 2;
        const _ = !0;
    }
}

/// The attribute "private" of guest memory: backed by the guest_memfd and not by the user mapping.
pub const MEMORY_ATTRIBUTE_PRIVATE: u64 = 1 << 3;

/// `struct kvm_userspace_memory_region`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UserMemoryRegion {
    /// Slot number.
    pub slot: u32,
    /// [`MemRegionFlags`].
    pub flags: u32,
    /// First IPA.
    pub guest_phys_addr: u64,
    /// Bytes; 0 deletes the slot.
    pub memory_size: u64,
    /// User address.
    pub userspace_addr: u64,
}

assert_layout!(UserMemoryRegion, 32, { slot: 0, flags: 4, guest_phys_addr: 8, memory_size: 16, userspace_addr: 24 });

/// `struct kvm_userspace_memory_region2`. For a realm, `guest_phys_addr` is in the protected half of the IPA space
/// and the same slot describes the unprotected alias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UserMemoryRegion2 {
    /// Slot number.
    pub slot: u32,
    /// [`MemRegionFlags`].
    pub flags: u32,
    /// First IPA.
    pub guest_phys_addr: u64,
    /// Bytes; 0 deletes the slot.
    pub memory_size: u64,
    /// User address of the shared side.
    pub userspace_addr: u64,
    /// Offset of the private side in `guest_memfd`.
    pub guest_memfd_offset: u64,
    /// File of the private side.
    pub guest_memfd: u32,
    /// Zero.
    pub pad1: u32,
    /// Zero.
    pub pad2: [u64; 14],
}

assert_layout!(UserMemoryRegion2, 160, {
    slot: 0, flags: 4, guest_phys_addr: 8, memory_size: 16, userspace_addr: 24, guest_memfd_offset: 32,
    guest_memfd: 40, pad1: 44, pad2: 48,
});

/// `struct kvm_create_guest_memfd`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CreateGuestMemfd {
    /// Bytes, a multiple of the page size.
    pub size: u64,
    /// Zero.
    pub flags: u64,
    /// Zero.
    pub reserved: [u64; 6],
}

assert_layout!(CreateGuestMemfd, 64, { size: 0, flags: 8, reserved: 16 });

/// `struct kvm_memory_attributes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryAttributes {
    /// First IPA, page aligned.
    pub address: u64,
    /// Bytes, a multiple of the page size.
    pub size: u64,
    /// 0 or [`MEMORY_ATTRIBUTE_PRIVATE`].
    pub attributes: u64,
    /// Zero.
    pub flags: u64,
}

assert_layout!(MemoryAttributes, 32, { address: 0, size: 8, attributes: 16, flags: 24 });
