//! Realm memory at protected addresses.

use super::Stage2;
use crate::Host;
use crate::error::RealmError;
use crate::memory::guest_memfd::{Cell, PrivateRange};
use crate::realm::ipa::{BLOCK_LEVEL, BLOCK_SIZE, align_down};
use crate::realm::{Fault, PopulateRun};
use crate::rmm::Rmm;
use crate::rmm::granule::{DelegatedGranule, NotDelegated};
use crate::rmm::rmi::{Removal, RmiError, implausible};
use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::{DataFlags, RTT_PAGE_LEVEL, Ripas, RmiCommand};

impl Stage2 {
    /// Puts one granule of guest memory at `ipa` with `create`, which is DATA_CREATE or DATA_CREATE_UNKNOWN. On failure
    /// the granule is back in its cell, or lost.
    fn assign<H: Host>(
        &mut self,
        rmm: &Rmm<H>,
        cell: &mut Cell,
        ipa: u64,
        create: impl Fn(u64) -> Result<(), RmiError>,
    ) -> Result<(), RealmError> {
        let granule = match core::mem::replace(cell, Cell::Lost) {
            Cell::Host(granule) => granule,
            Cell::Lost => return Err(RealmError::MemoryLost { ipa }),
            other @ Cell::Realm(_) => {
                *cell = other;
                return Err(RealmError::AlreadyPopulated { ipa });
            }
            Cell::Absent => {
                *cell = Cell::Absent;
                return Err(RealmError::NoMemory);
            }
        };
        match granule.delegate(rmm.rmi()) {
            Err(NotDelegated { granule, error }) => {
                *cell = Cell::Host(granule);
                Err(error.into())
            }
            Ok(granule) => {
                let pa = granule.pa();
                match self.with_tables(rmm, ipa, RTT_PAGE_LEVEL, || create(pa)) {
                    Ok(()) => {
                        *cell = Cell::Realm(granule);
                        Ok(())
                    }
                    Err(error) => {
                        take_back(rmm, cell, granule);
                        Err(error)
                    }
                }
            }
        }
    }

    /// Destroys the data granule at `ipa` that `cell` holds and takes it back. A block is split first.
    fn unassign<H: Host>(&mut self, rmm: &Rmm<H>, cell: &mut Cell, ipa: u64) -> Result<(), RealmError> {
        let Cell::Realm(granule) = cell else { return Ok(()) };
        let (command, expected) = (RmiCommand::DataDestroy { rd: self.rd, ipa }, granule.pa());
        let mut removal = rmm.rmi().data_destroy(self.rd, ipa)?;
        if let Removal::Blocked { level } = removal
            && level < RTT_PAGE_LEVEL
        {
            self.create_tables(rmm, ipa, level, RTT_PAGE_LEVEL)?;
            removal = rmm.rmi().data_destroy(self.rd, ipa)?;
        }
        match removal {
            Removal::Removed { pa, .. } if pa == expected => {
                if let Cell::Realm(granule) = core::mem::replace(cell, Cell::Lost) {
                    take_back(rmm, cell, granule);
                }
                Ok(())
            }
            Removal::Removed { .. } => {
                Err(implausible(command, "it returned another granule than was put there").into())
            }
            Removal::Hole { .. } => {
                Err(implausible(command, "it does not know the granule that was put there").into())
            }
            Removal::Blocked { .. } => {
                Err(implausible(command, "a block is still there after it was split").into())
            }
        }
    }

