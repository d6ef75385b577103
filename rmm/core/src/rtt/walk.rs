//! Walking the tables, hand over hand.

use super::Rtte;
use super::stage2::{Stage2, align_down, entry_size};
use crate::granule::{GranuleGuard, GranuleState};
use crate::platform::Broken;
use crate::{Platform, Rmm};
use core::sync::atomic::Ordering;
use realm_abi::rmi::{RTT_ENTRIES, RTT_PAGE_LEVEL, ReturnCode, Ripas};

/// A locked table.
#[derive(Debug)]
pub(crate) struct Table<'a> {
    pub(crate) guard: GranuleGuard<'a>,
    pub(crate) level: i64,
    pub(crate) lpa2: bool,
}

impl Table<'_> {
    /// Runs `f` on the table's descriptors.
    pub(crate) fn with<P: Platform, R>(&mut self, platform: &P, f: impl FnOnce(&mut Words) -> R) -> R {
        let (level, lpa2) = (self.level, self.lpa2);
        platform
            .with_granule(&mut self.guard, |granule| f(&mut Words { words: &mut granule.words, level, lpa2 }))
    }

    /// Adds `change` to the number of live protected entries.
    pub(crate) fn count<P: Platform>(&mut self, rmm: &Rmm<'_, P>, change: i32) {
        rmm.must(self.guard.count(change), Broken::Count);
    }

    /// Index behind the last entry that may be live.
    fn end(&self) -> usize {
        usize::try_from(self.guard.reach()).unwrap_or(usize::MAX).saturating_mul(GROUP).min(RTT_ENTRIES)
    }
    /// Notes that no entry from `index` on is live.
    fn set_end(&mut self, index: usize) {
        let reach = u32::try_from(index.div_ceil(GROUP)).unwrap_or(u32::MAX);
        self.guard.set_reach(self.guard.reach().min(reach));
    }
    /// Notes that the entry at `index` is live, and those before it may be.
    pub(crate) fn reach(&mut self, index: usize) {
        let reach = u32::try_from(index / GROUP).unwrap_or(u32::MAX).saturating_add(1);
        self.guard.set_reach(self.guard.reach().max(reach));
    }

    /// Whether the table is live (RMM 1.0, RTT liveness).
    pub(crate) const fn is_live(&self) -> bool {
        self.guard.refcount() != 0
    }
}

/// Entries looked at together when a table is searched. The guard knows behind which group there is nothing live: a
/// table that fills from one end and empties from the other is hardly searched at all.
const GROUP: usize = 16;

/// The descriptors of a locked table.
pub(crate) struct Words<'g> {
    words: &'g mut [core::sync::atomic::AtomicU64; 512],
    level: i64,
    lpa2: bool,
}

impl Words<'_> {
    /// The entry at `index`.
    pub(crate) fn get(&self, index: usize) -> Rtte {
        Rtte::decode(self.raw(index), self.level, self.lpa2)
    }
    /// The descriptor at `index`.
    pub(crate) fn raw(&self, index: usize) -> u64 {
        self.words.get(index).map_or(0, |word| word.load(Ordering::Relaxed))
    }
    /// Writes the entry at `index` in one piece, as the MMU may be reading it.
    pub(crate) fn set(&mut self, index: usize, entry: Rtte) {
        self.set_raw(index, entry.encode(self.level, self.lpa2));
    }
    /// Writes the descriptor at `index`.
    fn set_raw(&mut self, index: usize, descriptor: u64) {
        if let Some(word) = self.words.get(index) {
            word.store(descriptor, Ordering::Release);
        }
    }
    /// Fills the table from `start` on with `descriptor`, each further one `step` more. The MMU cannot reach the table
    /// yet, so the stores can be any: writing the entry that points to it publishes all of it.
    pub(crate) fn fill(&mut self, start: usize, descriptor: u64, step: u64) {
        /// Words a round.
        const STRIDE: usize = 8;
        let (strides, rest) = self.words.get_mut(start..).unwrap_or_default().as_chunks_mut::<STRIDE>();
        let mut descriptor = descriptor;
        for words in strides {
            for word in words {
                *word.get_mut() = descriptor;
                descriptor = descriptor.wrapping_add(step);
            }
        }
        for word in rest {
            *word.get_mut() = descriptor;
            descriptor = descriptor.wrapping_add(step);
        }
    }
    /// Whether each descriptor is `step` more than the one before.
    pub(crate) fn counts_up(&mut self, step: u64) -> bool {
        let mut expected = self.raw(0);
        // Nobody writes a locked table: its words are as good as plain ones.
        self.words.as_chunks_mut::<8>().0.iter_mut().all(|words| {
            let mut differences = 0;
            for word in words {
                differences |= *word.get_mut() ^ expected;
                expected = expected.wrapping_add(step);
            }
            differences == 0
        })
    }
    /// Index of the first live entry in `[start, end)`; `end` is that of a group.
    fn first_live(&mut self, start: usize, end: usize) -> Option<usize> {
        let aligned = start.next_multiple_of(GROUP).min(end);
        if let Some(index) = self.first_live_in(start, aligned) {
            return Some(index);
        }
        // As in `counts_up`.
        let (groups, _) = self.words.get_mut(aligned..end)?.as_chunks_mut::<GROUP>();
        let group = groups.iter_mut().position(|group| {
            Rtte::holds_address(group.iter_mut().fold(0, |bits, word| bits | *word.get_mut()))
        })?;
        self.first_live_in(aligned.saturating_add(group.saturating_mul(GROUP)), end)
    }
    /// Index of the first live entry in `[start, end)`, one by one.
    fn first_live_in(&self, start: usize, end: usize) -> Option<usize> {
        (start..end).find(|index| Rtte::holds_address(self.raw(*index)))
    }
}

