//! The memory of the lower worlds as the monitor sees it at boot.

use super::sysreg;
use realm_monitor::layout::{self, Range};

/// Bytes of the smallest cache line there can be.
const LINE: u64 = 16;

/// The memory at `range`.
///
/// # Safety
/// All of `range` must be mapped and used by nobody else for as long as the reference lives.
pub unsafe fn slice_mut(range: Range) -> &'static mut [u8] {
    // SAFETY: the caller says so.
    unsafe { core::slice::from_raw_parts_mut(range.base as *mut u8, range.size as usize) }
}

/// The package in the flash.
pub fn package() -> &'static [u8] {
    let start = layout::FLASH.base + layout::PACKAGE;
    // SAFETY: the flash is mapped and nobody writes to it.
    unsafe { core::slice::from_raw_parts(start as *const u8, (layout::FLASH.end() - start) as usize) }
}

/// Makes what was written to `range` visible to those who run with caches off.
pub fn clean(range: Range) {
    let mut at = range.base;
    while at < range.end() {
        // SAFETY: cleaning a mapped line changes nothing that can be read through the cache.
        unsafe { core::arch::asm!("dc cvac, {}", in(reg) at, options(nostack, preserves_flags)) };
        at += LINE;
    }
    sysreg::dsb();
    // SAFETY: forgetting instructions that were fetched costs only time.
    unsafe { core::arch::asm!("ic ialluis", "dsb sy", "isb", options(nostack, preserves_flags)) };
}
