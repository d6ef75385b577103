//! Granules out of host pages, whatever their size.

use super::OwnedGranule;
use crate::host::{LockClass, PageBlock, Purpose};
use crate::{Errno, Host, Lock};
use realm_abi::{GRANULE_SHIFT, GRANULE_SIZE};
use realm_alloc::{NoMemory, Spare, Sparse, Vec};

/// Most granules [`GranulePool::take_run`] gives: the tables of a concatenated root, and also the granules of the
/// largest host page.
pub const MAX_RUN: usize = 16;

/// A host page split into granules.
struct Block {
    pa: u64,
    /// Bit n: granule n is here, not handed out.
    here: u16,
    /// Granules in it, at most [`MAX_RUN`].
    count: u32,
    /// The RMM refused a granule of it, so none is handed out any more.
    refused: bool,
    /// The neighbours in the list of pages that have granules to hand out.
    previous: Option<u64>,
    next: Option<u64>,
}

impl Block {
    fn all(&self) -> u16 {
        u16::try_from((1_u32 << self.count.min(16)).wrapping_sub(1)).unwrap_or(u16::MAX)
    }

    /// The first of `count` granules that are here, side by side and aligned.
    fn find(&self, count: u32) -> Option<u32> {
        (0..self.count).step_by(count as usize).find(|&first| {
            let mask = run_mask(first, count);
            self.here & mask == mask
        })
    }

    fn is_listed(&self) -> bool {
        self.here != 0 && !self.refused
    }
}

/// The pages of which a part is in use, by page frame number, and the list of those that have granules left.
#[derive(Default)]
struct Blocks {
    all: Sparse<Block>,
    first: Option<u64>,
}

/// Splits host pages into granules and gives a page back to the Host when all its granules came back. A lost granule
/// keeps its page. Where host pages are granules there is nothing to split and nothing to remember.
pub struct GranulePool<H: Host> {
    blocks: H::Lock<Blocks>,
}

