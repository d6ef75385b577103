//! The Granule Protection Table (Arm ARM section D9): which physical address space each granule belongs to.
//!
//! Two levels, 4 KiB granules, 1 GiB level 0 regions. A region with memory that can change hands has a level 1 table, in
//! which an entry of 64 bits holds 16 granules, or is a *contiguous* descriptor repeated over 2 MiB, 32 MiB or 512 MiB
//! so that TLBs can hold the whole range in one entry. A granule inside a contiguous range can change hands too: the
//! descriptors of the range are then split, never widened again.

mod descriptor;

use core::sync::atomic::{AtomicU64, Ordering};
pub use descriptor::{Contiguous, Gpi, L0Descriptor, L1Descriptor};
use realm_abi::{GRANULE_SHIFT, GRANULE_SIZE};

/// log2 of the bytes a level 0 entry covers (GPCCR_EL3.L0GPTSZ = 0).
pub const L0_REGION_SHIFT: u32 = 30;
/// log2 of the bytes a level 1 entry covers: 16 granules.
pub const L1_ENTRY_SHIFT: u32 = GRANULE_SHIFT + 4;
/// Entries of a level 1 table.
pub const L1_ENTRIES: usize = 1 << (L0_REGION_SHIFT - L1_ENTRY_SHIFT);
/// Bytes of a level 1 table, also its alignment.
pub const L1_TABLE_SIZE: usize = L1_ENTRIES * 8;

/// Bytes a level 0 region covers.
const L0_REGION_SIZE: u64 = 1 << L0_REGION_SHIFT;
/// Bytes a level 1 entry covers.
const L1_ENTRY_SIZE: u64 = 1 << L1_ENTRY_SHIFT;

/// Granules a level 1 entry covers.
const GRANULES_PER_ENTRY: usize = 16;

/// Cache and TLB maintenance around a change of hands; all of it for one granule, for all CPUs, complete on return.
pub trait Maintenance {
    /// Writes the line of `entry` to memory, where it survives a reset: complete with the next [`Self::flush`].
    fn write_back<W>(&self, entry: &W);
    /// Cleans and invalidates the granule to the point of physical aliasing in `space` (DC CIPAPA).
    fn flush(&self, pa: u64, space: Gpi);
    /// Makes table writes visible and forgets cached table entries for `[pa, pa + size)` (DSB, TLBI RPALOS or PAALLOS, DSB).
    fn forget(&self, pa: u64, size: u64);
}

/// Why a granule did not change hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GptError {
    /// Not the address of a granule that can change hands.
    BadAddress,
    /// The granule belongs to another physical address space than the transition starts from; to this one.
    BadPas(Gpi),
}

/// Why a table could not be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// A range is empty, unaligned to the granule size, or ends beyond the protected space.
    Range,
    /// There are more level 0 regions with level 1 tables than memory for tables.
    Tables,
}

/// An entry of a table, or a word beside it; a trait so that the protocol can be model checked (`tests/gpt_loom.rs`).
pub trait Word {
    /// A word with this value.
    fn new(value: u64) -> Self;
    /// Reads it, and sees what was written before the value was.
    fn load(&self) -> u64;
    /// Writes it, after everything before.
    fn store(&self, value: u64);
    /// Changes it from `from` to `to`, or returns what it is; may fail without reason.
    ///
    /// # Errors
    /// The value it has instead.
    fn replace(&self, from: u64, to: u64) -> Result<(), u64>;
    /// Spends time while another CPU works.
    fn relax() {}
}

impl Word for AtomicU64 {
    fn new(value: u64) -> Self {
        Self::new(value)
    }
    fn load(&self) -> u64 {
        self.load(Ordering::Acquire)
    }
    fn store(&self, value: u64) {
        self.store(value, Ordering::Release);
    }
    fn replace(&self, from: u64, to: u64) -> Result<(), u64> {
        self.compare_exchange_weak(from, to, Ordering::AcqRel, Ordering::Acquire).map(|_| ())
    }
    fn relax() {
        core::hint::spin_loop();
    }
}

