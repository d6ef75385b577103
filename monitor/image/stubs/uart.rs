//! The UART by which stub payloads of the Non-secure world report. Each includes it.

use core::fmt;

/// The machine's first UART, as QEMU's `virt` has it.
pub struct Uart;

impl fmt::Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // SAFETY: the UART's data register.
            unsafe { (0x0900_0000 as *mut u32).write_volatile(byte.into()) };
        }
        Ok(())
    }
}
