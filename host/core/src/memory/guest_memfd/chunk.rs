//! 2 MiB of a guest_memfd.

use crate::Host;
use crate::host::PageBlock;
use crate::realm::ipa::BLOCK_SIZE;
use crate::rmm::granule::{DelegatedGranule, OwnedGranule};
use realm_abi::{GRANULE_SHIFT, GRANULE_SIZE};
use realm_alloc::Box;

/// Granules of a whole chunk.
pub(crate) const FULL: usize = (BLOCK_SIZE / GRANULE_SIZE) as usize;

/// Who has a granule of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    /// No memory yet.
    Absent,
    /// The Host.
    Host,
    /// The realm: it is mapped.
    Realm,
    /// Nobody: the RMM did not give it back. It stays like that: the page around it cannot be replaced.
    Lost,
}

/// One bit for each granule.
#[derive(Clone, Copy, Default)]
struct Bits([u64; FULL / 64]);

impl Bits {
    fn get(&self, index: usize) -> bool {
        self.0.get(index >> 6).is_some_and(|word| word >> (index & 63) & 1 != 0)
    }

    fn set(&mut self, index: usize, value: bool) {
        if let Some(word) = self.0.get_mut(index >> 6) {
            let bit = 1 << (index & 63);
            *word = if value { *word | bit } else { *word & !bit };
        }
    }

    fn any(&self) -> bool {
        self.0.iter().any(|word| *word != 0)
    }

    fn all(&self) -> bool {
        self.0.iter().all(|word| *word == u64::MAX)
    }
}

/// Addresses of single host pages, by the index of their first granule; 0 where there is none.
pub(crate) type Pages = [u64; FULL];

/// The memory behind a chunk.
enum Memory {
    None,
    /// One allocation of 2 MiB; pages of it may have been given back.
    Block {
        pa: u64,
    },
    Pages(Box<Pages>),
}

/// 2 MiB of the file, less at its end. While its memory is one block it is two hundred bytes.
pub(crate) struct Chunk {
    memory: Memory,
    /// Granules in it.
    count: usize,
    /// Granules in a host page.
    per_page: usize,
    /// Those the realm has.
    realm: Bits,
    /// Those nobody has any more, and the one that is being moved.
    lost: Bits,
    /// Those of a block that were given back to the Host.
    freed: Bits,
}

/// What a chunk needs so that a granule of it has memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// It has memory, or never gets any.
    Nothing,
    /// 2 MiB, or a page and a table of pages.
    BlockOrPage,
    /// A page and a table of pages.
    PageAndTable,
    /// A page.
    Page,
}

/// Memory for a chunk, allocated with no lock held. What is left in it was not needed.
#[derive(Default)]
pub(crate) struct Offer {
    pub(crate) block: Option<PageBlock>,
    pub(crate) page: Option<PageBlock>,
    pub(crate) table: Option<Box<Pages>>,
}

impl Chunk {
    /// A chunk of `size` bytes without memory, for host pages of `page_shift`.
    pub(crate) fn new(size: u64, page_shift: u32) -> Self {
        let count = usize::try_from(size / GRANULE_SIZE).unwrap_or(0).min(FULL);
        let per_page = 1_usize << page_shift.saturating_sub(GRANULE_SHIFT).min(9);
        let (realm, lost, freed) = (Bits::default(), Bits::default(), Bits::default());
        Self { memory: Memory::None, count, per_page, realm, lost, freed }
    }

    /// Address of a granule's memory.
    fn pa(&self, index: usize) -> Option<u64> {
        if index >= self.count {
            return None;
        }
        match &self.memory {
            Memory::None => None,
            Memory::Block { pa } => (!self.freed.get(index)).then(|| pa.wrapping_add(bytes(index))),
            Memory::Pages(pages) => {
                let first = self.first_of_page(index);
                let pa = pages.get(first).copied().filter(|pa| *pa != 0)?;
                Some(pa.wrapping_add(bytes(index.saturating_sub(first))))
            }
        }
    }

    /// Host pages of a whole chunk.
    fn pages(&self) -> usize {
        FULL.checked_div(self.per_page).unwrap_or(FULL)
    }

    fn first_of_page(&self, index: usize) -> usize {
        index & !self.per_page.wrapping_sub(1)
    }

    /// Who has a granule.
    pub(crate) fn cell(&self, index: usize) -> Cell {
        match self.pa(index) {
            _ if self.lost.get(index) => Cell::Lost,
            None => Cell::Absent,
            Some(_) if self.realm.get(index) => Cell::Realm,
            Some(_) => Cell::Host,
        }
    }

    /// Takes a granule of the Host out, to be put back with [`Self::put_host`] or [`Self::put_realm`]; meanwhile it counts as
    /// lost.
    pub(crate) fn take_host(&mut self, index: usize) -> Result<OwnedGranule, Cell> {
        match (self.cell(index), self.pa(index)) {
            (Cell::Host, Some(pa)) => {
                self.lost.set(index, true);
                Ok(OwnedGranule::new(pa))
            }
            (cell, _) => Err(cell),
        }
    }

    /// Takes a granule of the realm out, as [`Self::take_host`] does.
    pub(crate) fn take_realm(&mut self, index: usize) -> Option<DelegatedGranule> {
        let pa = self.pa(index).filter(|_| self.cell(index) == Cell::Realm)?;
        self.realm.set(index, false);
        self.lost.set(index, true);
        Some(DelegatedGranule::new(pa))
    }

    /// The address of a granule the realm has.
    pub(crate) fn realm_pa(&self, index: usize) -> Option<u64> {
        self.pa(index).filter(|_| self.cell(index) == Cell::Realm)
    }

