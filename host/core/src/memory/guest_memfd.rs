//! The private memory of a VM: a sparse file of host pages whose granules belong to the Host or to the RMM.

mod chunk;

pub(crate) use chunk::{Cell, Chunk};

use crate::error::RealmError;
use crate::host::{LockClass, Purpose};
use crate::realm::ipa::BLOCK_SIZE;
use crate::realm::stage2::PIECE;
use crate::rmm::Rmm;
use crate::rmm::rmi::implausible;
use crate::shares::{self, Shares};
use crate::{Host, Lock};
use chunk::{FULL, Missing, Offer};
use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::RmiCommand;
use realm_alloc::{Arc, Box, Spare, Sparse, try_box, try_zeroed_box};

/// A share of the chunks, which have the number offset / 2 MiB.
type Chunks = Sparse<Box<Chunk>>;

/// A guest_memfd. Memory is allocated when it is first used: 2 MiB at once where the Host has them, single host pages
/// otherwise. It is freed by [`Self::punch_hole`] and with the file.
pub struct GuestMemfd<H: Host> {
    rmm: Arc<Rmm<H>>,
    size: u64,
    chunks: Shares<H, Chunks>,
}

/// Protected addresses with the private memory behind them. A page of a file belongs at one address at a time: before it
/// is used at another one it must be unmapped, as when memory slots change.
pub struct PrivateRange<'a, H: Host> {
    /// The file.
    pub memfd: &'a GuestMemfd<H>,
    /// Offset in the file of the first byte; a multiple of the host page.
    pub offset: u64,
    /// First address; a multiple of the host page.
    pub ipa: u64,
    /// Bytes.
    pub size: u64,
}

impl<H: Host> Clone for PrivateRange<'_, H> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<H: Host> Copy for PrivateRange<'_, H> {}

impl<H: Host> PrivateRange<'_, H> {
    /// End of the addresses, exclusive.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.ipa.saturating_add(self.size)
    }

    /// The part of it that lies in `[base, end)`, `None` if that is nothing.
    #[must_use]
    pub fn within(&self, base: u64, end: u64) -> Option<Self> {
        let (from, to) = (self.ipa.max(base), self.end().min(end));
        let size = to.checked_sub(from).filter(|&size| size > 0)?;
        let offset = self.offset.checked_add(from.checked_sub(self.ipa)?)?;
        Some(Self { offset, ipa: from, size, ..*self })
    }

    /// The head of it that lies in one chunk of the file.
    pub(crate) fn in_one_chunk(&self) -> Self {
        let room = BLOCK_SIZE.saturating_sub(self.offset % BLOCK_SIZE);
        Self { size: self.size.min(room), ..*self }
    }

    /// Makes sure that the granule at `ipa` has memory. With no lock held.
    pub(crate) fn ensure(&self, ipa: u64) -> Result<(), RealmError> {
        self.memfd.ensure(self.offset_of(ipa, GRANULE_SIZE)?)
    }

    /// Whether the granule at `ipa` has memory.
    pub(crate) fn has_memory(&self, ipa: u64) -> bool {
        let cell = self.with_chunk(ipa, GRANULE_SIZE, |chunk, index| Ok::<_, RealmError>(chunk.cell(index)));
        cell.is_ok_and(|cell| cell != Cell::Absent)
    }

    /// The RMM refused the granule with physical address `pa`: if it is the one at `ipa` its memory goes back to the Host;
    /// whether it was. With no lock held.
    pub(crate) fn refused(&self, ipa: u64, pa: u64) -> bool {
        self.offset_of(ipa, GRANULE_SIZE).is_ok_and(|offset| self.memfd.refused(offset, pa))
    }

    /// Gives `work` the chunk of the file behind `[ipa, ipa + size)`, and the index of the first granule in it; its share of
    /// the file is locked meanwhile.
    ///
    /// # Errors
    /// [`RealmError::BadRange`] if the range is not in one chunk of the file; what `work` fails with.
    pub(crate) fn with_chunk<R, E: From<RealmError>>(
        &self,
        ipa: u64,
        size: u64,
        work: impl FnOnce(&mut Chunk, usize) -> Result<R, E>,
    ) -> Result<R, E> {
        let offset = self.offset_of(ipa, size)?;
        let key = offset / BLOCK_SIZE;
        let mut chunks = self.memfd.chunks.of(key).lock();
        let chunk = chunks.get_mut(shares::index(key)).ok_or(RealmError::NoMemory)?;
        work(chunk, index_in_chunk(offset))
    }

    /// The offset in the file of `[ipa, ipa + size)`, which lies in one chunk of it.
    fn offset_of(&self, ipa: u64, size: u64) -> Result<u64, RealmError> {
        let bad =
            RealmError::BadRange { base: ipa, size, rule: "it must lie in the private memory of the slot" };
        let part = ipa.checked_add(size).and_then(|end| self.within(ipa, end)).ok_or(bad)?;
        let in_file = part.offset.checked_add(size).is_some_and(|end| end <= self.memfd.size);
        if part.size != size || part.in_one_chunk().size != size || !in_file {
            return Err(bad);
        }
        Ok(part.offset)
    }

    /// The first address from `ipa` on whose chunk of the file has ever been used, `None` if the range has none.
    pub(crate) fn next_used(&self, ipa: u64) -> Option<u64> {
        let rest = self.within(ipa, self.end())?;
        let first = rest.offset / BLOCK_SIZE;
        let key = self.memfd.chunks.first(first, |chunks, from| Some(chunks.next(from)?.0))?;
        let unused = key.saturating_mul(BLOCK_SIZE).saturating_sub(rest.offset);
        Some(rest.ipa.saturating_add(unused)).filter(|&used| used < rest.end())
    }

    /// Gives `work` the chunk at the head of the range if it has ever been used.
    pub(crate) fn with_existing_chunk<R>(&self, work: impl FnOnce(&mut Chunk, usize) -> R) -> Option<R> {
        let key = self.offset / BLOCK_SIZE;
        let mut chunks = self.memfd.chunks.of(key).lock();
        chunks.get_mut(shares::index(key)).map(|chunk| work(chunk, index_in_chunk(self.offset)))
    }
}

