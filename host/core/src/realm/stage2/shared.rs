//! The VMM's memory at unprotected addresses. What is mapped is held in place, from before it is mapped until it is unmapped.

use super::pages::PageTable;
use super::spare::{Shortage, Spare, Stop, Supply};
use super::tables::{block_at, has_table};
use super::{Blocks, PIECE, Stage2, Tidy, number, place};
use crate::error::RealmError;
use crate::host::Pinned;
use crate::realm::SharedFault;
use crate::realm::ipa::{BLOCK_LEVEL, BLOCK_SIZE, align_down, entry_size};
use crate::rmm::rmi::{Failure, Removal, RmiError};
use crate::{Host, Lock};
use realm_abi::rmi::{RTT_ENTRIES, RTT_PAGE_LEVEL, ReturnCode, RmiCommand, UnprotectedDesc};
use realm_abi::{GRANULE_SHIFT, GRANULE_SIZE};
use realm_alloc::Box;

/// What is mapped in a block of unprotected addresses.
#[derive(Default)]
pub(crate) enum Shared {
    /// Nothing.
    #[default]
    None,
    /// One entry for all of it.
    Block {
        /// Physical address.
        pa: u64,
    },
    /// Single host pages.
    Pages(Box<PageTable>),
}

/// Index of the granule of `ipa` in its block.
fn index(ipa: u64) -> usize {
    usize::try_from((ipa % BLOCK_SIZE) >> GRANULE_SHIFT).unwrap_or(0)
}

