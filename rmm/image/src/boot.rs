//! From the entry point to the first command.

use crate::control::{HCR_RMM, SCTLR_OFF, SCTLR_ON};
use crate::el3::{self, BOOT_COMPLETE, RMI_REQ_COMPLETE};
use crate::machine::Machine;
use crate::mmu;
use crate::stop::{fail, is_stopped, refuse, refuse_after};
use crate::{console, copy, run, slots};
use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU64, Ordering};
use realm_abi::rmm_el3::manifest::{Limits, Manifest};
use realm_abi::rmm_el3::{BootCode, ColdBoot, El3Call, SHARED_BUFFER_SIZE};
use realm_abi::{GRANULE_SHIFT, GRANULE_SIZE};
use realm_rmm::Rmm;
use realm_rmm::granule::{Bank, GranuleEntry, MAX_BANKS};
use spin::Once;

global_asm!(
    ".section .text.entry, \"ax\"",
    ".global rmm_entry",
    "rmm_entry:",
    "    msr daifset, #0xf",
    "    mov x19, x0",
    "    mov x20, x1",
    "    mov x21, x2",
    "    mov x22, x3",
    "    ldr x0, ={hcr}",
    "    msr hcr_el2, x0",
    "    ldr x0, ={sctlr_off}",
    "    msr sctlr_el2, x0",
    "    isb",
    "    adrp x0, {warm}",
    "    ldr x0, [x0, #:lo12:{warm}]",
    "    cbnz x0, 3f",
    // The first CPU.
    "    adrp x0, __bss_start",
    "    adrp x1, __bss_end",
    "1:  stp xzr, xzr, [x0], #16",
    "    cmp x0, x1",
    "    b.lo 1b",
    "    adrp x0, {boot_stack}",
    "    add x0, x0, #:lo12:{boot_stack}",
    "    add x0, x0, #{boot_stack_size}",
    "    mov sp, x0",
    "    mov x0, x19",
    "    mov x1, x20",
    "    mov x2, x21",
    "    mov x3, x22",
    "    bl rmm_prepare",
    "    mov x1, x0",
    "    cbnz x0, 9f",
    // What was written past the caches must not be hidden by them.
    "    mrs x2, ctr_el0",
    "    ubfx x2, x2, #16, #4",
    "    mov x3, #4",
    "    lsl x2, x3, x2",
    "    adrp x0, __bss_start",
    "    adrp x1, __bss_end",
    "    adrp x3, {cpus_start}",
    "    ldr x3, [x3, #:lo12:{cpus_start}]",
    "    adrp x4, {cpus_end}",
    "    ldr x4, [x4, #:lo12:{cpus_end}]",
    "2:  dc ivac, x0",
    "    add x0, x0, x2",
    "    cmp x0, x1",
    "    b.lo 2b",
    "    dsb sy",
    "4:  dc ivac, x3",
    "    add x3, x3, x2",
    "    cmp x3, x4",
    "    b.lo 4b",
    "    dsb sy",
    "3:  adrp x0, {cpus}",
    "    ldr x0, [x0, #:lo12:{cpus}]",
    "    cmp x19, x0",
    "    mov x1, #{cpu_out_of_range}",
    "    b.hs 9f",
    "    mov x0, x19",
    "    ldr x1, ={cpu_tables}",
    "    adrp x2, {cpus_start}",
    "    ldr x2, [x2, #:lo12:{cpus_start}]",
    "    madd x0, x0, x1, x2",
    "    msr ttbr0_el2, x0",
    "    ldr x0, ={mair}",
    "    msr mair_el2, x0",
    "    ldr x0, ={tcr}",
    "    mrs x1, id_aa64mmfr0_el1",
    "    and x1, x1, #0xf",
    "    cmp x1, #5",
    "    mov x2, #5", // 48 bits: the most a descriptor holds
    "    csel x1, x1, x2, lo",
    "    orr x0, x0, x1, lsl #32",
    "    msr tcr_el2, x0",
    "    adrp x0, rmm_vectors",
    "    add x0, x0, #:lo12:rmm_vectors",
    "    msr vbar_el2, x0",
    "    isb",
    "    tlbi alle2",
    "    ic iallu",
    "    dsb nsh",
    "    isb",
    "    ldr x0, ={sctlr_on}",
    "    msr sctlr_el2, x0",
    "    isb",
    "    ldr x0, ={stack}",
    "    mov sp, x0",
    "    mov x29, xzr",
    "    mov x30, xzr",
    "    mov x0, x19",
    "    mov x1, x20",
    "    mov x2, x21",
    "    mov x3, x22",
    "    b {main}",
    "9:  ldr x0, ={boot_complete}",
    "    smc #0",
    "    mov x1, #-1",
    "    ldr x0, ={req_complete}",
    "8:  smc #0",
    "    mov x1, #-1",
    "    ldr x0, ={req_complete}",
    "    b 8b",
    ".ltorg",
    hcr = const HCR_RMM,
    sctlr_off = const SCTLR_OFF,
    sctlr_on = const SCTLR_ON,
    cpu_out_of_range = const BootCode::CPU_ID_OUT_OF_RANGE.0,
    cpu_tables = const mmu::CPU_TABLES,
    cpus = sym mmu::CPUS,
    cpus_start = sym mmu::CPUS_START,
    cpus_end = sym mmu::CPUS_END,
    boot_stack = sym BOOT_STACK,
    boot_stack_size = const BOOT_STACK_SIZE,
    mair = const mmu::MAIR,
    tcr = const mmu::TCR,
    stack = const mmu::STACK_TOP,
    warm = sym WARM,
    main = sym main,
    boot_complete = const BOOT_COMPLETE,
    req_complete = const RMI_REQ_COMPLETE,
);

