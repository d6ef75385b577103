//! Virtual Machine Identifiers of realms: unique among all live realms of the machine (RMM 1.0 section A2.3.2).

use crate::{Host, Lock};
use alloc::vec;
use alloc::vec::Vec;

/// A reserved VMID. It stays reserved until it is given to [`VmidAllocator::release`]: one that the RMM may still hold
/// is kept (or just dropped), never handed out again.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a VMID that is dropped stays reserved for ever"]
pub struct Vmid(u16);

impl Vmid {
    /// The number.
    #[must_use]
    pub const fn get(&self) -> u16 {
        self.0
    }
}

/// All VMIDs of a machine.
pub struct VmidAllocator<H: Host> {
    used: H::Lock<Vec<bool>>,
}

impl<H: Host> VmidAllocator<H> {
    /// An allocator of VMIDs of `bits` bits, 8 or 16; other values count as 8, which every machine has.
    #[must_use]
    pub fn new(bits: u32) -> Self {
        let count = if bits == 16 { 1 << 16 } else { 1 << 8 };
        Self { used: H::Lock::new(vec![false; count]) }
    }

    /// Reserves the lowest free VMID, `None` when there is none.
    pub fn reserve(&self) -> Option<Vmid> {
        let mut used = self.used.lock();
        let (index, slot) = used.iter_mut().enumerate().find(|(_, used)| !**used)?;
        let vmid = Vmid(u16::try_from(index).ok()?);
        *slot = true;
        Some(vmid)
    }

    /// Makes a VMID free that the RMM no longer uses.
    pub fn release(&self, vmid: Vmid) {
        if let Some(slot) = self.used.lock().get_mut(usize::from(vmid.0)) {
            *slot = false;
        }
    }

    /// How many are reserved now.
    #[must_use]
    pub fn reserved(&self) -> usize {
        self.used.lock().iter().filter(|used| **used).count()
    }
}
