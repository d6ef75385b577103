//! A split virtqueue (virtio 1.2 section 2.7), the device's side.

use super::Broken;
use crate::memory::Dma;
use std::sync::atomic::{Ordering, fence};
use virtio_bindings::bindings::virtio_ring::{
    VRING_AVAIL_F_NO_INTERRUPT, VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
};

/// Bytes of a descriptor, of an element of the available ring, of one of the used ring, and of what is before them.
const DESCRIPTOR: u64 = 16;
const AVAIL_ELEMENT: u64 = 2;
const USED_ELEMENT: u64 = 8;
const HEADER: u64 = 4;
/// Where the index is.
const INDEX: u64 = 2;
/// Bytes of the event field behind a ring.
const EVENT: u64 = 2;

const NEXT: u16 = VRING_DESC_F_NEXT as u16;
const WRITE: u16 = VRING_DESC_F_WRITE as u16;
const INDIRECT: u16 = VRING_DESC_F_INDIRECT as u16;
const NO_INTERRUPT: u16 = VRING_AVAIL_F_NO_INTERRUPT as u16;

/// A piece of memory, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// As the driver gave it.
    pub address: u64,
    /// Bytes.
    pub len: u32,
}

/// What the driver handed over at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The index of its first descriptor, by which it is given back.
    pub head: u16,
    /// What the device reads.
    pub readable: Vec<Buffer>,
    /// What the device writes.
    pub writable: Vec<Buffer>,
}

impl Chain {
    /// Writes from the start of what is writable. How much fitted.
    ///
    /// # Errors
    /// If the memory is not there.
    pub fn write(&self, dma: &Dma<'_>, bytes: &[u8]) -> Result<u32, Broken> {
        let mut rest = bytes;
        for buffer in &self.writable {
            let (now, later) = rest.split_at(rest.len().min(buffer.len as usize));
            dma.write(buffer.address, now)?;
            rest = later;
        }
        Ok(u32::try_from(bytes.len().saturating_sub(rest.len())).unwrap_or(u32::MAX))
    }

    /// Reads what is readable from `offset` on. How much there was.
    ///
    /// # Errors
    /// If the memory is not there.
    pub fn read(&self, dma: &Dma<'_>, offset: u64, out: &mut [u8]) -> Result<usize, Broken> {
        let (mut skip, mut done) = (offset, 0_usize);
        for buffer in &self.readable {
            let len = u64::from(buffer.len);
            let skipped = skip.min(len);
            skip = skip.saturating_sub(skipped);
            let rest = out.get_mut(done..).unwrap_or_default();
            let here = len.saturating_sub(skipped).min(rest.len() as u64);
            let place = buffer.address.checked_add(skipped).ok_or(Broken("a buffer that wraps around"))?;
            let (now, _) = rest.split_at_mut(here as usize);
            if !now.is_empty() {
                dma.read(place, now)?;
            }
            done = done.saturating_add(now.len());
        }
        Ok(done)
    }

    /// Bytes that can be written.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.writable.iter().map(|buffer| u64::from(buffer.len)).fold(0, u64::saturating_add)
    }
}

/// One descriptor, read once.
struct Descriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    /// The one with this index in a table.
    fn read(dma: &Dma<'_>, table: u64, index: u16) -> Result<Self, Broken> {
        let place = u64::from(index).checked_mul(DESCRIPTOR).and_then(|offset| table.checked_add(offset));
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = dma.get(place)?;
        Ok(Self {
            address: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            len: u32::from_le_bytes([i, j, k, l]),
            flags: u16::from_le_bytes([m, n]),
            next: u16::from_le_bytes([o, p]),
        })
    }

    const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// A queue: what the driver said about it, and how far the device is.
#[derive(Clone, Debug)]
pub struct Queue {
    max_size: u16,
    pub size: u16,
    pub enabled: bool,
    pub descriptors: u64,
    pub driver: u64,
    pub device: u64,
    next_avail: u16,
    next_used: u16,
    /// [`Self::next_used`] when it was last asked whether to interrupt.
    signalled: u16,
    event_idx: bool,
    indirect: bool,
}

impl Queue {
    /// A queue of at most `max_size` descriptors, a power of two.
    pub const fn new(max_size: u16) -> Self {
        Self {
            max_size,
            size: max_size,
            enabled: false,
            descriptors: 0,
            driver: 0,
            device: 0,
            next_avail: 0,
            next_used: 0,
            signalled: 0,
            event_idx: false,
            indirect: false,
        }
    }

    /// Starts anew.
    pub const fn reset(&mut self) {
        *self = Self::new(self.max_size);
    }

    /// Sets the size, if it can be.
    pub const fn set_size(&mut self, size: u16) {
        if size <= self.max_size && size.is_power_of_two() {
            self.size = size;
        }
    }

    /// Bytes of the three parts.
    fn parts(&self) -> [(u64, u64, u64); 3] {
        let size = u64::from(self.size);
        let bytes = |element: u64, around: u64| size.saturating_mul(element).saturating_add(around);
        [
            (self.descriptors, bytes(DESCRIPTOR, 0), 16),
            (self.driver, bytes(AVAIL_ELEMENT, HEADER.saturating_add(EVENT)), 2),
            (self.device, bytes(USED_ELEMENT, HEADER.saturating_add(EVENT)), 4),
        ]
    }