    /// Populates the granules of one host page.
    #[expect(
        clippy::too_many_arguments,
        reason = "they are the arguments of DATA_CREATE and where to find its memory"
    )]
    pub(crate) fn populate<H: Host>(
        &mut self,
        rmm: &Rmm<H>,
        run: &mut PopulateRun,
        range: &PrivateRange<'_, H>,
        ipa: u64,
        size: u64,
        src: u64,
        flags: DataFlags,
    ) -> Result<(), RealmError> {
        let rd = self.rd;
        range.with_chunk(rmm, ipa, size, |chunk, first| {
            let mut done = 0;
            let failure = loop {
                if done >= size {
                    break None;
                }
                let (at, from) = (ipa.saturating_add(done), src.saturating_add(done));
                let index = first.saturating_add(granules(done));
                let created = chunk.ensure(rmm.host(), index).and_then(|cell| {
                    self.assign(rmm, cell, at, |pa| rmm.rmi().data_create(rd, pa, at, from, flags))
                });
                match created {
                    Ok(()) => run.count(),
                    Err(error) => break Some(error),
                }
                done = done.saturating_add(GRANULE_SIZE);
            };
            let Some(error) = failure else { return Ok(()) };
            while done > 0 {
                done = done.saturating_sub(GRANULE_SIZE);
                if let Some(cell) = chunk.cell(first.saturating_add(granules(done))) {
                    // What cannot be rolled back stays in its cell and is destroyed with the realm, which is doomed.
                    let _ = self.unassign(rmm, cell, ipa.saturating_add(done));
                }
            }
            Err(error)
        })
    }

    /// Serves a fault with one granule. With `fold`, the granule that completes a 2 MiB block of the Host's memory turns
    /// the table into a block entry.
    pub(crate) fn fault_granule<H: Host>(
        &mut self,
        rmm: &Rmm<H>,
        range: &PrivateRange<'_, H>,
        ipa: u64,
        fold: bool,
    ) -> Result<Fault, RealmError> {
        let rd = self.rd;
        range.with_chunk(rmm, ipa, GRANULE_SIZE, |chunk, index| {
            let cell = chunk.ensure(rmm.host(), index)?;
            match self.assign(rmm, cell, ipa, |pa| rmm.rmi().data_create_unknown(rd, pa, ipa)) {
                Ok(()) => {
                    if fold && chunk.is_block_of_the_realm() {
                        self.fold(rmm, ipa, RTT_PAGE_LEVEL);
                    }
                    Ok(Fault::Mapped { base: ipa, size: GRANULE_SIZE })
                }
                Err(RealmError::AlreadyPopulated { .. }) => {
                    let (_, _, _, ripas) = rmm.rmi().rtt_read_entry(rd, ipa, RTT_PAGE_LEVEL)?.read_entry();
                    Ok(if ripas == Ripas::DESTROYED { Fault::Destroyed } else { Fault::AlreadyMapped })
                }
                Err(error) => Err(error),
            }
        })
    }

    /// Serves a fault with the whole 2 MiB block around it, if the block lies in `range`, one 2 MiB block of Host memory
    /// is behind it and none of it was used yet. `None` when it is not so, or when it failed before it reached `ipa`: then
    /// the granule alone is tried, and tells why.
    pub(crate) fn fault_block<H: Host>(
        &mut self,
        rmm: &Rmm<H>,
        range: &PrivateRange<'_, H>,
        ipa: u64,
    ) -> Option<Fault> {
        let base = align_down(ipa, BLOCK_LEVEL);
        let block =
            range.within(base, base.checked_add(BLOCK_SIZE)?).filter(|block| block.size == BLOCK_SIZE)?;
        if !block.offset.is_multiple_of(BLOCK_SIZE) {
            return None;
        }
        let rd = self.rd;
        let mapped = block.with_chunk(rmm, base, BLOCK_SIZE, |chunk, _| {
            if !chunk.ensure_block(rmm.host()) {
                return Err(RealmError::NoMemory);
            }
            for (index, cell) in chunk.cells().enumerate() {
                let at = base.saturating_add(bytes(index));
                let assigned = self.assign(rmm, cell, at, |pa| rmm.rmi().data_create_unknown(rd, pa, at));
                if let Err(error) = assigned {
                    return if at > ipa { Ok(at) } else { Err(error) };
                }
            }
            Ok(base.saturating_add(BLOCK_SIZE))
        });
        let size = mapped.ok()?.saturating_sub(base);
        if size == BLOCK_SIZE {
            self.fold(rmm, base, RTT_PAGE_LEVEL);
        }
        Some(Fault::Mapped { base, size })
    }

    /// The next address of `range` from `ipa` on where there is something to take away or a table to fold. A range may be
    /// much larger than what was ever used of it.
    pub(crate) fn next_private<H: Host>(&self, range: &PrivateRange<'_, H>, ipa: u64) -> Option<u64> {
        let next = [range.next_used(ipa), self.next_page_table(ipa)].into_iter().flatten().min();
        next.filter(|&next| next < range.end())
    }

    /// Takes away what `range` has at `[base, end)`, which lies in one 2 MiB block.
    pub(crate) fn unmap_private_piece<H: Host>(
        &mut self,
        rmm: &Rmm<H>,
        range: &PrivateRange<'_, H>,
        base: u64,
        end: u64,
        fold: bool,
    ) -> Result<(), RealmError> {
        let mut first_error = None;
        let mut at = base;
        while at < end {
            // Where the file is not aligned as the addresses are, one block of addresses lies in two chunks of the file.
            let Some(piece) = range.within(at, end).map(|piece| piece.in_one_chunk()) else { break };
            piece.with_existing_chunk(|chunk, first| {
                for index in 0..granules(piece.size) {
                    let Some(cell) = chunk.cell(first.saturating_add(index)) else { break };
                    if let Err(error) = self.unassign(rmm, cell, piece.ipa.saturating_add(bytes(index))) {
                        first_error.get_or_insert(error);
                    }
                }
            });
            at = piece.end();
        }
        if fold {
            self.fold_range(rmm, base, end);
        }
        first_error.map_or(Ok(()), Err)
    }
}

/// Takes a granule back from the RMM into its cell; if the RMM keeps it the cell is lost.
fn take_back<H: Host>(rmm: &Rmm<H>, cell: &mut Cell, granule: DelegatedGranule) {
    *cell = granule.undelegate(rmm.rmi()).map_or(Cell::Lost, Cell::Host);
}

fn granules(bytes: u64) -> usize {
    usize::try_from(bytes / GRANULE_SIZE).unwrap_or(usize::MAX)
}

fn bytes(granules: usize) -> u64 {
    u64::try_from(granules).unwrap_or(u64::MAX).saturating_mul(GRANULE_SIZE)
}
