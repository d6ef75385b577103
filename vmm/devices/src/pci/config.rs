//! A function's configuration space: 256 bytes, of which some bits can be written (PCI Local Bus 3.0, chapter 6).
//!
//! Of the bits that a write of 1 clears (the error bits of the status register) none is ever set here, so they are
//! read-only like all others that are not listed as writable.

use super::read_image;

/// Offsets in the header.
const VENDOR: usize = 0x00;
const DEVICE: usize = 0x02;
const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const REVISION: usize = 0x08;
const CLASS: usize = 0x09;
const CACHE_LINE: usize = 0x0c;
const BAR0: usize = 0x10;
const SUBSYSTEM_VENDOR: usize = 0x2c;
const SUBSYSTEM: usize = 0x2e;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
/// First capability.
const FIRST_CAPABILITY: usize = 0x40;
/// Bytes.
const SIZE: usize = 256;

/// Command: memory space, bus master, interrupt disable.
const COMMAND_MEMORY: u8 = 1 << 1;
const COMMAND_MASTER: u8 = 1 << 2;
const COMMAND_NO_INTX: u8 = 1 << 2;
/// Status: interrupt status, capabilities list.
const STATUS_INTERRUPT: u8 = 1 << 3;
const STATUS_CAPABILITIES: u8 = 1 << 4;

/// Who a function is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    pub vendor: u16,
    pub device: u16,
    pub revision: u8,
    /// Class, subclass, programming interface.
    pub class: [u8; 3],
    pub subsystem_vendor: u16,
    pub subsystem: u16,
}

/// The configuration space.
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    writable: [u8; SIZE],
    /// Where the next capability goes, and the byte that will point to it.
    free: usize,
    link: usize,
}

impl ConfigSpace {
    pub fn new(identity: &Identity) -> Self {
        let mut space =
            Self { bytes: [0; SIZE], writable: [0; SIZE], free: FIRST_CAPABILITY, link: CAPABILITIES };
        space.set(VENDOR, &identity.vendor.to_le_bytes());
        space.set(DEVICE, &identity.device.to_le_bytes());
        space.set(STATUS, &[STATUS_CAPABILITIES]);
        space.set(REVISION, &[identity.revision]);
        let [class, subclass, interface] = identity.class;
        space.set(CLASS, &[interface, subclass, class]);
        space.set(SUBSYSTEM_VENDOR, &identity.subsystem_vendor.to_le_bytes());
        space.set(SUBSYSTEM, &identity.subsystem.to_le_bytes());
        space.allow(COMMAND, &[COMMAND_MEMORY | COMMAND_MASTER, COMMAND_NO_INTX]);
        // Without a meaning for virtual devices, but software expects to find what it wrote.
        space.allow(CACHE_LINE, &[0xff]);
        space.allow(INTERRUPT_LINE, &[0xff]);
        space
    }

    fn set(&mut self, offset: usize, bytes: &[u8]) {
        for (place, byte) in self.bytes.iter_mut().skip(offset).zip(bytes) {
            *place = *byte;
        }
    }

    fn allow(&mut self, offset: usize, mask: &[u8]) {
        for (place, mask) in self.writable.iter_mut().skip(offset).zip(mask) {
            *place = *mask;
        }
    }

    fn word(&self, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn byte(&self, offset: usize) -> u8 {
        self.bytes.get(offset).copied().unwrap_or(0)
    }

    /// Adds a base address register for `size` bytes (a power of two, at least 16) of memory, not prefetchable, 32 bits.
    pub fn add_bar(&mut self, index: usize, size: u32, base: u32) {
        let offset = BAR0.saturating_add(index.saturating_mul(4));
        let mask = !size.saturating_sub(1);
        self.set(offset, &(base & mask).to_le_bytes());
        self.allow(offset, &mask.to_le_bytes());
    }

    /// Where a base address register points, if memory accesses are answered.
    pub fn bar(&self, index: usize) -> Option<u64> {
        let base = self.word(BAR0.saturating_add(index.saturating_mul(4)));
        (self.byte(COMMAND) & COMMAND_MEMORY != 0).then_some(u64::from(base))
    }

    /// Adds a capability: what follows its identifier and the link, and which bits of that can be written. Returns where it
    /// is.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> usize {
        let place = self.free;
        self.set(self.link, &[place as u8]);
        self.set(place, &[id, 0]);
        self.link = place.saturating_add(1);
        let body_place = place.saturating_add(2);
        self.set(body_place, body);
        self.allow(body_place, writable);
        self.free = body_place.saturating_add(body.len()).next_multiple_of(4);
        debug_assert!(self.free <= SIZE, "capabilities fit");
        place
    }

