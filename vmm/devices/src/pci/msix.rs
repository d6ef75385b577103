//! MSI-X (PCI Local Bus 3.0, section 6.8.2): a table of messages, masks, and which masked ones wait.

use super::read_image;

/// Bytes of an entry: address, upper address, data, vector control.
const ENTRY: usize = 16;
const CONTROL: usize = 12;
/// Vector control and message control: the mask bits, and the enable bit.
const VECTOR_MASKED: u8 = 1;
const FUNCTION_MASKED: u8 = 1 << 6;
const ENABLED: u8 = 1 << 7;
/// The most vectors: the pending bits are one word.
const MAX_VECTORS: u16 = 64;

/// A message: a write of a device that is an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    pub address: u64,
    pub data: u32,
}

/// The table and the pending bits.
pub struct Msix {
    table: Vec<u8>,
    pending: u64,
    /// Upper byte of message control.
    control: u8,
    /// Whether the function may write to memory.
    master: bool,
}

impl Msix {
    /// Identifier of the capability.
    pub const CAPABILITY: u8 = 0x11;
    /// What can be written of what follows its identifier and link: enable, function mask.
    pub const WRITABLE: [u8; 2] = [0, ENABLED | FUNCTION_MASKED];

    /// With this many vectors, all masked, as after a reset.
    pub fn new(vectors: u16) -> Self {
        let table = vec![0; usize::from(vectors.min(MAX_VECTORS)).saturating_mul(ENTRY)];
        let mut msix = Self { table, pending: 0, control: 0, master: false };
        for entry in msix.table.chunks_exact_mut(ENTRY) {
            if let Some(control) = entry.get_mut(CONTROL) {
                *control = VECTOR_MASKED;
            }
        }
        msix
    }

    /// What follows identifier and link in the capability.
    pub fn capability(&self, bar: u8, table: u32, pending: u32) -> [u8; 10] {
        let mut body = [0; 10];
        let words =
            [u32::from(self.vectors().saturating_sub(1)), table | u32::from(bar), pending | u32::from(bar)];
        let bytes =
            words.iter().zip([2, 4, 4]).flat_map(|(word, size)| word.to_le_bytes().into_iter().take(size));
        for (place, byte) in body.iter_mut().zip(bytes) {
            *place = byte;
        }
        body
    }

    /// Number of vectors.
    pub fn vectors(&self) -> u16 {
        u16::try_from(self.table.len() / ENTRY).unwrap_or(MAX_VECTORS)
    }

    /// Whether interrupts are messages.
    pub const fn is_enabled(&self) -> bool {
        self.control & ENABLED != 0
    }

    /// Takes the upper byte of message control, and whether the function may write to memory.
    pub const fn set_control(&mut self, control: u8, master: bool) {
        self.control = control;
        self.master = master;
    }

    /// Whether messages can go out at all.
    const fn is_open(&self) -> bool {
        self.is_enabled() && self.control & FUNCTION_MASKED == 0 && self.master
    }

    fn entry(&self, vector: u16) -> Option<[u8; ENTRY]> {
        let mut entry = [0; ENTRY];
        let place = usize::from(vector).checked_mul(ENTRY)?;
        read_image(self.table.get(place..)?, 0, &mut entry);
        (vector < self.vectors()).then_some(entry)
    }

    fn bit(vector: u16) -> u64 {
        1_u64.checked_shl(vector.into()).unwrap_or(0)
    }

    /// A vector wants to interrupt: the message, or its pending bit is set.
    pub fn raise(&mut self, vector: u16) -> Option<Message> {
        let [a, b, c, d, e, f, g, h, i, j, k, l, control, ..] = self.entry(vector)?;
        if !self.is_enabled() {
            return None;
        }
        if !self.is_open() || control & VECTOR_MASKED != 0 {
            self.pending |= Self::bit(vector);
            return None;
        }
        self.pending &= !Self::bit(vector);
        Some(Message {
            address: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            data: u32::from_le_bytes([i, j, k, l]),
        })
    }

    /// The next message that was held back and need not be any more.
    pub fn take_waiting(&mut self) -> Option<Message> {
        let mut waiting = self.pending;
        while waiting != 0 {
            let vector = waiting.trailing_zeros() as u16;
            waiting &= waiting.wrapping_sub(1);
            // One that is still masked stays pending.
            if let Some(message) = self.raise(vector) {
                return Some(message);
            }
        }
        None
    }

