//! The monitor's own translation: one set of tables for the boot, and one for afterwards without what only the boot needs.

use core::cell::UnsafeCell;
use realm_monitor::control::SctlrEl3;
use realm_monitor::layout::{self, Range};
use realm_monitor::stage1::{Kind, MAIR, MapError, PAGE_SIZE, Table, Tables};

const TABLES: usize = 16;

#[repr(C, align(4096))]
pub struct Memory(UnsafeCell<[Table; TABLES]>);

// SAFETY: the tables are written by the first CPU before any other runs Rust code.
unsafe impl Sync for Memory {}

static BOOT: Memory = Memory(UnsafeCell::new([Table::EMPTY; TABLES]));
/// What every CPU has once the first is done with the boot.
pub static RUNTIME: Memory = Memory(UnsafeCell::new([Table::EMPTY; TABLES]));

unsafe extern "C" {
    static code_end: u8;
    static stacks: u8;
    static stacks_end: u8;
    fn enable_mmu(root: u64, tcr: u64, mair: u64, sctlr: u64);
}

/// 39 bits, 4 KiB granules, write-back inner shareable walks, 40 bits of physical address; RES1 bits.
pub const TCR: u64 = 1 << 31 | 1 << 23 | 2 << 16 | 3 << 12 | 1 << 10 | 1 << 8 | 25;
/// Translation on, and what goes with it.
pub const SCTLR: u64 = SctlrEl3::ON.bits();

const fn between(start: u64, end: u64) -> Range {
    Range::new(start, end - start)
}

/// What the monitor always needs.
fn map_own(tables: &mut Tables<'_>) -> Result<(), MapError> {
    let code = (&raw const code_end) as u64;
    tables.map(between(layout::FLASH.base, code), Kind::Code)?;
    // Constants, the first values of data, and the package.
    tables.map(between(code, layout::FLASH.end()), Kind::Constants)?;
    let (first, end) = ((&raw const stacks) as u64, (&raw const stacks_end) as u64);
    let stack_size = super::context::STACK_SIZE as u64;
    let mut stack = first;
    while stack < end {
        // The page below a stack is left out.
        tables.map(between(stack + PAGE_SIZE, stack + stack_size), Kind::Data)?;
        stack += stack_size;
    }
    tables.map(between(end, layout::MONITOR_DATA.end()), Kind::Data)?;
    tables.map(layout::GPT_L0, Kind::Data)?;
    tables.map(layout::GPT_L1, Kind::Data)?;
    // Reached only if the Granule Protection Table gives it to Root.
    tables.map(layout::GPT_L1_LARGE, Kind::Data)?;
    tables.map(layout::DEVICES, Kind::Device)?;
    tables.map(layout::SHARED_BUFFER, Kind::RealmData)
}

fn map_for_boot(tables: &mut Tables<'_>) -> Result<(), MapError> {
    tables.map(layout::DEVICE_TREE, Kind::NonSecureData)?;
    tables.map(layout::RMM_IMAGE, Kind::RealmData)?;
    tables.map(Range::new(layout::PAYLOAD_BASE, layout::PAYLOAD_MAX), Kind::NonSecureData)
}

/// Builds both sets. On the first CPU with translation off, before any other leaves its reset code.
pub fn build() -> Result<(), MapError> {
    // SAFETY: nothing else uses the tables yet.
    let boot = unsafe { &mut *BOOT.0.get() };
    let mut tables = Tables::new(boot, BOOT.0.get() as u64);
    map_own(&mut tables)?;
    map_for_boot(&mut tables)?;
    // SAFETY: nothing else uses the tables yet.
    let runtime = unsafe { &mut *RUNTIME.0.get() };
    map_own(&mut Tables::new(runtime, RUNTIME.0.get() as u64))
}

/// Turns translation on with what the boot needs.
pub fn enable_for_boot() {
    // SAFETY: the tables map everything at its own address.
    unsafe { enable_mmu(BOOT.0.get() as u64, TCR, MAIR, SCTLR) };
}

/// Turns translation on with what is needed from now on. The other CPUs do so when they start (`asm/start.s`).
pub fn enable() {
    // SAFETY: the tables map everything that is used from now on at its own address.
    unsafe { enable_mmu(RUNTIME.0.get() as u64, TCR, MAIR, SCTLR) };
}
