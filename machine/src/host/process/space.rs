//! The address space of a process: anonymous memory backed by machine pages on first use, and pages of files.

use crate::host::machine_host::MachineHost;
use realm_abi::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Where mappings start.
const FIRST: u64 = 0x7000_0000_0000;
/// Mappings begin at multiples of this; huge pages have this size.
const HUGE: u64 = 2 << 20;

/// One mapping.
#[derive(Debug, Default)]
struct Mapping {
    size: u64,
    /// Whether huge pages back it where they can.
    huge: bool,
    /// Physical addresses of the pages that are there, by offset.
    pages: BTreeMap<u64, u64>,
    /// Offsets of huge pages that are mapped as one. Their pages are in `pages` too.
    blocks: BTreeSet<u64>,
    /// Offsets of pages that may not be written.
    read_only: BTreeSet<u64>,
    /// The pages belong to a file, not to the process.
    of_file: bool,
}

/// What is behind an address.
pub(super) struct Resolved {
    /// Physical address.
    pub pa: u64,
    /// Bytes of what is mapped as one around it: a huge page or a page.
    pub block: u64,
}

/// All mappings of a process.
#[derive(Debug)]
pub(super) struct Space {
    next: u64,
    mappings: BTreeMap<u64, Mapping>,
}

impl Default for Space {
    fn default() -> Self {
        Self { next: FIRST, mappings: BTreeMap::new() }
    }
}

impl Space {
    fn place(&mut self, size: u64) -> u64 {
        let addr = self.next;
        // An unmapped gap lies between any two mappings.
        self.next = (addr + size).next_multiple_of(HUGE) + HUGE;
        addr
    }

    /// Maps anonymous memory.
    pub fn map(&mut self, size: u64, huge: bool) -> u64 {
        self.insert(Mapping { size, huge, ..Mapping::default() })
    }

    fn insert(&mut self, mapping: Mapping) -> u64 {
        let addr = self.place(mapping.size);
        self.mappings.insert(addr, mapping);
        addr
    }

    /// Maps one page of a file.
    pub fn map_file_page(&mut self, pa: u64, size: u64) -> u64 {
        let pages = BTreeMap::from([(0, pa)]);
        self.insert(Mapping { size, pages, of_file: true, ..Mapping::default() })
    }

    /// Whether a mapping begins at `addr` and has `size` bytes.
    pub fn is_mapping(&self, addr: u64, size: u64) -> bool {
        self.mappings.get(&addr).is_some_and(|mapping| mapping.size == size)
    }

    /// Address and size of all mappings.
    pub fn mappings(&self) -> Vec<(u64, u64)> {
        self.mappings.iter().map(|(addr, mapping)| (*addr, mapping.size)).collect()
    }

    /// Removes a mapping; the pages to release.
    pub fn unmap(&mut self, addr: u64) -> Vec<u64> {
        match self.mappings.remove(&addr) {
            Some(mapping) if !mapping.of_file => mapping.pages.into_values().collect(),
            _ => Vec::new(),
        }
    }

    /// Removes everything; the pages to release.
    pub fn clear(&mut self) -> Vec<u64> {
        let all: Vec<u64> = self.mappings.keys().copied().collect();
        all.into_iter().flat_map(|addr| self.unmap(addr)).collect()
    }

    fn find(&mut self, addr: u64) -> Option<(u64, &mut Mapping)> {
        let (base, mapping) = self.mappings.range_mut(..=addr).next_back()?;
        let offset = addr - base;
        (offset < mapping.size).then_some((offset, mapping))
    }

    /// The mapping that `[addr, addr + size)` is a part of, and which part.
    fn part(&mut self, addr: u64, size: u64) -> Result<(Range<u64>, &mut Mapping), Errno> {
        let (offset, mapping) = self.find(addr).ok_or(Errno::EINVAL)?;
        if size > mapping.size - offset {
            return Err(Errno::EINVAL);
        }
        Ok((offset..offset + size, mapping))
    }

