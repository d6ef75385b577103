//! The console: a PL011 EL3 names in the boot manifest. Used at boot and for what must not happen.

use crate::mmu;
use core::fmt::{self, Write};
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};

static PRESENT: AtomicBool = AtomicBool::new(false);

const DATA: u64 = 0x00;
const FLAGS: u64 = 0x18;
/// Transmit FIFO full.
const FLAG_FULL: u32 = 1 << 5;

/// Uses the console at `pa` from now on.
pub fn init(pa: u64) {
    mmu::map_console(pa);
    PRESENT.store(true, Ordering::Release);
}

/// Writes a line, if there is a console.
pub fn report(line: fmt::Arguments<'_>) {
    if PRESENT.load(Ordering::Acquire) {
        let _ = writeln!(Console, "RMM: {line}");
    }
}

struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                send(b'\r');
            }
            send(byte);
        }
        Ok(())
    }
}

fn send(byte: u8) {
    let flags = (mmu::CONSOLE_VA + FLAGS) as *const u32;
    // SAFETY: the console is mapped, as `PRESENT` says; reading its flags has no effect.
    while unsafe { ptr::read_volatile(flags) } & FLAG_FULL != 0 {}
    // SAFETY: likewise; sends the byte.
    unsafe { ptr::write_volatile((mmu::CONSOLE_VA + DATA) as *mut u32, byte.into()) };
}