fn index_in_chunk(offset: u64) -> usize {
    usize::try_from(offset % BLOCK_SIZE / GRANULE_SIZE).unwrap_or(usize::MAX)
}

impl<H: Host> GuestMemfd<H> {
    /// A file of `size` bytes without memory yet.
    ///
    /// # Errors
    /// [`RealmError::BadRange`] unless `size` is a multiple of the host page and not zero, [`RealmError::NoMemory`].
    pub fn new(rmm: Arc<Rmm<H>>, size: u64) -> Result<Self, RealmError> {
        let page = 1_u64.checked_shl(rmm.host().page_shift()).unwrap_or(GRANULE_SIZE);
        if size == 0 || !size.is_multiple_of(page) || i64::try_from(size).is_err() {
            let rule = "the size of a guest_memfd must be a multiple of the host page and not zero";
            return Err(RealmError::BadRange { base: 0, size, rule });
        }
        let chunks = Shares::new(LockClass::Memfd, Sparse::new).map_err(|_| RealmError::NoMemory)?;
        Ok(Self { rmm, size, chunks })
    }

    /// Bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Makes sure that the granule at `offset` has memory: looks what is missing, allocates it with no lock held, and looks
    /// again.
    fn ensure(&self, offset: u64) -> Result<(), RealmError> {
        let (key, index) = (offset / BLOCK_SIZE, index_in_chunk(offset));
        let room = self.size.saturating_sub(key.saturating_mul(BLOCK_SIZE)).min(BLOCK_SIZE);
        let host = self.rmm.host();
        let mut spare = Spare::new();
        let (mut chunk, mut offer) = (None, Offer::default());
        let result = loop {
            let missing = {
                let mut chunks = self.chunks.of(key).lock();
                if let Some(chunk) = chunk.take()
                    && chunks.get(shares::index(key)).is_none()
                {
                    // The spare was filled before the chunk was made.
                    let _full = chunks.insert(shares::index(key), chunk, &mut spare);
                }
                chunks.get_mut(shares::index(key)).map(|chunk| {
                    chunk.accept(index, &mut offer);
                    chunk.missing(index)
                })
            };
            let gathered = match missing {
                Some(Missing::Nothing) => break Ok(()),
                Some(missing) => gather(host, missing, &mut offer),
                None => spare.fill(1).map_err(RealmError::from).and_then(|()| {
                    chunk = Some(try_box(Chunk::new(room, host.page_shift()))?);
                    Ok(())
                }),
            };
            if let Err(error) = gathered {
                break Err(error);
            }
        };
        for left in [offer.block, offer.page].into_iter().flatten() {
            host.free(left);
        }
        result
    }

