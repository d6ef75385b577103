//! The allocator of the unit tests: it notices memory that is asked for where a kernel must not, and fails on demand.

#![allow(unsafe_code, reason = "an allocator cannot be written without; nothing of it is in the product")]

use super::rules;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

std::thread_local! {
    /// How often this thread does something of its own, for which the rules are not.
    static PAUSES: Cell<u32> = const { Cell::new(0) };
    /// An allocation broke the rules. An allocator must not unwind, so somebody else says it.
    static BROKEN: Cell<bool> = const { Cell::new(false) };
    /// Allocations that still succeed before `LEFT_TO_FAIL` ones fail.
    static LEFT: Cell<u64> = const { Cell::new(0) };
    static LEFT_TO_FAIL: Cell<u64> = const { Cell::new(0) };
    static FAILED: Cell<u64> = const { Cell::new(0) };
    /// Bytes the thread has allocated and not freed.
    static LIVE: Cell<u64> = const { Cell::new(0) };
}

/// While it lives the thread does what is no part of the Host core.
pub(crate) struct Pause(());

impl Pause {
    pub(crate) fn new() -> Self {
        PAUSES.set(PAUSES.get() + 1);
        Self(())
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        PAUSES.set(PAUSES.get() - 1);
    }
}

/// Lets this thread's allocations fail: `count` of them from number `from` on.
pub(crate) fn fail(from: u64, count: u64) {
    LEFT.set(from);
    LEFT_TO_FAIL.set(count);
    FAILED.set(0);
}

/// Ends that; how many failed.
pub(crate) fn stop_failing() -> u64 {
    LEFT_TO_FAIL.set(0);
    FAILED.replace(0)
}

/// Bytes that this thread allocated, less what it freed, but for what it did on its own account.
pub(crate) fn live() -> u64 {
    LIVE.get()
}

/// Panics if memory was asked for, or given back, where that is against the rules.
pub(crate) fn check() {
    assert!(!BROKEN.take() || std::thread::panicking(), "the heap was used where it must not be");
}

fn paused() -> bool {
    // A thread that ends has no thread-locals.
    PAUSES.try_with(Cell::get).unwrap_or(1) > 0 || std::thread::panicking()
}

fn grant() -> bool {
    if paused() {
        return true;
    }
    if !rules::may_allocate() {
        BROKEN.set(true);
    }
    if LEFT_TO_FAIL.get() == 0 {
        return true;
    }
    if let Some(left) = LEFT.get().checked_sub(1) {
        LEFT.set(left);
        return true;
    }
    LEFT_TO_FAIL.set(LEFT_TO_FAIL.get() - 1);
    FAILED.set(FAILED.get() + 1);
    false
}

struct TestHeap;

// SAFETY: it is the system's allocator, except that it fails more often.
unsafe impl GlobalAlloc for TestHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !grant() {
            return core::ptr::null_mut();
        }
        if !paused() {
            LIVE.set(LIVE.get().wrapping_add(layout.size() as u64));
        }
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if !paused() {
            LIVE.set(LIVE.get().wrapping_sub(layout.size() as u64));
            if rules::is_atomic() {
                BROKEN.set(true);
            }
        }
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static HEAP: TestHeap = TestHeap;
