//! Creating, folding and destroying tables.

use super::spare::{Shortage, Spare, Stop};
use super::{Block, Blocks, Shared, Stage2, Tidy, number, place};
use crate::error::RealmError;
use crate::realm::ipa::{BLOCK_LEVEL, BLOCK_SIZE, align_down, entry_size};
use crate::rmm::granule::DelegatedGranule;
use crate::rmm::rmi::{Failure, Removal, RmiError, implausible};
use crate::{Host, Lock};
use realm_abi::rmi::{RTT_PAGE_LEVEL, ReturnCode, RmiCommand, RttEntryState};

/// Tables destroyed in one piece of work.
const TABLES_PER_PIECE: usize = super::PIECE;

/// Where the level is in the index of a table above the last level.
const LEVEL_SHIFT: u32 = 60;

/// The index of the table at `level` (below the last) that covers `ipa`: those of a deeper level come behind.
fn upper_index(ipa: u64, level: i64) -> u64 {
    let number = ipa.checked_div(entry_size(level.saturating_sub(1))).unwrap_or(0);
    upper_first(level) | number
}

/// Level and first address of the table with this index.
fn upper_place(index: u64) -> (i64, u64) {
    let level = i64::try_from(index >> LEVEL_SHIFT).unwrap_or(0);
    let number = index & (1_u64 << LEVEL_SHIFT).wrapping_sub(1);
    (level, number.saturating_mul(entry_size(level.saturating_sub(1))))
}

/// The lowest index of a table at `level`.
fn upper_first(level: i64) -> u64 {
    u64::try_from(level).unwrap_or(0) << LEVEL_SHIFT
}

/// The way through all tables of a realm, the deepest first. What fails is left behind.
pub(crate) struct Sweep {
    level: i64,
    /// At the last level the address from which on the tables are to be tried, above it their number.
    from: u64,
    first_error: Option<RealmError>,
}

impl Sweep {
    pub(crate) const fn new() -> Self {
        Self { level: RTT_PAGE_LEVEL, from: 0, first_error: None }
    }

    /// Goes on to the level above.
    fn up(&mut self) {
        (self.level, self.from) = (self.level.saturating_sub(1), 0);
    }

    /// Whether all of them were destroyed.
    pub(crate) fn result(self) -> Result<(), RealmError> {
        self.first_error.map_or(Ok(()), Err)
    }
}

/// The record of the block around `ipa`, made if there is none.
pub(super) fn block_at<'a>(
    blocks: &'a mut Blocks,
    ipa: u64,
    spare: &mut Spare,
) -> Result<&'a mut Block, Stop> {
    let place = place(ipa);
    let short = || Stop::Short(Shortage { records: 1, ..Shortage::default() });
    if blocks.get(place).is_none() {
        blocks.insert(place, Block::default(), &mut spare.blocks).map_err(|_| short())?;
    }
    blocks.get_mut(place).ok_or_else(short)
}

/// Whether the Host made a table of the last level for `ipa`.
pub(super) fn has_table(blocks: &Blocks, ipa: u64) -> bool {
    blocks.get(place(ipa)).is_some_and(|block| block.table.is_some())
}

/// Whether a table at `level` could not be made because there is one: ERROR_RTT with the level of its parent entry (RMM 1.0,
/// RMI_RTT_CREATE), which is one less.
fn already_there(error: RmiError, level: i64) -> Result<(), Stop> {
    if error.rtt_level() == Some(level.saturating_sub(1)) { Ok(()) } else { Err(error.into()) }
}

