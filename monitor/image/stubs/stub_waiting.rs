//! The Non-secure payload that waits for a reset from outside: it turns every CPU on, has each say so, and then none of them does
//! anything. For `xtask/src/resets.rs`.
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

const CPU_ON: u64 = 0xc400_0003;
const VERSION: u64 = 0xc400_0150;

fn smc(x0: u64, x1: u64, x2: u64, x3: u64) -> u64 {
    let answer: u64;
    // SAFETY: the calls made here change nothing this program uses.
    unsafe {
        asm!("smc #0", inout("x0") x0 => answer, inout("x1") x1 => _, inout("x2") x2 => _, inout("x3") x3 => _, out("x4") _);
    }
    answer
}

unsafe extern "C" {
    fn second();
}

/// Which CPU was on last; memory survives a reset, so the first sets it.
static LAST: AtomicU64 = AtomicU64::new(0);

fn wait() -> ! {
    loop {
        // SAFETY: waits.
        unsafe { asm!("wfi") };
    }
}

extern "C" fn second_main(cpu: u64) -> ! {
    let _ = writeln!(Uart, "waiting: CPU {cpu}, RMM {}", smc(VERSION, 0x10000, 0, 0));
    LAST.store(cpu, Ordering::Release);
    wait()
}

extern "C" fn main() -> ! {
    LAST.store(0, Ordering::Relaxed);
    let mut cpu = 1;
    // Clusters of 16.
    while smc(CPU_ON, cpu >> 4 << 8 | cpu & 0xf, second as *const () as u64, cpu) == 0 {
        while LAST.load(Ordering::Acquire) != cpu {}
        cpu += 1;
    }
    let _ = writeln!(Uart, "waiting: {cpu} CPUs wait for a reset");
    wait()
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    wait()
}
