//! Virtual Machine Identifiers of realms: unique among all live realms of the machine (RMM 1.0, RmiRealmParams.vmid).

use crate::{Host, Lock};
use alloc::vec;
use alloc::vec::Vec;

/// log2 of the bits in a word of the bitmap.
const WORD_SHIFT: usize = 6;

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
    /// One bit each, set while reserved.
    used: H::Lock<Vec<u64>>,
}

impl<H: Host> VmidAllocator<H> {
    /// An allocator of VMIDs of `bits` bits, 8 or 16; other values count as 8, which every machine has.
    #[must_use]
    pub fn new(bits: u32) -> Self {
        let count = if bits == 16 { 1_usize << 16 } else { 1 << 8 };
        Self { used: H::Lock::new(vec![0; count >> WORD_SHIFT]) }
    }

    /// Reserves the lowest free VMID, `None` when there is none.
    pub fn reserve(&self) -> Option<Vmid> {
        let mut used = self.used.lock();
        let (index, word) = used.iter_mut().enumerate().find(|(_, word)| **word != u64::MAX)?;
        let bit = word.trailing_ones();
        *word |= 1_u64.checked_shl(bit)?;
        let number = (index << WORD_SHIFT) | usize::try_from(bit).ok()?;
        Some(Vmid(u16::try_from(number).ok()?))
    }

    /// Makes a VMID free that the RMM no longer uses.
    pub fn release(&self, vmid: Vmid) {
        if let Some(word) = self.used.lock().get_mut(usize::from(vmid.0 >> WORD_SHIFT)) {
            *word &= !(1 << (vmid.0 & 0x3f));
        }
    }

    /// How many are reserved now.
    #[must_use]
    pub fn reserved(&self) -> usize {
        self.used.lock().iter().fold(0, |sum, word| sum.saturating_add(word.count_ones() as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeHost;
    use std::collections::BTreeSet;

    #[test]
    #[cfg_attr(miri, ignore = "too many steps for an interpreter")]
    fn every_vmid_is_given_once_until_it_is_released() {
        for (bits, count) in [(8, 256), (16, 65536), (0, 256), (32, 256)] {
            let vmids = VmidAllocator::<FakeHost>::new(bits);
            let mut given: Vec<Vmid> = (0..count).map(|_| vmids.reserve().unwrap()).collect();
            let numbers: BTreeSet<u16> = given.iter().map(Vmid::get).collect();
            assert_eq!((numbers.len(), vmids.reserve()), (count, None));
            let one = given.swap_remove(7);
            let number = one.get();
            vmids.release(one);
            assert_eq!(vmids.reserve().map(|vmid| vmid.get()), Some(number));
        }
    }

    #[test]
    fn a_vmid_that_is_not_released_stays_reserved() {
        let vmids = VmidAllocator::<FakeHost>::new(8);
        let kept = vmids.reserve().unwrap().get();
        assert_ne!(vmids.reserve().unwrap().get(), kept);
        assert_eq!(vmids.reserved(), 2);
    }
}