    /// Reads the table.
    pub fn read_table(&self, offset: usize, out: &mut [u8]) {
        read_image(&self.table, offset, out);
    }

    /// Writes the table: whole words, aligned; other accesses do nothing.
    pub fn write_table(&mut self, offset: usize, bytes: &[u8]) {
        if !matches!(bytes.len(), 4 | 8) || !offset.is_multiple_of(bytes.len()) {
            return;
        }
        for (place, byte) in (offset..).zip(bytes) {
            let writable = match place % ENTRY {
                // Messages are aligned words.
                0 => 0xfc,
                1..CONTROL => 0xff,
                CONTROL => VECTOR_MASKED,
                _ => 0,
            };
            if let Some(place) = self.table.get_mut(place) {
                *place = byte & writable;
            }
        }
    }

    /// Reads the pending bits.
    pub fn read_pending(&self, offset: usize, out: &mut [u8]) {
        read_image(&self.pending.to_le_bytes(), offset, out);
    }

    /// Forgets what waits: the device was reset.
    pub const fn forget(&mut self) {
        self.pending = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> Msix {
        let mut msix = Msix::new(3);
        for vector in 0..3_u32 {
            let place = 16 * vector as usize;
            msix.write_table(place, &(0x4000_0043_u64).to_le_bytes());
            msix.write_table(place + 8, &(64 + vector).to_le_bytes());
            msix.write_table(place + 12, &0xffff_fffe_u32.to_le_bytes());
        }
        msix.set_control(ENABLED, true);
        msix
    }

    fn pending(msix: &Msix) -> u8 {
        let mut out = [0; 8];
        msix.read_pending(0, &mut out);
        out[0]
    }

    #[test]
    fn the_table_starts_masked_and_keeps_reserved_bits_zero() {
        let mut msix = Msix::new(2);
        let mut out = [1; 8];
        msix.read_table(24, &mut out);
        assert_eq!(out, [0, 0, 0, 0, 1, 0, 0, 0]);
        msix.write_table(16, &[0xff; 8]);
        msix.write_table(24, &[0xff; 8]);
        msix.read_table(16, &mut out);
        assert_eq!(out, [0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        msix.read_table(24, &mut out);
        assert_eq!(out, [0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
        msix.read_table(32, &mut out);
        assert_eq!(out, [0; 8], "there are two");
        for (place, len) in [(0, 1), (0, 2), (2, 4), (4, 8)] {
            msix.write_table(place, &[0xff; 8][..len]);
        }
        msix.read_table(0, &mut out);
        assert_eq!(out, [0; 8]);
        assert_eq!(msix.capability(1, 0, 0x800), [1, 0, 1, 0, 0, 0, 1, 8, 0, 0]);
    }

    #[test]
    fn a_message_goes_out_at_once_if_nothing_masks_it() {
        let mut msix = open();
        assert_eq!(msix.raise(1), Some(Message { address: 0x4000_0040, data: 65 }));
        assert_eq!(msix.raise(3), None, "no such vector");
        assert_eq!(msix.raise(0xffff), None);
        assert_eq!(pending(&msix), 0);
    }

    #[test]
    fn what_is_masked_waits_and_comes_once() {
        let mut msix = open();
        msix.write_table(16 + 12, &1_u32.to_le_bytes());
        assert_eq!((msix.raise(1), msix.raise(1), msix.take_waiting()), (None, None, None));
        assert_eq!(pending(&msix), 2);
        msix.write_table(16 + 12, &0_u32.to_le_bytes());
        assert_eq!(msix.take_waiting().map(|message| message.data), Some(65));
        assert_eq!((msix.take_waiting(), pending(&msix)), (None, 0));
    }

    #[test]
    fn the_function_mask_and_bus_mastering_hold_all_back() {
        let mut msix = open();
        for (control, master) in [(ENABLED | FUNCTION_MASKED, true), (ENABLED, false)] {
            msix.set_control(control, master);
            assert_eq!((msix.raise(0), msix.raise(2), pending(&msix)), (None, None, 5));
            msix.set_control(ENABLED, true);
            let data: Vec<u32> =
                std::iter::from_fn(|| msix.take_waiting()).map(|message| message.data).collect();
            assert_eq!(data, [64, 66]);
        }
        msix.set_control(0, true);
        assert_eq!((msix.raise(0), pending(&msix)), (None, 0), "nothing is remembered while it is disabled");
    }
}
