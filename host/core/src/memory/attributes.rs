//! Memory attributes (KVM_SET_MEMORY_ATTRIBUTES): which guest pages are private.

use crate::{Errno, room};
use core::ops::Range;
use realm_alloc::Vec;

/// Most ranges there can be, whatever a VMM asks for: they are memory of the kernel, and a change moves them under a lock.
const MAX_RANGES: usize = 1 << 18;

/// How many ranges a change may add for a moment.
pub const MORE_RANGES: usize = 2;

/// The private parts of a guest's address space, in bytes: sorted ranges that neither overlap nor touch.
#[derive(Debug, Default)]
pub struct PrivateRanges(pub(crate) Vec<Range<u64>>);

impl PrivateRanges {
    /// The private range around `addr`, `None` if the page is shared.
    #[must_use]
    pub fn around(&self, addr: u64) -> Option<Range<u64>> {
        let range = self.0.get(self.0.partition_point(|range| range.end <= addr))?;
        (range.start <= addr).then(|| range.clone())
    }

    /// Whether any part of `range` is private.
    #[must_use]
    pub fn meet(&self, range: &Range<u64>) -> bool {
        let next = self.0.get(self.0.partition_point(|r| r.end <= range.start));
        next.is_some_and(|r| r.start < range.end)
    }

    /// Makes `range` private or shared. Changes nothing on failure. It needs room for [`MORE_RANGES`] more.
    ///
    /// # Errors
    /// `ENOMEM` without that room, or if private and shared pages would alternate too often.
    pub fn set(&mut self, range: Range<u64>, private: bool) -> Result<(), Errno> {
        if range.is_empty() {
            return Ok(());
        }
        // What the range meets; touching counts when it is joined, not when it is cut.
        let (first, last) = if private {
            (
                self.0.partition_point(|r| r.end < range.start),
                self.0.partition_point(|r| r.start <= range.end),
            )
        } else {
            (
                self.0.partition_point(|r| r.end <= range.start),
                self.0.partition_point(|r| r.start < range.end),
            )
        };
        let others = self.0.len().saturating_sub(last.saturating_sub(first));
        let met = self.0.get(first..last).unwrap_or(&[]);
        let head = met.first().map_or(range.start, |r| r.start.min(range.start));
        let tail = met.last().map_or(range.end, |r| r.end.max(range.end));
        let pieces = if private { [head..tail, 0..0] } else { [head..range.start, range.end..tail] };
        let pieces = pieces.into_iter().filter(|piece| !piece.is_empty());
        if others.saturating_add(room::count(pieces.clone())) > MAX_RANGES {
            return Err(Errno::ENOMEM);
        }
        if self.0.spare() < MORE_RANGES {
            return Err(Errno::ENOMEM);
        }
        self.0.remove_range(first, last);
        for (place, piece) in (first..usize::MAX).zip(pieces) {
            // There is room for two.
            let _full = self.0.insert_within(place, piece);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sets with room for it.
    fn set(ranges: &mut PrivateRanges, range: Range<u64>, private: bool) -> Result<(), Errno> {
        ranges.0.try_reserve(MORE_RANGES).unwrap();
        ranges.set(range, private)
    }

    #[test]
    fn a_change_without_room_changes_nothing() {
        let mut ranges = PrivateRanges::default();
        assert_eq!(ranges.set(0..4096, true), Err(Errno::ENOMEM));
        assert!(ranges.around(0).is_none());
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many steps for an interpreter")]
    fn no_vmm_makes_the_list_longer_than_its_limit() {
        let mut ranges = PrivateRanges::default();
        let last = MAX_RANGES as u64 * 2;
        for start in (0..last).step_by(2) {
            assert_eq!(set(&mut ranges, start..start + 1, true), Ok(()));
        }
        assert_eq!(set(&mut ranges, last..last + 1, true), Err(Errno::ENOMEM), "one more");
        assert!(ranges.around(last).is_none());
        assert_eq!(set(&mut ranges, 0..2, true), Ok(()), "one longer, joined with the next");
        assert_eq!(set(&mut ranges, last..last + 2, true), Ok(()), "now there is room for one");
        assert_eq!(set(&mut ranges, last..last + 1, false), Ok(()), "one shorter");
        assert_eq!(set(&mut ranges, 1..2, false), Err(Errno::ENOMEM), "one cut in two");
        assert_eq!(set(&mut ranges, 0..last + 2, false), Ok(()), "none");
        assert!(ranges.around(0).is_none());
    }

    /// An interpreter takes seconds for each step.
    const STEPS: usize = if cfg!(miri) { 4 } else { 60 };

    proptest! {
        #[test]
        fn ranges_answer_like_a_bitmap(
            steps in prop::collection::vec((0u64..40, 0u64..12, any::<bool>()), 0..STEPS),
        ) {
            let mut ranges = PrivateRanges::default();
            let mut bits = [false; 64];
            for (start, len, private) in steps {
                set(&mut ranges, start..start + len, private).unwrap();
                bits[start as usize..(start + len) as usize].fill(private);
                for (addr, bit) in bits.iter().enumerate() {
                    let Some(range) = ranges.around(addr as u64) else {
                        prop_assert!(!bit);
                        continue;
                    };
                    prop_assert!(range.contains(&(addr as u64)));
                    prop_assert!(range.clone().all(|addr| bits[addr as usize]));
                    prop_assert!(range.start == 0 || !bits[range.start as usize - 1]);
                    prop_assert!(range.end == 64 || !bits[range.end as usize]);
                }
                for (start, len) in (0..64).flat_map(|start| [1, 2, 7].map(|len| (start, len))) {
                    let end = (start + len).min(64);
                    let any = bits[start..end].contains(&true);
                    prop_assert_eq!(ranges.meet(&(start as u64..end as u64)), any);
                }
                for pair in ranges.0.windows(2) {
                    prop_assert!(pair[0].end < pair[1].start);
                }
            }
        }
    }
}
