//! Granules out of host pages, whatever their size.

use super::OwnedGranule;
use crate::host::PageBlock;
use crate::{Host, Lock};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use realm_abi::{GRANULE_SHIFT, GRANULE_SIZE};

/// Most granules [`GranulePool::take_run`] gives: the tables of a concatenated root, and also the granules of the
/// largest host page.
pub const MAX_RUN: usize = 16;

/// A host page split into granules.
struct Block {
    memory: PageBlock,
    /// Bit n: granule n is here, not handed out.
    here: u16,
    /// Granules in it, at most [`MAX_RUN`].
    count: u32,
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

    fn granule(&self, index: u32) -> OwnedGranule {
        OwnedGranule::new(self.memory.pa.wrapping_add(u64::from(index) << GRANULE_SHIFT))
    }
}

#[derive(Default)]
struct Blocks {
    /// By address.
    all: BTreeMap<u64, Block>,
    /// The addresses of those with a granule left.
    partial: BTreeSet<u64>,
}

/// Splits host pages into granules and gives a page back to the Host when all its granules came back. A lost granule
/// keeps its page.
pub struct GranulePool<H: Host> {
    blocks: H::Lock<Blocks>,
}

impl<H: Host> GranulePool<H> {
    /// A pool that holds nothing.
    #[must_use]
    pub fn new() -> Self {
        Self { blocks: H::Lock::new(Blocks::default()) }
    }

    /// A granule filled with zeros, `None` when the Host has no memory.
    pub fn take(&self, host: &H) -> Option<OwnedGranule> {
        self.take_run(host, 1)?.pop()
    }

    /// `count` (a power of two, at most [`MAX_RUN`]) contiguous granules filled with zeros, the first one aligned to
    /// their total size. `None` when the Host has no such memory.
    pub fn take_run(&self, host: &H, count: usize) -> Option<Vec<OwnedGranule>> {
        if !count.is_power_of_two() || count > MAX_RUN {
            return None;
        }
        let count = u32::try_from(count).ok()?;
        if let Some(run) = self.take_used(count) {
            for granule in &run {
                host.write_phys(granule.pa(), &[0; GRANULE_SIZE as usize]);
            }
            return Some(run);
        }
        let per_page = 1_u32 << host.page_shift().saturating_sub(GRANULE_SHIFT).min(MAX_RUN.ilog2());
        let pages = usize::try_from(count.div_ceil(per_page)).ok()?;
        let memory = host.alloc(pages)?;
        let page_size = u64::from(per_page) << GRANULE_SHIFT;
        let mut run = Vec::new();
        let mut left = count;
        let mut pa = memory.pa;
        // Each page by itself, so that a lost granule keeps no other page.
        while left > 0 {
            let mut block = Block { memory: PageBlock { pa, pages: 1 }, here: 0, count: per_page };
            block.here = block.all();
            let now = left.min(per_page);
            run.append(&mut split(&mut block, 0, now));
            self.blocks.lock().keep(block);
            left = left.saturating_sub(now);
            pa = pa.saturating_add(page_size);
        }
        Some(run)
    }

    /// A run out of pages that are already split.
    fn take_used(&self, count: u32) -> Option<Vec<OwnedGranule>> {
        let mut blocks = self.blocks.lock();
        let Blocks { all, partial } = &mut *blocks;
        let (base, first) = partial.iter().find_map(|base| Some((*base, all.get(base)?.find(count)?)))?;
        let block = all.get_mut(&base)?;
        let run = split(block, first, count);
        if block.here == 0 {
            partial.remove(&base);
        }
        Some(run)
    }

    /// Takes a granule back. The memory goes to the Host with the last granule of its pages.
    pub fn put(&self, host: &H, granule: OwnedGranule) {
        let complete = self.blocks.lock().put(&granule);
        if let Some(block) = complete {
            host.free(block.memory);
        }
    }

    /// Host pages the pool holds, handed out or not.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.blocks.lock().all.values().fold(0, |sum, block| sum.saturating_add(block.memory.pages))
    }
}

