//! RTT entries as VMSAv8-64 stage 2 descriptors. A valid entry is what the MMU walks; in an invalid one the MMU ignores
//! every other bit, and HIPAS, RIPAS and the address of an entry that is ASSIGNED but not accessible live there.
//!
//! | bits | invalid | valid |
//! |---|---|---|
//! | 1:0 | 0 | type |
//! | 2 | HIPAS is ASSIGNED | MemAttr\[0\] |
//! | 6:5 | RIPAS | MemAttr\[3\], S2AP\[0\] |
//! | 9:8 | PA\[51:50\] with LPA2 | PA\[51:50\] with LPA2, else SH |
//! | 49:12 | PA\[49:12\] | PA\[49:12\] |
//! | 55 | unprotected | NS |
//!
//! A zero entry is UNASSIGNED, EMPTY.

use realm_abi::rmi::{RTT_PAGE_LEVEL, Ripas, UnprotectedDesc};

/// An RTT entry: its state and what exists in that state (RMM 1.0, RmmRttEntry).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rtte {
    /// Protected, no memory behind it.
    Unassigned { ripas: Ripas },
    /// Protected, with DATA granules from `pa` on.
    Assigned { ripas: Ripas, pa: u64 },
    /// Unprotected, nothing mapped.
    UnassignedNs,
    /// Unprotected, mapped as the Host said: address, MemAttr and S2AP in their places.
    AssignedNs { desc: u64 },
    /// The next table.
    Table { pa: u64 },
}

const TYPE_MASK: u64 = 0b11;
const TYPE_BLOCK: u64 = 0b01;
const TYPE_TABLE_OR_PAGE: u64 = 0b11;

const INVALID_ASSIGNED: u64 = 1 << 2;
const INVALID_RIPAS_SHIFT: u32 = 5;

const MEMATTR_MASK: u64 = 0b111 << 2;
const MEMATTR_RESERVED: u64 = 0b100 << 2;
const S2AP_MASK: u64 = 0b11 << 6;
const SH_OUTER: u64 = 0b10 << 8;
const SH_INNER: u64 = 0b11 << 8;
const AF: u64 = 1 << 10;
const NS: u64 = 1 << 55;
/// XN\[1:0\] = 0b10: not executable at EL1 and EL0.
const XN: u64 = 0b10 << 53;

const ADDRESS_48: u64 = 0x0000_ffff_ffff_f000;
const ADDRESS_LPA2: u64 = 0x0003_ffff_ffff_f300;

/// Normal Inner Write-Back with FEAT_S2FWB, read and write: how a realm's own memory is mapped.
const PROTECTED: u64 = UnprotectedDesc::normal_rw(0).0 | AF;

/// The address bits of a descriptor.
const fn address_mask(lpa2: bool) -> u64 {
    if lpa2 { ADDRESS_LPA2 } else { ADDRESS_48 }
}

/// `pa` in its place in a descriptor.
const fn address_to_bits(pa: u64, lpa2: bool) -> u64 {
    let high = if lpa2 { (pa >> 50 & 0b11) << 8 } else { 0 };
    (pa & address_mask(lpa2) & !0xfff) | high
}

/// The address a descriptor holds.
const fn bits_to_address(word: u64, lpa2: bool) -> u64 {
    let high = if lpa2 { (word >> 8 & 0b11) << 50 } else { 0 };
    (word & address_mask(lpa2) & !0xfff) | high
}

/// The bits of an unprotected descriptor that are the Host's (RMM 1.0, unprotected RTT entries).
pub(crate) const fn host_bits(lpa2: bool) -> u64 {
    address_mask(lpa2) | MEMATTR_MASK | S2AP_MASK
}

/// `attr_valid` of RTT_MAP_UNPROTECTED: nothing set that is not the Host's, and MemAttr not the reserved value.
pub(crate) const fn is_valid_unprotected(desc: u64, lpa2: bool) -> bool {
    desc & !host_bits(lpa2) == 0 && desc & MEMATTR_MASK != MEMATTR_RESERVED
}

