//! Geometry of a realm's intermediate physical address space: where its stage 2 walk starts and with how many tables.

use realm_abi::GRANULE_SHIFT;
use realm_abi::rmi::{RTT_PAGE_LEVEL, rtt_entry_size};

/// Address bits one table level resolves: 512 entries of 8 bytes.
const BITS_PER_LEVEL: u32 = 9;
/// Address bits that concatenated tables of the starting level can resolve: up to 16 of them.
const CONCATENATION_BITS: u32 = 4;
/// Smallest IPA width of a realm (KVM's rule; RMM 1.0 has the same minimum).
pub const MIN_IPA_BITS: u32 = 32;
/// Largest IPA width without LPA2.
pub const MAX_IPA_BITS_NO_LPA2: u32 = 48;
/// Largest IPA width with LPA2.
pub const MAX_IPA_BITS: u32 = 52;
/// Bytes of a level 2 block, which the Host core also uses as the unit of long work.
pub const BLOCK_SIZE: u64 = 2 << 20;
/// Level of a [`BLOCK_SIZE`] entry.
pub const BLOCK_LEVEL: i64 = 2;

/// An IPA space.
///
/// A table level resolves 9 bits and the page 12, so `n` bits need `ceil((n - 12) / 9)` levels. Up to 16 tables side by
/// side at the starting level resolve 4 bits more than one table does, and the architecture lets a walk start with them
/// instead of with one more level. So only `n - 4` bits need levels of their own:
///
/// ```text
/// levels      = ceil((ipa_bits - 4 - 12) / 9)
/// start level = 4 - levels                       (the last level is 3)
/// root tables = 2^(ipa_bits - (9 * levels + 12)), 1 if that is below 1
/// ```
///
/// For 52 bits, with LPA2, that is 16 tables at level 0; the single level -1 table that LPA2 also allows is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpaSpace {
    bits: u32,
}

// `new` bounds the width to 32 to 52, so nothing saturates or wraps.
impl IpaSpace {
    /// The space of `bits` bits, `None` outside [`MIN_IPA_BITS`] to [`MAX_IPA_BITS`].
    #[must_use]
    pub const fn new(bits: u32) -> Option<Self> {
        if bits < MIN_IPA_BITS || bits > MAX_IPA_BITS {
            return None;
        }
        Some(Self { bits })
    }

    /// Width in bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.bits
    }

    /// Whether the width needs LPA2.
    #[must_use]
    pub const fn needs_lpa2(self) -> bool {
        self.bits > MAX_IPA_BITS_NO_LPA2
    }

    /// Table levels, the starting one included.
    #[must_use]
    pub const fn levels(self) -> u32 {
        self.bits.saturating_sub(CONCATENATION_BITS + GRANULE_SHIFT).div_ceil(BITS_PER_LEVEL)
    }

    /// The level at which the walk starts, 0 to 2.
    #[must_use]
    pub const fn start_level(self) -> i64 {
        (RTT_PAGE_LEVEL + 1).saturating_sub(self.levels() as i64)
    }

    /// Bits one table of the starting level covers.
    const fn root_span_bits(self) -> u32 {
        self.levels().saturating_mul(BITS_PER_LEVEL).saturating_add(GRANULE_SHIFT)
    }

    /// Tables at the starting level: 1, 2, 4, 8 or 16.
    #[must_use]
    pub const fn root_tables(self) -> usize {
        1_usize.wrapping_shl(self.bits.saturating_sub(self.root_span_bits()))
    }

    /// End of the protected half, 2^(bits - 1): also the bit that distinguishes the halves.
    #[must_use]
    pub const fn protected_end(self) -> u64 {
        1_u64.wrapping_shl(self.bits.saturating_sub(1))
    }

    /// End of the space, 2^bits.
    #[must_use]
    pub const fn end(self) -> u64 {
        1_u64.wrapping_shl(self.bits)
    }

    /// Whether `ipa` lies in the protected half.
    #[must_use]
    pub const fn is_protected(self, ipa: u64) -> bool {
        ipa < self.protected_end()
    }

    /// `ipa` as an address of the protected half: the alias bit is cleared.
    #[must_use]
    pub const fn without_alias(self, ipa: u64) -> u64 {
        ipa & !self.protected_end()
    }

    /// The unprotected alias of a protected address or of the exclusive end of a protected range. Formed by addition: an
    /// end equal to [`Self::protected_end`] becomes [`Self::end`], where setting the bit would make the range empty.
    #[must_use]
    pub const fn alias(self, ipa: u64) -> u64 {
        ipa.saturating_add(self.protected_end())
    }

    /// The shallowest level whose entry can describe the head of `[start, end)` (docs/kvm-realm-abi.md section 3.11).
    #[must_use]
    pub const fn map_level(self, start: u64, end: u64) -> i64 {
        let mut level = RTT_PAGE_LEVEL;
        while level > self.start_level() {
            let size = entry_size(level.saturating_sub(1));
            if !start.is_multiple_of(size) || end.saturating_sub(start) < size {
                break;
            }
            level = level.saturating_sub(1);
        }
        level
    }
}