impl<H: Host> GranulePool<H> {
    /// A pool that holds nothing.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new() -> Result<Self, Errno> {
        Ok(Self { blocks: H::Lock::new(LockClass::Granules, Blocks::default())? })
    }

    /// A granule filled with zeros.
    ///
    /// # Errors
    /// The Host has no memory.
    pub fn take(&self, host: &H, purpose: Purpose) -> Result<OwnedGranule, NoMemory> {
        let shift = page_shift(host);
        if shift == GRANULE_SHIFT {
            return Ok(OwnedGranule::new(host.alloc(1, purpose).ok_or(NoMemory)?.pa));
        }
        let first = match self.take_used(1) {
            Some(pa) => {
                host.with_granule(pa, |bytes| bytes.0.fill(0));
                pa
            }
            None => self.take_new(host, shift, 1, purpose)?,
        };
        Ok(OwnedGranule::new(first))
    }

    /// `count` (a power of two, at most [`MAX_RUN`]) contiguous granules filled with zeros, the first one aligned to
    /// their total size.
    ///
    /// # Errors
    /// The Host has no such memory.
    pub fn take_run(&self, host: &H, count: usize, purpose: Purpose) -> Result<Vec<OwnedGranule>, NoMemory> {
        if !count.is_power_of_two() || count > MAX_RUN {
            return Err(NoMemory);
        }
        let mut run = Vec::with_capacity(count)?;
        let shift = page_shift(host);
        let granules = u32::try_from(count).map_err(|_| NoMemory)?;
        let mut pa = match self.take_used(granules) {
            Some(pa) => {
                for granule in addresses(pa, granules) {
                    host.with_granule(granule, |bytes| bytes.0.fill(0));
                }
                pa
            }
            None => self.take_new(host, shift, granules, purpose)?,
        };
        for _ in 0..count {
            // There is room for all of them.
            let _full = run.push_within(OwnedGranule::new(pa));
            pa = pa.saturating_add(GRANULE_SIZE);
        }
        Ok(run)
    }

    /// A run out of pages that are already split; its first address.
    fn take_used(&self, count: u32) -> Option<u64> {
        let mut blocks = self.blocks.lock();
        let mut at = blocks.first;
        while let Some(number) = at {
            let block = blocks.all.get_mut(number)?;
            if let Some(first) = block.find(count) {
                block.here &= !run_mask(first, count);
                let (pa, left) = (block.pa, block.here != 0);
                if !left {
                    blocks.unlist(number);
                }
                return Some(pa.wrapping_add(u64::from(first) << GRANULE_SHIFT));
            }
            at = block.next;
        }
        None
    }

    /// The run at the start of new pages; its first address.
    fn take_new(&self, host: &H, shift: u32, count: u32, purpose: Purpose) -> Result<u64, NoMemory> {
        let per_page = 1_u32 << shift.saturating_sub(GRANULE_SHIFT).min(MAX_RUN.ilog2());
        let pages = count.div_ceil(per_page);
        let mut spare = Spare::new();
        if per_page > 1 {
            spare.fill_run(usize::try_from(pages).map_err(|_| NoMemory)?)?;
        }
        let memory = host.alloc(usize::try_from(pages).map_err(|_| NoMemory)?, purpose).ok_or(NoMemory)?;
        if per_page == 1 {
            return Ok(memory.pa);
        }
        let mut blocks = self.blocks.lock();
        // Each page by itself, so that a lost granule keeps no other page.
        for page in 0..pages {
            let pa = memory.pa.saturating_add(u64::from(page) << shift);
            let taken = count.saturating_sub(page.saturating_mul(per_page)).min(per_page);
            let mut block =
                Block { pa, here: 0, count: per_page, refused: false, previous: None, next: None };
            block.here = block.all() & !run_mask(0, taken);
            let listed = block.is_listed();
            // The spare was filled for as many.
            let _full = blocks.all.insert(pa >> shift, block, &mut spare);
            if listed {
                blocks.list(pa >> shift);
            }
        }
        Ok(memory.pa)
    }

    /// Takes a granule back. The memory goes to the Host with the last granule of its page.
    pub fn put(&self, host: &H, granule: OwnedGranule) {
        self.take_back(host, granule, false);
    }

    /// Takes back a granule the RMM refused: nothing of its page is handed out again.
    pub fn put_refused(&self, host: &H, granule: OwnedGranule) {
        self.take_back(host, granule, true);
    }

    fn take_back(&self, host: &H, granule: OwnedGranule, refused: bool) {
        let shift = page_shift(host);
        let (pa, refused) = if shift == GRANULE_SHIFT {
            (granule.into_pa(), refused)
        } else {
            let number = granule.pa() >> shift;
            let whole = self.blocks.lock().put(number, granule, refused);
            let Some(block) = whole else { return };
            (block.pa, block.refused)
        };
        let block = PageBlock { pa, pages: 1 };
        if refused {
            host.free_refused(block);
        } else {
            host.free(block);
        }
    }
}

impl Blocks {
    /// Puts a page at the head of the list.
    fn list(&mut self, number: u64) {
        let next = self.first.replace(number);
        if let Some(block) = self.all.get_mut(number) {
            (block.previous, block.next) = (None, next);
        }
        if let Some(block) = next.and_then(|next| self.all.get_mut(next)) {
            block.previous = Some(number);
        }
    }

    /// Takes a page off the list.
    fn unlist(&mut self, number: u64) {
        let Some(block) = self.all.get_mut(number) else { return };
        let (previous, next) = (block.previous.take(), block.next.take());
        match previous.and_then(|previous| self.all.get_mut(previous)) {
            Some(block) => block.next = next,
            None => self.first = next,
        }
        if let Some(block) = next.and_then(|next| self.all.get_mut(next)) {
            block.previous = previous;
        }
    }

    /// Puts a granule into its page; the page, if it is whole now.
    fn put(&mut self, number: u64, granule: OwnedGranule, refused: bool) -> Option<Block> {
        let block = self.all.get_mut(number)?;
        let was_listed = block.is_listed();
        let index = granule.into_pa().wrapping_sub(block.pa) >> GRANULE_SHIFT;
        block.here |= 1_u16.checked_shl(u32::try_from(index).ok()?)?;
        block.refused |= refused;
        let (whole, is_listed) = (block.here == block.all(), block.is_listed());
        if was_listed && (whole || !is_listed) {
            self.unlist(number);
        } else if !was_listed && is_listed && !whole {
            self.list(number);
        }
        if whole { self.all.remove(number) } else { None }
    }
}

