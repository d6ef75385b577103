//! The slots through which a CPU sees granules. A granule is mapped from its first use in a command on, and all are
//! unmapped at once, by [`release`], when the command ends and before a realm runs: neither the next command nor a realm
//! can bring this CPU to reach a granule it has no business with, not even by speculation.
//!
//! Most commands use a granule several times: the mapping is then there already. And one barrier and one invalidation
//! for all of them are much cheaper than as many as there are uses.
//!
//! The tables are this CPU's alone, so barriers and invalidations stay on it.

use crate::mmu::{self, AREA_VA, SLOT_ENTRIES_VA, SLOT_VA, SLOTS};
use crate::simd::SimdArea;
use crate::stop::stop;
use crate::sysreg::instruction;
use core::cell::Cell;
use core::{arch::asm, ptr};
use realm_abi::rmi::MAX_REC_AUX;
use realm_abi::{GRANULE_SHIFT, GRANULE_SIZE};
use realm_rmm::platform::Broken;

/// Memory of one CPU, at the same address on all.
#[repr(C)]
pub struct CpuArea {
    /// Slots with an entry, a bit each.
    used: Cell<u32>,
    /// Mappings that exist.
    alive: Cell<u32>,
    /// Not zero while registers of this CPU are a realm's.
    pub realm_loaded: Cell<u64>,
    /// Its index.
    pub cpu: Cell<u64>,
    /// X0 of the command that runs, with or without the hint that its caller has no SVE state to keep (SMCCC 1.3).
    pub function: Cell<u64>,
    /// Not zero if streaming mode has all of SVE here (SMCR_EL3.FA64 and SMCR_EL2.FA64): then it has an FFR.
    pub streaming_ffr: Cell<u64>,
    /// Not zero once the RMM has failed on this CPU, also after it was off.
    pub failed: Cell<u64>,
    pad: [u64; 2],
    /// SIMD registers of the Non-secure world, while something else is in them.
    pub simd: SimdArea,
}

const _: () = assert!(size_of::<CpuArea>() <= 4 * 4096);

/// Slots of single granules. A granule is in the one its address says, or in the next that was free.
const SINGLE: usize = 32;
/// The first slot of granules that have to be next to each other: see [`Wide`].
const WIDE: usize = SINGLE;
const _: () = assert!(SINGLE == u32::BITS as usize && WIDE + MAX_REC_AUX <= SLOTS);

/// This CPU's.
pub fn area() -> &'static CpuArea {
    // SAFETY: the area is mapped on every CPU, has no reference but on its own CPU (`CpuArea` is not `Sync`, and nothing
    // here moves between CPUs), and all its content is valid for any bits.
    unsafe { &*(AREA_VA as *const CpuArea) }
}

/// To be called on each CPU before anything is mapped.
pub fn init() {
    abandon();
    area().realm_loaded.set(0);
    area().function.set(0);
}

/// One granule. It can be used until this is dropped, and stays mapped until [`release`].
pub struct Mapping {
    slot: usize,
}

impl Mapping {
    /// Maps one granule, if it is not mapped already.
    #[inline]
    pub fn new(pa: u64, non_secure: bool) -> Self {
        let wanted = mmu::granule_entry(pa, non_secure);
        let mut slot = (pa >> GRANULE_SHIFT) as usize % SINGLE;
        // There is always one that is free.
        loop {
            match entry_of(slot) {
                0 => {
                    map_single(slot, wanted);
                    break;
                }
                found if found == wanted => break,
                _ => slot = (slot + 1) % SINGLE,
            }
        }
        count(1);
        Self { slot }
    }

    /// Where it is.
    #[inline]
    pub const fn address(&self) -> *mut u8 {
        (SLOT_VA + self.slot as u64 * GRANULE_SIZE) as *mut u8
    }
}

impl Drop for Mapping {
    #[inline]
    fn drop(&mut self) {
        count(-1);
    }
}

