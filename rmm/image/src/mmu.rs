//! The RMM's own stage 1: 4 KiB pages, 39 bits, write or execute but never both.
//!
//! The image and the granule table lie where they are in physical memory, the same for all CPUs. Each CPU has a root of
//! its own for what is private to it, at the same address on all of them: its stack, save areas, and the slots through
//! which it sees granules. So no CPU can reach, not even by speculation, what another has mapped.

use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};
use realm_abi::rmm_el3::{BootCode, ColdBoot};

const PAGE: u64 = 4096;
const BLOCK: u64 = 2 << 20;
const ENTRIES: usize = 512;

/// Where the tables of pages begin, and where the memory after the image ends on this platform, whose EL3 has its page shared
/// with the RMM there, or somewhere before it.
const CARVE_OUT: u64 = 0x4000_0000;
const CARVE_OUT_END: u64 = 0x418f_f000;
/// Tables of pages for the carve-out, one for each 2 MiB.
const IMAGE_TABLES: usize = 13;

/// Private memory of a CPU, at the beginning of a region of 1 GiB: guard, stack, guard, emergency stack, save area.
pub const PRIVATE_VA: u64 = 1 << 38;
const STACK_PAGE: usize = 1;
pub const STACK_PAGES: usize = 20;
const EMERGENCY_PAGE: usize = STACK_PAGE + STACK_PAGES + 1;
const AREA_PAGE: usize = EMERGENCY_PAGE + 2;
const AREA_PAGES: usize = 4;
/// Pages of private memory of a CPU.
const PRIVATE_PAGES: usize = STACK_PAGES + 1 + AREA_PAGES;
/// The table the slots are in, mapped so that its CPU can write it.
const SLOT_TABLE_PAGE: usize = 40;
const SHARED_PAGE: usize = 42;
const CONSOLE_PAGE: usize = 44;
const SLOT_PAGE: usize = 64;
/// Granules a CPU can have mapped at once.
pub const SLOTS: usize = 48;

const fn page_va(page: usize) -> u64 {
    PRIVATE_VA + page as u64 * PAGE
}

/// Where a stack begins.
pub const STACK_TOP: u64 = page_va(STACK_PAGE + STACK_PAGES);
/// Where the stack of a fatal exception begins.
pub const EMERGENCY_TOP: u64 = page_va(EMERGENCY_PAGE + 1);
/// Save area of a CPU.
pub const AREA_VA: u64 = page_va(AREA_PAGE);
/// The page shared with EL3.
pub const SHARED_VA: u64 = page_va(SHARED_PAGE);
/// The console, if there is one.
pub const CONSOLE_VA: u64 = page_va(CONSOLE_PAGE);
/// The slots.
pub const SLOT_VA: u64 = page_va(SLOT_PAGE);
/// The entries of the slots.
pub const SLOT_ENTRIES_VA: u64 = page_va(SLOT_TABLE_PAGE) + SLOT_PAGE as u64 * 8;
/// The granule table, if it is not behind the image: regions of 1 GiB.
pub const TABLE_VA: u64 = PRIVATE_VA + (1 << 30);
const TABLE_REGIONS: usize = 16;
/// Most bytes of it, for 16 TiB of memory.
pub const TABLE_MAX: u64 = (TABLE_REGIONS as u64) << 30;

const VALID: u64 = 1;
/// A table, or a page at level 3.
const TABLE: u64 = 0b11;
const DEVICE: u64 = 1 << 2;
const NON_SECURE: u64 = 1 << 5;
const READ_ONLY: u64 = 1 << 7;
const INNER_SHAREABLE: u64 = 0b11 << 8;
const ACCESSED: u64 = 1 << 10;
/// Not executable at EL2, nor at EL0, which there is none of.
const NO_EXECUTE: u64 = 1 << 53 | 1 << 54;
const EL0_NO_EXECUTE: u64 = 1 << 54;

const MEMORY: u64 = INNER_SHAREABLE | ACCESSED;
/// A page of data.
const DATA: u64 = TABLE | MEMORY | NO_EXECUTE;
const RODATA: u64 = DATA | READ_ONLY;
const TEXT: u64 = TABLE | MEMORY | READ_ONLY | EL0_NO_EXECUTE;

/// MAIR_EL2: 0 is Normal write-back, 1 is Device-nGnRE.
pub const MAIR: u64 = 0x04ff;
/// TCR_EL2 (VHE): 39 bits from TTBR0 by write-back inner shareable walks, nothing from TTBR1; without IPS.
pub const TCR: u64 = 25 | 0b01 << 8 | 0b01 << 10 | 0b11 << 12 | 25 << 16 | 1 << 23 | 0b10 << 30;