impl<H: Host> Stage2<'_, H> {
    /// The first address from `ipa` on for which the Host made a table of the last level. Nothing need be found that is not below
    /// `until`: blocks without a table, of which there may be many, are looked at only up to there.
    pub(super) fn next_page_table(&self, ipa: u64, until: u64) -> Option<u64> {
        let last = place(until);
        let number = self.tables.blocks.first(number(ipa), |blocks, mut from| {
            loop {
                let (place, block) = blocks.next(from)?;
                if block.table.is_some() {
                    return Some(place);
                }
                if place > last {
                    return None;
                }
                from = place.checked_add(1)?;
            }
        })?;
        Some(number.saturating_mul(BLOCK_SIZE).max(ipa))
    }

    /// Creates the tables on the way to `ipa` below level `from` (where a walk ended) down to level `to`, with granules of
    /// `spare`.
    pub(super) fn create_tables(
        &self,
        blocks: &mut Blocks,
        spare: &mut Spare,
        ipa: u64,
        from: i64,
        to: i64,
    ) -> Result<(), Stop> {
        let first = from.max(self.tables.space.start_level()).saturating_add(1);
        let last = to.min(RTT_PAGE_LEVEL);
        let count = usize::try_from(last.saturating_sub(first).saturating_add(1)).unwrap_or(0);
        if spare.tables() < count {
            return Err(Stop::Short(Shortage { tables: count, records: count, pages: 0 }));
        }
        for level in first..=last {
            let base = align_down(ipa, level.saturating_sub(1));
            if level < RTT_PAGE_LEVEL {
                self.create_upper(spare, base, level)?;
                continue;
            }
            let block = block_at(blocks, ipa, spare)?;
            if block.table.is_none() {
                block.table = self.create_table(spare, base, level)?;
            }
        }
        Ok(())
    }

    #[inline(never)]
    fn create_upper(&self, spare: &mut Spare, base: u64, level: i64) -> Result<(), Stop> {
        let short = Stop::Short(Shortage { tables: 1, records: 1, pages: 0 });
        let mut upper = self.tables.upper.lock();
        let index = upper_index(base, level);
        if upper.get(index).is_some() {
            return Ok(());
        }
        // It is remembered before it is made: what the Host cannot remember it cannot take back.
        let Some(granule) = spare.take_table() else { return Err(short) };
        let pa = granule.pa();
        let result = match upper.insert(index, granule, &mut spare.upper) {
            Ok(_) => self.rmm.rmi().rtt_create(self.rd, pa, base, level),
            Err(granule) => {
                drop(upper);
                self.put_back(spare, granule);
                return Err(short);
            }
        };
        let Err(error) = result else { return Ok(()) };
        if self.is_table(pa, base, level) {
            return Ok(());
        }
        let granule = upper.remove(index);
        drop(upper);
        if let Some(granule) = granule {
            self.put_back(spare, granule);
        }
        already_there(error, level)
    }

    /// Whether the RMM made the table at `level` for `base` of this granule, whatever it answered: one that the Host does not
    /// know of would keep the realm for ever.
    #[inline(never)]
    fn is_table(&self, granule: u64, base: u64, level: i64) -> bool {
        let parent = level.saturating_sub(1);
        let Ok(reply) = self.rmm.rmi().rtt_read_entry(self.rd, base, parent) else { return false };
        let (at, state, desc, _) = reply.read_entry();
        at == parent && state == RttEntryState::TABLE && desc == granule
    }

    /// Puts a granule back of which no table was made.
    #[inline(never)]
    fn put_back(&self, spare: &mut Spare, granule: DelegatedGranule) {
        if let Err(granule) = spare.put_table(granule) {
            self.give_back_table(granule);
        }
    }

    /// Creates a table; its granule. Of a table that exists already the granule stays spare.
    #[inline(never)]
    fn create_table(
        &self,
        spare: &mut Spare,
        base: u64,
        level: i64,
    ) -> Result<Option<DelegatedGranule>, Stop> {
        let Some(granule) = spare.take_table() else {
            return Err(Stop::Short(Shortage { tables: 1, records: 1, pages: 0 }));
        };
        let error = match self.rmm.rmi().rtt_create(self.rd, granule.pa(), base, level) {
            Ok(()) => return Ok(Some(granule)),
            Err(_) if self.is_table(granule.pa(), base, level) => return Ok(Some(granule)),
            Err(error) => error,
        };
        self.put_back(spare, granule);
        already_there(error, level).map(|()| None)
    }

    /// Runs a command that needs the tables for `ipa` down to `level`, and once more after creating those the walk
    /// missed.
    pub(super) fn with_tables(
        &self,
        blocks: &mut Blocks,
        spare: &mut Spare,
        ipa: u64,
        level: i64,
        command: impl Fn() -> Result<(), RmiError>,
    ) -> Result<(), Stop> {
        match command() {
            Err(error) => match error.rtt_level() {
                Some(reached) if reached < level => {
                    self.create_tables(blocks, spare, ipa, reached, level)?;
                    Ok(command()?)
                }
                _ => Err(error.into()),
            },
            Ok(()) => Ok(()),
        }
    }

    /// Folds the table of the last level that covers `ipa` into its parent entry, if the Host made one and the RMM finds it
    /// homogeneous; tells whether it did. Not folding is no error: the table just stays.
    pub(super) fn fold(&self, blocks: &mut Blocks, ipa: u64) -> bool {
        let (base, level) = (align_down(ipa, BLOCK_LEVEL), RTT_PAGE_LEVEL);
        let Some(block) = blocks.get_mut(place(ipa)).filter(|block| block.table.is_some()) else {
            return false;
        };
        let Ok(pa) = self.rmm.rmi().rtt_fold(self.rd, base, level) else { return false };
        let command = RmiCommand::RttFold { rd: self.rd, ipa: base, level };
        let table = block.table.take();
        let same = table.as_ref().is_some_and(|table| table.pa() == pa);
        let why = implausible(command, &"it returned another granule than the table was made of");
        self.take_back(table, (!same).then_some(why));
        same
    }

    /// Does with the table of the block around `ipa`, in which nothing is left to take away, what `tidy` says. That it does not
    /// work is no error: the table stays.
    #[inline(never)]
    pub(super) fn tidy(&self, blocks: &mut Blocks, ipa: u64, tidy: Tidy) {
        match tidy {
            Tidy::Keep => {}
            Tidy::Fold => {
                self.fold(blocks, ipa);
            }
            Tidy::Destroy => {
                let Some(block) = blocks.get_mut(place(ipa)) else { return };
                let Some(table) = &block.table else { return };
                let base = align_down(ipa, BLOCK_LEVEL);
                if let Ok(why) = self.destroy_table(table.pa(), base, RTT_PAGE_LEVEL) {
                    self.take_back(block.table.take(), why);
                }
            }
        }
    }

    /// Destroys some tables of the level of `sweep`, or goes on to the level above; `true` when all were tried. Nobody else works on
    /// the tables.
    ///
    /// The Host knows every table it paid for, so it need not search the address space for them as the series does
    /// (docs/kvm-realm-abi.md section 3.8); the commands and their order are the same, and no answer of the RMM can
    /// prolong it.
    pub(crate) fn destroy_tables_piece(&self, sweep: &mut Sweep) -> bool {
        for _ in 0..TABLES_PER_PIECE {
            let destroyed = match sweep.level {
                RTT_PAGE_LEVEL => self.destroy_page_table(sweep),
                0.. => self.destroy_upper(sweep),
                _ => return true,
            };
            if let Err(error) = destroyed {
                sweep.first_error.get_or_insert(error);
            }
        }
        false
    }

    /// Destroys the next table of the last level.
    #[inline(never)]
    fn destroy_page_table(&self, sweep: &mut Sweep) -> Result<(), RealmError> {
        let Some(ipa) = self.next_page_table(sweep.from, u64::MAX) else {
            sweep.up();
            return Ok(());
        };
        let base = align_down(ipa, BLOCK_LEVEL);
        sweep.from = base.saturating_add(BLOCK_SIZE);
        let mut blocks = self.blocks(ipa).lock();
        let Some(block) = blocks.get_mut(place(ipa)) else { return Ok(()) };
        let Some(table) = &block.table else { return Ok(()) };
        let why = self.destroy_table(table.pa(), base, RTT_PAGE_LEVEL)?;
        // A page that could not be unmapped went with its table.
        if why.is_none() && matches!(block.shared, Shared::Pages(_)) {
            self.release_mapped(core::mem::take(&mut block.shared));
        }
        self.take_back(block.table.take(), why);
        Ok(())
    }

    /// Destroys the next table of a level above the last.
    #[inline(never)]
    fn destroy_upper(&self, sweep: &mut Sweep) -> Result<(), RealmError> {
        let (table, why) = {
            let mut upper = self.tables.upper.lock();
            let next = upper.next(upper_first(sweep.level).saturating_add(sweep.from));
            let Some((index, table)) = next.filter(|(index, _)| upper_place(*index).0 == sweep.level) else {
                sweep.up();
                return Ok(());
            };
            sweep.from = index.saturating_sub(upper_first(sweep.level)).saturating_add(1);
            let (level, base) = upper_place(index);
            let why = self.destroy_table(table.pa(), base, level)?;
            (upper.remove(index), why)
        };
        self.take_back(table, why);
        Ok(())
    }

    /// Destroys a table (RTT_DESTROY). It is gone, and its granule to be taken back or, for a reason, lost; or it is an error, and
    /// the RMM may still have the table.
    fn destroy_table(&self, table: u64, base: u64, level: i64) -> Result<Option<RmiError>, RealmError> {
        let command = RmiCommand::RttDestroy { rd: self.rd, ipa: base, level };
        match self.rmm.rmi().rtt_destroy(self.rd, base, level)? {
            Removal::Removed { pa, .. } if pa == table => Ok(None),
            Removal::Removed { .. } => {
                Ok(Some(implausible(command, &"it returned another granule than the table was made of")))
            }
            // If that is so it shows when the realm can be destroyed.
            Removal::Hole { .. } => Err(implausible(command, &"it does not know the table").into()),
            Removal::Blocked { level: at } => {
                let failure = Failure::Code(ReturnCode::error_rtt(at));
                Err(RmiError::new(command, failure).into())
            }
        }
    }

    /// Takes the granule of a destroyed table back, or loses it with the reason.
    #[inline(never)]
    fn take_back(&self, table: Option<DelegatedGranule>, why: Option<RmiError>) {
        match (table, why) {
            (None, _) => {}
            (Some(granule), None) => self.give_back_table(granule),
            (Some(granule), Some(error)) => granule.lose(self.rmm.rmi(), error),
        }
    }

    /// The realm is destroyed: releases what was still mapped, and asks for the tables that the RMM would not destroy before. What
    /// it keeps is lost. Long.
    #[inline(never)]
    pub(crate) fn take_back_all(&self) {
        for share in self.tables.blocks.iter() {
            while let Some((_, block)) = { share.lock().pop_first() } {
                self.release_mapped(block.shared);
                self.take_back_late(block.table);
            }
        }
        while let Some((_, table)) = { self.tables.upper.lock().pop_last() } {
            self.take_back_late(Some(table));
        }
        self.empty_reserve();
    }

    fn take_back_late(&self, table: Option<DelegatedGranule>) {
        if let Some(table) = table {
            self.rmm.give_back(table);
            self.rmm.host().yield_now();
        }
    }

    /// Gives up for lost every table that is left.
    pub(crate) fn lose_tables(&self, why: RmiError) {
        let rmi = self.rmm.rmi();
        for share in self.tables.blocks.iter() {
            while let Some((_, block)) = { share.lock().pop_first() } {
                if let Some(table) = block.table {
                    table.lose(rmi, why);
                }
            }
        }
        while let Some((_, table)) = { self.tables.upper.lock().pop_last() } {
            table.lose(rmi, why);
        }
        self.empty_reserve();
    }
}
