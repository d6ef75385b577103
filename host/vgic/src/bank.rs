//! The state of 32 interrupts, a bit each.

use crate::lr::Lr;
use crate::registers::Field;

/// The numbers of the bits that are set.
pub fn bits(word: u32) -> impl Iterator<Item = u32> {
    let mut left = word;
    core::iter::from_fn(move || {
        let bit = left.trailing_zeros();
        left &= left.wrapping_sub(1);
        (bit < u32::BITS).then_some(bit)
    })
}

/// The bit with this number.
pub const fn bit(number: u32) -> u32 {
    1_u32.wrapping_shl(number)
}

/// Which groups the distributor forwards: GICD_CTLR.EnableGrp0 and EnableGrp1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups(pub u32);

/// See the module.
#[derive(Clone)]
pub struct Bank {
    /// Bits that are interrupts.
    valid: u32,
    enabled: u32,
    /// Group 1.
    group: u32,
    /// Edge-triggered.
    edge: u32,
    line: u32,
    /// Pending whatever the line is: an edge, an SGI, or a write to ISPENDR.
    latch: u32,
    /// Became pending since it went into a list register.
    again: u32,
    active: u32,
    /// Of the active ones, those that a CPU interface acknowledged: their end can be an EOI.
    acknowledged: u32,
    /// In a list register.
    listed: u32,
    /// Made active or inactive by a register while it was in a list register, which therefore does not tell.
    decided: u32,
    priority: [u8; 32],
}

impl Bank {
    /// After a reset: nothing enabled or pending, Group 0, level-sensitive but for those in `edge`.
    pub const fn new(valid: u32, edge: u32) -> Self {
        Self {
            valid,
            enabled: 0,
            group: 0,
            edge,
            line: 0,
            latch: 0,
            again: 0,
            active: 0,
            acknowledged: 0,
            listed: 0,
            decided: 0,
            priority: [0; 32],
        }
    }

    const fn pending(&self) -> u32 {
        self.latch | self.line & !self.edge
    }

    /// Pending, and the distributor lets it through.
    const fn forwarded(&self, groups: Groups) -> u32 {
        let group_0 = if groups.0 & 1 != 0 { !self.group } else { 0 };
        let group_1 = if groups.0 & 2 != 0 { self.group } else { 0 };
        self.pending() & self.enabled & (group_0 | group_1)
    }

    /// What a CPU interface can acknowledge that does not have it.
    pub const fn deliverable(&self, groups: Groups) -> u32 {
        self.forwarded(groups) & !self.active & !self.listed
    }

    pub const fn active(&self) -> u32 {
        self.active
    }

    pub const fn listed(&self) -> u32 {
        self.listed
    }

    /// Active, and an EOI of a CPU interface without a list register can be its end.
    pub const fn ends_by_count(&self) -> u32 {
        self.active & self.acknowledged & !self.listed
    }

    /// Whether anything can come of these interrupts as they are, or a list register has one.
    pub const fn is_busy(&self) -> bool {
        self.pending() & self.enabled | self.active | self.listed != 0
    }

    pub const fn is_group_1(&self, number: u32) -> bool {
        self.group & bit(number) != 0
    }

    pub fn priority(&self, number: u32) -> u8 {
        self.priority.get(number as usize).copied().unwrap_or(0)
    }

    /// Drives a line; what may be taken or withdrawn by it.
    pub fn drive(&mut self, number: u32, level: bool) -> u32 {
        let bit = bit(number) & self.valid;
        let before = self.line;
        self.line = if level { before | bit } else { before & !bit };
        let changed = self.line ^ before;
        self.trigger(changed & self.line & self.edge);
        if level { changed } else { changed & !self.edge }
    }

    /// Makes interrupts pending as an edge does.
    pub const fn trigger(&mut self, bits: u32) {
        self.latch |= bits & self.valid;
        self.again |= bits & self.listed;
    }

    const fn clear_pending(&mut self, bits: u32) {
        self.latch &= !bits;
        self.again &= !bits;
    }

    const fn activate(&mut self, bits: u32) {
        self.active |= bits & self.valid;
        self.decided |= bits & self.listed;
    }

    pub const fn deactivate(&mut self, bits: u32) {
        self.active &= !bits;
        self.acknowledged &= !bits;
        self.decided |= bits & self.listed;
    }

