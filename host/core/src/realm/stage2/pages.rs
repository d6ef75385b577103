//! Which host pages are mapped in a block of unprotected addresses.

use crate::realm::ipa::BLOCK_SIZE;
use realm_abi::GRANULE_SHIFT;
use realm_abi::rmi::RTT_ENTRIES;
use zerocopy::FromZeros;

/// The host pages mapped in a block, by their first granule.
#[derive(FromZeros)]
pub(crate) struct PageTable {
    /// Physical address with [`MAPPED`], or 0.
    pages: [u64; RTT_ENTRIES],
    pub(super) count: usize,
}

/// A page is mapped; addresses have no bit there.
const MAPPED: u64 = 1;

impl PageTable {
    pub(super) fn get(&self, index: usize) -> Option<u64> {
        self.pages.get(index).filter(|entry| **entry & MAPPED != 0).map(|entry| entry & !MAPPED)
    }

    pub(super) fn set(&mut self, index: usize, pa: u64) {
        if let Some(entry) = self.pages.get_mut(index) {
            *entry = pa | MAPPED;
            self.count = self.count.saturating_add(1);
        }
    }

    /// Where the block is that the pages of `size` bytes make up, if they do.
    pub(super) fn as_block(&self, size: u64) -> Option<u64> {
        let per_page = usize::try_from(size >> GRANULE_SHIFT).ok().filter(|count| *count > 0)?;
        if self.count.checked_mul(per_page)? != RTT_ENTRIES {
            return None;
        }
        let first = self.get(0).filter(|pa| pa.is_multiple_of(BLOCK_SIZE))?;
        let expected = (first..u64::MAX).step_by(usize::try_from(size).ok()?.max(1));
        let found = self.pages.iter().step_by(per_page.max(1));
        found.zip(expected).all(|(entry, pa)| *entry == pa | MAPPED).then_some(first)
    }

    pub(super) fn take(&mut self, index: usize) -> Option<u64> {
        let pa = self.get(index)?;
        *self.pages.get_mut(index)? = 0;
        self.count = self.count.saturating_sub(1);
        Some(pa)
    }
}
