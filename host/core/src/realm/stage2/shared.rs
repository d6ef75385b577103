//! Host memory at unprotected addresses.

use super::Stage2;
use crate::Host;
use crate::error::RealmError;
use crate::realm::SharedPage;
use crate::realm::ipa::{BLOCK_LEVEL, BLOCK_SIZE, align_down, entry_size};
use crate::rmm::Rmm;
use crate::rmm::rmi::{Failure, Removal, RmiError, implausible};
use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::{RTT_ENTRIES, RTT_PAGE_LEVEL, ReturnCode, RmiCommand, UnprotectedDesc};

/// Entries removed in one piece of work.
const UNMAPS_PER_PIECE: usize = RTT_ENTRIES;

/// The descriptor that maps `pa`.
const fn desc(pa: u64, writable: bool) -> UnprotectedDesc {
    let desc = UnprotectedDesc::normal_rw(pa);
    if writable { desc } else { UnprotectedDesc(desc.0 & !UnprotectedDesc::WRITE) }
}

impl Stage2 {
    /// Maps a page at its unprotected alias, and the block around it where that is allowed.
    pub(crate) fn map_shared<H: Host>(&mut self, rmm: &Rmm<H>, page: &SharedPage) -> Result<(), RealmError> {
        if page.with_block && self.map_block_around(rmm, page)? {
            return Ok(());
        }
        self.map_granules(rmm, page)
    }

    fn map_granules<H: Host>(&mut self, rmm: &Rmm<H>, page: &SharedPage) -> Result<(), RealmError> {
        let ipa = self.space.alias(page.ipa);
        let mut done = 0;
        while done < page.size {
            let desc = desc(page.pa.saturating_add(done), page.writable);
            self.map_entry(rmm, ipa.saturating_add(done), RTT_PAGE_LEVEL, desc)?;
            done = done.saturating_add(GRANULE_SIZE);
        }
        Ok(())
    }

    /// Maps the block around a page with one entry, whatever smaller mappings are in its way; `false` if they stay there.
    fn map_block_around<H: Host>(&mut self, rmm: &Rmm<H>, page: &SharedPage) -> Result<bool, RealmError> {
        let ipa = self.space.alias(page.ipa);
        let base = align_down(ipa, BLOCK_LEVEL);
        // A table without any mapping just goes.
        if self.has_table(ipa, RTT_PAGE_LEVEL) && !self.fold(rmm, ipa, RTT_PAGE_LEVEL) {
            // Where a part of the block was away for a while the page is all that is missing.
            self.map_granules(rmm, page)?;
            if self.fold(rmm, ipa, RTT_PAGE_LEVEL) {
                return Ok(true);
            }
            // Otherwise one entry is worth more than what is mapped so far.
            self.unmap_shared_piece(rmm, base, base.saturating_add(BLOCK_SIZE), false)?;
            if !self.fold(rmm, ipa, RTT_PAGE_LEVEL) {
                return Ok(false);
            }
        }
        let desc = desc(align_down(page.pa, BLOCK_LEVEL), page.writable);
        self.map_entry(rmm, base, BLOCK_LEVEL, desc).map(|()| true)
    }

    /// Maps one entry. ERROR_RTT at the wanted level is a mapping that is there already, perhaps with another address or
    /// less access: it is replaced.
    fn map_entry<H: Host>(
        &mut self,
        rmm: &Rmm<H>,
        ipa: u64,
        level: i64,
        desc: UnprotectedDesc,
    ) -> Result<(), RealmError> {
        let rd = self.rd;
        let map = || rmm.rmi().rtt_map_unprotected(rd, ipa, level, desc);
        match self.with_tables(rmm, ipa, level, map) {
            Err(RealmError::Rmi(error)) if error.rtt_level() == Some(level) => {
                match rmm.rmi().rtt_unmap_unprotected(rd, ipa, level)? {
                    Removal::Removed { .. } => Ok(map()?),
                    _ => Err(error.into()),
                }
            }
            result => result,
        }
    }

    /// Removes mappings of unprotected addresses from `base` on; the address reached, above `base`.
    pub(crate) fn unmap_shared_piece<H: Host>(
        &mut self,
        rmm: &Rmm<H>,
        base: u64,
        end: u64,
        fold: bool,
    ) -> Result<u64, RealmError> {
        let mut at = base;
        for _ in 0..UNMAPS_PER_PIECE {
            if at >= end {
                break;
            }
            at = self.unmap_entry(rmm, at, end)?.min(end);
        }
        if fold {
            self.fold_range(rmm, base, at);
        }
        Ok(at)
    }

    /// Removes what is mapped at `ipa` and nothing from `end` on, unless it is of the same block and that cannot be split;
    /// the next address worth looking at.
    fn unmap_entry<H: Host>(&mut self, rmm: &Rmm<H>, ipa: u64, end: u64) -> Result<u64, RealmError> {
        let (mut ipa, mut level) = (ipa, self.space.map_level(ipa, end).max(BLOCK_LEVEL));
        // Each round that is not the last goes one level deeper or splits one block, which happens at levels 2 and 3, twice.
        for _ in 0..4 {
            match rmm.rmi().rtt_unmap_unprotected(self.rd, ipa, level)? {
                Removal::Removed { top, .. } | Removal::Hole { top } => return Ok(top),
                Removal::Blocked { level: at } if at == level && level < RTT_PAGE_LEVEL => {
                    level = level.saturating_add(1);
                }
                // Part of a block goes: it becomes a table of smaller entries first. The Host must be able to take memory
                // away from a realm when it is short of it: where there is none for the table the whole block goes, and
                // comes back with the next fault.
                Removal::Blocked { level: at } if at < level => {
                    if self.create_tables(rmm, ipa, at, level).is_err() {
                        (ipa, level) = (align_down(ipa, at), at);
                    }
                }
                Removal::Blocked { level: at } => {
                    let command = RmiCommand::RttUnmapUnprotected { rd: self.rd, ipa, level };
                    return Err(
                        RmiError { command, failure: Failure::Code(ReturnCode::error_rtt(at)) }.into()
                    );
                }
            }
        }
        let command = RmiCommand::RttUnmapUnprotected { rd: self.rd, ipa, level };
        Err(implausible(command, "it finds another mapping at each attempt to remove it").into())
    }
}

const _: () = assert!(entry_size(BLOCK_LEVEL) == BLOCK_SIZE);
