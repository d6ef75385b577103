//! The driver's side of a split virtqueue.

use super::{EVENT_IDX, INDIRECT, Machine};

pub struct Ring<'a> {
    pub machine: &'a Machine,
    pub index: u16,
    pub size: u16,
    pub descriptors: u64,
    pub avail: u64,
    pub used: u64,
    free: Vec<u16>,
    /// What each head took.
    taken: Vec<Vec<u16>>,
    next: u16,
    kicked: u16,
    seen: u16,
    event_idx: bool,
    indirect: bool,
}

impl<'a> Ring<'a> {
    pub fn new(machine: &'a Machine, index: u16, size: u16, features: u64) -> Self {
        let wide = u64::from(size);
        Self {
            machine,
            index,
            size,
            descriptors: machine.allocate(16 * wide),
            avail: machine.allocate(6 + 2 * wide),
            used: machine.allocate(6 + 8 * wide),
            free: (0..size).rev().collect(),
            taken: vec![Vec::new(); size.into()],
            next: 0,
            kicked: 0,
            seen: 0,
            event_idx: features & EVENT_IDX != 0,
            indirect: features & INDIRECT != 0,
        }
    }

    pub fn room(&self) -> usize {
        self.free.len()
    }

    pub fn write_descriptor(&self, table: u64, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.machine.poke(table + 16 * u64::from(index), &bytes);
    }

    /// Makes a chain of address, length, whether the device writes; in an indirect table if it has more than one piece and
    /// such are agreed on.
    pub fn add(&mut self, buffers: &[(u64, u32, bool)]) -> u16 {
        let write = |write: bool| if write { 2 } else { 0 };
        let head;
        if self.indirect && buffers.len() > 1 {
            let table = self.machine.allocate(16 * buffers.len() as u64);
            for (index, (address, len, writes)) in (0_u16..).zip(buffers) {
                let more = usize::from(index) + 1 < buffers.len();
                self.write_descriptor(
                    table,
                    index,
                    *address,
                    *len,
                    write(*writes) | u16::from(more),
                    index + 1,
                );
            }
            head = self.free.pop().unwrap();
            self.taken[usize::from(head)] = vec![head];
            self.write_descriptor(self.descriptors, head, table, 16 * buffers.len() as u32, 4, 0);
        } else {
            let chain: Vec<u16> = buffers.iter().map(|_| self.free.pop().unwrap()).collect();
            for (place, (address, len, writes)) in buffers.iter().enumerate() {
                let (more, next) = chain.get(place + 1).map_or((0, 0), |next| (1, *next));
                self.write_descriptor(
                    self.descriptors,
                    chain[place],
                    *address,
                    *len,
                    write(*writes) | more,
                    next,
                );
            }
            head = chain[0];
            self.taken[usize::from(head)] = chain;
        }
        self.publish(head);
        head
    }

    /// Makes a head available, whatever it is.
    pub fn publish(&mut self, head: u16) {
        let slot = u64::from(self.next % self.size);
        self.machine.poke(self.avail + 4 + 2 * slot, &head.to_le_bytes());
        self.next = self.next.wrapping_add(1);
        self.machine.poke(self.avail + 2, &self.next.to_le_bytes());
    }

    /// Whether the device wants to be notified of what was made available since the last time.
    pub fn wants_kick(&mut self) -> bool {
        let (old, new) = (self.kicked, self.next);
        self.kicked = new;
        if self.event_idx {
            let event = self.machine.peek16(self.used + 4 + 8 * u64::from(self.size));
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.machine.peek16(self.used) & 1 == 0
        }
    }

    /// Asks for no interrupts, or for the next one.
    pub fn set_interrupts(&self, wanted: bool) {
        if self.event_idx {
            let event = if wanted { self.seen } else { self.seen.wrapping_sub(1) };
            self.machine.poke(self.avail + 4 + 2 * u64::from(self.size), &event.to_le_bytes());
        } else {
            self.machine.poke(self.avail, &u16::from(!wanted).to_le_bytes());
        }
    }

    /// The next chain given back: head and bytes written.
    pub fn take(&mut self) -> Option<(u16, u32)> {
        if self.machine.peek16(self.used + 2) == self.seen {
            return None;
        }
        let slot = u64::from(self.seen % self.size);
        let element = self.machine.peek(self.used + 4 + 8 * slot, 8);
        self.seen = self.seen.wrapping_add(1);
        let head = u32::from_le_bytes(element[..4].try_into().unwrap()) as u16;
        self.free.append(&mut self.taken[usize::from(head)]);
        Some((head, u32::from_le_bytes(element[4..].try_into().unwrap())))
    }
}