impl Blocks {
    fn keep(&mut self, block: Block) {
        if block.here != 0 {
            self.partial.insert(block.memory.pa);
        }
        self.all.insert(block.memory.pa, block);
    }

    /// Puts a granule into its block; the block, if it is whole now.
    fn put(&mut self, granule: &OwnedGranule) -> Option<Block> {
        let (&base, block) = self.all.range_mut(..=granule.pa()).next_back()?;
        let index = granule.pa().wrapping_sub(base) >> GRANULE_SHIFT;
        if index >= u64::from(block.count) {
            return None;
        }
        block.here |= 1 << index;
        if block.here != block.all() {
            self.partial.insert(base);
            return None;
        }
        self.partial.remove(&base);
        self.all.remove(&base)
    }
}

impl<H: Host> Default for GranulePool<H> {
    fn default() -> Self {
        Self::new()
    }
}

fn run_mask(first: u32, count: u32) -> u16 {
    let ones = (1_u32 << count.min(16)).wrapping_sub(1);
    u16::try_from((ones << first.min(15)) & 0xffff).unwrap_or(0)
}

fn split(block: &mut Block, first: u32, count: u32) -> Vec<OwnedGranule> {
    block.here &= !run_mask(first, count);
    (first..first.saturating_add(count)).map(|index| block.granule(index)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeHost;

    #[test]
    fn a_page_goes_back_when_its_last_granule_does() {
        for (shift, per_page) in [(12, 1), (14, 4), (16, 16)] {
            let host = FakeHost::new(shift);
            let pool = GranulePool::<FakeHost>::new();
            let granules: Vec<_> = (0..per_page).map(|_| pool.take(&host).unwrap()).collect();
            assert_eq!((host.pages(), pool.pages()), (1, 1), "one page holds {per_page} granules");
            let mut left = per_page;
            for granule in granules {
                assert_eq!(host.pages(), 1, "{left} granules are out");
                pool.put(&host, granule);
                left -= 1;
            }
            assert_eq!((host.pages(), pool.pages()), (0, 0));
        }
    }

    #[test]
    fn a_run_is_contiguous_and_aligned_to_its_size() {
        for shift in [12, 14, 16] {
            let host = FakeHost::new(shift);
            let pool = GranulePool::<FakeHost>::new();
            let first = pool.take(&host).unwrap();
            for count in [1_u64, 2, 4, 8, 16] {
                let run = pool.take_run(&host, usize::try_from(count).unwrap()).unwrap();
                assert!(run[0].pa().is_multiple_of(count * GRANULE_SIZE));
                for (index, granule) in run.iter().enumerate() {
                    assert_eq!(granule.pa(), run[0].pa() + index as u64 * GRANULE_SIZE);
                    assert_ne!(granule.pa(), first.pa());
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
    fn no_run_is_longer_than_16_or_odd() {
        let host = FakeHost::new(12);
        let pool = GranulePool::<FakeHost>::new();
        for count in [0, 3, 17, 32] {
            assert!(pool.take_run(&host, count).is_none());
        }
        assert_eq!(host.pages(), 0);
    }

    #[test]
    fn a_granule_that_was_used_comes_out_as_zeros() {
        let host = FakeHost::new(16);
        let pool = GranulePool::<FakeHost>::new();
        let (keeps_the_page, used) = (pool.take(&host).unwrap(), pool.take(&host).unwrap());
        host.write_phys(used.pa(), &[0x5a; 4096]);
        pool.put(&host, used);
        let again = pool.take(&host).unwrap();
        let mut content = [1; 4096];
        host.read_phys(again.pa(), &mut content);
        assert_eq!(content, [0; 4096]);
        pool.put(&host, again);
        pool.put(&host, keeps_the_page);
    }

    #[test]
    fn without_memory_there_is_no_granule() {
        let host = FakeHost::new(12);
        host.inject(|_| true, 0, 1);
        let pool = GranulePool::<FakeHost>::new();
        assert!(pool.take(&host).is_none());
        assert_eq!(pool.pages(), 0);
    }
}
