//! The realm's address space: translation at stage 1, the RAM programs may use, and probes of addresses where there may be nothing.

use crate::exception::{Fault, attempt};
use crate::smc;
use crate::sysreg::instruction;
use core::arch::{asm, global_asm};
use core::ptr;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use realm_abi::rsi::{RsiCall, RsiStatus};

/// The realm's RAM.
pub const RAM: u64 = 0x8000_0000;
pub const RAM_END: u64 = RAM + (16 << 20);
/// RAM no part of the image is in.
pub const FREE: u64 = RAM + (4 << 20);
/// A page before it for the realm's configuration.
pub const CONFIGURATION: u64 = FREE - PAGE;
/// A granule.
pub const PAGE: u64 = 4096;
/// Virtual addresses that are mapped page by page.
pub const WINDOW: u64 = 0xc000_0000;

const GIB: u64 = 1 << 30;
/// Descriptors: block or page or table, attribute index, Inner Shareable, accessed.
const BLOCK: u64 = 0b01;
const TABLE_OR_PAGE: u64 = 0b11;
const DEVICE: u64 = 1 << 2;
const SHARED_AND_USED: u64 = 0b11 << 8 | 1 << 10;

static WIDTH: AtomicU64 = AtomicU64::new(0);

#[repr(C, align(4096))]
struct Table([AtomicU64; 512]);

/// Level 1 tables for what is above the first 512 GiB.
static TABLES: [Table; 4] = [const { Table([const { AtomicU64::new(0) }; 512]) }; 4];
static TABLES_USED: AtomicUsize = AtomicUsize::new(0);

// The first 3 GiB are mapped as they are, as Normal memory; the fourth is the window.
global_asm!(
    ".section .data.tables, \"aw\"",
    ".balign 4096",
    ".global guest_l0",
    "guest_l0:",
    "    .quad guest_l1 + 3",
    "    .fill 511, 8, 0",
    ".global guest_l1",
    "guest_l1:",
    "    .quad 0x00000701",
    "    .quad 0x40000701",
    "    .quad 0x80000701",
    "    .quad guest_l2 + 3",
    "    .fill 508, 8, 0",
    "guest_l2:",
    "    .quad guest_l3 + 3",
    "    .fill 511, 8, 0",
    ".global guest_l3",
    "guest_l3:",
    "    .fill 512, 8, 0",
    ".text",
);

unsafe extern "C" {
    pub static guest_l0: [AtomicU64; 512];
    static guest_l1: [AtomicU64; 512];
    static guest_l3: [AtomicU64; 512];
}

/// Learns the IPA width and maps the unprotected half, as far as there is something, and the first GiB behind the IPA space.
pub fn init(width: u64) {
    WIDTH.store(width, Ordering::Relaxed);
    map_gib(alias(), DEVICE);
    map_gib(alias() + GIB, DEVICE);
    map_gib(alias() + RAM, 0);
    if let Some(outside) = outside() {
        map_gib(outside, 0);
    }
}

/// The bit that makes an address unprotected.
pub fn alias() -> u64 {
    1 << (WIDTH.load(Ordering::Relaxed) - 1)
}

/// The first address behind the IPA space, if stage 1 can map it.
pub fn outside() -> Option<u64> {
    Some(1 << WIDTH.load(Ordering::Relaxed)).filter(|outside| *outside < 1 << 48)
}

/// RSI_REALM_CONFIG, its first word.
pub fn ipa_width() -> u64 {
    let (status, _) = smc::rsi(&RsiCall::RealmConfig { addr: CONFIGURATION });
    assert!(status == RsiStatus::SUCCESS, "REALM_CONFIG: {status}");
    // The checks of this module need the width.
    width_from(CONFIGURATION)
}

/// The first word of the page RSI_REALM_CONFIG has filled, before [`init`].
fn width_from(page: u64) -> u64 {
    // SAFETY: free RAM, in which no object is.
    unsafe { ptr::read_volatile(page as *const u64) }
}

