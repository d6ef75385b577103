//! An 8250 UART that only writes: what a realm's kernel prints.

/// Divisor latch access bit of the line control register.
const LCR_DLAB: u8 = 0x80;
/// "Transmitter empty" bit of the interrupt enable register.
const IER_THRE: u8 = 0x02;
/// Line status: transmitter and holding register empty.
const LSR_IDLE: u8 = 0x60;
/// Modem status: carrier, ready, clear to send.
const MSR_READY: u8 = 0xb0;
const IIR_NONE: u8 = 0x01;
const IIR_THRE: u8 = 0x02;
/// Interrupt identification: the FIFOs are on.
const IIR_FIFO: u8 = 0xc0;
const FCR_FIFO: u8 = 0x01;

/// Bytes of output that are kept. A realm is not trusted with the memory of its VMM.
pub(crate) const MAX_OUTPUT: usize = 16 << 20;

/// The registers and what was written so far.
#[derive(Debug, Default)]
pub(crate) struct Uart {
    ier: u8,
    lcr: u8,
    mcr: u8,
    scratch: u8,
    divisor: [u8; 2],
    fifo: bool,
    /// The transmitter became empty and nobody has been told.
    empty: bool,
    output: Vec<u8>,
}

impl Uart {
    /// What a read of the register at `offset` (0 to 7) gives.
    pub(crate) fn read(&mut self, offset: u64) -> u8 {
        match offset {
            0 | 1 if self.lcr & LCR_DLAB != 0 => self.divisor[offset as usize],
            1 => self.ier,
            2 => {
                let fifo = if self.fifo { IIR_FIFO } else { 0 };
                if self.interrupt() {
                    self.empty = false;
                    return fifo | IIR_THRE;
                }
                fifo | IIR_NONE
            }
            3 => self.lcr,
            4 => self.mcr,
            5 => LSR_IDLE,
            6 => MSR_READY,
            7 => self.scratch,
            _ => 0,
        }
    }

    /// Writes the register at `offset` (0 to 7).
    pub(crate) fn write(&mut self, offset: u64, value: u8) {
        match offset {
            0 | 1 if self.lcr & LCR_DLAB != 0 => self.divisor[offset as usize] = value,
            0 => {
                if self.output.len() < MAX_OUTPUT {
                    self.output.push(value);
                }
                self.empty = true;
            }
            1 => {
                self.empty |= value & IER_THRE != 0 && self.ier & IER_THRE == 0;
                self.ier = value;
            }
            2 => self.fifo = value & FCR_FIFO != 0,
            3 => self.lcr = value,
            4 => self.mcr = value,
            7 => self.scratch = value,
            _ => {}
        }
    }

    /// Whether the interrupt line is high.
    pub(crate) const fn interrupt(&self) -> bool {
        self.empty && self.ier & IER_THRE != 0
    }

    /// The first [`MAX_OUTPUT`] bytes written.
    pub(crate) fn output(&self) -> &[u8] {
        &self.output
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_collected() {
        let mut uart = Uart::default();
        for byte in *b"hello" {
            assert_eq!(uart.read(5), 0x60);
            uart.write(0, byte);
        }
        assert_eq!(uart.output(), b"hello");
    }

    #[test]
    fn a_realm_that_never_stops_writing_fills_no_more_than_the_limit() {
        let mut uart = Uart { output: vec![0; MAX_OUTPUT - 1], ..Uart::default() };
        uart.write(0, b'a');
        uart.write(0, b'b');
        assert_eq!((uart.output().len(), uart.output().last()), (MAX_OUTPUT, Some(&b'a')));
        uart.write(1, IER_THRE);
        assert!(uart.interrupt(), "the realm does not notice");
    }

    #[test]
    fn the_divisor_is_not_output() {
        let mut uart = Uart::default();
        uart.write(3, LCR_DLAB);
        uart.write(0, 1);
        assert_eq!((uart.read(0), uart.output().len()), (1, 0));
    }

    #[test]
    fn the_interrupt_follows_enable_write_and_acknowledge() {
        let mut uart = Uart::default();
        uart.write(0, b'a');
        assert!(!uart.interrupt());
        uart.write(1, IER_THRE);
        assert!(uart.interrupt());
        assert_eq!(uart.read(2), IIR_THRE);
        assert!(!uart.interrupt());
        assert_eq!(uart.read(2), IIR_NONE);
        uart.write(0, b'b');
        assert!(uart.interrupt());
        uart.write(1, 0);
        assert!(!uart.interrupt());
    }
}