/// The stack on which the first CPU builds the tables.
#[repr(C, align(16))]
struct BootStack(UnsafeCell<[u8; BOOT_STACK_SIZE]>);

const BOOT_STACK_SIZE: usize = 16 << 10;

// SAFETY: one CPU uses it, before there are others.
unsafe impl Sync for BootStack {}

static BOOT_STACK: BootStack = BootStack(UnsafeCell::new([0; BOOT_STACK_SIZE]));

/// Whether the first CPU is done. In `.data`, as it is read before `.bss` is what it should be.
#[unsafe(link_section = ".data")]
static WARM: AtomicU64 = AtomicU64::new(0);

static RMM: Once<Rmm<'static, Machine>> = Once::new();

/// Every CPU, with the MMU on.
extern "C" fn main(cpu: u64, version: u64, max_cpus: u64, shared_buffer: u64) -> ! {
    slots::init();
    slots::area().cpu.set(cpu);
    if is_stopped() || slots::area().failed.get() != 0 {
        // Turning the CPU off and on again does not mend what was broken.
        el3::wait_for_command([BOOT_COMPLETE, BootCode::SUCCESS.0.cast_unsigned(), 0, 0, 0, 0]);
        refuse()
    }
    run::init();
    let outcome = if WARM.load(Ordering::Acquire) == 0 {
        let cold = ColdBoot::from_regs(&[cpu, version, max_cpus, shared_buffer, 0]);
        cold_boot(&cold)
    } else {
        // There is no code for a CPU that is not like the first.
        RMM.get().filter(|rmm| rmm.platform().is_like_this_cpu()).ok_or(BootCode::UNKNOWN)
    };
    match outcome {
        Ok(rmm) => serve(rmm),
        Err(code) => {
            console::report(format_args!("boot of CPU {cpu} failed: {code:?}"));
            el3::wait_for_command([BOOT_COMPLETE, code.0.cast_unsigned(), 0, 0, 0, 0]);
            refuse()
        }
    }
}

/// Command after command.
fn serve(rmm: &'static Rmm<'static, Machine>) -> ! {
    let mut regs = el3::wait_for_command([BOOT_COMPLETE, BootCode::SUCCESS.0.cast_unsigned(), 0, 0, 0, 0]);
    loop {
        if is_stopped() {
            refuse_after(regs[4])
        }
        slots::area().function.set(regs[0]);
        let [x0, x1, x2, x3, x4] = rmm.handle_rmi(&regs);
        slots::release();
        regs = el3::wait_for_command([RMI_REQ_COMPLETE, x0, x1, x2, x3, x4]);
    }
}