/// The table, in memory the hardware walks.
///
/// A transition in a contiguous range waits until the range is split and no CPU has the contiguous descriptor any more: as long as one
/// entry of the range still is contiguous, a CPU may read it and hold the whole range to be what it was. Who finds its
/// own entry split waits, too, for a split that has begun: the entry was written after `splitting`, so it sees that. One split at
/// a time is enough, as each range is split once.
#[derive(Debug)]
pub struct Gpt<'a, W = AtomicU64> {
    l0: &'a [W],
    l1: &'a [W],
    l1_base: u64,
    /// [`BUSY`] from before the first descriptor of a range is split until the old ones are forgotten everywhere.
    splitting: W,
}

const IDLE: u64 = 0;
const BUSY: u64 = 1;

impl<'a, W: Word> Gpt<'a, W> {
    /// A table in which everything belongs to everyone: all of `l0` becomes "any" blocks.
    ///
    /// `l0` has one entry a GiB of protected space. `l1` is room for level 1 tables, at physical address `l1_base`, aligned
    /// to [`L1_TABLE_SIZE`].
    #[must_use]
    pub fn new(l0: &'a [W], l1: &'a [W], l1_base: u64) -> Self {
        for entry in l0 {
            entry.store(L0Descriptor::Block(Gpi::ANY).to_bits());
        }
        Self::found(l0, l1, l1_base)
    }

    /// The table an earlier boot has left in memory.
    #[must_use]
    pub fn found(l0: &'a [W], l1: &'a [W], l1_base: u64) -> Self {
        Self { l0, l1, l1_base, splitting: W::new(IDLE) }
    }

    /// Calls `visit` with every granule of the Realm world, and with those on the way from it to the Non-secure world.
    pub fn for_each_realm_granule(&self, mut visit: impl FnMut(u64)) {
        let regions = (0..).step_by(L0_REGION_SIZE as usize);
        for (region, table) in regions.zip(self.l0).map(|(region, _)| (region, self.table(region))) {
            let entries = (region..).step_by(L1_ENTRY_SIZE as usize);
            for (first, entry) in entries.zip(table.unwrap_or(&[])) {
                let descriptor = L1Descriptor::from_bits(entry.load());
                let granules = (first..).step_by(GRANULE_SIZE as usize).take(GRANULES_PER_ENTRY);
                for pa in granules.filter(|pa| matches!(descriptor.gpi(*pa), Gpi::REALM | Gpi::NO_ACCESS)) {
                    visit(pa);
                }
            }
        }
    }

    /// Gives `[base, base + size)` to `gpi`, with level 1 tables where it does not fill whole regions or belongs to memory
    /// that can change hands. For use before the table is enabled; a later range wins over an earlier one.
    ///
    /// # Errors
    /// See [`LayoutError`]; part of the range may then be set.
    pub fn assign(&self, base: u64, size: u64, gpi: Gpi) -> Result<(), LayoutError> {
        let end = base.checked_add(size).ok_or(LayoutError::Range)?;
        if size == 0 || !base.is_multiple_of(GRANULE_SIZE) || !size.is_multiple_of(GRANULE_SIZE) {
            return Err(LayoutError::Range);
        }
        let mut pa = base;
        while pa < end {
            let table = self.table_or_new(pa)?;
            let region_end = (pa | (L0_REGION_SIZE - 1)).saturating_add(1);
            let stop = end.min(region_end);
            while pa < stop {
                pa = assign_step(table, pa, stop, gpi)?;
            }
        }
        Ok(())
    }

    /// Who owns the granule at `pa`; `None` outside the protected space.
    #[must_use]
    pub fn owner(&self, pa: u64) -> Option<Gpi> {
        match L0Descriptor::from_bits(self.l0_entry(pa)?.load())? {
            L0Descriptor::Block(gpi) => Some(gpi),
            L0Descriptor::Table(_) => {
                let entry = l1_entry(self.table(pa)?, pa)?;
                Some(L1Descriptor::from_bits(entry.load()).gpi(pa))
            }
        }
    }