/// Counts mappings that exist. What cannot be counted cannot be unmapped safely.
#[inline]
fn count(change: i32) {
    match area().alive.get().checked_add_signed(change) {
        Some(alive) => area().alive.set(alive),
        None => stop(Broken::Count),
    }
}

/// Puts an entry into a slot that is free.
#[inline]
fn map_single(slot: usize, entry: u64) {
    let mut used = area().used.get() | 1 << slot;
    if used == u32::MAX {
        // No command comes here: each uses fewer granules than there are slots.
        release();
        used = 1 << slot;
    }
    set_entry(slot, entry);
    area().used.set(used);
    instruction!("dsb nshst\nisb");
}

/// Unmaps everything. What the command wrote, descriptors of a realm's tables among it, is then seen by all CPUs.
///
/// # Panics
/// If a [`Mapping`] exists.
#[inline]
pub fn release() {
    if area().used.get() != 0 {
        unmap_all();
    }
}

fn unmap_all() {
    assert!(area().alive.get() == 0, "a granule is in use");
    let mut used = area().used.get();
    while used != 0 {
        set_entry(used.trailing_zeros() as usize, 0);
        used &= used - 1;
    }
    area().used.set(0);
    forget::<0, SINGLE>();
}

/// Unmaps everything, also what something still believes to use: for a CPU on which the RMM starts, or has failed.
pub fn abandon() {
    area().alive.set(0);
    area().used.set(0);
    for slot in 0..SLOTS {
        set_entry(slot, 0);
    }
    forget::<0, SLOTS>();
}

/// At most [`MAX_REC_AUX`] granules next to each other, until it is dropped. There is one at a time.
pub struct Wide {
    count: usize,
}

impl Wide {
    /// Maps granules, which must be granule addresses.
    pub fn new(granules: &[u64]) -> Self {
        assert!(granules.len() <= MAX_REC_AUX, "more granules than slots");
        assert!(entry_of(WIDE) == 0, "the slots are in use");
        for (slot, pa) in (WIDE..).zip(granules) {
            set_entry(slot, mmu::granule_entry(*pa, false));
        }
        instruction!("dsb nshst\nisb");
        Self { count: granules.len() }
    }

    /// Where they are.
    pub const fn address(&self) -> *mut u8 {
        (SLOT_VA + WIDE as u64 * GRANULE_SIZE) as *mut u8
    }
}

impl Drop for Wide {
    fn drop(&mut self) {
        for slot in WIDE..WIDE + self.count {
            set_entry(slot, 0);
        }
        forget::<WIDE, MAX_REC_AUX>();
    }
}

/// Invalidates the translations of slots whose entries have been cleared, and makes all that was written visible.
#[inline]
fn forget<const FIRST: usize, const COUNT: usize>() {
    const { assert!(COUNT.is_multiple_of(2) && COUNT / 2 <= 32) };
    /// Granules of 4 KiB.
    const GRANULE_4K: u64 = 1 << 46;
    // TLBI RVAE2, which RME brings with it (Armv9.1 requires FEAT_TLBIRANGE), by pairs of pages.
    let range = const { (SLOT_VA >> 12) + FIRST as u64 + ((COUNT as u64 / 2 - 1) << 39) + GRANULE_4K };
    // SAFETY: forgets translations that are no longer in the tables.
    unsafe {
        asm!(
            "dsb ishst",
            "sys #4, c8, c6, #1, {}",
            "dsb nsh",
            "isb",
            in(reg) range,
            options(nostack, preserves_flags)
        );
    }
}

/// The entry of `slot`.
#[inline]
fn entry_of(slot: usize) -> u64 {
    let word = (SLOT_ENTRIES_VA as *const u64).wrapping_add(slot);
    // SAFETY: `slot` is below `SLOTS`; this CPU's table is mapped there and nobody else writes it.
    unsafe { ptr::read_volatile(word) }
}

#[inline]
fn set_entry(slot: usize, entry: u64) {
    let word = (SLOT_ENTRIES_VA as *mut u64).wrapping_add(slot);
    // SAFETY: as for `entry_of`.
    unsafe { ptr::write_volatile(word, entry) };
}