/// The entry of a slot for the granule at `pa`.
pub const fn granule_entry(pa: u64, non_secure: bool) -> u64 {
    pa | DATA | if non_secure { NON_SECURE } else { 0 }
}

#[repr(C, align(4096))]
struct Table(UnsafeCell<[u64; ENTRIES]>);

impl Table {
    const fn empty() -> Self {
        Self(UnsafeCell::new([0; ENTRIES]))
    }

    fn set(&self, index: usize, entry: u64) {
        assert!(index < ENTRIES);
        let word = self.0.get().cast::<u64>().wrapping_add(index);
        // SAFETY: the index is in the table. Tables are written while only one CPU runs, before the others can walk them.
        unsafe { ptr::write_volatile(word, entry) };
    }
    fn descriptor(&self) -> u64 {
        self.0.get() as u64 | TABLE
    }
}

/// Root, the tables for the private region, in this order.
#[repr(C, align(4096))]
struct CpuTables {
    root: Table,
    middle: Table,
    pages: Table,
}

/// The tables all CPUs share.
struct Tables {
    image_middle: Table,
    image: [Table; IMAGE_TABLES],
    granule_table: [Table; TABLE_REGIONS],
}

// SAFETY: see `Table::set`; the words are only read by MMUs otherwise.
unsafe impl Sync for Tables {}

static TABLES: Tables = Tables {
    image_middle: Table::empty(),
    image: [const { Table::empty() }; IMAGE_TABLES],
    granule_table: [const { Table::empty() }; TABLE_REGIONS],
};

/// Bytes of the tables of a CPU, and of its private memory: what EL3 says how many CPUs there can be takes behind the image.
pub const CPU_TABLES: u64 = size_of::<CpuTables>() as u64;
const CPU_PRIVATE: u64 = PRIVATE_PAGES as u64 * PAGE;

/// How many CPUs there can be; where their tables are, one after the other, and behind those their private memory; where that ends.
/// Written once, before there are caches.
pub static CPUS: AtomicU64 = AtomicU64::new(0);
pub static CPUS_START: AtomicU64 = AtomicU64::new(0);
pub static CPUS_END: AtomicU64 = AtomicU64::new(0);

fn all_cpu_tables() -> impl Iterator<Item = &'static CpuTables> {
    let (count, start) = (CPUS.load(Ordering::Relaxed), CPUS_START.load(Ordering::Relaxed));
    (0..count).map(move |cpu| {
        // SAFETY: `prepare` has found room for so many, which nothing else uses; they are mapped where they are.
        unsafe { &*((start + cpu * CPU_TABLES) as *const CpuTables) }
    })
}

unsafe extern "C" {
    safe static __image_start: u8;
    safe static __text_end: u8;
    safe static __rodata_end: u8;
    safe static __free_start: u8;
}

/// Where `size` bytes fit from `free` on, around the page shared with EL3.
fn room(free: u64, size: u64, shared_buffer: u64) -> Option<u64> {
    let end = free.checked_add(size)?;
    let shared = free <= shared_buffer && shared_buffer < end;
    let start = if shared { shared_buffer + PAGE } else { free };
    (start.checked_add(size)? <= CARVE_OUT_END).then_some(start)
}

/// Where `size` bytes fit behind the image and the memory of the CPUs, around the page shared with EL3.
pub fn room_behind_image(size: u64, shared_buffer: u64) -> Option<u64> {
    room(CPUS_END.load(Ordering::Relaxed), size, shared_buffer)
}

/// Finds room for all CPUs and builds all tables, with the MMU off, on the first CPU. Returns a [`BootCode`].
#[unsafe(no_mangle)]
extern "C" fn rmm_prepare(cpu: u64, version: u64, max_cpus: u64, shared_buffer: u64) -> i64 {
    let boot = ColdBoot::from_regs(&[cpu, version, max_cpus, shared_buffer, 0]);
    match boot.check(u64::MAX).and_then(|()| prepare(&boot)) {
        Ok(()) => BootCode::SUCCESS.0,
        Err(code) => code.0,
    }
}

