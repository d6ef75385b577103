//! The realm's UART: an 8250.

use crate::output::Output;
use std::convert::Infallible;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

/// Interrupt enable register: received data.
const IER_RECEIVED: u8 = 1;

/// The registers, and what was written so far.
pub(crate) struct Uart(Serial<Line, NoEvents, Output>);

/// The interrupt, an edge, until it is delivered.
#[derive(Default)]
struct Line(AtomicBool);

impl Trigger for Line {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Default for Uart {
    fn default() -> Self {
        Self(Serial::new(Line::default(), Output::default()))
    }
}

impl Uart {
    /// What a read of the register at `offset` gives.
    pub(crate) fn read(&mut self, offset: u64) -> u8 {
        u8::try_from(offset).map_or(0, |offset| self.0.read(offset))
    }

    /// Writes the register at `offset`.
    pub(crate) fn write(&mut self, offset: u64, value: u8) {
        if let Ok(offset) = u8::try_from(offset) {
            // What is looped back to a full queue is lost, as on a real line.
            let _ = self.0.write(offset, value);
        }
    }

    /// Takes what somebody types, as much as there is room for; how much that was.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> usize {
        // Until the driver listens it empties the queue whenever it likes.
        if self.0.state().interrupt_enable & IER_RECEIVED == 0 {
            return 0;
        }
        let some = &bytes[..bytes.len().min(self.0.fifo_capacity())];
        if some.is_empty() { 0 } else { self.0.enqueue_raw_bytes(some).unwrap_or(0) }
    }

    /// Whether an interrupt has to be raised that was not taken here before.
    pub(crate) fn take_interrupt(&self) -> bool {
        self.0.interrupt_evt().0.swap(false, Ordering::Relaxed)
    }

    /// Shows what is written from now on.
    pub(crate) fn show(&mut self, out: Box<dyn Write + Send>) {
        self.0.writer_mut().show(out);
    }

    /// What was written, its first 16 MiB.
    pub(crate) fn output(&self) -> &[u8] {
        self.0.writer().kept()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// Received data available, transmitter empty.
    const IER_ALL: u8 = 0x03;

    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_written_is_kept_and_shown() {
        let (mut uart, screen) = (Uart::default(), Screen::default());
        uart.write(0, b'a');
        uart.show(Box::new(screen.clone()));
        uart.write(0, b'b');
        assert_eq!((uart.output(), &**screen.0.lock().unwrap()), (&b"ab"[..], &b"b"[..]));
    }

    #[test]
    fn input_waits_for_room_and_raises_an_interrupt() {
        let mut uart = Uart::default();
        assert_eq!(uart.receive(b"x"), 0, "nobody listens");
        uart.write(1, IER_ALL);
        uart.take_interrupt();
        let taken = uart.receive(&[b'x'; 4096]);
        assert!((1..4096).contains(&taken));
        assert!(uart.take_interrupt() && !uart.take_interrupt());
        assert_eq!(uart.receive(b"y"), 0);
        assert_eq!(uart.read(0), b'x');
        assert_eq!(uart.receive(b"yz"), 1);
    }

    #[test]
    fn a_register_that_is_not_there_does_nothing() {
        let mut uart = Uart::default();
        uart.write(8, 1);
        uart.write(0x100, b'a');
        assert_eq!((uart.read(0x105), uart.output()), (0, &b""[..]));
    }
}
