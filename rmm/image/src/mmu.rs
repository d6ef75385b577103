//! The RMM's own stage 1: 4 KiB pages, 39 bits, write or execute but never both.
//!
//! The image and the granule table lie where they are in physical memory, the same for all CPUs. Each CPU has a root of
//! its own for what is private to it, at the same address on all of them: its stack, save areas, and the slots through
//! which it sees granules. So no CPU can reach, not even by speculation, what another has mapped.

use core::cell::UnsafeCell;
use core::ptr;

/// Most CPUs there can be.
pub const MAX_CPUS: usize = 16;
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
/// The granule table, if it is not behind the image: a region of 1 GiB.
pub const TABLE_VA: u64 = PRIVATE_VA + (1 << 30);
/// Most bytes of it.
pub const TABLE_MAX: u64 = 1 << 30;

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

/// All tables.
#[repr(C)]
pub struct Tables {
    /// `boot` counts on these being first, three pages each.
    cpus: [CpuTables; MAX_CPUS],
    image_middle: Table,
    image: [Table; IMAGE_TABLES],
    granule_table: Table,
}

// SAFETY: see `Table::set`; the words are only read by MMUs otherwise.
unsafe impl Sync for Tables {}

pub static TABLES: Tables = Tables {
    cpus: [const { CpuTables { root: Table::empty(), middle: Table::empty(), pages: Table::empty() } };
        MAX_CPUS],
    image_middle: Table::empty(),
    image: [const { Table::empty() }; IMAGE_TABLES],
    granule_table: Table::empty(),
};

#[repr(C, align(4096))]
struct Private([UnsafeCell<[u8; PRIVATE_PAGES * PAGE as usize]>; MAX_CPUS]);

// SAFETY: each CPU uses its own part, through the mapping in `build`.
unsafe impl Sync for Private {}

#[unsafe(link_section = ".private")]
static PRIVATE: Private = Private([const { UnsafeCell::new([0; _]) }; MAX_CPUS]);

unsafe extern "C" {
    safe static __image_start: u8;
    safe static __text_end: u8;
    safe static __rodata_end: u8;
    safe static __private_start: u8;
    safe static __free_start: u8;
}

/// Where `size` bytes fit behind the image, around the page shared with EL3.
pub fn room_behind_image(size: u64, shared_buffer: u64) -> Option<u64> {
    let free = &raw const __free_start as u64;
    let shared = free <= shared_buffer && shared_buffer < free + size;
    let start = if shared { shared_buffer + PAGE } else { free };
    (start + size <= CARVE_OUT_END).then_some(start)
}

/// Builds all tables, with the MMU off, on the first CPU.
#[unsafe(no_mangle)]
extern "C" fn rmm_build_tables(shared_buffer: u64) {
    map_image();
    for (tables, memory) in TABLES.cpus.iter().zip(&PRIVATE.0) {
        tables.root.set(1, TABLES.image_middle.descriptor());
        tables.root.set((PRIVATE_VA >> 30) as usize, tables.middle.descriptor());
        tables.root.set((TABLE_VA >> 30) as usize, TABLES.granule_table.descriptor());
        tables.middle.set(0, tables.pages.descriptor());
        let stack = STACK_PAGE..STACK_PAGE + STACK_PAGES;
        let pages = stack.chain([EMERGENCY_PAGE]).chain(AREA_PAGE..AREA_PAGE + AREA_PAGES);
        let mut pa = memory.get() as u64;
        for page in pages {
            tables.pages.set(page, pa | DATA);
            pa += PAGE;
        }
        tables.pages.set(SLOT_TABLE_PAGE, tables.pages.0.get() as u64 | DATA);
        tables.pages.set(SHARED_PAGE, shared_buffer & !(PAGE - 1) & 0xffff_ffff_f000 | DATA);
    }
}

fn map_image() {
    for (index, table) in TABLES.image.iter().enumerate() {
        TABLES.image_middle.set(index, table.descriptor());
    }
    let text = &raw const __image_start as u64..&raw const __text_end as u64;
    let rodata = text.end..&raw const __rodata_end as u64;
    // Private memory is only mapped where it is private.
    let data = rodata.end..&raw const __private_start as u64;
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
        TABLES.granule_table.set(index as usize, (pa + index * BLOCK) | block);
    }
    publish();
}

/// Maps the console for all CPUs.
pub fn map_console(pa: u64) {
    for cpu in &TABLES.cpus {
        // Every world may use it; EL3 leaves it in the Non-secure physical address space.
        cpu.pages.set(CONSOLE_PAGE, pa & !(PAGE - 1) | DATA & !MEMORY | ACCESSED | DEVICE | NON_SECURE);
    }
    publish();
}

/// Makes entries that were invalid before visible to walks.
fn publish() {
    crate::sysreg::instruction!("dsb ishst\nisb");
}