/// Bytes of an entry at a level a realm has; levels outside -1 to 3 count as 3.
#[must_use]
pub const fn entry_size(level: i64) -> u64 {
    match rtt_entry_size(level) {
        Some(size) => size,
        None => realm_abi::GRANULE_SIZE,
    }
}

/// `ipa` aligned down to an entry of `level`.
#[must_use]
pub const fn align_down(ipa: u64, level: i64) -> u64 {
    ipa & !entry_size(level).wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_level_and_root_tables_are_those_of_the_reference_for_every_width() {
        // docs/kvm-realm-abi.md section 3.3.
        let table = [
            (32, 2, 4),
            (33, 2, 8),
            (34, 2, 16),
            (35, 1, 1),
            (36, 1, 1),
            (37, 1, 1),
            (38, 1, 1),
            (39, 1, 1),
            (40, 1, 2),
            (41, 1, 4),
            (42, 1, 8),
            (43, 1, 16),
            (44, 0, 1),
            (45, 0, 1),
            (46, 0, 1),
            (47, 0, 1),
            (48, 0, 1),
            (49, 0, 2),
            (50, 0, 4),
            (51, 0, 8),
            (52, 0, 16),
        ];
        assert!(table.iter().map(|row| row.0).eq(MIN_IPA_BITS..=MAX_IPA_BITS));
        for (bits, level, tables) in table {
            let space = IpaSpace::new(bits).unwrap();
            assert_eq!((space.start_level(), space.root_tables()), (level, tables), "{bits} bits");
            assert_eq!(space.needs_lpa2(), bits > 48);
        }
    }

    #[test]
    fn the_root_covers_the_space_with_as_few_tables_as_16_allow() {
        for bits in MIN_IPA_BITS..=MAX_IPA_BITS {
            let space = IpaSpace::new(bits).unwrap();
            let one = u128::from(entry_size(space.start_level())) * 512;
            let tables = space.root_tables() as u128;
            assert!([1, 2, 4, 8, 16].contains(&tables));
            assert!(one * tables >= 1 << bits, "{bits} bits: the tables cover the space");
            assert!(tables == 1 || one * tables / 2 < 1 << bits, "{bits} bits: half of them do not");
            let deeper = one / 512 * 16;
            assert!(deeper < 1 << bits, "{bits} bits: 16 tables one level deeper do not");
        }
    }

    #[test]
    fn widths_no_realm_has_are_no_space() {
        for bits in [0, 31, 53, 64, u32::MAX] {
            assert_eq!(IpaSpace::new(bits), None);
        }
    }

    #[test]
    fn the_alias_of_the_end_of_the_protected_half_is_the_end_of_the_space() {
        let space = IpaSpace::new(33).unwrap();
        assert_eq!(space.alias(space.protected_end()), space.end());
        assert_eq!(space.alias(0x1000), 0x1_0000_1000);
        assert_eq!(space.without_alias(0x1_0000_1000), 0x1000);
        assert!(space.is_protected(0xffff_f000) && !space.is_protected(0x1_0000_0000));
    }

    #[test]
    fn the_map_level_is_the_shallowest_whose_entry_describes_the_head_of_the_range() {
        let space = IpaSpace::new(40).unwrap();
        for (start, end, level) in [
            (0, 0x1000, 3),
            (0x1000, 0x40_0000, 3),
            (0x20_0000, 0x40_0000, 2),
            (0x20_0000, 0x3f_f000, 3),
            (0x4000_0000, 0x8000_0000, 1),
            (0, 1 << 39, 1),
        ] {
            assert_eq!(space.map_level(start, end), level, "{start:#x}..{end:#x}");
        }
    }
}
