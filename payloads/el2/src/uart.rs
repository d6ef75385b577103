//! The console: the board's PL011, one whole line at a time.

use crate::lock::Mutex;
use core::fmt::{self, Display, Write};
use realm_report::Record;

const DATA: *mut u32 = 0x0900_0000 as *mut u32;
const FLAGS: *const u32 = 0x0900_0018 as *const u32;
const TRANSMIT_FULL: u32 = 1 << 5;

static CONSOLE: Mutex<Uart> = Mutex::new(Uart);

struct Uart;

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // SAFETY: the UART's flags; reading them has no effect.
            while unsafe { FLAGS.read_volatile() } & TRANSMIT_FULL != 0 {}
            // SAFETY: the UART's data register; a write sends the byte.
            unsafe { DATA.write_volatile(byte.into()) };
        }
        Ok(())
    }
}

/// Writes a line.
pub fn line(text: impl Display) {
    // The UART never fails.
    let _ = writeln!(CONSOLE.lock(), "{text}");
}

/// Reports.
pub fn report(record: Record<'_>) {
    line(record);
}

/// Writes a line when the console may be held by what was interrupted.
pub(crate) fn after_fault(text: fmt::Arguments<'_>) {
    let _ = writeln!(Uart, "\n@bad fault exception: {text}");
}

/// Writes why a program panicked.
pub fn panicked(text: impl Display) {
    let _ = writeln!(Uart, "\n@bad fault panic: {text}");
}