    fn refused(&self, offset: u64, pa: u64) -> bool {
        let key = offset / BLOCK_SIZE;
        let page = {
            let mut chunks = self.chunks.of(key).lock();
            chunks
                .get_mut(shares::index(key))
                .and_then(|chunk| chunk.take_refused(index_in_chunk(offset), pa))
        };
        let Some(page) = page else { return false };
        self.rmm.host().free_refused(page);
        true
    }

    /// The realm is destroyed: asks for what the RMM did not take out of it before. What it keeps is lost. Long.
    #[inline(never)]
    pub(crate) fn take_back_all(&self) {
        for share in self.chunks.iter() {
            let mut at = 0;
            loop {
                {
                    let mut chunks = share.lock();
                    let Some((place, chunk)) = chunks.next_mut(at) else { break };
                    at = place;
                    if !self.take_back_some(chunk) {
                        let Some(next) = place.checked_add(1) else { break };
                        at = next;
                        continue;
                    }
                }
                self.rmm.host().yield_now();
            }
        }
    }

    /// Asks for some granules of a chunk that a realm had; whether there were any.
    fn take_back_some(&self, chunk: &mut Chunk) -> bool {
        let mut left = PIECE;
        for index in 0..chunk.count() {
            let Some(fewer) = left.checked_sub(1) else { break };
            let Some(granule) = chunk.take_realm(index) else { continue };
            left = fewer;
            if let Ok(granule) = granule.undelegate(self.rmm.rmi()) {
                chunk.put_host(index, granule);
            }
        }
        left < PIECE
    }

    /// Frees the memory of `[offset, offset + size)` that no realm holds, as far as whole blocks of it are free.
    /// Unmap it first (`Realm::unmap_private`).
    pub fn punch_hole(&self, offset: u64, size: u64) {
        let end = offset.saturating_add(size).min(self.size);
        let mut at = offset;
        while at < end {
            let key = at / BLOCK_SIZE;
            let base = key.saturating_mul(BLOCK_SIZE);
            let to = end.min(base.saturating_add(BLOCK_SIZE));
            {
                let mut chunks = self.chunks.of(key).lock();
                if let Some(chunk) = chunks.get_mut(shares::index(key)) {
                    let last = to.saturating_sub(base).div_ceil(GRANULE_SIZE);
                    let last = usize::try_from(last).unwrap_or(usize::MAX);
                    chunk.release(self.rmm.host(), index_in_chunk(at), last);
                    if chunk.is_empty() {
                        chunks.remove(shares::index(key));
                    }
                }
            }
            self.rmm.host().yield_now();
            at = to;
        }
    }
}

/// Allocates what a chunk lacks.
fn gather<H: Host>(host: &H, missing: Missing, offer: &mut Offer) -> Result<(), RealmError> {
    if missing == Missing::BlockOrPage {
        let page = 1_u64.checked_shl(host.page_shift()).unwrap_or(GRANULE_SIZE);
        let pages =
            BLOCK_SIZE.checked_div(page).and_then(|pages| usize::try_from(pages).ok()).unwrap_or(FULL);
        offer.block = host.alloc(pages, Purpose::Guest);
        if offer.block.is_some() {
            return Ok(());
        }
    }
    if missing != Missing::Page && offer.table.is_none() {
        offer.table = Some(try_zeroed_box()?);
    }
    if offer.page.is_none() {
        offer.page = Some(host.alloc(1, Purpose::Guest).ok_or(RealmError::NoMemory)?);
    }
    Ok(())
}

impl<H: Host> Drop for GuestMemfd<H> {
    /// Frees what no realm holds; the rest is lost, and said so. Long, so the last owner lets go with no lock held.
    fn drop(&mut self) {
        for share in self.chunks.iter() {
            while let Some((_, mut chunk)) = { share.lock().pop_first() } {
                for index in 0..chunk.count() {
                    if let Some(granule) = chunk.take_realm(index) {
                        let command = RmiCommand::DataDestroy { rd: 0, ipa: 0 };
                        let error =
                            implausible(command, &"a realm still held the memory when its file was closed");
                        granule.lose(self.rmm.rmi(), error);
                    }
                }
                chunk.release(self.rmm.host(), 0, usize::MAX);
                self.rmm.host().yield_now();
            }
        }
    }
}
