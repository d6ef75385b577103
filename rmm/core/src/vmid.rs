//! Which Virtual Machine Identifiers live realms have (RMM 1.0, RmiRealmParams.vmid: no two have the same).

use core::sync::atomic::{AtomicU64, Ordering};

/// One bit for each VMID, in static memory.
#[derive(Debug)]
pub(crate) struct Vmids {
    used: [AtomicU64; 1024],
    /// VMIDs this machine has: 256 or 65536.
    count: u32,
}

impl Vmids {
    /// All free; `vmid16` if the machine has 16-bit VMIDs.
    pub(crate) const fn new(vmid16: bool) -> Self {
        Self { used: [const { AtomicU64::new(0) }; 1024], count: if vmid16 { 1 << 16 } else { 1 << 8 } }
    }

    fn slot(&self, vmid: u16) -> Option<(&AtomicU64, u64)> {
        let word = self.used.get(usize::from(vmid >> 6)).filter(|_| u32::from(vmid) < self.count)?;
        Some((word, 1 << (vmid & 63)))
    }

    /// Takes a VMID; false if it does not exist or a realm has it.
    pub(crate) fn take(&self, vmid: u16) -> bool {
        self.slot(vmid).is_some_and(|(word, bit)| word.fetch_or(bit, Ordering::Acquire) & bit == 0)
    }

    /// Gives a VMID back; false if no realm had it. Its translations must be gone from every TLB.
    pub(crate) fn give_back(&self, vmid: u16) -> bool {
        self.slot(vmid).is_some_and(|(word, bit)| word.fetch_and(!bit, Ordering::Release) & bit != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::Vmids;

    #[test]
    fn a_vmid_is_given_once_until_it_comes_back() {
        let vmids = Vmids::new(true);
        assert!(vmids.take(0x1234));
        assert!(!vmids.take(0x1234));
        assert!(vmids.take(0x1235));
        assert!(vmids.give_back(0x1234));
        assert!(!vmids.give_back(0x1234));
        assert!(vmids.take(0x1234));
    }

    #[test]
    fn eight_bit_machines_have_256_vmids() {
        let vmids = Vmids::new(false);
        assert!(vmids.take(255));
        assert!(!vmids.take(256));
    }
}