    /// Puts an interrupt into a list register of a vCPU which gets pending ones of these groups.
    ///
    /// It is asked to tell its end if it can be pending then and is not in the list register: a level-sensitive one is not
    /// while it is active, as its line is looked at when it ends; another one is not if it is to be pending elsewhere.
    pub fn list(&mut self, number: u32, intid: u32, groups: Groups) -> Lr {
        let bit = bit(number);
        self.listed |= bit;
        let level = self.edge & bit == 0;
        let active = self.active & bit != 0;
        let pending = self.forwarded(groups) & bit != 0 && !(active && level);
        let state = if active { Lr::ACTIVE } else { 0 } | if pending { Lr::PENDING } else { 0 };
        let tell = level || self.latch & bit != 0 && !pending;
        Lr::new(intid, self.priority(number), self.is_group_1(number), tell, state)
    }

    /// Takes an interrupt back that was `given` to a list register.
    pub fn unlist(&mut self, number: u32, given: Lr, left: Lr) {
        let bit = bit(number);
        let acknowledged = given.is_pending() && !left.is_pending();
        if acknowledged {
            self.latch = self.latch & !bit | self.again & bit;
        }
        if self.decided & bit == 0 {
            // The end of a level-sensitive interrupt is known here: who waits for it to sample a line again (KVM's resamplefd)
            // is to be told here.
            self.active = if left.is_active() { self.active | bit } else { self.active & !bit };
        }
        if self.active & bit == 0 {
            self.acknowledged &= !bit;
        } else if acknowledged && left.is_active() {
            self.acknowledged |= bit;
        }
        self.listed &= !bit;
        self.again &= !bit;
        self.decided &= !bit;
    }

    /// Reads word `part` of a field.
    pub fn read(&self, field: Field, part: u32) -> u32 {
        match field {
            Field::Group => self.group,
            Field::SetEnable | Field::ClearEnable => self.enabled,
            Field::SetPending | Field::ClearPending => self.pending(),
            Field::SetActive | Field::ClearActive => self.active,
            Field::Priority => {
                let first = part.wrapping_mul(4) as usize;
                let bytes = self.priority.get(first..).and_then(|rest| rest.first_chunk());
                bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
            }
            Field::Config => {
                let half = self.edge.wrapping_shr((part & 1).wrapping_mul(16)) & 0xffff;
                bits(half).fold(0, |word, number| word | bit(number.wrapping_mul(2)) << 1)
            }
        }
    }

    /// Writes the bits of `mask` in word `part` of a field; the interrupts of which more or less may be taken by it.
    pub fn write(&mut self, field: Field, part: u32, value: u32, mask: u32) -> u32 {
        let ones = value & mask & self.valid;
        match field {
            Field::Group => {
                let new = (self.group & !mask | value & mask) & self.valid;
                core::mem::replace(&mut self.group, new) ^ new
            }
            Field::SetEnable => {
                let changed = ones & !self.enabled;
                self.enabled |= ones;
                changed
            }
            Field::ClearEnable => {
                let changed = ones & self.enabled;
                self.enabled &= !ones;
                changed
            }
            Field::SetPending => {
                self.trigger(ones);
                ones
            }
            Field::ClearPending => {
                self.clear_pending(ones);
                ones
            }
            Field::SetActive => {
                self.activate(ones);
                ones
            }
            Field::ClearActive => {
                self.deactivate(ones);
                ones
            }
            Field::Priority => {
                let first = part.wrapping_mul(4);
                let bytes = value.to_le_bytes().into_iter().zip(mask.to_le_bytes());
                let mut changed = 0;
                for (number, (byte, mask)) in (0..4).zip(bytes) {
                    let number = first | number;
                    let there = mask != 0 && self.valid & bit(number) != 0;
                    let new = byte & mask;
                    match self.priority.get_mut(number as usize) {
                        Some(old) if there && *old != new => *old = new,
                        _ => continue,
                    }
                    changed |= bit(number);
                }
                changed
            }
            Field::Config => {
                let shift = (part & 1).wrapping_mul(16);
                let half = |word: u32| bits(word >> 1 & 0x5555_5555).fold(0, |half, n| half | bit(n >> 1));
                let (value, mask) = (half(value).wrapping_shl(shift), half(mask).wrapping_shl(shift));
                let new = self.edge & !mask | value & mask & self.valid;
                core::mem::replace(&mut self.edge, new) ^ new
            }
        }
    }
}
