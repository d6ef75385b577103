//! Host memory at unprotected addresses.

use super::Stage2;
use crate::Host;
use crate::ipa::{BLOCK_LEVEL, BLOCK_SIZE, entry_size};
use crate::realm::RealmError;
use crate::rmi::{Failure, Removal, RmiError, implausible};
use crate::rmm::Rmm;
use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::{RTT_ENTRIES, RTT_PAGE_LEVEL, ReturnCode, RmiCommand, UnprotectedDesc};

/// Entries removed in one piece of work.
const UNMAPS_PER_PIECE: usize = RTT_ENTRIES;

/// What a realm may do with shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Read.
    ReadOnly,
    /// Read and write.
    ReadWrite,
}

impl Access {
    /// The descriptor that maps `pa` with this access.
    const fn desc(self, pa: u64) -> UnprotectedDesc {
        let writable = UnprotectedDesc::normal_rw(pa);
        match self {
            Self::ReadWrite => writable,
            Self::ReadOnly => UnprotectedDesc(writable.0 & !UnprotectedDesc::WRITE),
        }
    }
}

impl Stage2 {
    /// Maps `size` bytes at the unprotected address `ipa`: as a block where both sides are aligned and no table is in the
    /// way, granule by granule otherwise.
    pub(crate) fn map_shared<H: Host>(
        &mut self,
        rmm: &Rmm<H>,
        ipa: u64,
        pa: u64,
        size: u64,
        access: Access,
    ) -> Result<(), RealmError> {
        let block = size == BLOCK_SIZE && ipa.is_multiple_of(BLOCK_SIZE) && pa.is_multiple_of(BLOCK_SIZE);
        // An empty table left by smaller mappings is no reason to go on with those.
        if block && (!self.has_table(ipa, RTT_PAGE_LEVEL) || self.fold(rmm, ipa, RTT_PAGE_LEVEL)) {
            return self.map_entry(rmm, ipa, BLOCK_LEVEL, access.desc(pa));
        }
        let mut done = 0;
        while done < size {
            let desc = access.desc(pa.saturating_add(done));
            self.map_entry(rmm, ipa.saturating_add(done), RTT_PAGE_LEVEL, desc)?;
            done = done.saturating_add(GRANULE_SIZE);
        }
        Ok(())
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

    /// Removes what is mapped at `ipa` without touching anything from `end` on; the next address worth looking at.
    fn unmap_entry<H: Host>(&mut self, rmm: &Rmm<H>, ipa: u64, end: u64) -> Result<u64, RealmError> {
        let mut level = self.space.map_level(ipa, end).max(BLOCK_LEVEL);
        // Each round that is not the last goes one level deeper or splits one block: levels 2 and 3, twice.
        for _ in 0..4 {
            match rmm.rmi().rtt_unmap_unprotected(self.rd, ipa, level)? {
                Removal::Removed { top, .. } | Removal::Hole { top } => return Ok(top),
                Removal::Blocked { level: at } if at == level && level < RTT_PAGE_LEVEL => {
                    level = level.saturating_add(1);
                }
                // Part of a block goes: it becomes a table of smaller entries first.
                Removal::Blocked { level: at } if at < level => self.create_tables(rmm, ipa, at, level)?,
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