fn map_gib(address: u64, attributes: u64) {
    let (high, low) = ((address >> 39) as usize & 511, (address >> 30) as usize & 511);
    let table = if high == 0 {
        // SAFETY: a table of the image, only accessed as atomics.
        unsafe { &guest_l1 }
    } else {
        // SAFETY: likewise.
        let root = unsafe { &guest_l0 };
        let old = root[high].load(Ordering::Relaxed);
        match TABLES.iter().find(|table| address_of(*table) | TABLE_OR_PAGE == old) {
            Some(table) => &table.0,
            None => {
                let table = &TABLES[TABLES_USED.fetch_add(1, Ordering::Relaxed)];
                root[high].store(address_of(table) | TABLE_OR_PAGE, Ordering::Relaxed);
                &table.0
            }
        }
    };
    table[low].store(address & !(GIB - 1) | BLOCK | SHARED_AND_USED | attributes, Ordering::Relaxed);
    instruction!("dsb ishst\nisb");
}

fn address_of<T>(object: &T) -> u64 {
    ptr::from_ref(object) as u64
}

/// Maps the first page of the window to `page`, or to nothing, on all vCPUs.
pub fn map_window(page: Option<u64>) {
    // SAFETY: a table of the image, only accessed as atomics.
    let table = unsafe { &guest_l3 };
    table[0].store(0, Ordering::Relaxed);
    instruction!("dsb ishst");
    // SAFETY: the window holds nothing the compiler knows of.
    unsafe { asm!("tlbi vaae1is, {}", in(reg) WINDOW >> 12, options(nostack)) };
    instruction!("dsb ish\nisb");
    if let Some(page) = page {
        table[0].store(page | TABLE_OR_PAGE | SHARED_AND_USED, Ordering::Relaxed);
        instruction!("dsb ishst\nisb");
    }
}

/// Free RAM, its unprotected alias, or the window.
fn place(address: u64) -> *mut u64 {
    let inside = |base: u64, end: u64| base <= address && address <= end - 8;
    let (free, shared) = (inside(FREE, RAM_END), inside(alias() + FREE, alias() + RAM_END));
    assert!(address.is_multiple_of(8) && (free || shared || inside(WINDOW, WINDOW + PAGE)), "{address:#x}");
    address as *mut u64
}

/// Reads a word of free RAM.
pub fn read(address: u64) -> u64 {
    // SAFETY: no object is there.
    unsafe { ptr::read_volatile(place(address)) }
}

/// Writes a word of free RAM.
pub fn write(address: u64, value: u64) {
    // SAFETY: no object is there.
    unsafe { ptr::write_volatile(place(address), value) }
}

/// The words of a page of free RAM.
pub fn words(page: u64) -> impl Iterator<Item = u64> {
    (page..page + PAGE).step_by(8).map(read)
}

/// Writes all of a page of free RAM.
pub fn fill(page: u64, value: u64) {
    (page..page + PAGE).step_by(8).for_each(|address| write(address, value));
}

/// A byte of free RAM.
pub fn byte(address: u64) -> u8 {
    (read(address & !7) >> (address % 8 * 8)) as u8
}

/// Loads a word from wherever.
pub fn probe_load(address: u64) -> Result<u64, Fault> {
    let value: u64;
    attempt!("ldr {value}, [{address}]", address = in(reg) address, value = out(reg) value).map(|()| value)
}

/// Stores a word to wherever there is no object.
pub fn probe_store(address: u64, value: u64) -> Result<(), Fault> {
    attempt!("str {value}, [{address}]", address = in(reg) address, value = in(reg) value)
}

/// Calls what is at `address`: nothing, or code that returns and changes nothing.
pub fn probe_fetch(address: u64) -> Result<(), Fault> {
    let here: u64;
    // The fault is at the code, not at the call.
    attempt!("adr {here}, 6b\nblr {address}", address = in(reg) address, here = out(reg) here, out("x30") _)
        .map_err(|fault| Fault { skew: fault.skew.wrapping_add(here).wrapping_sub(address), ..fault })
}

/// Makes code written to free RAM visible to instruction fetches.
pub fn publish_code(page: u64, bytes: u64) {
    for address in (page..page + bytes).step_by(16) {
        // SAFETY: cache maintenance by address changes no memory.
        unsafe { asm!("dc cvau, {}", in(reg) address, options(nostack)) };
    }
    instruction!("dsb ish");
    for address in (page..page + bytes).step_by(16) {
        // SAFETY: as above.
        unsafe { asm!("ic ivau, {}", in(reg) address, options(nostack)) };
    }
    instruction!("dsb ish\nisb");
}

/// A word of free RAM that several vCPUs, or the Host, use at once.
pub fn atomic(address: u64) -> &'static AtomicU64 {
    // SAFETY: aligned, mapped for good unless a program gives it away, and never part of another object.
    unsafe { AtomicU64::from_ptr(place(address)) }
}
