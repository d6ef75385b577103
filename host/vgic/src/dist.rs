//! The shared interrupts.

use crate::bank::{Bank, Groups, bit, bits};
use crate::registers::Field;
use crate::{SPECIAL, SPI};
use realm_abi::Errno;
use realm_alloc::Vec;
use realm_host::irqchip::Wake;

/// GICD_IROUTER.Interrupt_Routing_Mode: any vCPU.
const ANY: u32 = 1 << 31;

/// Who a shared interrupt goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The vCPU with this index, if there is one.
    One(u32),
    /// Whichever takes it first.
    Any,
}

/// The index of the vCPU with these affinity fields: [`realm_abi::kvm::vcpu_mpidr`] read backwards. Aff3 is 0 in all.
pub const fn vcpu_of(aff2: u32, aff1: u32, aff0: u32) -> Option<u32> {
    if aff0 < 16 { Some(aff2 << 12 | aff1 << 4 | aff0) } else { None }
}

/// 32 shared interrupts.
pub struct Spis {
    pub bank: Bank,
    /// The low word of each GICD_IROUTER; the high one has Aff3, which is 0.
    route: [u32; 32],
    /// The vCPU whose list registers have it, or that has it active.
    owner: [u32; 32],
}

impl Spis {
    fn new(first: u32) -> Self {
        let last = SPECIAL.saturating_sub(first);
        let valid = if last < u32::BITS { bit(last).wrapping_sub(1) } else { u32::MAX };
        Self { bank: Bank::new(valid, 0), route: [0; 32], owner: [0; 32] }
    }

    pub fn target(&self, number: u32) -> Target {
        let route = self.route.get(number as usize).copied().unwrap_or(0);
        if route & ANY != 0 {
            return Target::Any;
        }
        let vcpu = vcpu_of(route >> 16 & 0xff, route >> 8 & 0xff, route & 0xff);
        Target::One(vcpu.unwrap_or(u32::MAX))
    }

    pub fn owner(&self, number: u32) -> u32 {
        self.owner.get(number as usize).copied().unwrap_or(u32::MAX)
    }

    pub fn set_owner(&mut self, number: u32, vcpu: u32) {
        if let Some(owner) = self.owner.get_mut(number as usize) {
            *owner = vcpu;
        }
    }

    /// Wakes whom a change of these interrupts concerns: who can take one now, and who has one in its list registers.
    pub fn wake(&self, changed: u32, groups: Groups, everyone: u32, wake: &dyn Wake) {
        for number in bits(changed & self.bank.listed()) {
            wake.wake(self.owner(number));
        }
        for number in bits(changed & self.bank.deliverable(groups)) {
            match self.target(number) {
                Target::One(vcpu) if vcpu < everyone => wake.wake(vcpu),
                Target::One(_) => {}
                Target::Any => (0..everyone).for_each(|vcpu| wake.wake(vcpu)),
            }
        }
    }
}

/// See the module.
pub struct Dist {
    /// From INTID 32 on.
    pub spis: Vec<Spis>,
}

impl Dist {
    /// The shared ones of `nr_irqs` interrupts, after a reset.
    #[inline(never)]
    pub fn new(nr_irqs: u32) -> Result<Self, Errno> {
        let banks = nr_irqs.saturating_sub(SPI) >> 5;
        let mut spis = Vec::with_capacity(banks as usize)?;
        for bank in 1..=banks {
            spis.push_within(Spis::new(bank << 5)).map_err(|_| Errno::ENOMEM)?;
        }
        Ok(Self { spis })
    }

    /// The bank of an interrupt, and its number there.
    pub fn find(&mut self, intid: u32) -> Option<(&mut Spis, u32)> {
        let bank = intid.checked_sub(SPI)? >> 5;
        Some((self.spis.get_mut(bank as usize)?, intid & 31))
    }

    /// The bank that word `index` of a field of the distributor is about, and the word there. Word for the private interrupts are
    /// reserved (IHI 0069, affinity routing).
    fn part(&mut self, field: Field, index: u32) -> Option<(&mut Spis, u32)> {
        let shift = field.parts_shift();
        let bank = index.wrapping_shr(shift).checked_sub(1)?;
        let part = index & bit(shift).wrapping_sub(1);
        Some((self.spis.get_mut(bank as usize)?, part))
    }

    pub fn read(&mut self, field: Field, index: u32) -> u32 {
        self.part(field, index).map_or(0, |(spis, part)| spis.bank.read(field, part))
    }

    /// Writes a word; the bank and which of its interrupts changed.
    pub fn write(&mut self, field: Field, index: u32, value: u32, mask: u32) -> Option<(&mut Spis, u32)> {
        let (spis, part) = self.part(field, index)?;
        let before = spis.bank.active();
        let changed = spis.bank.write(field, part, value, mask);
        // One that a register makes active is the vCPU's that it would go to.
        for number in bits(spis.bank.active() & !before) {
            let owner = match spis.target(number) {
                Target::One(vcpu) => vcpu,
                Target::Any => 0,
            };
            if spis.bank.listed() & bit(number) == 0 {
                spis.set_owner(number, owner);
            }
        }
        Some((spis, changed))
    }

    pub fn route(&mut self, intid: u32) -> u32 {
        self.find(intid).and_then(|(spis, number)| spis.route.get(number as usize).copied()).unwrap_or(0)
    }

    pub fn set_route(&mut self, intid: u32, value: u32, mask: u32) -> Option<(&mut Spis, u32)> {
        let (spis, number) = self.find(intid).filter(|_| intid < SPECIAL)?;
        let route = spis.route.get_mut(number as usize)?;
        *route = *route & !mask | value & mask;
        Some((spis, bit(number)))
    }

    /// Whether any shared interrupt needs a look at an entry or an exit.
    pub fn is_busy(&self) -> bool {
        self.spis.iter().any(|spis| spis.bank.is_busy())
    }
}