    /// Drops the anonymous pages in a part of one mapping; the pages to release.
    pub fn discard(&mut self, addr: u64, size: u64) -> Result<Vec<u64>, Errno> {
        let (part, mapping) = self.part(addr, size)?;
        if mapping.of_file {
            return Err(Errno::EINVAL);
        }
        // A huge page that goes as a whole is none any more either.
        mapping.blocks.retain(|block| *block >= part.end || block + HUGE <= part.start);
        let gone: Vec<u64> = mapping.pages.range(part).map(|(offset, _)| *offset).collect();
        Ok(gone.iter().filter_map(|offset| mapping.pages.remove(offset)).collect())
    }

    /// Makes whole pages of a mapping writable or not.
    pub fn protect(&mut self, addr: u64, size: u64, writable: bool, page_size: u64) -> Result<(), Errno> {
        let (part, mapping) = self.part(addr, size)?;
        // Huge pages that lie in the part stay whole.
        mapping.blocks.retain(|block| {
            *block >= part.end
                || block + HUGE <= part.start
                || (*block >= part.start && block + HUGE <= part.end)
        });
        mapping.read_only.retain(|page| !part.contains(page));
        if !writable {
            mapping
                .read_only
                .extend((part.start / page_size..part.end / page_size).map(|page| page * page_size));
        }
        Ok(())
    }

    /// Moves every anonymous page that only its mapping holds to another place.
    pub fn move_pages(&mut self, host: &MachineHost) {
        for mapping in self.mappings.values_mut().filter(|mapping| !mapping.of_file) {
            let Mapping { pages, blocks, .. } = mapping;
            for (offset, pa) in pages.iter_mut().filter(|(_, pa)| host.is_movable(**pa)) {
                if !blocks.contains(&(offset & !(HUGE - 1)))
                    && let Some(to) = host.move_user(*pa)
                {
                    *pa = to;
                }
            }
        }
    }

    /// What is behind `addr`; its page is allocated if it is not there yet.
    pub fn resolve(&mut self, host: &MachineHost, addr: u64, write: bool) -> Result<Resolved, Errno> {
        let page_size = 1_u64 << host.machine().config().host_page_shift;
        let (offset, mapping) = self.find(addr).ok_or(Errno::EFAULT)?;
        let page = offset & !(page_size - 1);
        let writable = !mapping.read_only.contains(&page);
        if write && !writable {
            return Err(Errno::EFAULT);
        }
        if !mapping.pages.contains_key(&page) {
            if mapping.of_file {
                return Err(Errno::EFAULT);
            }
            mapping.fault_in(host, page, page_size).ok_or(Errno::ENOMEM)?;
        }
        let pa = mapping.pages.get(&page).ok_or(Errno::EFAULT)?;
        let huge = mapping.blocks.contains(&(page & !(HUGE - 1)));
        Ok(Resolved { pa: pa + (offset - page), block: if huge { HUGE } else { page_size } })
    }
}

impl Mapping {
    /// Backs the page at offset `page`, with a huge page around it where that is possible: what Linux does for memory
    /// advised with MADV_HUGEPAGE.
    fn fault_in(&mut self, host: &MachineHost, page: u64, page_size: u64) -> Option<()> {
        let block = page & !(HUGE - 1);
        let around = block..block + HUGE;
        let empty = self.pages.range(around.clone()).next().is_none();
        // Only what has the same rights is mapped as one.
        let alike = self.read_only.range(around.clone()).next().is_none();
        let huge_order = (HUGE / page_size).ilog2();
        if self.huge
            && empty
            && alike
            && around.end <= self.size
            && let Some(pa) = host.alloc_user(huge_order)
        {
            for offset in (0..HUGE).step_by(usize::try_from(page_size).ok()?) {
                self.pages.insert(block + offset, pa + offset);
            }
            self.blocks.insert(block);
            return Some(());
        }
        let pa = host.alloc_user(0)?;
        self.pages.insert(page, pa);
        Some(())
    }
}
