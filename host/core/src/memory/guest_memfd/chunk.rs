//! 2 MiB of a guest_memfd.

use crate::Host;
use crate::error::RealmError;
use crate::host::PageBlock;
use crate::realm::ipa::BLOCK_SIZE;
use crate::rmm::granule::{DelegatedGranule, OwnedGranule};
use alloc::vec::Vec;
use realm_abi::{GRANULE_SHIFT, GRANULE_SIZE};

/// One granule of the file.
pub(crate) enum Cell {
    /// No memory yet.
    Absent,
    /// Memory of the Host.
    Host(OwnedGranule),
    /// Memory of the realm, mapped.
    Realm(DelegatedGranule),
    /// Memory the RMM did not give back. It stays like that: the page around it cannot be replaced.
    Lost,
}

/// 2 MiB of the file, less at its end.
pub(crate) struct Chunk {
    cells: Vec<Cell>,
    /// Allocations, by the index of their first cell.
    blocks: Vec<(usize, PageBlock)>,
    /// Granules in a host page.
    per_page: usize,
}

impl Chunk {
    /// A chunk of `size` bytes without memory.
    pub(crate) fn new<H: Host>(host: &H, size: u64) -> Self {
        let count = usize::try_from(size / GRANULE_SIZE).unwrap_or(0);
        let per_page = 1_usize.checked_shl(host.page_shift().saturating_sub(GRANULE_SHIFT)).unwrap_or(1);
        Self {
            cells: core::iter::repeat_with(|| Cell::Absent).take(count).collect(),
            blocks: Vec::new(),
            per_page,
        }
    }

    /// The granule at `index`.
    pub(crate) fn cell(&mut self, index: usize) -> Option<&mut Cell> {
        self.cells.get_mut(index)
    }

    /// All granules.
    pub(crate) fn cells(&mut self) -> impl Iterator<Item = &mut Cell> {
        self.cells.iter_mut()
    }

    /// The granule at `index`, with memory: 2 MiB if nothing was allocated yet and the Host has them, else its host page.
    pub(crate) fn ensure<H: Host>(&mut self, host: &H, index: usize) -> Result<&mut Cell, RealmError> {
        if matches!(self.cells.get(index), Some(Cell::Absent)) && !self.allocate_block(host) {
            let first = index.saturating_sub(index.checked_rem(self.per_page).unwrap_or(0));
            let page = host.alloc(1).ok_or(RealmError::NoMemory)?;
            self.insert(first, page, self.per_page);
        }
        self.cells.get_mut(index).ok_or(RealmError::NoMemory)
    }

    /// Whether the chunk is one 2 MiB block of the Host's memory, all of it the Host's; allocates it if there is none.
    pub(crate) fn ensure_block<H: Host>(&mut self, host: &H) -> bool {
        self.allocate_block(host);
        self.is_block() && self.cells.iter().all(|cell| matches!(cell, Cell::Host(_)))
    }

    /// Whether the chunk is one 2 MiB block of memory, all of it the realm's. Looks at the last granule first: most realms
    /// touch it last.
    pub(crate) fn is_block_of_the_realm(&self) -> bool {
        self.is_block() && self.cells.iter().rev().all(|cell| matches!(cell, Cell::Realm(_)))
    }

    /// Whether the memory is one 2 MiB block.
    fn is_block(&self) -> bool {
        let pages = FULL.checked_div(self.per_page);
        matches!(self.blocks.as_slice(), [(0, block)] if Some(block.pages) == pages && self.cells.len() == FULL)
    }

    /// Allocates 2 MiB for a chunk that has nothing yet.
    fn allocate_block<H: Host>(&mut self, host: &H) -> bool {
        if !self.blocks.is_empty() || self.cells.len() != FULL {
            return false;
        }
        let Some(pages) = FULL.checked_div(self.per_page) else { return false };
        let Some(block) = host.alloc(pages) else { return false };
        self.insert(0, block, FULL);
        true
    }

    fn insert(&mut self, first: usize, block: PageBlock, count: usize) {
        let mut pa = block.pa;
        for cell in self.cells.iter_mut().skip(first).take(count) {
            *cell = Cell::Host(OwnedGranule::new(pa));
            pa = pa.saturating_add(GRANULE_SIZE);
        }
        self.blocks.push((first, block));
    }

    /// Takes out the memory that lies in the cells `[first, last)` and is the Host's: whole allocations, and of one that
    /// has lost granules the host pages without any.
    pub(crate) fn release(&mut self, first: usize, last: usize) -> Vec<PageBlock> {
        let mut freed = Vec::new();
        let mut kept = Vec::new();
        for (start, block) in core::mem::take(&mut self.blocks) {
            for (start, part) in self.parts(start, block) {
                let end = start.saturating_add(part.pages.saturating_mul(self.per_page));
                let inside = start >= first && end <= last;
                match self.cells.get_mut(start..end) {
                    Some(cells) if inside && cells.iter().all(|cell| matches!(cell, Cell::Host(_))) => {
                        cells.fill_with(|| Cell::Absent);
                        freed.push(part);
                    }
                    _ => kept.push((start, part)),
                }
            }
        }
        self.blocks = kept;
        freed
    }

    /// An allocation with lost granules as its single host pages, so that only theirs stay; any other as it is.
    fn parts(&self, start: usize, block: PageBlock) -> Vec<(usize, PageBlock)> {
        let end = start.saturating_add(block.pages.saturating_mul(self.per_page));
        let lost = |cell: &Cell| matches!(cell, Cell::Lost);
        if !self.cells.get(start..end).is_some_and(|cells| cells.iter().any(lost)) {
            return alloc::vec![(start, block)];
        }
        let page_size = GRANULE_SIZE.saturating_mul(self.per_page as u64);
        let addresses = (block.pa..).step_by(usize::try_from(page_size).unwrap_or(usize::MAX));
        let starts = (start..end).step_by(self.per_page.max(1));
        starts.zip(addresses).map(|(start, pa)| (start, PageBlock { pa, pages: 1 })).collect()
    }

    /// Whether it has no memory.
    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Takes out the granules the RMM still holds; their cells are lost.
    pub(crate) fn give_up(&mut self) -> impl Iterator<Item = DelegatedGranule> {
        let held = self.cells.iter_mut().filter(|cell| matches!(cell, Cell::Realm(_)));
        held.filter_map(|cell| match core::mem::replace(cell, Cell::Lost) {
            Cell::Realm(granule) => Some(granule),
            _ => None,
        })
    }
}

/// Granules of a whole chunk.
const FULL: usize = (BLOCK_SIZE / GRANULE_SIZE) as usize;
