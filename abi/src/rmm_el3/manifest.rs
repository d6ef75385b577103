//! The boot manifest, versions 0.1 to 0.5: what EL3 tells the RMM about the platform (chapter 8.3).
//!
//! It starts the shared buffer; its lists lie in the same buffer and are named by physical addresses.

mod build;
mod parse;
#[cfg(test)]
mod tests;

pub use build::{ManifestBuilder, NoRoom};
pub use parse::{Limits, Manifest};

use super::BootCode;
use crate::layout::assert_layout;
use crate::rmi::Version;
use core::fmt;
use core::marker::PhantomData;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The head of the manifest as of 0.5. Older ones end earlier: 0.1 before `dram`, 0.2 before `consoles`, 0.3 before
/// `ncoh_regions`, 0.4 before `smmus`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Head {
    /// [`Version`], 32 bits of it.
    pub version: u32,
    /// Zero.
    pub padding: u32,
    /// Platform data, or 0.
    pub plat_data: u64,
    /// [`MemoryBank`]s.
    pub dram: List,
    /// [`ConsoleInfo`]s.
    pub consoles: List,
    /// Device regions that are not coherent, [`MemoryBank`]s.
    pub ncoh_regions: List,
    /// Device regions that are coherent, [`MemoryBank`]s.
    pub coh_regions: List,
    /// [`SmmuInfo`]s.
    pub smmus: List,
    /// [`RootComplexInfo`]s.
    pub root_complexes: RootComplexList,
}

assert_layout!(Head, 168, {
    version: 0, padding: 4, plat_data: 8, dram: 16, consoles: 40, ncoh_regions: 64, coh_regions: 88, smmus: 112,
    root_complexes: 136,
});

/// Where a list is. `count`, `pointer`, the words of the list and `checksum` sum to zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct List {
    /// Entries.
    pub count: u64,
    /// Physical address of the first.
    pub pointer: u64,
    /// See above.
    pub checksum: u64,
}

assert_layout!(List, 24, { count: 0, pointer: 8, checksum: 16 });

/// Where the root complexes are. `count`, `info_version`, `pointer`, the words of the list and of everything it points
/// to, and `checksum` sum to zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RootComplexList {
    /// Entries.
    pub count: u64,
    /// Version of [`RootComplexInfo`]: 0.1.
    pub info_version: u32,
    /// Zero.
    pub padding: u32,
    /// Physical address of the first.
    pub pointer: u64,
    /// See above.
    pub checksum: u64,
}

assert_layout!(RootComplexList, 32, { count: 0, info_version: 8, padding: 12, pointer: 16, checksum: 24 });

/// A range of memory or of device addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryBank {
    /// First address.
    pub base: u64,
    /// Bytes.
    pub size: u64,
}

assert_layout!(MemoryBank, 16, { base: 0, size: 8 });

/// A console the RMM may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ConsoleInfo {
    /// Its registers.
    pub base: u64,
    /// Pages to map for them.
    pub map_pages: u64,
    /// Kind, padded with zeros: "pl011".
    pub name: [u8; 8],
    /// Clock in Hz.
    pub clk_in_hz: u64,
    /// Baud rate.
    pub baud_rate: u64,
    /// Zero.
    pub flags: u64,
}

assert_layout!(ConsoleInfo, 48, { base: 0, map_pages: 8, name: 16, clk_in_hz: 24, baud_rate: 32, flags: 40 });

/// An SMMU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SmmuInfo {
    /// Its registers.
    pub base: u64,
    /// Its Realm registers.
    pub realm_base: u64,
}

assert_layout!(SmmuInfo, 16, { base: 0, realm_base: 8 });

/// A PCIe root complex, version 0.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RootComplexInfo {
    /// Its configuration space.
    pub ecam_base: u64,
    /// PCIe segment.
    pub segment: u8,
    /// Zero.
    pub padding: [u8; 3],
    /// Number of [`RootPortInfo`]s.
    pub num_root_ports: u32,
    /// Physical address of the first.
    pub root_ports: u64,
}

assert_layout!(RootComplexInfo, 24, { ecam_base: 0, segment: 8, num_root_ports: 12, root_ports: 16 });

/// A root port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RootPortInfo {
    /// Identifier.
    pub root_port_id: u16,
    /// Zero.
    pub padding: u16,
    /// Number of [`BdfMapping`]s.
    pub num_bdf_mappings: u32,
    /// Physical address of the first.
    pub bdf_mappings: u64,
}