fn cold_boot(boot: &ColdBoot) -> Result<&'static Rmm<'static, Machine>, BootCode> {
    let mut buffer = [0; SHARED_BUFFER_SIZE];
    // SAFETY: the page is mapped; it is copied before it is read, as EL3 uses it for other things later.
    unsafe { copy::copy(buffer.as_mut_ptr(), mmu::SHARED_VA as *const u8, buffer.len()) }
        .map_err(|copy::Fault| BootCode::INVALID_SHARED_BUFFER)?;
    let machine = Machine::new(boot.shared_buffer);
    let limits = Limits {
        banks: MAX_BANKS,
        granules: mmu::TABLE_MAX / size_of::<GranuleEntry>() as u64,
        // The RMM's own descriptors hold 48 bits.
        pa_bits: u32::from(machine.cpu.pa_bits.min(48)),
    };
    let manifest =
        Manifest::parse(&buffer, boot.shared_buffer, &limits).map_err(|error| error.boot_code())?;
    if let Some(first) = manifest.consoles.iter().find(|console| console.name.starts_with(b"pl011")) {
        console::init(first.base);
    }
    let mut banks = [Bank { base: 0, size: 0 }; MAX_BANKS];
    for (bank, from) in banks.iter_mut().zip(manifest.dram.iter()) {
        *bank = Bank { base: from.base, size: from.size };
    }
    let banks = banks.get(..manifest.dram.len()).ok_or(BootCode::MANIFEST_DATA_ERROR)?;
    let granules = banks.iter().map(|bank| bank.size >> GRANULE_SHIFT).sum();
    let entries = granule_table(granules, boot.shared_buffer).ok_or(BootCode::MANIFEST_DATA_ERROR)?;
    let rmm = Rmm::new(machine, banks, entries).map_err(|_| BootCode::MANIFEST_DATA_ERROR)?;
    let rmm = RMM.call_once(|| rmm);
    if let Err(error) = rmm.init_attestation() {
        // Realms run all the same; they get no token.
        console::report(format_args!("no attestation: {error}"));
    }
    WARM.store(1, Ordering::Release);
    // SAFETY: makes the flag visible to CPUs whose caches are off.
    unsafe { asm!("dsb ish", "dc cvac, {}", "dsb sy", in(reg) &WARM, options(nostack, preserves_flags)) };
    console::report(format_args!(
        "1.0, EL3 interface {}, {granules} granules in {} banks",
        boot.version,
        banks.len()
    ));
    Ok(rmm)
}

/// Zeroed memory for one entry a granule: behind the image if there is room beside the page shared with EL3, else from EL3.
fn granule_table(granules: u64, shared_buffer: u64) -> Option<&'static [GranuleEntry]> {
    /// The alignment, as a power of two, is in bits 63:56 of the flags.
    const ALIGNMENT_SHIFT: u32 = 56;
    const BLOCK_SHIFT: u64 = 21;
    let size = (granules * size_of::<GranuleEntry>() as u64).next_multiple_of(GRANULE_SIZE);
    let start = if let Some(start) = mmu::room_behind_image(size, shared_buffer) {
        mmu::map_behind_image(start, size);
        start
    } else {
        let request = El3Call::ReserveMemory {
            size: size.next_multiple_of(1 << BLOCK_SHIFT),
            flags: BLOCK_SHIFT << ALIGNMENT_SHIFT,
        };
        let [pa, ..] = el3::service(request).ok()?;
        if !pa.is_multiple_of(1 << BLOCK_SHIFT) {
            return None;
        }
        mmu::map_granule_table(pa, size);
        mmu::TABLE_VA
    };
    // SAFETY: the memory has just been mapped, is a multiple of pages, and nothing else is in it.
    unsafe { copy::wipe(start as *mut u8, size as usize) };
    // SAFETY: all zeros is a valid entry, the range is aligned and large enough, and from now on only shared.
    Some(unsafe { core::slice::from_raw_parts(start as *const GranuleEntry, granules as usize) })
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    fail(format_args!("{info}"))
}
