//! The kernel's heap, and what becomes of a panic.

use crate::shim;
use core::alloc::{GlobalAlloc, Layout};
use core::panic::PanicInfo;

struct Heap;

// SAFETY: `kmalloc` gives memory of this size and alignment that is nobody else's, or null.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        shim::k_malloc(layout.size(), layout.align(), false).cast()
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        shim::k_malloc(layout.size(), layout.align(), true).cast()
    }

    unsafe fn dealloc(&self, memory: *mut u8, _layout: Layout) {
        // SAFETY: the caller had it from one of the above and lets go of it.
        unsafe { shim::k_free(memory.cast()) }
    }
}

#[global_allocator]
static HEAP: Heap = Heap;

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    shim::forbidden_panic()
}
