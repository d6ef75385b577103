//! What belongs to a vCPU.

use crate::SGIS;
use crate::bank::Bank;
use crate::lr::{Lr, Vmcr};
use realm_abi::rmi::MAX_LRS;

/// See the module.
pub struct Cpu {
    /// SGIs and PPIs.
    pub bank: Bank,
    /// GICR_WAKER.ProcessorSleep.
    pub asleep: bool,
    /// What the guest's CPU interface was like when it last ran.
    pub vmcr: Option<Vmcr>,
    /// What the last flush put into the list registers, until the sync.
    pub given: [Lr; MAX_LRS],
}

impl Cpu {
    /// After a reset.
    pub fn new() -> Self {
        // SGIs are edge-triggered for ever.
        let bank = Bank::new(u32::MAX, (1 << SGIS) - 1);
        Self { bank, asleep: true, vmcr: None, given: [Lr::default(); MAX_LRS] }
    }

    /// Whether the CPU interface passes interrupts of a group on, as far as is known: before the first run it is as it was reset.
    pub fn passes(&self, group_1: bool) -> bool {
        self.vmcr.is_some_and(|vmcr| vmcr.enables(group_1))
    }
}
