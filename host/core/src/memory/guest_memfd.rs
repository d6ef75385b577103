//! The private memory of a VM: a sparse file of host pages whose granules belong to the Host or to the RMM.

mod chunk;

pub(crate) use chunk::{Cell, Chunk};

use crate::error::RealmError;
use crate::host::PageBlock;
use crate::realm::ipa::BLOCK_SIZE;
use crate::rmm::Rmm;
use crate::rmm::rmi::implausible;
use crate::{Host, Lock};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::RmiCommand;

/// A guest_memfd. Memory is allocated when it is first used: 2 MiB at once where the Host has them, single host pages
/// otherwise. It is freed by [`Self::punch_hole`] and with the file.
pub struct GuestMemfd<H: Host> {
    rmm: Arc<Rmm<H>>,
    size: u64,
    /// By offset / 2 MiB.
    chunks: H::Lock<BTreeMap<u64, Chunk>>,
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

    /// Gives `work` the chunk of the file behind `[ipa, ipa + size)`, and the index of the first granule in it; the file
    /// is locked meanwhile.
    pub(crate) fn with_chunk<R>(
        &self,
        rmm: &Rmm<H>,
        ipa: u64,
        size: u64,
        work: impl FnOnce(&mut Chunk, usize) -> Result<R, RealmError>,
    ) -> Result<R, RealmError> {
        let bad =
            RealmError::BadRange { base: ipa, size, rule: "it must lie in the private memory of the slot" };
        let part = ipa.checked_add(size).and_then(|end| self.within(ipa, end)).ok_or(bad)?;
        let in_file = part.offset.checked_add(size).is_some_and(|end| end <= self.memfd.size);
        if part.size != size || part.in_one_chunk().size != size || !in_file {
            return Err(bad);
        }
        let key = part.offset / BLOCK_SIZE;
        let room = self.memfd.size.saturating_sub(key.saturating_mul(BLOCK_SIZE)).min(BLOCK_SIZE);
        let mut chunks = self.memfd.chunks.lock();
        work(chunks.entry(key).or_insert_with(|| Chunk::new(rmm.host(), room)), index_in_chunk(part.offset))
    }

    /// The first address from `ipa` on whose chunk of the file has ever been used, `None` if the range has none.
    pub(crate) fn next_used(&self, ipa: u64) -> Option<u64> {
        let rest = self.within(ipa, self.end())?;
        let chunks = self.memfd.chunks.lock();
        let (key, _) = chunks.range(rest.offset / BLOCK_SIZE..).next()?;
        let unused = key.saturating_mul(BLOCK_SIZE).saturating_sub(rest.offset);
        Some(rest.ipa.saturating_add(unused)).filter(|&used| used < rest.end())
    }

    /// Gives `work` the chunk at the head of the range if it has ever been used.
    pub(crate) fn with_existing_chunk(&self, work: impl FnOnce(&mut Chunk, usize)) {
        if let Some(chunk) = self.memfd.chunks.lock().get_mut(&(self.offset / BLOCK_SIZE)) {
            work(chunk, index_in_chunk(self.offset));
        }
    }
}

fn index_in_chunk(offset: u64) -> usize {
    usize::try_from(offset % BLOCK_SIZE / GRANULE_SIZE).unwrap_or(usize::MAX)
}

impl<H: Host> GuestMemfd<H> {
    /// A file of `size` bytes without memory yet.
    ///
    /// # Errors
    /// [`RealmError::BadRange`] unless `size` is a multiple of the host page and not zero.
    pub fn new(rmm: Arc<Rmm<H>>, size: u64) -> Result<Self, RealmError> {
        let page = 1_u64.checked_shl(rmm.host().page_shift()).unwrap_or(GRANULE_SIZE);
        if size == 0 || !size.is_multiple_of(page) || i64::try_from(size).is_err() {
            let rule = "the size of a guest_memfd must be a multiple of the host page and not zero";
            return Err(RealmError::BadRange { base: 0, size, rule });
        }
        Ok(Self { rmm, size, chunks: H::Lock::new(BTreeMap::new()) })
    }

    /// Bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Frees the memory of `[offset, offset + size)` that no realm holds, as far as whole blocks of it are free.
    /// Unmap it first ([`Realm::unmap_private`](crate::realm::Realm::unmap_private)).
    pub fn punch_hole(&self, offset: u64, size: u64) {
        let end = offset.saturating_add(size).min(self.size);
        let mut at = offset;
        while at < end {
            let key = at / BLOCK_SIZE;
            let base = key.saturating_mul(BLOCK_SIZE);
            let to = end.min(base.saturating_add(BLOCK_SIZE));
            let mut freed = Vec::new();
            {
                let mut chunks = self.chunks.lock();
                if let Some(chunk) = chunks.get_mut(&key) {
                    let last = to.saturating_sub(base).div_ceil(GRANULE_SIZE);
                    freed = chunk.release(index_in_chunk(at), usize::try_from(last).unwrap_or(usize::MAX));
                    if chunk.is_empty() {
                        chunks.remove(&key);
                    }
                }
            }
            self.free(freed);
            self.rmm.host().yield_now();
            at = to;
        }
    }

    fn free(&self, blocks: Vec<PageBlock>) {
        for block in blocks {
            self.rmm.host().free(block);
        }
    }
}

impl<H: Host> Drop for GuestMemfd<H> {
    /// Frees what no realm holds; the rest is lost, and said so. Long, so the last owner lets go with no lock held.
    fn drop(&mut self) {
        let chunks = core::mem::take(&mut *self.chunks.lock());
        for (_, mut chunk) in chunks {
            for granule in chunk.give_up() {
                let command = RmiCommand::DataDestroy { rd: 0, ipa: 0 };
                let error = implausible(command, "a realm still held the memory when its file was closed");
                granule.lose(self.rmm.rmi(), error);
            }
            self.free(chunk.release(0, usize::MAX));
            self.rmm.host().yield_now();
        }
    }
}
