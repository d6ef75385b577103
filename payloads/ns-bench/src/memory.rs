//! Memory to give away: granules nobody has used, from a fixed address on.

use core::cell::Cell;
use realm_abi::GRANULE_SIZE;

/// Behind this program, which has 16 MiB for itself.
const FIRST: u64 = 0x7000_0000;
/// Below the end of the smallest machine this runs on, 2 GiB.
const END: u64 = 0xc000_0000;

/// Granules not used yet.
pub struct Memory(Cell<u64>);

impl Memory {
    pub const fn new() -> Self {
        Self(Cell::new(FIRST))
    }

    /// `count` granules next to each other, aligned to their number.
    pub fn granules(&self, count: u64) -> u64 {
        let first = self.0.get().next_multiple_of(count * GRANULE_SIZE);
        let next = first + count * GRANULE_SIZE;
        assert!(next <= END, "out of memory");
        self.0.set(next);
        first
    }

    /// A Non-secure page that begins with `bytes`; the rest is zeros.
    pub fn page(&self, bytes: &[u8]) -> u64 {
        let page = self.granules(1);
        let count = (GRANULE_SIZE as usize).min(bytes.len());
        for (index, byte) in bytes.iter().take(count).enumerate() {
            // SAFETY: the page is RAM nobody else uses, and the index is inside.
            unsafe { (page as *mut u8).wrapping_add(index).write_volatile(*byte) };
        }
        page
    }

    /// Reads a word of a page of ours.
    pub fn word(page: u64, offset: usize) -> u64 {
        // SAFETY: pages are RAM, and the offsets asked for are those of words in structures of one page.
        unsafe { (page as *const u64).wrapping_add(offset / 8).read_volatile() }
    }

    /// Writes a word of a page of ours.
    pub fn set_word(page: u64, offset: usize, value: u64) {
        // SAFETY: as in `word`.
        unsafe { (page as *mut u64).wrapping_add(offset / 8).write_volatile(value) };
    }
}