    /// Non-secure to Realm (RMM_GTSI_DELEGATE).
    ///
    /// # Errors
    /// See [`GptError`]; nothing has changed.
    pub fn delegate(&self, pa: u64, maintenance: &impl Maintenance) -> Result<(), GptError> {
        let (entry, seen) = self.granule(pa, Gpi::NS, maintenance)?;
        // Lines of the target space that were fetched earlier must not come back over what is written from now on.
        maintenance.flush(pa, Gpi::REALM);
        replace(entry, seen, pa, Gpi::NS, Gpi::REALM)?;
        // A reset from outside may lose what caches hold. What is left then of the granule's content is wiped because of this entry.
        maintenance.write_back(entry);
        maintenance.forget(pa, GRANULE_SIZE);
        maintenance.flush(pa, Gpi::NS);
        Ok(())
    }

    /// Realm to Non-secure (RMM_GTSI_UNDELEGATE).
    ///
    /// # Errors
    /// See [`GptError`]; nothing has changed.
    pub fn undelegate(&self, pa: u64, maintenance: &impl Maintenance) -> Result<(), GptError> {
        let (entry, seen) = self.granule(pa, Gpi::REALM, maintenance)?;
        // Nobody's for a moment: the flush of both spaces must not race with accesses through either.
        let seen = replace(entry, seen, pa, Gpi::REALM, Gpi::NO_ACCESS)?;
        maintenance.forget(pa, GRANULE_SIZE);
        maintenance.flush(pa, Gpi::REALM);
        maintenance.flush(pa, Gpi::NS);
        // A reset that finds the entry older wipes a granule too many.
        replace(entry, seen, pa, Gpi::NO_ACCESS, Gpi::NS)?;
        maintenance.forget(pa, GRANULE_SIZE);
        Ok(())
    }

    /// The entry of a granule that can change hands and belongs to `from`, split to single granules; and what it was.
    #[inline]
    fn granule(&self, pa: u64, from: Gpi, maintenance: &impl Maintenance) -> Result<(&'a W, u64), GptError> {
        if !pa.is_multiple_of(GRANULE_SIZE) {
            return Err(GptError::BadAddress);
        }
        let table = self.table(pa).ok_or(GptError::BadAddress)?;
        let entry = l1_entry(table, pa).ok_or(GptError::BadAddress)?;
        let seen = entry.load();
        let descriptor = L1Descriptor::from_bits(seen);
        if descriptor.gpi(pa) != from {
            return Err(GptError::BadPas(descriptor.gpi(pa)));
        }
        if let L1Descriptor::Contiguous(..) = descriptor {
            self.split(table, pa, maintenance);
            return Ok((entry, entry.load()));
        }
        while self.splitting.load() == BUSY {
            W::relax();
        }
        Ok((entry, seen))
    }

    /// Splits the contiguous range around `pa` into entries of single granules with the same owner.
    fn split(&self, table: &[W], pa: u64, maintenance: &impl Maintenance) {
        while self.splitting.replace(IDLE, BUSY).is_err() {
            W::relax();
        }
        if let Some((base, size)) = split_range(table, pa) {
            maintenance.forget(base, size);
        }
        self.splitting.store(IDLE);
    }

    fn l0_entry(&self, pa: u64) -> Option<&'a W> {
        self.l0.get(usize::try_from(pa >> L0_REGION_SHIFT).ok()?)
    }

    /// The level 1 table of the region of `pa`.
    fn table(&self, pa: u64) -> Option<&'a [W]> {
        let L0Descriptor::Table(address) = L0Descriptor::from_bits(self.l0_entry(pa)?.load())? else {
            return None;
        };
        self.table_at(usize::try_from(address.checked_sub(self.l1_base)?).ok()?.checked_div(L1_TABLE_SIZE)?)
    }

    fn table_at(&self, index: usize) -> Option<&'a [W]> {
        let first = index.checked_mul(L1_ENTRIES)?;
        self.l1.get(first..first.checked_add(L1_ENTRIES)?)
    }

    /// The level 1 table of the region of `pa`, made if the region is still a block.
    fn table_or_new(&self, pa: u64) -> Result<&'a [W], LayoutError> {
        if let Some(table) = self.table(pa) {
            return Ok(table);
        }
        let entry = self.l0_entry(pa).ok_or(LayoutError::Range)?;
        let Some(L0Descriptor::Block(gpi)) = L0Descriptor::from_bits(entry.load()) else {
            return Err(LayoutError::Tables);
        };
        let used = self
            .l0
            .iter()
            .filter(|entry| matches!(L0Descriptor::from_bits(entry.load()), Some(L0Descriptor::Table(_))))
            .count();
        let table = self.table_at(used).ok_or(LayoutError::Tables)?;
        let single = L1Descriptor::granules(gpi).to_bits();
        for entry in table {
            entry.store(single);
        }
        let offset = u64::try_from(used.saturating_mul(L1_TABLE_SIZE)).map_err(|_| LayoutError::Tables)?;
        entry.store(L0Descriptor::Table(self.l1_base.saturating_add(offset)).to_bits());
        Ok(table)
    }
}

