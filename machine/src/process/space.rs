//! The address space of a process: anonymous memory backed by machine pages on first use, and pages of files.

use crate::host::MachineHost;
use realm_abi::Errno;
use std::collections::BTreeMap;

/// Where mappings start.
const FIRST: u64 = 0x7000_0000_0000;
/// Mappings are aligned to, and pages allocated in, blocks of this size where they are that large.
const HUGE: u64 = 2 << 20;

/// One mapping.
#[derive(Debug)]
struct Mapping {
    size: u64,
    writable: bool,
    /// Physical addresses of the pages that are there, by offset.
    pages: BTreeMap<u64, u64>,
    /// The pages belong to a file, not to the process.
    of_file: bool,
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
    pub fn map(&mut self, size: u64) -> u64 {
        let addr = self.place(size);
        let mapping = Mapping { size, writable: true, pages: BTreeMap::new(), of_file: false };
        self.mappings.insert(addr, mapping);
        addr
    }

    /// Maps one page of a file.
    pub fn map_file_page(&mut self, pa: u64, size: u64) -> u64 {
        let addr = self.place(size);
        let mapping = Mapping { size, writable: true, pages: BTreeMap::from([(0, pa)]), of_file: true };
        self.mappings.insert(addr, mapping);
        addr
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

    /// Drops the anonymous pages in a part of one mapping; the pages to release.
    pub fn discard(&mut self, addr: u64, size: u64) -> Result<Vec<u64>, Errno> {
        let (offset, mapping) = self.find(addr).ok_or(Errno::EINVAL)?;
        if size > mapping.size - offset || mapping.of_file {
            return Err(Errno::EINVAL);
        }
        let gone: Vec<u64> = mapping.pages.range(offset..offset + size).map(|(offset, _)| *offset).collect();
        Ok(gone.iter().filter_map(|offset| mapping.pages.remove(offset)).collect())
    }

    /// Makes a whole mapping writable or not.
    pub fn protect(&mut self, addr: u64, writable: bool) -> Result<(), Errno> {
        self.mappings.get_mut(&addr).ok_or(Errno::EINVAL)?.writable = writable;
        Ok(())
    }

    /// The physical address behind `addr`, its page allocated if it is not there yet, and whether it is writable.
    pub fn resolve(&mut self, host: &MachineHost, addr: u64, write: bool) -> Result<(u64, bool), Errno> {
        let page_size = 1_u64 << host.machine().config().host_page_shift;
        let (offset, mapping) = self.find(addr).ok_or(Errno::EFAULT)?;
        if write && !mapping.writable {
            return Err(Errno::EFAULT);
        }
        let page = offset & !(page_size - 1);
        if !mapping.pages.contains_key(&page) {
            if mapping.of_file {
                return Err(Errno::EFAULT);
            }
            mapping.fault_in(host, page, page_size).ok_or(Errno::ENOMEM)?;
        }
        let pa = mapping.pages.get(&page).ok_or(Errno::EFAULT)?;
        Ok((pa + (offset - page), mapping.writable))
    }
}

impl Mapping {
    /// Backs the page at offset `page`, with a whole 2 MiB block around it where that is possible: what Linux does for
    /// memory advised with MADV_HUGEPAGE.
    fn fault_in(&mut self, host: &MachineHost, page: u64, page_size: u64) -> Option<()> {
        let block = page & !(HUGE - 1);
        let empty = self.pages.range(block..block + HUGE).next().is_none();
        let huge_order = (HUGE / page_size).ilog2();
        if empty
            && block + HUGE <= self.size
            && let Some(pa) = host.alloc_user(huge_order)
        {
            for offset in (0..HUGE).step_by(usize::try_from(page_size).ok()?) {
                self.pages.insert(block + offset, pa + offset);
            }
            return Some(());
        }
        let pa = host.alloc_user(0)?;
        self.pages.insert(page, pa);
        Some(())
    }
}