    /// Whether the function may write to memory, interrupts included.
    pub fn is_master(&self) -> bool {
        self.byte(COMMAND) & COMMAND_MASTER != 0
    }

    /// Shows whether the function wants an interrupt that is no message.
    pub fn set_interrupt_status(&mut self, pending: bool) {
        self.set(STATUS, &[STATUS_CAPABILITIES | if pending { STATUS_INTERRUPT } else { 0 }]);
    }

    /// Reads. What is behind the 256 bytes is not there.
    pub fn read(&self, offset: usize, out: &mut [u8]) {
        if offset < SIZE { read_image(&self.bytes, offset, out) } else { out.fill(0xff) }
    }

    /// Writes the bits that can be written.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        let places = self.bytes.iter_mut().zip(&self.writable).skip(offset);
        for ((place, mask), byte) in places.zip(bytes) {
            *place = *place & !mask | byte & mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn space() -> ConfigSpace {
        let mut space = ConfigSpace::new(&Identity {
            vendor: 0x1af4,
            device: 0x1043,
            revision: 1,
            class: [7, 0x80, 0],
            subsystem_vendor: 0x1af4,
            subsystem: 0x43,
        });
        space.add_bar(0, 0x4000, 0x5000_0000);
        space.add_bar(1, 0x1000, 0x5000_4000);
        space
    }

    #[test]
    fn the_header_says_who_it_is_and_is_read_only() {
        let mut space = space();
        space.add_capability(9, &[1, 2, 3], &[]);
        let before: Vec<u32> = (0..64).map(|word| space.word(4 * word)).collect();
        assert_eq!(
            before[..4],
            [0x1043_1af4, 0x0010_0000, 0x0780_0001, 0],
            "identity, capabilities, class, a single function of type 0"
        );
        assert_eq!((before[11], before[13] & 0xff, before[16]), (0x0043_1af4, 0x40, 0x0201_0009));
        assert_eq!(before[15], 0, "no pin");
        for word in 0..64 {
            space.write(4 * word, &[0xff; 4]);
        }
        let mut after: Vec<u32> = (0..64).map(|word| space.word(4 * word)).collect();
        for (word, written) in [(1, 0x0406), (3, 0xff), (4, 0xffff_c000), (5, 0xffff_f000), (15, 0xff)] {
            assert_eq!(after[word] & !before[word], written & !before[word], "word {word}");
            after[word] = before[word];
        }
        assert_eq!(after, before);
    }

    #[test]
    fn a_base_address_register_tells_its_size_and_moves() {
        let mut space = space();
        assert_eq!(space.bar(0), None, "memory space is off");
        space.write(COMMAND, &[COMMAND_MEMORY, 0]);
        assert_eq!((space.bar(0), space.bar(1)), (Some(0x5000_0000), Some(0x5000_4000)));
        space.write(BAR0, &[0xff; 4]);
        assert_eq!(space.word(BAR0), 0xffff_c000);
        space.write(BAR0, &0x5123_4567_u32.to_le_bytes());
        assert_eq!(space.bar(0), Some(0x5123_4000));
        space.write(BAR0 + 8, &[0xff; 4]);
        assert_eq!(space.word(BAR0 + 8), 0, "there is no third");
    }

    #[test]
    fn capabilities_are_a_list_on_word_boundaries() {
        let mut space = space();
        assert_eq!(space.add_capability(0x11, &[1, 0, 0], &[0, 0x80]), 0x40);
        assert_eq!(space.add_capability(9, &[2; 14], &[]), 0x48);
        assert_eq!((space.byte(0x34), space.byte(0x41), space.byte(0x49)), (0x40, 0x48, 0));
        space.write(0x40, &[0xff; 8]);
        assert_eq!((space.word(0x40), space.word(0x44)), (0x8001_4811, 0));
    }

    #[test]
    fn what_is_behind_256_bytes_is_not_there() {
        let mut space = space();
        let mut out = [0; 4];
        space.write(0x100, &[1; 4]);
        space.read(0x100, &mut out);
        assert_eq!(out, [0xff; 4]);
    }

    proptest! {
        #[test]
        fn any_access_is_survived(offset in 0_usize..0x1100, bytes in proptest::collection::vec(any::<u8>(), 0..9)) {
            let mut space = space();
            space.write(offset, &bytes);
            let mut out = bytes;
            space.read(offset, &mut out);
            prop_assert_eq!(space.word(0), 0x1043_1af4);
        }
    }
}
