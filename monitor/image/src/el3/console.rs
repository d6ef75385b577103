//! The PL011 everyone prints to. The monitor does so at boot and on faults only.

use core::fmt::{self, Write};
use realm_monitor::layout;
use spin::Mutex;

const DATA: usize = 0x00;
const FLAGS: usize = 0x18;
const CONTROL: usize = 0x30;
/// The UART, its transmitter and its receiver are on.
const CONTROL_ON: u32 = 1 << 0 | 1 << 8 | 1 << 9;
const TRANSMIT_FULL: u32 = 1 << 5;

/// One writer at a time, so that lines of several CPUs do not mix.
static CONSOLE: Mutex<Uart> = Mutex::new(Uart);

struct Uart;

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                put(b'\r');
            }
            put(byte);
        }
        Ok(())
    }
}

fn put(byte: u8) {
    let base = layout::UART.base as usize;
    // SAFETY: the UART's registers are at this address, mapped as a device, and reading the flags changes nothing.
    while unsafe { ((base + FLAGS) as *const u32).read_volatile() } & TRANSMIT_FULL != 0 {}
    // SAFETY: as above; a write sends the byte.
    unsafe { ((base + DATA) as *mut u32).write_volatile(byte.into()) };
}

/// Turns the UART on. Emulated ones have no line settings that would matter.
pub fn init() {
    // SAFETY: the UART's control register is at this address, mapped as a device.
    unsafe { ((layout::UART.base as usize + CONTROL) as *mut u32).write_volatile(CONTROL_ON) };
}

/// Prints text.
pub fn print(text: fmt::Arguments<'_>) {
    // The UART never fails.
    let _ = CONSOLE.lock().write_fmt(text);
}

/// Prints text without the lock: after a fault of the monitor, which may have happened while it was printing, and before there are
/// caches, without which an exclusive access need not work.
pub fn print_raw(text: fmt::Arguments<'_>) {
    // The UART never fails.
    let _ = Uart.write_fmt(text);
}