fn page_shift<H: Host>(host: &H) -> u32 {
    host.page_shift().clamp(GRANULE_SHIFT, 16)
}

fn addresses(pa: u64, count: u32) -> impl Iterator<Item = u64> {
    (0..u64::from(count)).map(move |index| pa.wrapping_add(index << GRANULE_SHIFT))
}

fn run_mask(first: u32, count: u32) -> u16 {
    let ones = (1_u32 << count.min(16)).wrapping_sub(1);
    u16::try_from((ones << first.min(15)) & 0xffff).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeHost;

    const TABLE: Purpose = Purpose::Realm;

    #[test]
    fn a_page_goes_back_when_its_last_granule_does() {
        for (shift, per_page) in [(12, 1), (14, 4), (16, 16)] {
            let host = FakeHost::new(shift);
            let pool = GranulePool::<FakeHost>::new().unwrap();
            let granules: std::vec::Vec<_> =
                (0..per_page).map(|_| pool.take(&host, TABLE).unwrap()).collect();
            assert_eq!(host.pages(), 1, "one page holds {per_page} granules");
            let mut left = per_page;
            for granule in granules {
                assert_eq!(host.pages(), 1, "{left} granules are out");
                pool.put(&host, granule);
                left -= 1;
            }
            assert_eq!(host.pages(), 0);
        }
    }

    #[test]
    fn a_run_is_contiguous_and_aligned_to_its_size() {
        for shift in [12, 14, 16] {
            let host = FakeHost::new(shift);
            let pool = GranulePool::<FakeHost>::new().unwrap();
            let first = pool.take(&host, TABLE).unwrap();
            for count in [1_u64, 2, 4, 8, 16] {
                let run = pool.take_run(&host, usize::try_from(count).unwrap(), TABLE).unwrap();
                assert!(run[0].pa().is_multiple_of(count * GRANULE_SIZE));
                for (index, granule) in run.iter().enumerate() {
                    assert_eq!(granule.pa(), run[0].pa() + index as u64 * GRANULE_SIZE);
                }
                for granule in run {
                    pool.put(&host, granule);
                }
            }
            pool.put(&host, first);
            assert_eq!(host.pages(), 0);
        }
    }

    #[test]
    fn a_granule_that_was_used_is_zero_when_it_is_handed_out_again() {
        let host = FakeHost::new(16);
        let pool = GranulePool::<FakeHost>::new().unwrap();
        let (kept, dirty) = (pool.take(&host, TABLE).unwrap(), pool.take(&host, TABLE).unwrap());
        let pa = dirty.pa();
        host.with_granule(pa, |bytes| bytes.0.fill(7));
        pool.put(&host, dirty);
        let again = pool.take(&host, TABLE).unwrap();
        assert_eq!(again.pa(), pa);
        host.with_granule(pa, |bytes| assert_eq!(bytes.0, [0; GRANULE_SIZE as usize]));
        pool.put(&host, again);
        pool.put(&host, kept);
        assert_eq!(host.pages(), 0);
    }

    #[test]
    fn nothing_of_a_page_the_rmm_refused_is_handed_out_again() {
        for (shift, per_page) in [(12, 1), (14, 4), (16, 16)] {
            let host = FakeHost::new(shift);
            let pool = GranulePool::<FakeHost>::new().unwrap();
            let (other, refused) = (pool.take(&host, TABLE).unwrap(), pool.take(&host, TABLE).unwrap());
            let page = refused.pa() >> shift;
            pool.put_refused(&host, refused);
            let next = pool.take(&host, TABLE).unwrap();
            assert_ne!(next.pa() >> shift, page);
            pool.put(&host, next);
            pool.put(&host, other);
            assert_eq!((host.pages(), host.refused_pages()), (0, 1), "{per_page} granules a page");
        }
    }
}
