//! Encodings of the Granule Protection Table (Arm ARM section D9.5).

/// Granule Protection Information: who may access a granule.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Gpi(u8);

impl Gpi {
    /// Nobody.
    pub const NO_ACCESS: Self = Self(0x0);
    /// The Secure physical address space.
    pub const SECURE: Self = Self(0x8);
    /// The Non-secure physical address space.
    pub const NS: Self = Self(0x9);
    /// The Root physical address space.
    pub const ROOT: Self = Self(0xA);
    /// The Realm physical address space.
    pub const REALM: Self = Self(0xB);
    /// All of them.
    pub const ANY: Self = Self(0xF);

    /// The four bits of the encoding.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    const fn from_bits(bits: u64) -> Self {
        Self((bits & 0xf) as u8)
    }
}

impl core::fmt::Debug for Gpi {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::NO_ACCESS => f.write_str("no access"),
            Self::SECURE => f.write_str("Secure"),
            Self::NS => f.write_str("Non-secure"),
            Self::ROOT => f.write_str("Root"),
            Self::REALM => f.write_str("Realm"),
            Self::ANY => f.write_str("any"),
            Self(bits) => write!(f, "GPI {bits:#x}"),
        }
    }
}

/// A level 0 entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L0Descriptor {
    /// The whole region belongs to one owner.
    Block(Gpi),
    /// The level 1 table is at this address.
    Table(u64),
}

const L0_BLOCK: u64 = 0b0001;
const L0_TABLE: u64 = 0b0011;
const L0_ADDRESS: u64 = 0x000f_ffff_ffff_f000;

impl L0Descriptor {
    /// The entry as hardware reads it.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        match self {
            Self::Block(gpi) => L0_BLOCK | (gpi.0 as u64) << 4,
            Self::Table(address) => L0_TABLE | address & L0_ADDRESS,
        }
    }
    /// Reads an entry; `None` for an invalid one.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Option<Self> {
        match bits & 0xf {
            L0_BLOCK => Some(Self::Block(Gpi::from_bits(bits >> 4))),
            L0_TABLE => Some(Self::Table(bits & L0_ADDRESS)),
            _ => None,
        }
    }
}

/// The sizes of a contiguous range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contiguous {
    /// 2 MiB.
    Mib2 = 1,
    /// 32 MiB.
    Mib32 = 2,
    /// 512 MiB.
    Mib512 = 3,
}

impl Contiguous {
    /// All sizes, the largest first.
    pub const LARGEST_FIRST: [Self; 3] = [Self::Mib512, Self::Mib32, Self::Mib2];

    /// Bytes of the range, also its alignment.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Mib2 => 2 << 20,
            Self::Mib32 => 32 << 20,
            Self::Mib512 => 512 << 20,
        }
    }
}

/// A level 1 entry: 64 KiB of address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L1Descriptor {
    /// One owner for each of 16 granules, the lowest address in the lowest bits.
    Granules(u64),
    /// Part of a contiguous range with one owner.
    Contiguous(Gpi, Contiguous),
}

/// Type field of a contiguous descriptor. No granules descriptor looks like one: 1 is not a GPI.
const L1_CONTIGUOUS: u64 = 0b0001;

impl L1Descriptor {
    /// 16 granules with the same owner.
    #[must_use]
    pub const fn granules(gpi: Gpi) -> Self {
        Self::Granules(0x1111_1111_1111_1111_u64.wrapping_mul(gpi.0 as u64))
    }
    /// The entry as hardware reads it.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        match self {
            Self::Granules(bits) => bits,
            Self::Contiguous(gpi, size) => L1_CONTIGUOUS | (gpi.0 as u64) << 4 | (size as u64) << 8,
        }
    }
    /// Reads an entry.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        let size = match (bits >> 8) & 0b11 {
            1 => Contiguous::Mib2,
            2 => Contiguous::Mib32,
            3 => Contiguous::Mib512,
            _ => return Self::Granules(bits),
        };
        if bits & 0xf == L1_CONTIGUOUS {
            Self::Contiguous(Gpi::from_bits(bits >> 4), size)
        } else {
            Self::Granules(bits)
        }
    }
    /// The owner of the granule at `pa`, which this entry covers.
    #[must_use]
    pub const fn gpi(self, pa: u64) -> Gpi {
        match self {
            Self::Granules(bits) => Gpi::from_bits(bits >> shift(pa)),
            Self::Contiguous(gpi, _) => gpi,
        }
    }
    /// The entry with another owner for the granule at `pa`; `None` for a contiguous one, which has no single granules.
    #[must_use]
    pub const fn with(self, pa: u64, gpi: Gpi) -> Option<Self> {
        match self {
            Self::Granules(bits) => {
                Some(Self::Granules(bits & !(0xf << shift(pa)) | (gpi.0 as u64) << shift(pa)))
            }
            Self::Contiguous(..) => None,
        }
    }
}

/// Where the GPI of the granule at `pa` starts in its entry.
const fn shift(pa: u64) -> u32 {
    ((pa >> 12) as u32 & 0xf) << 2
}
