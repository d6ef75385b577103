//! The Granule Protection Table in memory, and the maintenance around its changes.

use super::{memory, sysreg};
use core::sync::atomic::{AtomicU64, Ordering};
use realm_abi::rmm_el3::El3Code;
use realm_monitor::device_tree::Board;
use realm_monitor::gpt::{Gpi, Gpt, LayoutError, Maintenance};
use realm_monitor::layout::{self, Range};
use realm_monitor::services::granule;
use spin::Once;

static GPT: Once<Gpt<'static>> = Once::new();

unsafe extern "C" {
    fn enable_gpt(gptbr: u64, gpccr: u64);
}

/// 1 TiB, 4 KiB granules, inner shareable write-back walks.
const GPCCR: u64 = 2 | 1 << 8 | 1 << 10 | 3 << 12;

/// The table. It exists from the boot of the first CPU on.
///
/// # Panics
/// Before [`build`].
pub fn table() -> &'static Gpt<'static> {
    GPT.get().expect("the table is built before anything asks for it")
}

/// A table in memory.
///
/// # Safety
/// `range` must be mapped, and used as a table only.
unsafe fn words(range: layout::Range) -> &'static [AtomicU64] {
    // SAFETY: the caller says so; any bits are a valid AtomicU64.
    unsafe { core::slice::from_raw_parts(range.base as *const AtomicU64, range.size as usize / 8) }
}

/// Builds the table for the memory of `board`.
pub fn build(board: &Board) -> Result<(), LayoutError> {
    let tables = layout::l1_tables(board);
    // SAFETY: the range is set aside for this and mapped.
    let l0 = unsafe { words(layout::GPT_L0) };
    // SAFETY: as above.
    let l1 = unsafe { words(tables) };
    let gpt = Gpt::new(l0, l1, tables.base);
    layout::assign(&gpt, board)?;
    GPT.call_once(|| gpt);
    // In memory, where [`wipe_what_was_left`] reads them after a reset: first the tables, then that they are there.
    memory::clean(layout::GPT_L0);
    memory::clean(tables);
    BUILT.store(BUILT_MARK, Ordering::Release);
    memory::clean(Range::new(&raw const BUILT as u64, size_of_val(&BUILT) as u64));
    Ok(())
}

/// [`BUILT`] if the tables in memory are those of an earlier boot. Nothing else is likely to be there after power came.
const BUILT_MARK: u64 = 0x5b1d_0a7e_94c3_6f82;

/// Memory survives a reset, and so does this.
#[unsafe(link_section = ".kept")]
static BUILT: AtomicU64 = AtomicU64::new(0);

/// Wipes what a reset has left in memory of the Realm world, which is about to become the Non-secure world's. On the first
/// CPU with translation and checks off: all memory is in reach then.
pub fn wipe_what_was_left() {
    if BUILT.load(Ordering::Relaxed) != BUILT_MARK {
        return;
    }
    // SAFETY: the range is set aside for this, and translation is off.
    let l0 = unsafe { words(layout::GPT_L0) };
    for tables in [layout::GPT_L1, layout::GPT_L1_LARGE] {
        // SAFETY: the tables in `l0` point to one of both, and then it is nobody else's. Else nothing of it is read.
        let l1 = unsafe { words(tables) };
        Gpt::found(l0, l1, tables.base).for_each_realm_granule(wipe);
    }
    sysreg::dsb();
    BUILT.store(0, Ordering::Relaxed);
}

fn wipe(pa: u64) {
    for word in (pa..pa + realm_abi::GRANULE_SIZE).step_by(8) {
        // SAFETY: memory of the Realm world, where nothing runs any more.
        unsafe { (word as *mut u64).write_volatile(0) };
    }
}

/// Turns the checks on, on this CPU.
pub fn enable() {
    // SAFETY: the table gives the monitor everything it uses.
    unsafe { enable_gpt(layout::GPT_L0.base >> 12, GPCCR) };
}

/// Answers RMM_GTSI_DELEGATE and RMM_GTSI_UNDELEGATE: W0 and X1 of the RMM, X0 for it. Called by the assembly.
pub extern "C" fn granule_call(function: u32, pa: u64) -> i64 {
    granule(function.into(), pa, table(), &Hardware).unwrap_or(El3Code::UNKNOWN).0
}

/// The maintenance instructions of this machine.
#[derive(Clone, Copy, Debug)]
pub struct Hardware;

impl Maintenance for Hardware {
    fn write_back<W>(&self, entry: &W) {
        // SAFETY: DC CVAC cleans a line; nothing that can be read through the cache changes.
        unsafe { core::arch::asm!("dc cvac, {}", in(reg) entry, options(nostack, preserves_flags)) };
    }

    fn flush(&self, pa: u64, space: Gpi) {
        // NS in bit 63, NSE in bit 62.
        let space = match space {
            Gpi::NS => 0b10,
            Gpi::ROOT => 0b01,
            Gpi::REALM => 0b11,
            _ => 0b00,
        };
        // The smallest line of all caches.
        let line = 4_u64 << (sysreg::read!("ctr_el0") >> 16 & 0xf);
        let first = pa | space << 62;
        // Sixteen lines a round, a granule of lines of up to 256 bytes: this loop is half of what a granule's change of hands
        // costs. Behind a granule of longer lines it does no harm.
        // SAFETY: DC CIPAPA cleans and invalidates a line; nothing of it is lost.
        unsafe {
            core::arch::asm!(
                "2:",
                ".rept 16",
                "sys #6, c7, c14, #1, {at}",
                "add {at}, {at}, {line}",
                ".endr",
                "cmp {at}, {end}",
                "b.lo 2b",
                "dsb sy",
                at = inout(reg) first => _,
                line = in(reg) line,
                end = in(reg) first.wrapping_add(realm_abi::GRANULE_SIZE),
                options(nostack)
            );
        }
    }

    fn forget(&self, pa: u64, size: u64) {
        let code = match size {
            0..=0x1000 => 0,
            0x1001..=0x20_0000 => 3,
            0x20_0001..=0x200_0000 => 4,
            _ => 5_u64,
        };
        let operand = pa >> 12 | code << 44;
        // SAFETY: forgetting cached table entries (TLBI RPALOS) costs only time.
        unsafe {
            core::arch::asm!(
                "dsb oshst",
                "sys #6, c8, c4, #7, {}",
                "dsb osh",
                "isb",
                in(reg) operand,
                options(nostack, preserves_flags)
            );
        }
    }
}
