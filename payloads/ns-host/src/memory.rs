//! Memory: a heap for the program, and pages for the Host core and its realms.

use buddy_system_allocator::{FrameAllocator, LockedHeap};
use core::sync::atomic::{AtomicU64, Ordering};
use dtoolkit::fdt::Fdt;
use realm_el2::lock::Mutex;
use realm_el2::{image_end, probe};
use realm_host::host::GranuleBytes;

/// Bytes of a page.
pub const PAGE: u64 = 4096;
const HEAP_SIZE: u64 = 32 << 20;
/// The firmware's own memory and the boot's is below the program.
const FIRST: u64 = 0x6000_0000;

#[global_allocator]
static HEAP: LockedHeap<32> = LockedHeap::empty();

static FRAMES: Mutex<FrameAllocator<24>> = Mutex::new(FrameAllocator::new());
static END: AtomicU64 = AtomicU64::new(0);
static FREE: AtomicU64 = AtomicU64::new(0);

/// Above this lies memory that other firmware for this board cannot delegate.
const HIGH: u64 = 1 << 32;

/// Takes the memory behind the program that the device tree has; of a machine with memory above 4 GiB only that, so that it
/// is what realms are made of.
///
/// # Panics
/// If the device tree has no memory there.
pub fn init(device_tree: u64) {
    let heap = image_end();
    // SAFETY: nobody uses the memory behind the image; it is mapped, and there is more than this on every board.
    unsafe { HEAP.lock().init(heap as usize, HEAP_SIZE as usize) };
    // SAFETY: the monitor hands on a whole device tree, and nobody changes it.
    let tree = unsafe { Fdt::from_raw(device_tree as *const u8) }.expect("a device tree");
    let memory = tree.memory().expect("a memory node");
    let banks = || {
        memory.reg().expect("a `reg` property").expect("a bank of memory").map(|bank| {
            let base: u64 = bank.address().expect("an address of 64 bits");
            let size: u64 = bank.size().expect("a size of 64 bits");
            (base, base + size)
        })
    };
    let high = banks().any(|(_, end)| end > HIGH + HEAP_SIZE);
    let start = if high { HIGH } else { heap + HEAP_SIZE };
    for (base, end) in banks() {
        let first = base.max(start);
        if first < end {
            FRAMES.lock().add_frame((first / PAGE) as usize, (end / PAGE) as usize);
            END.fetch_max(end, Ordering::Relaxed);
            FREE.fetch_add((end - first) / PAGE, Ordering::Relaxed);
        }
    }
    assert!(free_pages() > 0, "no memory behind {start:#x}");
}

/// Pages that are free.
pub fn free_pages() -> u64 {
    FREE.load(Ordering::Relaxed)
}

/// The first address behind all memory.
pub fn end() -> u64 {
    END.load(Ordering::Relaxed)
}

/// Whether a range lies in the program, its heap or the pages.
pub fn is_memory(address: u64, size: usize) -> bool {
    address >= FIRST && address.checked_add(size as u64).is_some_and(|last| last <= end())
}

/// Allocates a power of two of pages, aligned to their size and filled with zeros.
pub fn alloc(pages: usize) -> Option<u64> {
    let frame = FRAMES.lock().alloc(pages)? as u64;
    FREE.fetch_sub(pages as u64, Ordering::Relaxed);
    let pa = frame * PAGE;
    // SAFETY: the pages were free, so nobody else names them; they are mapped.
    unsafe { core::ptr::write_bytes(pa as *mut u8, 0, pages * PAGE as usize) };
    Some(pa)
}

/// Gives pages back; the first granule of another world among them, if there is one, keeps them all from being used again.
///
/// # Errors
/// The address of that granule.
pub fn free(pa: u64, pages: usize) -> Result<(), u64> {
    for granule in (pa..).step_by(PAGE as usize).take(pages) {
        // SAFETY: the page is the caller's, who gives it back.
        if unsafe { probe::load(granule) }.is_err() {
            return Err(granule);
        }
    }
    FRAMES.lock().dealloc((pa / PAGE) as usize, pages);
    FREE.fetch_add(pages as u64, Ordering::Relaxed);
    Ok(())
}

/// Lets `work` change a page of the caller's in place.
///
/// # Panics
/// If it is not a page of memory.
pub fn with_page<R>(pa: u64, work: impl FnOnce(&mut GranuleBytes) -> R) -> R {
    assert!(pa.is_multiple_of(PAGE) && is_memory(pa, PAGE as usize), "{pa:#x} is no page");
    // SAFETY: it is mapped memory of a page's size and alignment, which is the caller's alone while `work` runs: the Host core
    // owns it and hands it to nobody meanwhile.
    work(unsafe { &mut *(pa as *mut GranuleBytes) })
}

/// Copies from memory that may be written meanwhile by a realm or another CPU.
///
/// # Panics
/// If it is not all memory.
pub fn read(pa: u64, out: &mut [u8]) {
    assert!(is_memory(pa, out.len()), "read of {:#x} bytes at {pa:#x}", out.len());
    let from = pa as *const u8;
    for (n, byte) in out.iter_mut().enumerate() {
        // SAFETY: all of it is mapped memory; a byte is read whole whoever writes it.
        *byte = unsafe { from.wrapping_add(n).read_volatile() };
    }
}

/// Copies to memory that may be read meanwhile by a realm or another CPU.
///
/// # Panics
/// If it is not all memory.
pub fn write(pa: u64, bytes: &[u8]) {
    assert!(is_memory(pa, bytes.len()), "write of {:#x} bytes at {pa:#x}", bytes.len());
    let to = pa as *mut u8;
    for (n, byte) in bytes.iter().enumerate() {
        // SAFETY: all of it is mapped memory of the program's that the caller owns; a byte is written whole.
        unsafe { to.wrapping_add(n).write_volatile(*byte) };
    }
}