    /// Enables the queue.
    ///
    /// # Errors
    /// If its parts are not aligned or not in RAM.
    pub fn enable(&mut self, dma: &Dma<'_>, event_idx: bool, indirect: bool) -> Result<(), Broken> {
        for (address, size, align) in self.parts() {
            if !address.is_multiple_of(align) {
                return Err(Broken("a part of a queue that is not aligned"));
            }
            dma.check(address, size)?;
        }
        (self.event_idx, self.indirect, self.enabled) = (event_idx, indirect, true);
        Ok(())
    }

    /// The place of an element in a ring.
    fn element(ring: u64, index: u16, size: u64) -> Option<u64> {
        ring.checked_add(HEADER)?.checked_add(u64::from(index).checked_mul(size)?)
    }

    fn read_u16(dma: &Dma<'_>, place: Option<u64>) -> Result<u16, Broken> {
        Ok(u16::from_le_bytes(dma.get(place)?))
    }

    /// How many chains wait. What was written before the index is read after it.
    fn waiting(&self, dma: &Dma<'_>) -> Result<u16, Broken> {
        let index = Self::read_u16(dma, self.driver.checked_add(INDEX))?;
        fence(Ordering::Acquire);
        let waiting = index.wrapping_sub(self.next_avail);
        if waiting > self.size { Err(Broken("more chains than descriptors")) } else { Ok(waiting) }
    }

    /// The next chain. If there is none the driver will notify of the next one.
    pub fn pop(&mut self, dma: &Dma<'_>) -> Result<Option<Chain>, Broken> {
        if !self.enabled {
            return Ok(None);
        }
        if self.waiting(dma)? == 0 {
            if !self.event_idx {
                return Ok(None);
            }
            // The event is written, then the index looked at again: the driver does these the other way round.
            let event = Self::element(self.device, self.size, USED_ELEMENT);
            dma.put(event, &self.next_avail.to_le_bytes())?;
            fence(Ordering::SeqCst);
            if self.waiting(dma)? == 0 {
                return Ok(None);
            }
        }
        let slot = self.next_avail & self.size.wrapping_sub(1);
        let head = Self::read_u16(dma, Self::element(self.driver, slot, AVAIL_ELEMENT))?;
        self.next_avail = self.next_avail.wrapping_add(1);
        self.chain(dma, head).map(Some)
    }

    /// Follows a chain from its first descriptor. Loops and everything longer than the queue end by the count.
    fn chain(&self, dma: &Dma<'_>, head: u16) -> Result<Chain, Broken> {
        let mut chain = Chain { head, readable: Vec::new(), writable: Vec::new() };
        let (mut table, mut entries, mut index) = (self.descriptors, self.size, head);
        let mut in_indirect = false;
        let mut left = self.size;
        loop {
            if index >= entries {
                return Err(Broken("a descriptor outside of its table"));
            }
            let descriptor = Descriptor::read(dma, table, index)?;
            if descriptor.has(INDIRECT) {
                if !self.indirect || in_indirect || descriptor.has(NEXT) {
                    return Err(Broken("an indirect table where none may be"));
                }
                let bytes = u64::from(descriptor.len);
                let count = u16::try_from(bytes / DESCRIPTOR).unwrap_or(u16::MAX);
                if count == 0 || count > self.size || !bytes.is_multiple_of(DESCRIPTOR) {
                    return Err(Broken("an indirect table of a wrong size"));
                }
                dma.check(descriptor.address, bytes)?;
                (table, entries, index, in_indirect) = (descriptor.address, count, 0, true);
                continue;
            }
            left = left.checked_sub(1).ok_or(Broken("a chain longer than its queue"))?;
            dma.check(descriptor.address, u64::from(descriptor.len))?;
            let buffer = Buffer { address: descriptor.address, len: descriptor.len };
            if descriptor.has(WRITE) {
                chain.writable.push(buffer);
            } else if chain.writable.is_empty() {
                chain.readable.push(buffer);
            } else {
                return Err(Broken("a buffer to read behind one to write"));
            }
            if !descriptor.has(NEXT) {
                return Ok(chain);
            }
            index = descriptor.next;
        }
    }

    /// Gives a chain back.
    pub fn push(&mut self, dma: &Dma<'_>, head: u16, written: u32) -> Result<(), Broken> {
        if !self.enabled {
            return Ok(());
        }
        let slot = self.next_used & self.size.wrapping_sub(1);
        let element = u64::from(written) << 32 | u64::from(head);
        dma.put(Self::element(self.device, slot, USED_ELEMENT), &element.to_le_bytes())?;
        self.next_used = self.next_used.wrapping_add(1);
        fence(Ordering::Release);
        dma.put(self.device.checked_add(INDEX), &self.next_used.to_le_bytes())?;
        Ok(())
    }

    /// Whether the driver wants to be told of the chains given back since it was last asked.
    pub fn take_interrupt(&mut self, dma: &Dma<'_>) -> Result<bool, Broken> {
        let (old, new) = (self.signalled, self.next_used);
        if !self.enabled || old == new {
            return Ok(false);
        }
        self.signalled = new;
        // The used index is written before it is asked: the driver does these the other way round.
        fence(Ordering::SeqCst);
        if self.event_idx {
            let event = Self::read_u16(dma, Self::element(self.driver, self.size, AVAIL_ELEMENT))?;
            // Whether the event lies in [old, new) (section 2.7.7.2).
            return Ok(new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old));
        }
        Ok(Self::read_u16(dma, Some(self.driver))? & NO_INTERRUPT == 0)
    }
}