fn prepare(boot: &ColdBoot) -> Result<(), BootCode> {
    let start = max_room(boot).ok_or(BootCode::CPUS_OUT_OF_RANGE)?;
    let private = start + boot.max_cpus * CPU_TABLES;
    CPUS.store(boot.max_cpus, Ordering::Relaxed);
    CPUS_START.store(start, Ordering::Relaxed);
    CPUS_END.store(private + boot.max_cpus * CPU_PRIVATE, Ordering::Relaxed);
    map_image();
    map_pages(start, private, DATA);
    for (tables, memory) in all_cpu_tables().zip((private..).step_by(CPU_PRIVATE as usize)) {
        build(tables, memory, boot.shared_buffer);
    }
    Ok(())
}

fn max_room(boot: &ColdBoot) -> Option<u64> {
    let size = boot.max_cpus.checked_mul(CPU_TABLES + CPU_PRIVATE)?;
    room(&raw const __free_start as u64, size, boot.shared_buffer)
}

/// Builds the tables of a CPU whose private memory is at `memory`.
fn build(tables: &CpuTables, memory: u64, shared_buffer: u64) {
    // What is there was never written.
    for table in [&tables.root, &tables.middle, &tables.pages] {
        (0..ENTRIES).for_each(|index| table.set(index, 0));
    }
    tables.root.set(1, TABLES.image_middle.descriptor());
    tables.root.set((PRIVATE_VA >> 30) as usize, tables.middle.descriptor());
    for (region, table) in TABLES.granule_table.iter().enumerate() {
        tables.root.set((TABLE_VA >> 30) as usize + region, table.descriptor());
    }
    tables.middle.set(0, tables.pages.descriptor());
    let stack = STACK_PAGE..STACK_PAGE + STACK_PAGES;
    let area = AREA_PAGE..AREA_PAGE + AREA_PAGES;
    let mut pa = memory;
    for page in stack.chain([EMERGENCY_PAGE]).chain(area.clone()) {
        tables.pages.set(page, pa | DATA);
        if area.contains(&page) {
            zero_page(pa);
        }
        pa += PAGE;
    }
    tables.pages.set(SLOT_TABLE_PAGE, tables.pages.0.get() as u64 | DATA);
    tables.pages.set(SHARED_PAGE, shared_buffer & !(PAGE - 1) & 0xffff_ffff_f000 | DATA);
}

/// Zeros a page of memory of a CPU that has not started.
fn zero_page(pa: u64) {
    for word in 0..ENTRIES {
        // SAFETY: `prepare` has found that nothing else is there, and the MMU is off.
        unsafe { ptr::write_volatile((pa as *mut u64).wrapping_add(word), 0) };
    }
}

fn map_image() {
    for (index, table) in TABLES.image.iter().enumerate() {
        TABLES.image_middle.set(index, table.descriptor());
    }
    let text = &raw const __image_start as u64..&raw const __text_end as u64;
    let rodata = text.end..&raw const __rodata_end as u64;
    // Private memory of CPUs is only mapped where it is private.
    let data = rodata.end..&raw const __free_start as u64;
    for (range, entry) in [(text, TEXT), (rodata, RODATA), (data, DATA)] {
        map_pages(range.start, range.end, entry);
    }
}

fn map_pages(start: u64, end: u64, entry: u64) {
    let mut pa = start;
    while pa < end {
        let page = ((pa - CARVE_OUT) / PAGE) as usize;
        if let Some(table) = TABLES.image.get(page / ENTRIES) {
            table.set(page % ENTRIES, pa | entry);
        }
        pa += PAGE;
    }
}

/// Maps `size` bytes behind the image from `start` on, for the granule table.
pub fn map_behind_image(start: u64, size: u64) {
    map_pages(start, start + size, DATA);
    publish();
}

/// Maps memory EL3 has reserved, `size` bytes from `pa` on, at [`TABLE_VA`].
pub fn map_granule_table(pa: u64, size: u64) {
    let block = VALID | MEMORY | NO_EXECUTE;
    for index in 0..size.div_ceil(BLOCK) {
        let index = index as usize;
        if let Some(table) = TABLES.granule_table.get(index / ENTRIES) {
            table.set(index % ENTRIES, (pa + index as u64 * BLOCK) | block);
        }
    }
    publish();
}

/// Maps the console for all CPUs.
pub fn map_console(pa: u64) {
    for cpu in all_cpu_tables() {
        // Every world may use it; EL3 leaves it in the Non-secure physical address space.
        cpu.pages.set(CONSOLE_PAGE, pa & !(PAGE - 1) | DATA & !MEMORY | ACCESSED | DEVICE | NON_SECURE);
    }
    publish();
}

/// Makes entries that were invalid before visible to walks.
fn publish() {
    crate::sysreg::instruction!("dsb ishst\nisb");
}
