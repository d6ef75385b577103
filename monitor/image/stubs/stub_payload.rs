//! The smallest Non-secure payload: it prints what RMI_VERSION answers, delegates a granule and takes it back, turns the
//! other CPUs on, and powers the machine off. Built by `cargo xtask boot --payload stub`.
#![no_std]
#![no_main]

#[path = "payload_start.rs"]
mod payload_start;
#[path = "uart.rs"]
mod uart;

use core::arch::asm;
use core::fmt::Write;
use core::sync::atomic::{AtomicU64, Ordering};
use payload_start::start;
use uart::Uart;

start!(main, second_main);

fn smc(x0: u64, x1: u64, x2: u64, x3: u64) -> [u64; 4] {
    let mut regs = [x0, x1, x2, x3];
    // SAFETY: the calls made here change nothing this program uses.
    unsafe {
        asm!("smc #0", inout("x0") regs[0], inout("x1") regs[1], inout("x2") regs[2], inout("x3") regs[3], inout("x4") 0_u64 => _);
    }
    regs
}

unsafe extern "C" {
    fn second();
}

/// Starts a timer of this world and stays in the Realm world until its interrupt shows there, as an IRQ.
fn interrupt_in_realm(uart: &mut Uart) {
    const TIMER: u32 = 26;
    const FRAME: usize = 0x080b_0000;
    let put = |address: usize, value: u32| {
        // SAFETY: registers of the GIC, which nothing else uses.
        unsafe { (address as *mut u32).write_volatile(value) };
    };
    put(0x0800_0000, 0x12);
    put(FRAME + 0x100, 1 << TIMER);
    // SAFETY: the interrupt stays masked: it only becomes pending.
    unsafe {
        asm!(
            "msr S3_4_C12_C9_5, {sre}",
            "isb",
            "msr S3_0_C4_C6_0, {mask}",
            "msr S3_0_C12_C12_7, {one}",
            "mov {sre}, #1 << 4",
            "msr hcr_el2, {sre}",
            "msr cnthp_tval_el2, {wait}",
            "msr cnthp_ctl_el2, {one}",
            "isb",
            sre = inout(reg) 0xf_u64 => _,
            mask = in(reg) 0xff_u64,
            one = in(reg) 1_u64,
            wait = in(reg) 10_000_u64,
        );
    }
    let [status, pending, ..] = smc(0xc400_0160, 0, 0, 0);
    let _ = writeln!(uart, "payload: interrupt in the Realm world: {status} ISR {pending:#x}");
}

fn ticks() -> u64 {
    let ticks: u64;
    // SAFETY: only tells.
    unsafe { asm!("isb", "mrs {}, cntpct_el0", out(reg) ticks) };
    ticks
}

static ONLINE: AtomicU64 = AtomicU64::new(0);

extern "C" fn second_main(cpu: u64) -> ! {
    let version = smc(0xc400_0150, 0x10000, 0, 0);
    if version[0] == 0 {
        ONLINE.fetch_add(1 << (8 * cpu), Ordering::Release);
    }
    smc(0x8400_0002, 0, 0, 0);
    loop {}
}

extern "C" fn main(tree: u64) -> ! {
    let mut uart = Uart;
    // SAFETY: the device tree's first word.
    let magic = unsafe { (tree as *const u32).read_volatile() };
    let _ = writeln!(uart, "payload: device tree at {tree:#x}, magic {:#x}", u32::from_be(magic));
    let el: u64;
    // SAFETY: only tells.
    unsafe { asm!("mrs {}, currentel", out(reg) el) };
    let _ = writeln!(uart, "payload: EL{}", el >> 2);
    let _ = writeln!(
        uart,
        "payload: PSCI {:x?} SMCCC {:x?}",
        smc(0x8400_0000, 0, 0, 0)[0],
        smc(0x8000_0000, 0, 0, 0)[0]
    );
    let _ = writeln!(uart, "payload: VERSION {:x?}", smc(0xc400_0150, 0x10000, 0, 0));
    let granule = 0x7000_0000;
    for (name, pa) in [
        ("granule", granule),
        ("above 4 GiB", 0x1_2345_6000),
        ("rmm", 0x4010_0000),
        ("uart", 0x0900_0000),
        ("unaligned", granule + 8),
    ] {
        let delegated = smc(0xc400_0151, pa, 0, 0)[0];
        let again = smc(0xc400_0151, pa, 0, 0)[0];
        let back = smc(0xc400_0152, pa, 0, 0)[0];
        let _ = writeln!(uart, "payload: {name}: {} {} {}", delegated as i64, again as i64, back as i64);
    }
    let _ = writeln!(uart, "payload: GTSI from here {}", smc(0xc400_01b0, granule, 0, 0)[0] as i64);
    interrupt_in_realm(&mut uart);
    // A standby state: the timer's interrupt is still pending, so it ends at once.
    let _ = writeln!(uart, "payload: CPU_SUSPEND {}", smc(0xc400_0001, 0, 0, 0)[0] as i64);
    for cpu in 1..8 {
        let answer = smc(0xc400_0003, cpu, second as *const () as u64, cpu)[0] as i64;
        if answer != 0 {
            let _ = writeln!(uart, "payload: CPU_ON {cpu}: {answer}");
            break;
        }
        while ONLINE.load(Ordering::Acquire) >> (8 * cpu) & 1 == 0 {}
        while smc(0xc400_0004, cpu, 0, 0)[0] != 1 {}
        let _ = writeln!(uart, "payload: CPU {cpu} was on");
    }
    // The first round splits contiguous descriptors of the Granule Protection Table; the second finds them split.
    for round in 1..=2 {
        for (name, function) in
            [("VERSION", 0xc400_0150), ("DELEGATE", 0xc400_0151), ("UNDELEGATE", 0xc400_0152)]
        {
            let start = ticks();
            for page in 0..256 {
                smc(function, 0x7100_0000 + 4096 * page, 0, 0);
            }
            let _ = writeln!(uart, "payload: round {round}: {name} takes {} ticks", (ticks() - start) / 256);
        }
    }
    let [status, syndrome, state, ..] = smc(0xc400_0164, 0, 0, 0);
    let _ = writeln!(uart, "payload: an access of the RMM: {status} ESR {syndrome:#x} SPSR {state:#x}");
    fault_in_realm(&mut uart);
    smc(0x8400_0008, 0, 0, 0);
    loop {}
}

/// Has the stub RMM fault, and looks what is left of it: an error, now and later, and registers without its secrets.
fn fault_in_realm(uart: &mut Uart) {
    let now = smc(0xc400_0163, 0, 0, 0)[0] as i64;
    let later = smc(0xc400_0150, 0x10000, 0, 0)[0] as i64;
    let (pointer, vectors, simd): (u64, u64, u64);
    // SAFETY: only tells; CPTR_EL2 lets this level use SIMD.
    unsafe {
        asm!(
            "msr cptr_el2, xzr",
            "isb",
            "mrs {}, tpidr_el1",
            "mrs {}, vbar_el1",
            ".arch_extension fp",
            "fmov {}, d8",
            out(reg) pointer,
            out(reg) vectors,
            out(reg) simd,
        );
    }
    let _ = writeln!(uart, "payload: a fault of the RMM: {now} {later}, left {pointer:#x} {vectors:#x} {simd:#x}");
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
