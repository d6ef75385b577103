//! Which translation tables a realm has, and which of its granules are assigned: all that the measurement depends on.

use alloc::collections::{BTreeMap, BTreeSet};
use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::{RTT_ENTRIES, RTT_PAGE_LEVEL, rtt_entry_size};

/// What RTT_INIT_RIPAS answers to a well-formed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InitRipas {
    /// Entries of `entry_size` bytes from the base up to `top` are RAM now.
    Done { top: u64, entry_size: u64 },
    /// RMI_ERROR_RTT: the walk ended at `level`, and the entry there cannot be used.
    ErrorRtt { level: i64 },
}

/// The tables below the starting level, and the assigned granules.
#[derive(Clone, Debug)]
pub(super) struct Tables {
    start_level: i64,
    protected_top: u64,
    /// (level, base of the range the table covers).
    tables: BTreeSet<(i64, u64)>,
    /// Base to end of runs of assigned granules; runs neither overlap nor touch.
    assigned: BTreeMap<u64, u64>,
}

impl Tables {
    /// The tables after REALM_CREATE: only those of the starting level.
    pub(super) fn new(ipa_bits: u8) -> Self {
        // Levels of 9 bits over the 12 of a page, with up to 16 concatenated tables at the top (4 bits).
        let levels = i64::from(ipa_bits.saturating_sub(8)).checked_div(9).unwrap_or(0);
        Self {
            start_level: RTT_PAGE_LEVEL.saturating_add(1).saturating_sub(levels),
            protected_top: 1_u64.checked_shl(u32::from(ipa_bits).saturating_sub(1)).unwrap_or(0),
            tables: BTreeSet::new(),
            assigned: BTreeMap::new(),
        }
    }

    /// First IPA of the unprotected half.
    pub(super) const fn protected_top(&self) -> u64 {
        self.protected_top
    }

    /// The level at which a walk to level 3 ends.
    pub(super) fn walk(&self, ipa: u64) -> i64 {
        let mut level = self.start_level;
        while level < RTT_PAGE_LEVEL && self.is_table(level, ipa) {
            level = level.saturating_add(1);
        }
        level
    }

    /// Whether the entry for `ipa` at `level` points to a table.
    fn is_table(&self, level: i64, ipa: u64) -> bool {
        self.tables.contains(&(level.saturating_add(1), align_down(ipa, entry_size(level))))
    }

    /// RTT_INIT_RIPAS with `base` and `top` granule-aligned, ordered and protected.
    ///
    /// The scan is bounded by TABLE entries, the end of the table and `top` [RMM 1.0, RMI_RTT_INIT_RIPAS]; TF-RMM stops
    /// at ASSIGNED entries too, where a Host would then fail.
    pub(super) fn init_ripas(&self, base: u64, top: u64) -> InitRipas {
        let level = self.walk(base);
        let entry_size = entry_size(level);
        let refused = InitRipas::ErrorRtt { level };
        if !base.is_multiple_of(entry_size) || level == RTT_PAGE_LEVEL && self.is_assigned(base) {
            return refused;
        }
        // In a concatenated root every 512 entries count as one table; where a call ends there does not change what
        // is measured.
        let table_size = entry_size.saturating_mul(RTT_ENTRIES as u64);
        let table_end = align_down(base, table_size).saturating_add(table_size);
        let below = level.saturating_add(1);
        let first_table = self
            .tables
            .range((below, base)..(below, table_end))
            .next()
            .map_or(table_end, |&(_, table)| table);
        match align_down(top, entry_size).min(first_table) {
            walk_top if walk_top > base => InitRipas::Done { top: walk_top, entry_size },
            _ => refused,
        }
    }

    /// The shallowest level whose entry can describe the head of `[start, end)`.
    pub(super) fn find_map_level(&self, start: u64, end: u64) -> i64 {
        let mut level = RTT_PAGE_LEVEL;
        while level > self.start_level {
            let above = level.saturating_sub(1);
            let size = entry_size(above);
            if !start.is_multiple_of(size) || start.checked_add(size).is_none_or(|top| top > end) {
                break;
            }
            level = above;
        }
        level
    }

    /// Makes the tables of the levels `from + 1` to `to` on the way to `ipa`.
    pub(super) fn create_levels(&mut self, ipa: u64, from: i64, to: i64) {
        let mut level = from;
        while level < to {
            let base = align_down(ipa, entry_size(level));
            level = level.saturating_add(1);
            self.tables.insert((level, base));
        }
    }

    /// The first assigned granule in `[base, end)`.
    pub(super) fn first_assigned(&self, base: u64, end: u64) -> Option<u64> {
        if self.is_assigned(base) {
            return Some(base);
        }
        self.assigned.range(base..end).next().map(|(&first, _)| first)
    }

    fn is_assigned(&self, ipa: u64) -> bool {
        self.assigned.range(..=ipa).next_back().is_some_and(|(_, &end)| ipa < end)
    }

    /// Assigns a free granule.
    pub(super) fn assign(&mut self, ipa: u64) {
        let end = ipa.saturating_add(GRANULE_SIZE);
        // A run that begins where this granule ends becomes part of this one's.
        let end = self.assigned.remove(&end).unwrap_or(end);
        match self.assigned.range_mut(..ipa).next_back() {
            Some((_, before)) if *before == ipa => *before = end,
            _ => {
                self.assigned.insert(ipa, end);
            }
        }
    }
}

/// Bytes an entry maps. The levels of a realm's tables all exist.
fn entry_size(level: i64) -> u64 {
    rtt_entry_size(level).unwrap_or(GRANULE_SIZE)
}

fn align_down(value: u64, size: u64) -> u64 {
    value & !size.saturating_sub(1)
}