/// Turns the contiguous range around `pa`, if there is one, into entries of single granules with the same owner; the
/// range.
fn split_range<W: Word>(table: &[W], pa: u64) -> Option<(u64, u64)> {
    let entry = l1_entry(table, pa)?;
    let L1Descriptor::Contiguous(gpi, size) = L1Descriptor::from_bits(entry.load()) else {
        return None;
    };
    let base = pa & !(size.bytes().wrapping_sub(1));
    let single = L1Descriptor::granules(gpi).to_bits();
    for entry in entries(table, base, size.bytes()) {
        entry.store(single);
    }
    Some((base, size.bytes()))
}

/// Sets the owner of as much of `[pa, stop)` as one descriptor can; where the next begins.
fn assign_step<W: Word>(table: &[W], pa: u64, stop: u64, gpi: Gpi) -> Result<u64, LayoutError> {
    split_range(table, pa);
    split_range(table, stop.saturating_sub(1));
    let room = stop.saturating_sub(pa);
    let fits = |size: &Contiguous| pa.is_multiple_of(size.bytes()) && room >= size.bytes();
    if let Some(size) = Contiguous::LARGEST_FIRST.into_iter().find(fits) {
        let bits = L1Descriptor::Contiguous(gpi, size).to_bits();
        for entry in entries(table, pa, size.bytes()) {
            entry.store(bits);
        }
        return Ok(pa.saturating_add(size.bytes()));
    }
    let entry = l1_entry(table, pa).ok_or(LayoutError::Range)?;
    let descriptor = L1Descriptor::from_bits(entry.load()).with(pa, gpi);
    entry.store(descriptor.ok_or(LayoutError::Range)?.to_bits());
    Ok(pa.saturating_add(GRANULE_SIZE))
}

fn l1_entry<W: Word>(table: &[W], pa: u64) -> Option<&W> {
    let offset = pa & (L0_REGION_SIZE - 1);
    table.get(usize::try_from(offset >> L1_ENTRY_SHIFT).ok()?)
}

/// The entries of `[base, base + size)`, which lies in one region.
fn entries<W: Word>(table: &[W], base: u64, size: u64) -> impl Iterator<Item = &W> {
    let first = (base & (L0_REGION_SIZE - 1)) / L1_ENTRY_SIZE;
    let count = size / L1_ENTRY_SIZE;
    table.iter().skip(usize::try_from(first).unwrap_or(usize::MAX)).take(usize::try_from(count).unwrap_or(0))
}

/// Changes the owner of one granule in its entry, which was `seen` last; what it is then. Another granule of the entry may
/// change at the same time.
#[inline]
fn replace<W: Word>(entry: &W, seen: u64, pa: u64, from: Gpi, to: Gpi) -> Result<u64, GptError> {
    let mut seen = seen;
    loop {
        let descriptor = L1Descriptor::from_bits(seen);
        if descriptor.gpi(pa) != from {
            return Err(GptError::BadPas(descriptor.gpi(pa)));
        }
        let changed = descriptor.with(pa, to).ok_or(GptError::BadAddress)?.to_bits();
        match entry.replace(seen, changed) {
            Ok(()) => return Ok(changed),
            Err(now) => seen = now,
        }
    }
}

#[cfg(test)]
mod tests;