assert_layout!(RootPortInfo, 16, { root_port_id: 0, num_bdf_mappings: 4, bdf_mappings: 8 });

/// How an SMMU sees the devices behind a root port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BdfMapping {
    /// First bus, device, function.
    pub base: u16,
    /// End, exclusive.
    pub top: u16,
    /// Offset to the stream number, in units of 2^16.
    pub offset: u16,
    /// Index in the list of SMMUs.
    pub smmu: u16,
}

assert_layout!(BdfMapping, 8, { base: 0, top: 2, offset: 4, smmu: 6 });

/// Entries of a list, read where they lie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Entries<'a, T> {
    bytes: &'a [u8],
    entry: PhantomData<T>,
}

impl<'a, T: FromBytes> Entries<'a, T> {
    const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, entry: PhantomData }
    }
    /// How many.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes.len() / size_of::<T>()
    }
    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = T> + use<'a, T> {
        self.bytes.chunks_exact(size_of::<T>()).filter_map(|bytes| T::read_from_bytes(bytes).ok())
    }
    /// The sum of their 64-bit words.
    fn sum(&self) -> u64 {
        let words = self.bytes.chunks_exact(8).filter_map(|word| u64::read_from_bytes(word).ok());
        words.fold(0, u64::wrapping_add)
    }
}

impl<T: FromBytes + fmt::Debug> fmt::Debug for Entries<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Which list of the manifest an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListName {
    /// Memory banks.
    Dram,
    /// Consoles.
    Consoles,
    /// Device regions that are not coherent.
    NcohRegions,
    /// Device regions that are coherent.
    CohRegions,
    /// SMMUs.
    Smmus,
    /// Root complexes, their ports and mappings.
    RootComplexes,
}

/// Why a manifest is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManifestError {
    /// The version is not 0.1 or a later minor.
    Version(Version),
    /// The buffer ends before the head does.
    TooShort {
        /// Bytes the version needs.
        needed: usize,
        /// Bytes there are.
        len: usize,
    },
    /// A list is not aligned or not in the buffer.
    Pointer {
        /// Which list.
        list: ListName,
        /// Where it is said to be.
        pointer: u64,
    },
    /// The words do not sum to zero.
    Checksum(ListName),
    /// There is no memory bank.
    NoBanks,
    /// There are more banks, or regions, than can be handled.
    TooManyBanks {
        /// Which list.
        list: ListName,
        /// How many.
        count: u64,
    },
    /// A bank has base 0, is empty, is not whole pages, is not behind its predecessor or ends beyond the physical
    /// address space.
    Bank {
        /// Which list.
        list: ListName,
        /// The bank.
        bank: MemoryBank,
    },
    /// All banks together hold more granules than can be tracked.
    TooManyGranules(u64),
}

impl ManifestError {
    /// What RMM_BOOT_COMPLETE has to say.
    #[must_use]
    pub const fn boot_code(&self) -> BootCode {
        match self {
            Self::Version(_) => BootCode::MANIFEST_VERSION_NOT_SUPPORTED,
            _ => BootCode::MANIFEST_DATA_ERROR,
        }
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => {
                write!(f, "boot manifest version {version}, where 0.1 or a later minor is needed")
            }
            Self::TooShort { needed, len } => {
                write!(f, "boot manifest of {needed} bytes in a buffer of {len}")
            }
            Self::Pointer { list, pointer } => {
                write!(
                    f,
                    "list {list:?} of the boot manifest at {pointer:#x} is not aligned or not in the buffer"
                )
            }
            Self::Checksum(list) => write!(f, "checksum of list {list:?} of the boot manifest is not zero"),
            Self::NoBanks => f.write_str("boot manifest names no memory"),
            Self::TooManyBanks { list, count } => {
                write!(f, "list {list:?} of the boot manifest has {count} entries, more than can be handled")
            }
            Self::Bank { list, bank: MemoryBank { base, size } } => write!(
                f,
                "entry {base:#x}+{size:#x} in list {list:?} of the boot manifest is empty, not whole pages, out of order or beyond the address space"
            ),
            Self::TooManyGranules(count) => {
                write!(f, "boot manifest names {count} granules, more than can be tracked")
            }
        }
    }
}
