//! The Host's physical page allocator: blocks of a power of two pages, aligned to their size (a buddy allocator).

use std::collections::{BTreeMap, BTreeSet};

/// Why pages could not be freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotAllocated;

/// Free and allocated pages, as indices from the first page of DRAM.
#[derive(Debug)]
pub(crate) struct Pages {
    /// First pages of free blocks by order.
    free: Vec<BTreeSet<u64>>,
    /// Orders of allocated blocks by first page.
    out: BTreeMap<u64, u32>,
}

impl Pages {
    /// `count` free pages.
    pub fn new(count: u64) -> Self {
        let orders = 64 - count.leading_zeros() as usize;
        let mut free = vec![BTreeSet::new(); orders.max(1)];
        let mut at = 0;
        while at < count {
            let aligned = if at == 0 { u32::MAX } else { at.trailing_zeros() };
            let order = aligned.min((count - at).ilog2());
            free[order as usize].insert(at);
            at += 1 << order;
        }
        Self { free, out: BTreeMap::new() }
    }

    /// Allocates `1 << order` pages: the lowest that fit.
    pub fn alloc(&mut self, order: u32) -> Option<u64> {
        let from = (order as usize..self.free.len()).find(|from| !self.free[*from].is_empty())?;
        let page = self.free[from].pop_first()?;
        for upper in (order as usize..from).rev() {
            self.free[upper].insert(page + (1 << upper));
        }
        self.out.insert(page, order);
        Some(page)
    }

    /// Makes an allocated block so many allocated single pages.
    pub fn split(&mut self, page: u64) {
        if let Some(order) = self.out.remove(&page) {
            self.out.extend((page..page + (1 << order)).map(|page| (page, 0)));
        }
    }

    /// Frees a block that was allocated, or an aligned part of one.
    pub fn free(&mut self, page: u64, order: u32) -> Result<(), NotAllocated> {
        let (&first, &whole) = self.out.range(..=page).next_back().ok_or(NotAllocated)?;
        if order > whole || page + (1 << order) > first + (1 << whole) || !page.is_multiple_of(1 << order) {
            return Err(NotAllocated);
        }
        self.out.remove(&first);
        // Halves without the part stay allocated.
        let mut half = first;
        for upper in (order..whole).rev() {
            let middle = half + (1 << upper);
            if page < middle {
                self.out.insert(middle, upper);
            } else {
                self.out.insert(half, upper);
                half = middle;
            }
        }
        let (mut page, mut order) = (page, order as usize);
        while order + 1 < self.free.len() && self.free[order].remove(&(page ^ (1 << order))) {
            page &= !(1 << order);
            order += 1;
        }
        self.free[order].insert(page);
        Ok(())
    }

    /// Pages that are allocated.
    pub fn out(&self) -> u64 {
        self.out.values().map(|order| 1 << order).sum()
    }

    /// Whether `page` is in an allocated block.
    pub fn is_out(&self, page: u64) -> bool {
        self.out.range(..=page).next_back().is_some_and(|(first, order)| page < first + (1 << order))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_apart_and_merge_again_when_freed() {
        let mut pages = Pages::new(24);
        let a = pages.alloc(0).expect("room");
        let b = pages.alloc(2).expect("room");
        let c = pages.alloc(3).expect("room");
        assert!(b.is_multiple_of(4) && c.is_multiple_of(8));
        assert_eq!(pages.out(), 13);
        assert!(pages.is_out(b + 3) && !pages.is_out(a + 1));
        assert_eq!(pages.alloc(4), None, "24 pages hold no second aligned 16");
        assert_eq!(pages.free(b + 2, 2), Err(NotAllocated));
        assert_eq!(pages.free(a + 1, 0), Err(NotAllocated));
        pages.split(b);
        for page in b..b + 4 {
            pages.free(page, 0).expect("a single page now");
        }
        pages.free(a, 0).expect("allocated");
        pages.free(c + 2, 1).expect("a part of it");
        assert_eq!(pages.free(c, 3), Err(NotAllocated), "not whole any more");
        assert!(pages.is_out(c + 1) && !pages.is_out(c + 2) && pages.is_out(c + 4));
        for (part, order) in [(c, 1), (c + 4, 2)] {
            pages.free(part, order).expect("the rest of it");
        }
        assert_eq!(pages.out(), 0);
        assert_eq!(pages.alloc(4), Some(0));
    }
}
