//! The slots through which a CPU sees granules, each only as long as it is used: a granule that is not in use cannot be
//! reached, not even by speculation.
//!
//! Slots are a stack. The tables are this CPU's alone, so barriers and invalidations stay on it.

use crate::mmu::{self, AREA_VA, SLOT_ENTRIES_VA, SLOT_VA, SLOTS};
use crate::sysreg::instruction;
use core::cell::Cell;
use core::{arch::asm, ptr};
use realm_abi::GRANULE_SIZE;

/// Memory of one CPU, at the same address on all.
#[repr(C)]
pub struct CpuArea {
    /// Slots in use.
    used: Cell<usize>,
    pad: [u64; 7],
    /// SIMD registers of the Non-secure world, while something else is in them.
    pub simd: crate::run::SimdArea,
}

const _: () = assert!(size_of::<CpuArea>() <= 4 * 4096);

/// This CPU's.
pub fn area() -> &'static CpuArea {
    // SAFETY: the area is mapped on every CPU, has no reference but on its own CPU (`CpuArea` is not `Sync`, and nothing
    // here moves between CPUs), and all its content is valid for any bits.
    unsafe { &*(AREA_VA as *const CpuArea) }
}

/// To be called once on each CPU before anything is mapped.
pub fn init() {
    area().used.set(0);
}

/// One or more granules next to each other, mapped until it is dropped.
pub struct Mapping {
    first: usize,
    count: usize,
}

impl Mapping {
    /// Maps one granule.
    #[inline]
    pub fn new(pa: u64, non_secure: bool) -> Self {
        Self::of(&[pa], non_secure)
    }

    /// Maps granules, which must be granule addresses.
    #[inline]
    pub fn of(granules: &[u64], non_secure: bool) -> Self {
        let first = area().used.get();
        assert!(first + granules.len() <= SLOTS, "out of slots");
        area().used.set(first + granules.len());
        for (slot, pa) in (first..).zip(granules) {
            set_entry(slot, mmu::granule_entry(*pa, non_secure));
        }
        instruction!("dsb nshst\nisb");
        Self { first, count: granules.len() }
    }

    /// Where it is.
    #[inline]
    pub const fn address(&self) -> *mut u8 {
        (SLOT_VA + self.first as u64 * GRANULE_SIZE) as *mut u8
    }
}

impl Drop for Mapping {
    #[inline]
    fn drop(&mut self) {
        for slot in self.first..self.first + self.count {
            set_entry(slot, 0);
        }
        instruction!("dsb nshst");
        for slot in self.first..self.first + self.count {
            let page = (SLOT_VA + slot as u64 * GRANULE_SIZE) >> 12;
            // SAFETY: forgets a translation that is no longer in the tables.
            unsafe { asm!("tlbi vae2, {}", in(reg) page, options(nostack, preserves_flags)) };
        }
        instruction!("dsb nsh\nisb");
        area().used.set(self.first);
    }
}

#[inline]
fn set_entry(slot: usize, entry: u64) {
    let word = (SLOT_ENTRIES_VA as *mut u64).wrapping_add(slot);
    // SAFETY: `slot` is below `SLOTS`; this CPU's table is mapped there and nobody else writes it.
    unsafe { ptr::write_volatile(word, entry) };
}