/// Where a walk ended.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    /// The table, locked; its level is the level reached.
    pub(crate) table: Table<'a>,
    /// Index of the entry for the IPA.
    pub(crate) index: usize,
    /// That entry.
    pub(crate) entry: Rtte,
    /// The IPA.
    pub(crate) ipa: u64,
}

/// Walks from the root towards `level` and stops there or at the first entry that is not a table
/// (RMM 1.0, RTT walk). `ipa` is in the IPA space. The caller has the RD locked, or runs a REC of the realm, until
/// this returns.
///
/// # Errors
/// `RMI_ERROR_INPUT` if a table is not one, which no command can bring about.
pub(crate) fn walk<'a, P: Platform>(
    rmm: &Rmm<'a, P>,
    stage2: &Stage2,
    ipa: u64,
    level: i64,
) -> Result<Walk<'a>, ReturnCode> {
    let lock = |pa, level| -> Result<Table<'a>, ReturnCode> {
        Ok(Table { guard: rmm.granules.lock(pa, GranuleState::Rtt)?, level, lpa2: stage2.lpa2 })
    };
    let mut table = lock(stage2.root_of(ipa), stage2.level_start)?;
    loop {
        let index = Stage2::index(ipa, table.level);
        let entry = table.with(&rmm.platform, |words| words.get(index));
        match entry {
            Rtte::Table { pa } if table.level < level => table = lock(pa, table.level.saturating_add(1))?,
            _ => return Ok(Walk { table, index, entry, ipa }),
        }
    }
}

impl Walk<'_> {
    /// The level reached.
    pub(crate) const fn level(&self) -> i64 {
        self.table.level
    }
    /// `RMI_ERROR_RTT` at the level reached.
    pub(crate) const fn error(&self) -> ReturnCode {
        ReturnCode::error_rtt(self.table.level)
    }
    /// First IPA the entry maps.
    pub(crate) fn base(&self) -> u64 {
        align_down(self.ipa, self.level())
    }
    /// IPA after the last one the entry maps.
    pub(crate) fn end(&self) -> u64 {
        self.base().saturating_add(entry_size(self.level()))
    }

    /// Writes the entry, keeps the table's reference count, and forgets translations the old one allowed.
    pub(crate) fn set<P: Platform>(&mut self, rmm: &Rmm<'_, P>, stage2: &Stage2, entry: Rtte) {
        let index = self.index;
        self.table.with(&rmm.platform, |words| words.set(index, entry));
        match (self.entry.is_counted(), entry.is_counted()) {
            (false, true) => self.table.count(rmm, 1),
            (true, false) => self.table.count(rmm, -1),
            _ => {}
        }
        if entry.is_live() {
            self.table.reach(index);
        }
        if self.entry.is_mapping() {
            stage2.forget(rmm, self.base(), entry_size(self.level()));
        }
        self.entry = entry;
    }

    /// The first half of break-before-make: nothing is mapped, and nothing remembered of what was. The caller keeps the
    /// table locked until it has set the new entry, so whoever faults on a gap in protected memory waits for it to close.
    /// One in unprotected memory is an exit to the Host, which asked for it: whose fault it is the RMM does not look up.
    pub(crate) fn break_entry<P: Platform>(&mut self, rmm: &Rmm<'_, P>, stage2: &Stage2) {
        self.set(rmm, stage2, Rtte::Unassigned { ripas: Ripas::EMPTY });
    }

    /// `walk_top`: the IPA of the first live entry of this table from the IPA on (that IPA itself if its entry is live,
    /// also inside it), or the end of the table (RMM 1.0, RttSkipNonLiveEntries).
    pub(crate) fn skip_non_live<P: Platform>(&mut self, platform: &P) -> u64 {
        if self.entry.is_live() {
            return self.ipa;
        }
        self.next_live(platform).0
    }

    /// [`Self::skip_non_live`] after the entry has lost what made it live: remembers how far the others reach.
    pub(crate) fn skip_removed<P: Platform>(&mut self, platform: &P) -> u64 {
        let (top, live) = self.next_live(platform);
        if live.is_none() {
            self.table.set_end(self.index);
        }
        top
    }

    /// The IPA of the first live entry behind this one, which is not live, or the end of the table; and its index, if there
    /// is one.
    fn next_live<P: Platform>(&mut self, platform: &P) -> (u64, Option<usize>) {
        let first = self.index.saturating_add(1);
        let end = self.table.end();
        // A page table is in one half of the IPA space: nothing counted is nothing live.
        let may_be =
            self.table.is_live() || matches!(self.entry, Rtte::UnassignedNs) || self.level() < RTT_PAGE_LEVEL;
        let live = if may_be && first < end {
            self.table.with(platform, |words| words.first_live(first, end))
        } else {
            None
        };
        let ahead = live.unwrap_or(RTT_ENTRIES).saturating_sub(self.index);
        (self.base().saturating_add(entry_size(self.level()).saturating_mul(ahead as u64)), live)
    }
}

impl Stage2 {
    /// Forgets the realm's translations of `[base, base + size)`.
    pub(crate) fn forget<P: Platform>(&self, rmm: &Rmm<'_, P>, base: u64, size: u64) {
        rmm.platform.tlb_invalidate(self.vmid, crate::platform::TlbScope::Range { base, size });
    }
}
