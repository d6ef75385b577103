//! What goes into the list registers of a vCPU, and what comes back.

use crate::bank::{Bank, Groups, bit, bits};
use crate::cpu::Cpu;
use crate::dist::{Dist, Spis, Target};
use crate::lr::{Lr, Picks, Vmcr, Want, hcr};
use crate::{SPECIAL, SPI};
use realm_abi::rmi::MAX_LRS;
use realm_host::irqchip::{GicEntry, GicExit, Wake};

/// A vCPU and what it can take, with the locks held.
pub struct View<'a> {
    pub vcpu: u32,
    /// How many vCPUs there are.
    pub everyone: u32,
    pub groups: Groups,
    pub cpu: &'a mut Cpu,
    /// `None` while no shared interrupt needs a look.
    pub dist: Option<&'a mut Dist>,
}

impl View<'_> {
    /// Fills at most `room` list registers.
    pub fn flush(&mut self, room: usize) -> GicEntry {
        self.take_back(&[Lr::default(); MAX_LRS], true);
        let mut entry = GicEntry { hcr: hcr::TDIR, ..GicEntry::default() };
        let picks = self.pick(room.min(MAX_LRS), &mut entry.hcr);
        let (closed, open) = (picks.leaves_out(Want::Closed), picks.leaves_out(Want::Pending));
        for (group, (on, off)) in [false, true].into_iter().zip(hcr::ENABLED.into_iter().zip(hcr::DISABLED)) {
            entry.hcr |= match self.cpu.passes(group) {
                true if open => off,
                false if closed => on,
                _ => 0,
            };
        }
        if open {
            entry.hcr |= hcr::NPIE;
        }
        if picks.leaves_out(Want::Active) {
            entry.hcr |= hcr::LRENPIE;
        }
        for ((given, lr), intid) in self.cpu.given.iter_mut().zip(&mut entry.lrs).zip(picks.intids()) {
            let none = Groups(0);
            let groups = if self.cpu.asleep { none } else { self.groups };
            *given = if intid < SPI {
                self.cpu.bank.list(intid, intid, groups)
            } else if let Some((spis, number)) = self.dist.as_deref_mut().and_then(|dist| dist.find(intid)) {
                spis.set_owner(number, self.vcpu);
                // One that is active here may be for another vCPU when it comes again.
                let here = matches!(spis.target(number), Target::One(target) if target == self.vcpu)
                    || spis.bank.deliverable(groups) & bit(number) != 0;
                spis.bank.list(number, intid, if here { groups } else { none })
            } else {
                Lr::default()
            };
            *lr = given.0;
        }
        entry
    }

    /// Chooses. Bits of ICH_HCR_EL2 that come of it are added to `hcr`.
    fn pick(&self, room: usize, hcr: &mut u64) -> Picks {
        let mut picks = Picks::new(room);
        let Cpu { asleep, bank, .. } = &*self.cpu;
        let want = |bank: &Bank, number| {
            if self.cpu.passes(bank.is_group_1(number)) { Want::Pending } else { Want::Closed }
        };
        // A sleeping redistributor holds back what is pending; what is active can still be ended.
        let awake = if *asleep { 0 } else { u32::MAX };
        for number in bits(bank.deliverable(self.groups) & awake) {
            picks.offer(number, bank.priority(number), want(bank, number));
        }
        for number in bits(bank.active()) {
            picks.offer(number, bank.priority(number), Want::Active);
        }
        let spis = self.dist.iter().flat_map(|dist| dist.spis.iter());
        for (first, spis) in (SPI..SPECIAL).step_by(32).zip(spis) {
            let bank = &spis.bank;
            for number in bits(bank.deliverable(self.groups) & awake) {
                match (spis.target(number), want(bank, number)) {
                    (Target::Any, Want::Closed) => {
                        // Others may be waiting for it. This vCPU is told when it begins to take such interrupts.
                        let [group_0, group_1] = hcr::ENABLED;
                        *hcr |= if bank.is_group_1(number) { group_1 } else { group_0 };
                    }
                    (Target::One(target), _) if target != self.vcpu => {}
                    (_, want) => picks.offer(first | number, bank.priority(number), want),
                }
            }
            for number in bits(bank.active() & !bank.listed()) {
                if spis.owner(number) == self.vcpu {
                    picks.offer(first | number, bank.priority(number), Want::Active);
                }
            }
        }
        picks
    }

    /// Takes back what a run left.
    pub fn sync(&mut self, exit: &GicExit, wake: &dyn Wake) {
        if let Some(vmcr) = exit.vmcr.map(Vmcr) {
            self.cpu.vmcr = Some(vmcr);
            // With split EOIs it is DIR that deactivates, which is trapped.
            if !vmcr.splits_eoi() {
                for _ in 0..hcr::eoi_count(exit.hcr) {
                    self.end_unlisted(wake);
                }
            }
        }
        let shared = self.take_back(&exit.lrs.map(Lr), false);
        // One that this vCPU had in a list register may be for another one by now.
        if let Some(dist) = self.dist.as_deref_mut() {
            for lr in shared.iter().filter(|lr| !lr.is_empty()) {
                if let Some((spis, number)) = dist.find(lr.intid())
                    && spis.target(number) != Target::One(self.vcpu)
                {
                    spis.wake(bit(number), self.groups, self.everyone, wake);
                }
            }
        }
    }

    /// Empties the list registers into the model; those that had shared interrupts. If the vCPU did not run they are `untouched`.
    fn take_back(&mut self, left: &[Lr; MAX_LRS], untouched: bool) -> [Lr; MAX_LRS] {
        let mut shared = core::mem::take(&mut self.cpu.given);
        for (given, left) in shared.iter_mut().zip(left) {
            if given.is_empty() {
                continue;
            }
            // A list register that came back with another interrupt was not this run's.
            let strange = !left.is_empty() && left.intid() != given.intid();
            let left = if untouched || strange { *given } else { *left };
            let intid = given.intid();
            if intid < SPI {
                self.cpu.bank.unlist(intid, *given, left);
                *given = Lr::default();
            } else if let Some((spis, number)) = self.dist.as_deref_mut().and_then(|dist| dist.find(intid)) {
                spis.bank.unlist(number, *given, left);
            }
        }
        shared
    }

    /// An EOI of an interrupt that was in no list register. EOIs come in the order of running priorities, the highest first
    /// (IHI 0069, priority drop): it was the one of the highest priority.
    fn end_unlisted(&mut self, wake: &dyn Wake) {
        let mut first = Picks::new(1);
        let bank = &self.cpu.bank;
        for number in bits(bank.ends_by_count()) {
            first.offer(number, bank.priority(number), Want::Active);
        }
        let spis = self.dist.iter().flat_map(|dist| dist.spis.iter());
        for (base, spis) in (SPI..SPECIAL).step_by(32).zip(spis) {
            for number in bits(spis.bank.ends_by_count()) {
                if spis.owner(number) == self.vcpu {
                    first.offer(base | number, spis.bank.priority(number), Want::Active);
                }
            }
        }
        if let Some(intid) = first.intids().next() {
            self.deactivate(intid, wake);
        }
    }

    /// Makes an interrupt inactive.
    pub fn deactivate(&mut self, intid: u32, wake: &dyn Wake) {
        if intid < SPI {
            self.cpu.bank.deactivate(bit(intid));
        } else if let Some((spis, number)) = self.dist.as_deref_mut().and_then(|dist| dist.find(intid)) {
            spis.bank.deactivate(bit(number));
            spis.wake(bit(number), self.groups, self.everyone, wake);
        }
    }

    /// Whether the vCPU has an interrupt that ends a WFI.
    ///
    /// The CPU interface signals an interrupt to its CPU if the group is enabled and the priority is higher than the mask; whether
    /// PSTATE masks it does not matter (IHI 0069, priority masking; Arm ARM, WFI wake-up events). An active interrupt of the same or
    /// a higher priority hides it too, but only the RMM knows running priorities, and a WFI may end early. While the
    /// redistributor sleeps every interrupt it would forward is a wake request (IHI 0069, GICR_WAKER), whatever the CPU
    /// interface, which software disables before, is like.
    pub fn is_pending(&self) -> bool {
        let Cpu { asleep, vmcr, bank, .. } = &*self.cpu;
        let signalled = |priority, group_1| {
            *asleep || vmcr.is_none_or(|vmcr| vmcr.enables(group_1) && vmcr.lets_through(priority))
        };
        let private = bits(bank.deliverable(self.groups))
            .any(|number| signalled(bank.priority(number), bank.is_group_1(number)));
        let mine = |spis: &Spis, number| match spis.target(number) {
            Target::One(vcpu) => vcpu == self.vcpu,
            Target::Any => true,
        };
        let shared = |spis: &Spis| {
            bits(spis.bank.deliverable(self.groups)).any(|number| {
                mine(spis, number) && signalled(spis.bank.priority(number), spis.bank.is_group_1(number))
            })
        };
        private || self.dist.iter().flat_map(|dist| dist.spis.iter()).any(shared)
    }
}
