//! The end of a VM, in the order that works (docs/kvm-realm-abi.md section 3.7).

use super::Vm;
use crate::error::RealmError;
use crate::memory::guest_memfd::PrivateRange;
use crate::realm::Supply;
use crate::{Host, Lock};
use core::sync::atomic::Ordering;
use realm_alloc::Arc;

/// Nothing of a teardown is left out: whoever closes a file waits for it.
const TO_THE_END: fn() -> bool = || false;

impl<H: Host> Vm<H> {
    /// Returns when nobody is in an ioctl of the VM any more, nor in the realm. Nobody gets in again.
    #[inline(never)]
    fn evict(&self) {
        self.life.end();
        self.vcpus().for_each(|vcpu| vcpu.kick());
        self.life.wait_until_empty(self.host());
    }

    /// Takes all memory away from the realm, the shared half first. Everything is tried; the first failure.
    #[inline(never)]
    fn free_memory(&self) -> Result<(), RealmError> {
        self.realm.begin_destroy();
        let everything = 0..self.realm.ipa().protected_end();
        // Nothing need be allocated: the realm has a table in reserve, unless the RMM kept it.
        let mut supply = Supply::ReserveOrHost;
        let mut first_error = self.realm.unmap_shared(0, everything.end, &mut supply, &TO_THE_END).err();
        self.each_private_range(|range| {
            if let Err(error) = self.realm.unmap_private(range, &mut supply, &TO_THE_END, &|| true) {
                first_error.get_or_insert(error);
            }
        });
        first_error.map_or(Ok(()), Err)
    }

    /// Does `work` with the private side of every slot.
    fn each_private_range(&self, mut work: impl FnMut(&PrivateRange<'_, H>)) {
        let everything = 0..self.realm.ipa().protected_end();
        let mut rest = everything.clone();
        loop {
            let next = self.memory.lock().slots.first_in(&rest).cloned();
            let Some(slot) = next else { break };
            if let Some(range) = slot.private_range(&everything) {
                work(&range);
            }
            rest.start = slot.range().end;
        }
    }

    /// Destroys the RECs. Every one is tried; the first failure.
    #[inline(never)]
    fn destroy_recs(&self) -> Result<(), RealmError> {
        let mut first_error = None;
        for vcpu in self.vcpus() {
            if let Err(error) = vcpu.destroy_rec() {
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// The VM's file is closed. The VM goes with the last of its files.
    pub(crate) fn release(this: &Arc<Self>) {
        if this.open.swap(false, Ordering::SeqCst) {
            Self::file_closed(this);
        }
    }

    /// Ends a VM: memory and tables, RECs, realm (triggers A, B and C). Needs no memory. Each step can be repeated, and none
    /// frees what the RMM still holds.
    ///
    /// No failure keeps a later step from being tried: whether the realm can go is for REALM_DESTROY to say. What an earlier step
    /// left is the Host's again then, and asked for; an RMM that answered wrongly once must not keep a realm for ever.
    ///
    /// # Errors
    /// The first failure of a realm that is still there.
    #[inline(never)]
    pub(crate) fn tear_down(&self) -> Result<(), RealmError> {
        self.evict();
        let memory = match self.free_memory() {
            // Its reserve was a table of a later block: it is back now.
            Err(RealmError::NoMemory) => self.free_memory(),
            result => result,
        };
        let tables = self.realm.destroy_tables();
        let recs = self.destroy_recs();
        if let Err(error) = self.realm.destroy() {
            return Err(memory.and(tables).and(recs).err().unwrap_or(error));
        }
        if memory.is_err() {
            self.each_private_range(|range| range.memfd.take_back_all());
        }
        if recs.is_err() {
            self.vcpus().for_each(|vcpu| vcpu.take_back_rec());
        }
        Ok(())
    }

    /// Lets go of the vCPUs of a VM that is torn down, and of its interrupt controller.
    pub(crate) fn retire_vcpus(&self) {
        let vcpus = core::mem::take(&mut *self.vcpus.lock());
        for vcpu in vcpus {
            vcpu.retire();
        }
    }
}