impl Rtte {
    /// The descriptor of this entry in a table at `level`.
    pub(crate) const fn encode(self, level: i64, lpa2: bool) -> u64 {
        let leaf = if level == RTT_PAGE_LEVEL { TYPE_TABLE_OR_PAGE } else { TYPE_BLOCK };
        match self {
            Self::Unassigned { ripas } => (ripas.0 as u64) << INVALID_RIPAS_SHIFT,
            Self::Assigned { ripas: Ripas::RAM, pa } => {
                let sh = if lpa2 { 0 } else { SH_INNER };
                address_to_bits(pa, lpa2) | PROTECTED | sh | leaf
            }
            Self::Assigned { ripas, pa } => {
                address_to_bits(pa, lpa2) | (ripas.0 as u64) << INVALID_RIPAS_SHIFT | INVALID_ASSIGNED
            }
            Self::UnassignedNs => NS,
            Self::AssignedNs { desc } => {
                // Cacheable memory is Inner Shareable, all other Outer (RMM 1.0); with LPA2 VTCR_EL2 says.
                let cacheable = desc & MEMATTR_MASK >= UnprotectedDesc::MEMATTR_NORMAL_WB;
                let sh = match (lpa2, cacheable) {
                    (true, _) => 0,
                    (false, true) => SH_INNER,
                    (false, false) => SH_OUTER,
                };
                desc & host_bits(lpa2) | sh | AF | NS | XN | leaf
            }
            Self::Table { pa } => address_to_bits(pa, lpa2) | TYPE_TABLE_OR_PAGE,
        }
    }

    /// The entry a descriptor in a table at `level` stands for.
    pub(crate) const fn decode(word: u64, level: i64, lpa2: bool) -> Self {
        let pa = bits_to_address(word, lpa2);
        let unprotected = word & NS != 0;
        if word & TYPE_MASK == 0 {
            let ripas = Ripas((word >> INVALID_RIPAS_SHIFT & 0b11) as u8);
            return match (unprotected, word & INVALID_ASSIGNED != 0) {
                (true, _) => Self::UnassignedNs,
                (false, false) => Self::Unassigned { ripas },
                (false, true) => Self::Assigned { ripas, pa },
            };
        }
        if level != RTT_PAGE_LEVEL && word & TYPE_MASK == TYPE_TABLE_OR_PAGE {
            return Self::Table { pa };
        }
        if unprotected {
            Self::AssignedNs { desc: word & host_bits(lpa2) }
        } else {
            Self::Assigned { ripas: Ripas::RAM, pa }
        }
    }

    /// Whether the entry holds an address (RMM 1.0, RmmRttEntry.addr).
    pub(crate) const fn is_live(self) -> bool {
        !matches!(self, Self::Unassigned { .. } | Self::UnassignedNs)
    }
    /// [`Self::is_live`] of descriptors: of one, or whether any is of several that were or-ed. Each one that is live has
    /// a type or is ASSIGNED, and no other has one of these bits. XN is in none that has no type: asked for as well, it makes
    /// compilers load whole words, by pairs, where tables are searched.
    pub(crate) const fn holds_address(words: u64) -> bool {
        words & (TYPE_MASK | INVALID_ASSIGNED | XN) != 0
    }
    /// Whether the entry keeps its table alive, and counts in its reference count.
    pub(crate) const fn is_counted(self) -> bool {
        matches!(self, Self::Assigned { .. } | Self::Table { .. })
    }
    /// Whether a TLB can hold a translation by this entry.
    pub(crate) const fn is_mapping(self) -> bool {
        matches!(self, Self::Assigned { ripas: Ripas::RAM, .. } | Self::AssignedNs { .. })
    }
    /// The RIPAS, of a protected entry that is not a table.
    pub(crate) const fn ripas(self) -> Option<Ripas> {
        match self {
            Self::Unassigned { ripas } | Self::Assigned { ripas, .. } => Some(ripas),
            _ => None,
        }
    }
    /// The entry with another RIPAS; one that has none is as it was.
    pub(crate) const fn with_ripas(self, ripas: Ripas) -> Self {
        match self {
            Self::Unassigned { .. } => Self::Unassigned { ripas },
            Self::Assigned { pa, .. } => Self::Assigned { ripas, pa },
            other => other,
        }
    }
    /// What an entry without memory of the same half becomes when its table is destroyed. The specification's success
    /// condition speaks of protected entries only; an unprotected one has no RIPAS to be DESTROYED.
    pub(crate) const fn destroyed(protected: bool) -> Self {
        if protected { Self::Unassigned { ripas: Ripas::DESTROYED } } else { Self::UnassignedNs }
    }

    /// What RTT_READ_ENTRY reports as the descriptor: the address, and the Host's attributes of an unprotected mapping.
    /// The address of an ASSIGNED entry is reported whatever its RIPAS.
    pub(crate) const fn host_view(self, lpa2: bool) -> u64 {
        match self {
            Self::Assigned { pa, .. } | Self::Table { pa } => address_to_bits(pa, lpa2),
            Self::AssignedNs { desc } => desc,
            Self::Unassigned { .. } | Self::UnassignedNs => 0,
        }
    }
    /// The address the Host gave in an unprotected descriptor.
    pub(crate) const fn unprotected_address(desc: u64, lpa2: bool) -> u64 {
        bits_to_address(desc, lpa2)
    }
}
