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

unsafe extern "C" {
    static constants_end: u8;
    static data: u8;
    static data_end: u8;
}

/// The monitor itself in the flash: code, constants, and the first values of its data. Without its first instruction: that
/// is at address 0, where no slice may begin.
pub fn monitor() -> &'static [u8] {
    let data_size = (&raw const data_end) as u64 - (&raw const data) as u64;
    let end = (&raw const constants_end) as u64 + data_size;
    let start = layout::FLASH.base + 4;
    // SAFETY: the flash is mapped, holds the monitor up to there, and nobody writes to it.
    unsafe { core::slice::from_raw_parts(start as *const u8, (end - start) as usize) }
}
