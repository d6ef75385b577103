//! The shape of a realm's stage 2: what follows from the IPA width, the starting level and LPA2.

use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::{RTT_ENTRIES, RTT_PAGE_LEVEL, rtt_entry_size};

/// A realm's stage 2 translation, fixed when the realm is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage2 {
    /// First starting-level table; the others follow it.
    pub base: u64,
    /// Starting level, -1 to 3.
    pub level_start: i64,
    /// Starting-level tables, 1 to 16.
    pub num_start: u64,
    /// IPA width in bits.
    pub ipa_width: u8,
    /// Virtual Machine Identifier.
    pub vmid: u16,
    /// Descriptors have the LPA2 form.
    pub lpa2: bool,
}

/// Bytes an entry at `level` maps; 0 for a level that does not exist, which [`Stage2`] never has.
pub(crate) fn entry_size(level: i64) -> u64 {
    rtt_entry_size(level).unwrap_or(0)
}

/// `ipa` down to the start of the entry at `level` that maps it.
pub(crate) fn align_down(ipa: u64, level: i64) -> u64 {
    ipa & !entry_size(level).wrapping_sub(1)
}

/// Whether an entry at `level` can start at `address`.
pub(crate) fn is_aligned(address: u64, level: i64) -> bool {
    align_down(address, level) == address
}

/// How many entries at `level` map what is before `ipa`.
pub(crate) fn entry_number(ipa: u64, level: i64) -> u64 {
    ipa.checked_shr(entry_size(level).trailing_zeros()).unwrap_or(0)
}

impl Stage2 {
    /// Starting-level tables that an IPA space of `ipa_width` bits needs when walks start at `level`, or `None` if they
    /// cannot start there (RMM 1.0, RMI_REALM_CREATE; the architecture's rules on concatenated tables).
    #[must_use]
    pub fn tables_at_start(ipa_width: u8, level: i64, lpa2: bool) -> Option<u64> {
        let lowest = if lpa2 { -1 } else { 0 };
        if level < lowest || level > RTT_PAGE_LEVEL {
            return None;
        }
        // Bits one entry of the starting level resolves, and bits one full table of them does.
        let entry_bits = entry_size(level).trailing_zeros();
        let table_bits = entry_bits.saturating_add(9);
        let width = u32::from(ipa_width);
        let concatenated = match level {
            // Level -1 has 16 entries in one table, level 0 as many as 48 bits have: more takes LPA2.
            -1 => return (width > entry_bits && width <= 52).then_some(1),
            0 if !lpa2 => 0,
            _ => 4,
        };
        if width <= entry_bits || width > table_bits.saturating_add(concatenated) {
            return None;
        }
        Some(1 << width.saturating_sub(table_bits))
    }

    /// First IPA of the unprotected half.
    #[must_use]
    pub fn protected_top(&self) -> u64 {
        1 << (self.ipa_width.saturating_sub(1) & 63)
    }
    /// Whether `ipa` is in the protected half.
    #[must_use]
    pub fn is_protected(&self, ipa: u64) -> bool {
        ipa < self.protected_top()
    }
    /// Whether `ipa` is in the unprotected half.
    #[must_use]
    pub fn is_unprotected(&self, ipa: u64) -> bool {
        self.contains(ipa) && !self.is_protected(ipa)
    }
    /// Whether `ipa` is in the IPA space.
    #[must_use]
    pub fn contains(&self, ipa: u64) -> bool {
        ipa >> (self.ipa_width & 63) == 0
    }

    /// VTTBR_EL2: the root, PA\[51:48\] in bits 5:2, and the VMID.
    #[must_use]
    pub fn vttbr(&self) -> u64 {
        (self.base & 0xffff_ffff_ffff) | ((self.base >> 48) & 0xf) << 2 | u64::from(self.vmid) << 48
    }

    /// VTCR_EL2 on a machine with `pa_bits` of physical address and, or not, 16-bit VMIDs. NSA is set and NSW clear: bit
    /// 55 of a descriptor selects the physical address space of what it maps. Without LPA2 more than 48 bits of physical
    /// address are a reserved value of PS.
    #[must_use]
    pub fn vtcr(&self, pa_bits: u8, vmid16: bool) -> u64 {
        const RES1_NSA: u64 = 1 << 31 | 1 << 30;
        const SH0_INNER: u64 = 0b11 << 12;
        const ORGN0_IRGN0_WRITE_BACK: u64 = 0b01 << 10 | 0b01 << 8;
        let (sl0, sl2) = match self.level_start {
            -1 => (0, 1),
            0 => (2, 0),
            1 => (1, 0),
            2 => (0, 0),
            _ => (3, 0),
        };
        let ps: u64 = match pa_bits {
            48.. if !self.lpa2 => 5,
            ..=35 => 0,
            36..=39 => 1,
            40..=41 => 2,
            42..=43 => 3,
            44..=47 => 4,
            48..=51 => 5,
            _ => 6,
        };
        let t0sz = 64_u64.saturating_sub(self.ipa_width.into());
        RES1_NSA
            | SH0_INNER
            | ORGN0_IRGN0_WRITE_BACK
            | t0sz
            | sl0 << 6
            | ps << 16
            | u64::from(vmid16) << 19
            | u64::from(self.lpa2) << 32
            | sl2 << 33
    }

    /// Whether tables can exist at `level`.
    pub(crate) const fn has_level(&self, level: i64) -> bool {
        level >= self.level_start && level <= RTT_PAGE_LEVEL
    }
    /// Whether tables that are not starting-level ones can exist at `level`.
    pub(crate) const fn has_inner_level(&self, level: i64) -> bool {
        level > self.level_start && level <= RTT_PAGE_LEVEL
    }
    /// Whether the realm can map by entries at `level`: pages, 2 MiB and 1 GiB blocks.
    pub(crate) const fn maps_at(&self, level: i64) -> bool {
        level >= 1 && self.has_level(level)
    }
    /// The highest address plus one a descriptor can hold: without LPA2 they have 48 bits.
    pub(crate) const fn pa_top(&self) -> u64 {
        if self.lpa2 { 1 << 52 } else { 1 << 48 }
    }

    /// The starting-level table with the entry for `ipa`.
    pub(crate) fn root_of(&self, ipa: u64) -> u64 {
        self.root(entry_number(ipa, self.level_start) >> RTT_ENTRIES.trailing_zeros())
    }
    /// The `index`th starting-level table.
    pub(crate) fn root(&self, index: u64) -> u64 {
        self.base.saturating_add(index.saturating_mul(GRANULE_SIZE))
    }
    /// Index of the entry for `ipa` in a table at `level`.
    pub(crate) fn index(ipa: u64, level: i64) -> usize {
        let entry = entry_number(ipa, level) & (RTT_ENTRIES as u64).wrapping_sub(1);
        // Less than 512.
        usize::try_from(entry).unwrap_or(0)
    }
}
