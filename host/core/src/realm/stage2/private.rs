//! Realm memory at protected addresses.

use super::spare::{Spare, Stop, Supply};
use super::{Blocks, PIECE, Stage2, Tidy};
use crate::error::RealmError;
use crate::memory::guest_memfd::{Cell, Chunk, PrivateRange};
use crate::realm::ipa::{BLOCK_LEVEL, BLOCK_SIZE, align_down};
use crate::realm::{Fault, PopulateRun};
use crate::rmm::granule::{DelegatedGranule, NotDelegated};
use crate::rmm::rmi::{Removal, RmiError, implausible};
use crate::{Host, Lock};
use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::{DataFlags, RTT_PAGE_LEVEL, ReturnCode, Ripas, RmiCommand, Status};

/// Bytes of a piece of work.
const PIECE_SIZE: u64 = PIECE as u64 * GRANULE_SIZE;

/// How often another page is tried for an address after the RMM refused one, or somebody freed it.
const MAX_REFUSALS: usize = 8;

/// A granule of a chunk and the address it is or shall be at.
struct Place<'a> {
    chunk: &'a mut Chunk,
    index: usize,
    ipa: u64,
}

/// A piece of work that takes memory away.
struct Removing {
    tidy: Tidy,
    /// Granules it may still take.
    left: usize,
    first_error: Option<RealmError>,
}

