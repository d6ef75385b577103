//! The virtual CPU interface as a machine has it (IHI 0069, ICV registers, ICH registers): what a guest reads and writes, done on
//! list registers. Active priorities stay with the vCPU, as the RMM keeps them.

use realm_host::irqchip::{GicEntry, GicExit};
use std::vec::Vec;

const PENDING: u64 = 1 << 62;
const ACTIVE: u64 = 1 << 63;
const STATE: u64 = PENDING | ACTIVE;
const HW: u64 = 1 << 61;
const EOI: u64 = 1 << 41;
pub const SPURIOUS: u32 = 1023;

/// What a guest makes of its CPU interface.
#[derive(Clone, Copy, Debug)]
pub struct Interface {
    pub mask: u8,
    pub groups: [bool; 2],
    pub splits_eoi: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Cpu {
    pub interface: Interface,
    lrs: Vec<u64>,
    hcr: u64,
    /// Priorities of what was acknowledged and not dropped: the set bits of the active priorities registers.
    running: Vec<u8>,
}

fn group(lr: u64) -> usize {
    (lr >> 60 & 1) as usize
}

fn priority(lr: u64) -> u8 {
    (lr >> 48) as u8
}

fn intid(lr: u64) -> u32 {
    lr as u32
}

impl Cpu {
    pub fn new(interface: Interface) -> Self {
        Self { interface, lrs: Vec::new(), hcr: 0, running: Vec::new() }
    }

    pub fn enter(&mut self, entry: &GicEntry, lrs: usize) {
        assert!(self.lrs.is_empty(), "it runs already");
        self.lrs = entry.lrs[..lrs].to_vec();
        self.hcr = entry.hcr;
        // What the RMM accepts (RMM 1.0, RmiRecEnter).
        assert_eq!(entry.hcr & !0x40fe, 0);
        for (index, lr) in self.lrs.iter().enumerate() {
            assert!(*lr == 0 || lr & STATE != 0, "{lr:#x} is empty and not zero");
            assert_eq!(lr & HW, 0);
            assert_eq!(lr >> 32 & 0x1fff & !(1 << 9), 0, "only bit 41 of the physical INTID");
            assert_eq!(lr >> 48 & 7, 0, "five bits of priority");
            let twice = self.lrs[..index].iter().any(|other| *other != 0 && intid(*other) == intid(*lr));
            assert!(*lr == 0 || !twice, "{} is in two", intid(*lr));
        }
    }

    pub fn leave(&mut self) -> GicExit {
        let mut exit = GicExit { hcr: self.hcr, misr: self.misr(), vmcr: Some(self.vmcr()), lrs: [0; 16] };
        for (to, from) in exit.lrs.iter_mut().zip(self.lrs.drain(..)) {
            *to = from;
        }
        exit
    }

    fn vmcr(&self) -> u64 {
        let Interface { mask, groups: [group_0, group_1], splits_eoi } = self.interface;
        u64::from(mask) << 24 | u64::from(splits_eoi) << 9 | u64::from(group_1) << 1 | u64::from(group_0)
    }

    /// ICH_MISR_EL2; the maintenance interrupt is asserted while any bit is set.
    pub fn misr(&self) -> u64 {
        let enabled = |bit: u32| self.hcr >> bit & 1;
        let ended = self.lrs.iter().any(|lr| lr & (STATE | HW | EOI) == EOI);
        let valid = self.lrs.iter().filter(|lr| **lr & STATE != 0).count();
        let none_pending = !self.lrs.iter().any(|lr| lr & STATE == PENDING);
        let [group_0, group_1] = self.interface.groups;
        u64::from(ended)
            | (u64::from(valid < 2) & enabled(1)) << 1
            | (u64::from(self.hcr >> 27 & 0x1f != 0) & enabled(2)) << 2
            | (u64::from(none_pending) & enabled(3)) << 3
            | (u64::from(group_0) & enabled(4)) << 4
            | (u64::from(!group_0) & enabled(5)) << 5
            | (u64::from(group_1) & enabled(6)) << 6
            | (u64::from(!group_1) & enabled(7)) << 7
    }

    fn running_priority(&self) -> u8 {
        self.running.iter().copied().min().unwrap_or(0xff)
    }

    /// A read of ICC_IAR0_EL1 or ICC_IAR1_EL1, whichever has the highest priority.
    pub fn acknowledge(&mut self) -> u32 {
        let groups = self.interface.groups;
        let pending = self.lrs.iter_mut().filter(|lr| **lr & STATE == PENDING && groups[group(**lr)]);
        let Some(best) = pending.min_by_key(|lr| priority(**lr)) else { return SPURIOUS };
        let priority = priority(*best);
        let running = self.running.iter().copied().min().unwrap_or(0xff);
        if priority >= self.interface.mask || priority >= running {
            return SPURIOUS;
        }
        *best = *best & !STATE | ACTIVE;
        self.running.push(priority);
        intid(*best)
    }

    /// A write of ICC_EOIR0_EL1 or ICC_EOIR1_EL1.
    pub fn end(&mut self, id: u32) {
        let dropped = self.running_priority();
        let Some(place) = self.running.iter().rposition(|priority| *priority == dropped) else { return };
        self.running.remove(place);
        if !self.interface.splits_eoi {
            self.deactivate(id);
        }
    }

    fn deactivate(&mut self, id: u32) {
        match self.lrs.iter_mut().find(|lr| **lr & ACTIVE != 0 && intid(**lr) == id) {
            Some(lr) => *lr &= !ACTIVE,
            // EOIcount, which wraps.
            None => self.hcr = self.hcr & 0x07ff_ffff | (self.hcr + (1 << 27)) & 0xf800_0000,
        }
    }

    /// A write of ICC_DIR_EL1; whether it is trapped.
    pub fn deactivate_by_dir(&mut self, id: u32) -> bool {
        if self.hcr >> 14 & 1 != 0 {
            return true;
        }
        if self.interface.splits_eoi {
            self.deactivate(id);
        }
        false
    }
}

impl Cpu {
    /// Whether a list register has it.
    pub fn holds(&self, id: u32) -> bool {
        self.lrs.iter().any(|lr| lr & STATE != 0 && intid(*lr) == id)
    }
}