    /// Puts a granule back that is the Host's.
    pub(crate) fn put_host(&mut self, index: usize, granule: OwnedGranule) {
        let _: u64 = granule.into_pa();
        self.lost.set(index, false);
    }

    /// Puts a granule back that the realm has now.
    pub(crate) fn put_realm(&mut self, index: usize, granule: DelegatedGranule) {
        let _: u64 = granule.into_pa();
        self.realm.set(index, true);
        self.lost.set(index, false);
    }

    /// What is needed so that a granule has memory.
    pub(crate) fn missing(&self, index: usize) -> Missing {
        match (&self.memory, self.cell(index)) {
            (Memory::None, Cell::Absent) if self.count == FULL => Missing::BlockOrPage,
            (Memory::None | Memory::Block { .. }, Cell::Absent) => Missing::PageAndTable,
            (Memory::Pages(_), Cell::Absent) => Missing::Page,
            _ => Missing::Nothing,
        }
    }

    /// Takes what it can use for the granule at `index` out of `offer`.
    pub(crate) fn accept(&mut self, index: usize, offer: &mut Offer) {
        match self.missing(index) {
            Missing::BlockOrPage if let Some(block) = offer.block.take() => {
                self.memory = Memory::Block { pa: block.pa };
                self.freed = Bits::default();
            }
            Missing::Nothing => {}
            missing => self.accept_page(index, missing, offer),
        }
    }

    fn accept_page(&mut self, index: usize, missing: Missing, offer: &mut Offer) {
        if missing != Missing::Page {
            let Some(mut table) = offer.table.take_if(|_| offer.page.is_some()) else { return };
            table.fill(0);
            if let Memory::Block { pa } = self.memory {
                for first in (0..FULL).step_by(self.per_page.max(1)) {
                    if !self.freed.get(first)
                        && let Some(entry) = table.get_mut(first)
                    {
                        *entry = pa.wrapping_add(bytes(first));
                    }
                }
            }
            self.memory = Memory::Pages(table);
        }
        let first = self.first_of_page(index);
        if let Memory::Pages(pages) = &mut self.memory
            && let Some(entry) = pages.get_mut(first)
            && let Some(page) = offer.page.take()
        {
            *entry = page.pa;
        }
    }

    /// Whether the memory is one 2 MiB block, all of it there.
    pub(crate) fn is_block(&self) -> bool {
        matches!(self.memory, Memory::Block { .. }) && !self.freed.any() && self.count == FULL
    }

    /// Whether the chunk is one 2 MiB block of memory, all of it the realm's.
    pub(crate) fn is_block_of_the_realm(&self) -> bool {
        self.is_block() && self.realm.all()
    }

    /// The first granule in `[from, to)` that the realm has; or, where `lost` says so, that nobody has.
    #[inline(never)]
    pub(crate) fn next_of_realm(&self, from: usize, to: usize, lost: bool) -> Option<usize> {
        let any = self.realm.any() || lost && self.lost.any();
        if !any {
            return None;
        }
        (from..to.min(self.count)).find(|index| match self.cell(*index) {
            Cell::Realm => true,
            Cell::Lost => lost,
            Cell::Absent | Cell::Host => false,
        })
    }

    /// Gives the memory that lies in the cells `[first, last)` and is the Host's back: the block if it is whole, else host
    /// pages.
    pub(crate) fn release<H: Host>(&mut self, host: &H, first: usize, last: usize) {
        if let Memory::Block { pa } = self.memory
            && self.is_block()
            && !self.realm.any()
        {
            let whole = first == 0 && last >= self.count;
            if whole && !self.lost.any() {
                self.memory = Memory::None;
                return host.free(PageBlock { pa, pages: self.pages() });
            }
            // A part of an allocation stays with the rest as long as nothing of it is lost.
            if !self.lost.any() {
                return;
            }
        }
        let mut at = first.next_multiple_of(self.per_page.max(1));
        while at.saturating_add(self.per_page) <= last.min(self.count) {
            if let Some(page) = self.take_page(at) {
                host.free(page);
            }
            at = at.saturating_add(self.per_page);
        }
        if let Memory::Pages(pages) = &self.memory
            && pages.iter().all(|pa| *pa == 0)
        {
            self.memory = Memory::None;
        }
    }

    /// Takes out a host page all of which is the Host's.
    fn take_page(&mut self, first: usize) -> Option<PageBlock> {
        let granules = first..first.saturating_add(self.per_page);
        if granules.clone().any(|index| self.cell(index) != Cell::Host) {
            return None;
        }
        let pa = self.pa(first)?;
        match &mut self.memory {
            Memory::None => return None,
            Memory::Block { .. } => granules.for_each(|index| self.freed.set(index, true)),
            Memory::Pages(pages) => *pages.get_mut(first)? = 0,
        }
        Some(PageBlock { pa, pages: 1 })
    }

    /// The RMM refused the granule with address `refused`: if it is the one at `index`, takes out its page, or the whole block
    /// if none of it is in use.
    pub(crate) fn take_refused(&mut self, index: usize, refused: u64) -> Option<PageBlock> {
        self.pa(index).filter(|pa| *pa == refused)?;
        if let Memory::Block { pa } = self.memory
            && self.is_block()
            && !self.realm.any()
            && !self.lost.any()
        {
            self.memory = Memory::None;
            return Some(PageBlock { pa, pages: self.pages() });
        }
        self.take_page(self.first_of_page(index))
    }

    /// Whether it has no memory.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.memory, Memory::None) && !self.lost.any()
    }

    /// Granules in it.
    pub(crate) fn count(&self) -> usize {
        self.count
    }
}

fn bytes(granules: usize) -> u64 {
    (granules as u64) << GRANULE_SHIFT
}

const _: () = assert!(size_of::<Chunk>() <= 256);
