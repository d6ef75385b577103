//! From reset to the worlds: the first CPU prepares the machine, the others join it.

use super::services::{PSCI, SERVICES, psci};
use super::{console, context, cpu, gic, gpt, memory, power, run, stage1};
use core::arch::global_asm;
use core::fmt;
use realm_abi::rmm_el3::manifest::{ConsoleInfo, ManifestBuilder, MemoryBank};
use realm_monitor::control::{Scr, SctlrEl3};
use realm_monitor::device_tree::{self, Board, MAX_BANKS, Tree};
use realm_monitor::layout::{self, CLUSTER_SHIFT, MAX_CPUS, Range};
use realm_monitor::package::Package;
use realm_monitor::psci::{Entry, Psci};
use realm_monitor::services::Services;
use realm_monitor::stage1::MAIR;

global_asm!(
    include_str!("asm/start.s"),
    max_cpus = const MAX_CPUS,
    cluster_shift = const CLUSTER_SHIFT,
    scr_boot = const Scr::BOOT.bits(),
    sctlr = const SctlrEl3::RESET.bits(),
    gicd_ctlr = const gic::DISTRIBUTOR_CONTROL,
    released = const gic::RELEASED_BIT,
    stack_size = const context::STACK_SIZE,
    primary = sym primary,
    secondary = sym secondary,
    root = sym stage1::RUNTIME,
    tcr = const stage1::TCR,
    mair = const MAIR,
    sctlr_on = const stage1::SCTLR,
);

/// Says why the machine cannot start, and stops it.
fn stop(why: fmt::Arguments<'_>) -> ! {
    console::print(format_args!("monitor: cannot boot: {why}\n"));
    power::halt()
}

/// The first CPU.
pub extern "C" fn primary() -> ! {
    if let Some(feature) = cpu::lacks() {
        // Neither translation nor locks are of use yet.
        console::init();
        console::print_raw(format_args!("monitor: cannot boot: the CPU lacks {feature}\n"));
        power::off();
    }
    gpt::wipe_what_was_left();
    if stage1::build().is_err() {
        // There is no console without tables.
        power::halt();
    }
    stage1::enable_for_boot();
    cpu::begin();
    console::init();
    console::print(format_args!("monitor: realmkit {}\n", env!("CARGO_PKG_VERSION")));
    let board = board();
    if let Err(error) = gpt::build(&board) {
        stop(format_args!("granule protection table: {error:?}"));
    }
    gpt::enable();
    gic::init_distributor();
    gic::init_cpu(0);
    context::init_el3();
    let package = load_package(&board);
    edit_device_tree(&board);
    write_manifest(&board, &package);
    let cpus = board.cpus.min(MAX_CPUS);
    if cpus < board.cpus {
        console::print(format_args!("monitor: of {} CPUs {cpus} can be turned on\n", board.cpus));
    }
    SERVICES.call_once(|| Services::new(package.interface, layout::rmm_pool(&board)));
    PSCI.call_once(|| Psci::new(cpus));
    stage1::enable();
    console::print(format_args!("monitor: {cpus} CPUs, {} MiB of memory, checks on\n", mebibytes(&board)));
    gic::release_others();
    run::first(
        package.interface,
        Entry { address: layout::PAYLOAD_BASE, context_id: layout::DEVICE_TREE.base },
    )
}

/// Any other CPU, once the first has let it go. Translation is on.
pub extern "C" fn secondary(cpu: usize) -> ! {
    gpt::enable();
    gic::init_cpu(cpu);
    if let Some(feature) = cpu::join() {
        console::print(format_args!(
            "monitor: CPU {cpu} differs from CPU 0 in {feature}: it stays off
"
        ));
        psci().give_up(cpu);
        power::halt();
    }
    context::init_el3();
    run::parked(cpu)
}

fn mebibytes(board: &Board) -> u64 {
    board.banks().iter().map(|bank| bank.size >> 20).sum()
}

fn board() -> Board {
    // SAFETY: the range is mapped for the boot, and the slice is gone before anyone else uses it.
    let bytes = unsafe { memory::slice_mut(layout::DEVICE_TREE) };
    match Tree::new(bytes).and_then(|tree| tree.board()) {
        Ok(board) => board,
        Err(error) => stop(format_args!("device tree at {:#x}: {error:?}", layout::DEVICE_TREE.base)),
    }
}

/// Copies RMM and payload to where they run.
fn load_package(board: &Board) -> Package<'static> {
    let package = match Package::parse(memory::package(), layout::RMM_IMAGE.size, layout::PAYLOAD_MAX) {
        Ok(package) => package,
        Err(error) => stop(format_args!("package at {:#x}: {error:?}", layout::PACKAGE)),
    };
    if !layout::fits(board, package.payload.len() as u64) {
        stop(format_args!("{} MiB of memory are too few", mebibytes(board)));
    }
    for (base, image) in [(layout::RMM_IMAGE.base, package.rmm), (layout::PAYLOAD_BASE, package.payload)] {
        let range = Range::new(base, image.len() as u64);
        // SAFETY: the range is mapped for the boot, and nobody runs there yet.
        unsafe { memory::slice_mut(range) }.copy_from_slice(image);
        memory::clean(range);
    }
    package
}

/// Replaces the board's device tree by the one for the Non-secure world.
fn edit_device_tree(board: &Board) {
    // SAFETY: the range is mapped for the boot, and nobody else uses it yet.
    let bytes = unsafe { memory::slice_mut(layout::DEVICE_TREE) };
    // The board gives its tree the whole range, but fills only the start of it.
    let (tree, room) = bytes.split_at_mut(bytes.len() / 2);
    let mut keep = [("", Range::new(0, 0)); layout::MAX_KEPT];
    let mut count = 0;
    for (slot, kept) in keep.iter_mut().zip(layout::kept(board)) {
        *slot = kept;
        count += 1;
    }
    let edited = Tree::new(tree)
        .map_err(device_tree::EditError::Tree)
        .and_then(|tree| device_tree::edit(&tree, &keep[..count], room));
    match edited {
        Ok(size) if size <= tree.len() => {
            tree[..size].copy_from_slice(&room[..size]);
            tree[size..].fill(0);
            room.fill(0);
        }
        Ok(size) => stop(format_args!("device tree of {size} bytes")),
        Err(error) => stop(format_args!("device tree: {error:?}")),
    }
    memory::clean(layout::DEVICE_TREE);
}

fn write_manifest(board: &Board, package: &Package<'_>) {
    let mut banks = [MemoryBank::default(); MAX_BANKS];
    let mut count = 0;
    for (slot, bank) in banks.iter_mut().zip(board.banks()) {
        *slot = MemoryBank { base: bank.base, size: bank.size };
        count += 1;
    }
    let console = ConsoleInfo {
        base: layout::UART.base,
        map_pages: 1,
        name: *b"pl011\0\0\0",
        clk_in_hz: 24_000_000,
        baud_rate: 115_200,
        flags: 0,
    };
    let manifest = ManifestBuilder {
        version: package.manifest,
        plat_data: 0,
        dram: &banks[..count],
        consoles: &[console],
        ncoh_regions: &[],
        coh_regions: &[],
        smmus: &[],
    };
    // SAFETY: the page is mapped, and nobody else uses it yet.
    let buffer = unsafe { memory::slice_mut(layout::SHARED_BUFFER) };
    buffer.fill(0);
    if manifest.write(buffer, layout::SHARED_BUFFER.base).is_err() {
        stop(format_args!("the boot manifest does not fit the shared buffer"));
    }
    memory::clean(layout::SHARED_BUFFER);
}
