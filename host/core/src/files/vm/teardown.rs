//! The end of a VM, in the order that works (docs/kvm-realm-abi.md section 3.7).

use super::{Slot, Vm};
use crate::error::RealmError;
use crate::{Host, Lock};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

impl<H: Host> Vm<H> {
    /// The process that owns the VM gives up its memory: makes the vCPUs leave, takes the VM's memory and tables back and
    /// lets no vCPU run again (trigger A). What fails here is tried again when the last file is closed.
    pub fn process_exits(&self) {
        self.dead.store(true, Ordering::SeqCst);
        self.evict_vcpus();
        if let Err(error) = self.free_memory().and_then(|()| self.realm.destroy_tables()) {
            self.explain("the memory of a VM could not be taken back yet", &error);
        }
    }

    /// Returns when no vCPU is in the realm any more. They find out why before they enter it again, so the reason
    /// must be set before.
    pub(super) fn evict_vcpus(&self) {
        let vcpus = self.vcpus();
        for vcpu in &vcpus {
            vcpu.kick();
        }
        for vcpu in &vcpus {
            while vcpu.is_in_realm() {
                self.host().yield_now();
            }
        }
    }

    /// Takes all memory away from the realm, the shared half first.
    fn free_memory(&self) -> Result<(), RealmError> {
        self.realm.begin_destroy();
        let slots: Vec<Arc<Slot<H>>> = self.memory.lock().slots.iter().cloned().collect();
        let everything = 0..self.realm.ipa().protected_end();
        let shared = self.realm.unmap_shared(0, everything.end);
        let mut first_error = shared.err();
        for slot in slots {
            let Some(range) = slot.private_range(&everything) else { continue };
            if let Err(error) = self.realm.unmap_private(&range) {
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// The VM's file is closed. The VM goes with the last of its files.
    pub(crate) fn release(self: &Arc<Self>) {
        if self.open.swap(false, Ordering::SeqCst) {
            self.file_closed();
        }
    }

    /// Destroys a VM without files: memory and tables, RECs, realm (triggers A, B and C). Each step can be repeated, and
    /// none frees what the RMM still holds.
    pub(crate) fn tear_down(&self) -> Result<(), RealmError> {
        self.dead.store(true, Ordering::SeqCst);
        self.evict_vcpus();
        self.free_memory()?;
        self.realm.destroy_tables()?;
        for vcpu in self.vcpus() {
            vcpu.destroy_rec()?;
        }
        self.realm.destroy()?;
        // Until here the vCPUs kept the VM and the VM kept the vCPUs.
        for vcpu in core::mem::take(&mut *self.vcpus.lock()) {
            vcpu.free_run_page();
        }
        Ok(())
    }
}