impl<H: Host> Stage2<'_, H> {
    fn page_size(&self) -> u64 {
        1_u64.checked_shl(self.rmm.host().page_shift()).unwrap_or(GRANULE_SIZE)
    }

    /// Maps held memory at the unprotected alias of `ipa` (of its page or of its block, as large as the memory is), if it is
    /// still `valid` to. Memory that is not mapped is released.
    #[inline(never)]
    pub(crate) fn map_shared(
        &self,
        ipa: u64,
        pinned: Pinned,
        valid: &impl Fn() -> bool,
    ) -> Result<SharedFault, RealmError> {
        let (pa, size) = (pinned.pa, pinned.size);
        let result = self.tables.pins.charge(size).and_then(|()| {
            let result = self.with_spare(&mut Supply::Host, |spare| {
                let mut blocks = self.blocks(ipa).lock();
                if !valid() {
                    return Ok(SharedFault::Changed);
                }
                self.map_held(&mut blocks, spare, self.tables.space.alias(ipa), pa, size)
            });
            if result != Ok(SharedFault::Mapped) {
                self.tables.pins.discharge(size);
            }
            result
        });
        if result != Ok(SharedFault::Mapped) {
            self.rmm.host().unpin(pinned);
        }
        result
    }

    #[inline(never)]
    fn map_held(
        &self,
        blocks: &mut Blocks,
        spare: &mut Spare,
        ipa: u64,
        pa: u64,
        size: u64,
    ) -> Result<SharedFault, Stop> {
        let as_block = size == BLOCK_SIZE;
        match (&block_at(blocks, ipa, spare)?.shared, as_block) {
            (Shared::Block { .. }, _) => return Ok(SharedFault::AlreadyMapped),
            (Shared::Pages(pages), _) if pages.get(index(ipa)).is_some() => {
                return Ok(SharedFault::AlreadyMapped);
            }
            (Shared::Pages(_), true) => return Ok(SharedFault::NotAsBlock),
            (Shared::None, false) if spare.pages.is_empty() => {
                return Err(Stop::Short(Shortage { pages: 1, records: 1, tables: 0 }));
            }
            (Shared::None | Shared::Pages(_), _) => {}
        }
        if as_block {
            // A table without any mapping just goes.
            if has_table(blocks, ipa) && !self.fold(blocks, ipa) {
                return Ok(SharedFault::NotAsBlock);
            }
            let base = align_down(ipa, BLOCK_LEVEL);
            self.map_entry(blocks, spare, base, BLOCK_LEVEL, pa)?;
            block_at(blocks, ipa, spare)?.shared = Shared::Block { pa };
            return Ok(SharedFault::Mapped);
        }
        for done in (0..size).step_by(GRANULE_SIZE as usize) {
            let at = ipa.saturating_add(done);
            if let Err(stop) = self.map_entry(blocks, spare, at, RTT_PAGE_LEVEL, pa.saturating_add(done)) {
                let undone = (0..done)
                    .step_by(GRANULE_SIZE as usize)
                    .try_for_each(|undone| self.unmap_entry(ipa.saturating_add(undone), RTT_PAGE_LEVEL));
                if undone.is_ok() {
                    return Err(stop);
                }
                // The realm reaches a part of the page: it is held as if it were all of it, until the RMM lets go.
                break;
            }
        }
        let pages = spare.pages.pop();
        let block = block_at(blocks, ipa, spare)?;
        if let (Shared::None, Some(pages)) = (&block.shared, pages) {
            block.shared = Shared::Pages(pages);
        }
        let whole = match &mut block.shared {
            Shared::Pages(pages) => {
                pages.set(index(ipa), pa);
                pages.as_block(size)
            }
            _ => None,
        };
        // A part of a block that was away for a while makes it whole again.
        if let Some(pa) = whole
            && self.fold(blocks, ipa)
        {
            block_at(blocks, ipa, spare)?.shared = Shared::Block { pa };
        }
        Ok(SharedFault::Mapped)
    }

    /// Maps one entry. ERROR_RTT at the wanted level is a mapping that is there already although the Host knows of none: it is
    /// replaced.
    fn map_entry(
        &self,
        blocks: &mut Blocks,
        spare: &mut Spare,
        ipa: u64,
        level: i64,
        pa: u64,
    ) -> Result<(), Stop> {
        let desc = UnprotectedDesc::normal_rw(pa);
        let map = || self.rmm.rmi().rtt_map_unprotected(self.rd, ipa, level, desc);
        match self.with_tables(blocks, spare, ipa, level, map) {
            Err(Stop::Failed(RealmError::Rmi(error))) if error.rtt_level() == Some(level) => {
                self.unmap_entry(ipa, level)?;
                Ok(map()?)
            }
            result => result,
        }
    }

    /// Removes the entry at `ipa`. That nothing is there is fine.
    fn unmap_entry(&self, ipa: u64, level: i64) -> Result<(), RealmError> {
        match self.rmm.rmi().rtt_unmap_unprotected(self.rd, ipa, level)? {
            Removal::Removed { .. } | Removal::Hole { .. } => Ok(()),
            Removal::Blocked { level: at } => {
                let command = RmiCommand::RttUnmapUnprotected { rd: self.rd, ipa, level };
                let failure = Failure::Code(ReturnCode::error_rtt(at));
                Err(RmiError::new(command, failure).into())
            }
        }
    }

    /// The first unprotected address from `ipa` on in whose block something is mapped or a table is.
    pub(crate) fn next_shared(&self, ipa: u64) -> Option<u64> {
        let number = self.tables.blocks.first(number(ipa), |blocks, mut from| {
            loop {
                let (place, block) = blocks.next(from)?;
                if block.table.is_some() || !matches!(block.shared, Shared::None) {
                    return Some(place);
                }
                from = place.checked_add(1)?;
            }
        })?;
        Some(number.saturating_mul(BLOCK_SIZE).max(ipa))
    }

    /// Removes what is mapped in the block of unprotected addresses around `base`, from there on and at most up to `end`; the
    /// address reached. Part of a block makes a table of it first; where there is no memory for that the whole block goes, and
    /// comes back with the next fault: a Host must be able to take memory away when it is short of it.
    #[inline(never)]
    pub(crate) fn unmap_shared_piece(
        &self,
        base: u64,
        end: u64,
        tidy: Tidy,
        supply: &mut Supply<'_>,
    ) -> Result<u64, RealmError> {
        let end = end.min(align_down(base, BLOCK_LEVEL).saturating_add(BLOCK_SIZE));
        let result = self.with_spare(supply, |spare| {
            let mut blocks = self.blocks(base).lock();
            let reached = self.unmap_some(&mut blocks, spare, base, end)?;
            if reached >= end {
                self.tidy(&mut blocks, base, tidy);
            }
            Ok(reached)
        });
        match result {
            Err(RealmError::NoMemory) => {
                self.unmap_block(&mut self.blocks(base).lock(), base)?;
                Ok(end)
            }
            result => result,
        }
    }

    #[inline(never)]
    fn unmap_some(&self, blocks: &mut Blocks, spare: &mut Spare, base: u64, end: u64) -> Result<u64, Stop> {
        let first = align_down(base, BLOCK_LEVEL);
        let whole = base == first && end.saturating_sub(base) == BLOCK_SIZE;
        if let Some(Shared::Block { .. }) = blocks.get(place(base)).map(|block| &block.shared) {
            if whole {
                self.unmap_block(blocks, base)?;
                return Ok(end);
            }
            self.split_block(blocks, spare, base)?;
        }
        let page = self.page_size();
        let Some(block) = blocks.get_mut(place(base)) else { return Ok(end) };
        let Shared::Pages(pages) = &mut block.shared else { return Ok(end) };
        let mut left = PIECE.saturating_mul(2);
        let mut at = base & !page.wrapping_sub(1);
        while at < end && left > 0 && pages.count > 0 {
            if let Some(pa) = pages.get(index(at)) {
                for granule in (at..at.saturating_add(page)).step_by(GRANULE_SIZE as usize) {
                    self.unmap_entry(granule, RTT_PAGE_LEVEL)?;
                    left = left.saturating_sub(1);
                }
                pages.take(index(at));
                self.release(Pinned { pa, size: page });
            }
            at = at.saturating_add(page);
        }
        if pages.count == 0 {
            block.shared = Shared::None;
            return Ok(end);
        }
        Ok(at.min(end))
    }

    /// Removes a block that is mapped as one, if there is one.
    #[inline(never)]
    fn unmap_block(&self, blocks: &mut Blocks, ipa: u64) -> Result<(), RealmError> {
        let Some(block) = blocks.get_mut(place(ipa)) else { return Ok(()) };
        let Shared::Block { pa } = block.shared else { return Err(RealmError::NoMemory) };
        self.unmap_entry(align_down(ipa, BLOCK_LEVEL), BLOCK_LEVEL)?;
        block.shared = Shared::None;
        self.release(Pinned { pa, size: BLOCK_SIZE });
        Ok(())
    }

    /// Makes a table of the pages of a block that is mapped as one.
    #[inline(never)]
    fn split_block(&self, blocks: &mut Blocks, spare: &mut Spare, ipa: u64) -> Result<(), Stop> {
        if spare.pages.is_empty() {
            return Err(Stop::Short(Shortage { pages: 1, records: 1, tables: 1 }));
        }
        self.create_tables(blocks, spare, ipa, BLOCK_LEVEL, RTT_PAGE_LEVEL)?;
        let pages = spare.pages.pop();
        if let Some(block) = blocks.get_mut(place(ipa))
            && let Shared::Block { pa } = block.shared
            && let Some(mut pages) = pages
        {
            for offset in
                (0..BLOCK_SIZE).step_by(usize::try_from(self.page_size()).unwrap_or(usize::MAX).max(1))
            {
                pages.set(index(offset), pa.saturating_add(offset));
            }
            block.shared = Shared::Pages(pages);
        }
        Ok(())
    }

    /// Releases what was mapped in a block whose entry or table is gone.
    pub(super) fn release_mapped(&self, shared: Shared) {
        match shared {
            Shared::None => {}
            Shared::Block { pa } => self.release(Pinned { pa, size: BLOCK_SIZE }),
            Shared::Pages(pages) => {
                for pa in (0..RTT_ENTRIES).filter_map(|index| pages.get(index)) {
                    self.release(Pinned { pa, size: self.page_size() });
                }
            }
        }
    }

    /// Releases memory the realm can no longer reach.
    fn release(&self, pinned: Pinned) {
        self.tables.pins.discharge(pinned.size);
        self.rmm.host().unpin(pinned);
    }

    /// What it takes to split the blocks around the ends of `[base, end)`, shared or private, that are one entry now.
    pub(crate) fn shortage_of_split(&self, base: u64, end: u64) -> Shortage {
        let mut shortage = Shortage { tables: 0, records: 1, pages: 0 };
        for ipa in [base, end].into_iter().filter(|ipa| !ipa.is_multiple_of(BLOCK_SIZE)) {
            let alias = self.tables.space.alias(ipa);
            let shared = matches!(
                self.blocks(alias).lock().get(place(alias)).map(|block| &block.shared),
                Some(Shared::Block { .. })
            );
            // A private block that was folded has a record without a table.
            let private = self.blocks(ipa).lock().get(place(ipa)).is_some_and(|block| block.table.is_none());
            shortage.tables = shortage.tables.saturating_add(usize::from(shared || private));
            shortage.pages = shortage.pages.saturating_add(usize::from(shared));
        }
        shortage
    }

    /// Whether the block around a protected `ipa` shares nothing yet, so that it can be shared as one.
    pub(crate) fn shares_nothing_around(&self, ipa: u64) -> bool {
        let alias = self.tables.space.alias(ipa);
        let blocks = self.blocks(alias).lock();
        blocks.get(place(alias)).is_none_or(|block| matches!(block.shared, Shared::None))
    }
}

const _: () = assert!(entry_size(BLOCK_LEVEL) == BLOCK_SIZE);