impl<H: Host> Stage2<'_, H> {
    /// Puts the granule of guest memory at `place` with `create`, which is DATA_CREATE or DATA_CREATE_UNKNOWN. On failure
    /// the granule is back in its cell, or lost.
    #[inline(never)]
    fn assign(
        &self,
        blocks: &mut Blocks,
        spare: &mut Spare,
        place: &mut Place<'_>,
        create: impl Fn(u64) -> Result<(), RmiError>,
    ) -> Result<(), Stop> {
        let &mut Place { ref mut chunk, index, ipa } = place;
        let granule = chunk.take_host(index).map_err(|cell| match cell {
            Cell::Lost => RealmError::MemoryLost { ipa },
            Cell::Realm => RealmError::AlreadyPopulated { ipa },
            Cell::Absent | Cell::Host => RealmError::NoMemory,
        })?;
        let granule = match granule.delegate(self.rmm.rmi()) {
            Ok(granule) => granule,
            Err(NotDelegated { granule, error }) => {
                chunk.put_host(index, granule);
                return Err(error.into());
            }
        };
        let pa = granule.pa();
        match self.with_tables(blocks, spare, ipa, RTT_PAGE_LEVEL, || create(pa)) {
            Ok(()) => {
                chunk.put_realm(index, granule);
                Ok(())
            }
            Err(stop) => {
                self.take_back_data(chunk, index, granule);
                Err(stop)
            }
        }
    }

    /// Destroys the data granule at `place` and takes it back, if it is not lost. A block is split first.
    ///
    /// When the RMM says that another granule was there ours is nowhere that could be asked about again: of a realm that goes
    /// it is lost. All else that goes wrong may go right the next time, or is settled when the realm is destroyed
    /// ([`GuestMemfd::take_back_all`](crate::guest_memfd::GuestMemfd::take_back_all)).
    #[inline(never)]
    fn unassign(
        &self,
        blocks: &mut Blocks,
        spare: &mut Spare,
        place: &mut Place<'_>,
        tidy: Tidy,
    ) -> Result<(), Stop> {
        let &mut Place { ref mut chunk, index, ipa } = place;
        let Some(expected) = chunk.realm_pa(index) else {
            // It is lost, and stays so; but it may be because the RMM put it there and did not say so.
            let _: Result<Removal, RmiError> = self.rmm.rmi().data_destroy(self.rd, ipa);
            return Ok(());
        };
        let command = RmiCommand::DataDestroy { rd: self.rd, ipa };
        let mut removal = self.rmm.rmi().data_destroy(self.rd, ipa)?;
        if let Removal::Blocked { level } = removal
            && level < RTT_PAGE_LEVEL
        {
            self.create_tables(blocks, spare, ipa, level, RTT_PAGE_LEVEL)?;
            removal = self.rmm.rmi().data_destroy(self.rd, ipa)?;
        }
        let why = match removal {
            Removal::Removed { pa, .. } if pa == expected => {
                if let Some(granule) = chunk.take_realm(index) {
                    self.take_back_data(chunk, index, granule);
                }
                return Ok(());
            }
            Removal::Removed { .. } => {
                let error = implausible(command, &"it returned another granule than was put there");
                if tidy == Tidy::Destroy
                    && let Some(granule) = chunk.take_realm(index)
                {
                    granule.lose(self.rmm.rmi(), error);
                    return Ok(());
                }
                return Err(error.into());
            }
            Removal::Hole { .. } => &"it does not know the granule that was put there",
            Removal::Blocked { .. } => &"a block is still there after it was split",
        };
        Err(implausible(command, why).into())
    }

    /// Takes a granule back from the RMM into its cell; if the RMM keeps it the cell is lost.
    fn take_back_data(&self, chunk: &mut Chunk, index: usize, granule: DelegatedGranule) {
        if let Ok(granule) = granule.undelegate(self.rmm.rmi()) {
            chunk.put_host(index, granule);
        }
    }

    /// Does `work`, and again with other memory as long as the RMM refuses to take what is behind `ipa`, or somebody frees it
    /// meanwhile.
    fn with_memory<R>(
        &self,
        range: &PrivateRange<'_, H>,
        ipa: u64,
        mut work: impl FnMut(&mut Spare) -> Result<R, Stop>,
    ) -> Result<R, RealmError> {
        let mut tries = 0;
        loop {
            range.ensure(ipa)?;
            let result = self.with_spare(&mut Supply::Host, &mut work);
            match result {
                // It may also be a table's granule that was refused.
                Err(RealmError::Rmi(error))
                    if error.refused_granule().is_some_and(|pa| range.refused(ipa, pa)) => {}
                Err(RealmError::NoMemory) if !range.has_memory(ipa) => {}
                result => return result,
            }
            if tries >= MAX_REFUSALS {
                return result;
            }
            tries = tries.saturating_add(1);
        }
    }

    /// Populates one granule with what is in the Host's granule at `src`, if it is still `valid` to; whether it was.
    pub(crate) fn populate(
        &self,
        run: &mut PopulateRun,
        range: &PrivateRange<'_, H>,
        ipa: u64,
        src: u64,
        flags: DataFlags,
        valid: &impl Fn() -> bool,
    ) -> Result<bool, RealmError> {
        let create = |src: u64| {
            self.with_memory(range, ipa, |spare| {
                let mut blocks = self.blocks(ipa).lock();
                if !valid() {
                    return Ok(false);
                }
                range.with_chunk(ipa, GRANULE_SIZE, |chunk, index| {
                    let mut place = Place { chunk, index, ipa };
                    self.assign(&mut blocks, spare, &mut place, |pa| {
                        self.rmm.rmi().data_create(self.rd, pa, ipa, src, flags)
                    })?;
                    Ok(true)
                })
            })
        };
        let mut result = create(src);
        if let Err(RealmError::Rmi(error)) = result
            && refuses_source(&error)
        {
            // Perhaps the source lies in memory that cannot be delegated, which the RMM does not read from (RMM 1.0,
            // RMI_DATA_CREATE, src_pas): a copy of it lies elsewhere.
            let copy = self.rmm.take_owned()?;
            self.copy_granule(src, copy.pa());
            result = create(copy.pa());
            self.rmm.put_owned(copy);
        }
        if result == Ok(true) {
            run.count();
        }
        result
    }

    fn copy_granule(&self, from: u64, to: u64) {
        let host = self.rmm.host();
        host.with_granule(to, |bytes| host.read_phys(from, &mut bytes.0));
    }

    /// Takes back what a request put at `[base, base + size)`, which lies in one block, so that nothing of a host page stays
    /// of which a part failed. What cannot be taken back stays and is destroyed with the realm, which is dying then.
    pub(crate) fn unpopulate(
        &self,
        range: &PrivateRange<'_, H>,
        base: u64,
        size: u64,
        valid: &impl Fn() -> bool,
    ) {
        let _ = self.unmap_private_piece(
            range,
            base,
            base.saturating_add(size),
            Tidy::Keep,
            &mut Supply::HostOrReserve,
            valid,
        );
    }

    /// Serves a fault at `ipa`: with its granule, if it is still `valid` to.
    #[inline(never)]
    pub(crate) fn fault_granule(
        &self,
        range: &PrivateRange<'_, H>,
        ipa: u64,
        valid: &impl Fn() -> bool,
    ) -> Result<Fault, RealmError> {
        self.with_memory(range, ipa, |spare| {
            let mut blocks = self.blocks(ipa).lock();
            if !valid() {
                return Ok(Fault::Changed);
            }
            range.with_chunk(ipa, GRANULE_SIZE, |chunk, index| {
                let mut place = Place { chunk, index, ipa };
                let assigned = self.assign(&mut blocks, spare, &mut place, |pa| {
                    self.rmm.rmi().data_create_unknown(self.rd, pa, ipa)
                });
                match assigned {
                    Ok(()) => Ok(Fault::Mapped),
                    Err(Stop::Failed(RealmError::AlreadyPopulated { .. })) => {
                        let reply = self.rmm.rmi().rtt_read_entry(self.rd, ipa, RTT_PAGE_LEVEL)?;
                        let (_, _, _, ripas) = reply.read_entry();
                        Ok(if ripas == Ripas::DESTROYED { Fault::Destroyed } else { Fault::AlreadyMapped })
                    }
                    Err(stop) => Err(stop),
                }
            })
        })
    }

    /// Maps what is not mapped yet of the 2 MiB block around `ipa`, if the block lies in `range` and is one block of memory, in
    /// pieces; and folds its table when all of it is mapped. The access that faulted can be tried again whatever comes of it,
    /// so it ends early without a word when `go_on` says so or something fails.
    #[inline(never)]
    pub(crate) fn fault_around(
        &self,
        range: &PrivateRange<'_, H>,
        ipa: u64,
        valid: &impl Fn() -> bool,
        go_on: &impl Fn() -> bool,
    ) {
        let base = align_down(ipa, BLOCK_LEVEL);
        let Some(block) = base.checked_add(BLOCK_SIZE).and_then(|end| range.within(base, end)) else {
            return;
        };
        if block.size != BLOCK_SIZE || !block.offset.is_multiple_of(BLOCK_SIZE) {
            return;
        }
        if block.with_existing_chunk(|chunk, _| chunk.is_block()) != Some(true) {
            return;
        }
        for offset in (0..BLOCK_SIZE).step_by(PIECE_SIZE as usize) {
            let at = base.saturating_add(offset);
            if !go_on() || !matches!(self.fault_piece(&block, at, valid), Ok(true)) {
                return;
            }
            self.rmm.host().yield_now();
        }
        let mut blocks = self.blocks(base).lock();
        if valid() && block.with_existing_chunk(|chunk, _| chunk.is_block_of_the_realm()) == Some(true) {
            self.fold(&mut blocks, base);
        }
    }

    /// Maps the granules of one piece from `base` on that are the Host's; `false` if it is no longer valid to.
    #[inline(never)]
    fn fault_piece(
        &self,
        range: &PrivateRange<'_, H>,
        base: u64,
        valid: &impl Fn() -> bool,
    ) -> Result<bool, RealmError> {
        self.with_spare(&mut Supply::Host, |spare| {
            let mut blocks = self.blocks(base).lock();
            if !valid() {
                return Ok(false);
            }
            range.with_chunk(base, PIECE_SIZE, |chunk, first| {
                for offset in 0..PIECE {
                    let (index, ipa) = (first.saturating_add(offset), base.saturating_add(bytes(offset)));
                    if chunk.cell(index) != Cell::Host {
                        continue;
                    }
                    let mut place = Place { chunk: &mut *chunk, index, ipa };
                    self.assign(&mut blocks, spare, &mut place, |pa| {
                        self.rmm.rmi().data_create_unknown(self.rd, pa, ipa)
                    })?;
                }
                Ok(true)
            })
        })
    }

    /// The next address of `range` from `ipa` on where there is something to take away or a table to fold. A range may be
    /// much larger than what was ever used of it.
    pub(crate) fn next_private(&self, range: &PrivateRange<'_, H>, ipa: u64) -> Option<u64> {
        let used = range.next_used(ipa).unwrap_or(range.end());
        let next =
            self.next_page_table(ipa, used).map_or(used, |table| if table < used { table } else { used });
        (next < range.end()).then_some(next)
    }

    /// Takes away what `range` has in the piece of one block from `base` on, at most up to `end`; the address reached, and the
    /// first failure. Every granule is tried, if the range is still `valid`. The table is tidied when nothing is left to do in
    /// its block.
    #[inline(never)]
    pub(crate) fn unmap_private_piece(
        &self,
        range: &PrivateRange<'_, H>,
        base: u64,
        end: u64,
        tidy: Tidy,
        supply: &mut Supply<'_>,
        valid: &impl Fn() -> bool,
    ) -> (u64, Result<(), RealmError>) {
        let mut reached = base;
        let result = self.with_spare(supply, |spare| {
            let mut blocks = self.blocks(base).lock();
            if !valid() {
                // Whoever made it so takes away what is there, which may be another file's by now.
                reached = end;
                return Ok(());
            }
            let mut work = Removing { tidy, left: PIECE, first_error: None };
            reached = base;
            while reached < end && work.left > 0 {
                // Where the file is not aligned as the addresses are, one block of addresses lies in two chunks of the file.
                let Some(piece) = range.within(reached, end).map(|piece| piece.in_one_chunk()) else {
                    reached = end;
                    break;
                };
                let done = piece.with_existing_chunk(|chunk, first| {
                    self.unassign_some(&mut blocks, spare, chunk, first, &piece, &mut work)
                });
                match done {
                    Some(Ok(granules)) => reached = piece.ipa.saturating_add(bytes(granules)),
                    Some(Err(stop)) => return Err(stop),
                    None => reached = piece.end(),
                }
            }
            let block_end = align_down(base, BLOCK_LEVEL).saturating_add(BLOCK_SIZE);
            if reached >= block_end && work.first_error.is_none() {
                self.tidy(&mut blocks, base, tidy);
            }
            work.first_error.map_or(Ok(()), |error| Err(Stop::Failed(error)))
        });
        // What stopped before its first granule would be tried for ever.
        if result.is_err() && reached == base {
            reached = end.min(base.saturating_add(bytes(PIECE)));
        }
        (reached, result)
    }

    /// Takes granules away from the head of `piece`, as many as are left to take; how many granules were looked at.
    fn unassign_some(
        &self,
        blocks: &mut Blocks,
        spare: &mut Spare,
        chunk: &mut Chunk,
        first: usize,
        piece: &PrivateRange<'_, H>,
        work: &mut Removing,
    ) -> Result<usize, Stop> {
        let count = usize::try_from(piece.size / GRANULE_SIZE).unwrap_or(usize::MAX);
        let (mut from, end) = (first, first.saturating_add(count));
        // What is lost a realm that goes may still have.
        while let Some(index) = chunk.next_of_realm(from, end, work.tidy == Tidy::Destroy) {
            let offset = index.saturating_sub(first);
            let Some(fewer) = work.left.checked_sub(1) else { return Ok(offset) };
            work.left = fewer;
            let ipa = piece.ipa.saturating_add(bytes(offset));
            match self.unassign(blocks, spare, &mut Place { chunk: &mut *chunk, index, ipa }, work.tidy) {
                Ok(()) => {}
                Err(Stop::Failed(error)) => {
                    work.first_error.get_or_insert(error);
                }
                Err(short @ Stop::Short(_)) => return Err(short),
            }
            from = index.saturating_add(1);
        }
        Ok(count)
    }
}

/// Whether a DATA_CREATE may have failed because of where its source lies.
fn refuses_source(error: &RmiError) -> bool {
    matches!(error.kind(), RmiCommand::DataCreate { .. })
        && error.code().map(ReturnCode::status) == Some(Status::ERROR_INPUT)
}

fn bytes(granules: usize) -> u64 {
    (granules as u64).saturating_mul(GRANULE_SIZE)
}
