//! A realm's life as its VMM drives it, ioctl by ioctl, in the order of docs/kvm-realm-abi.md section 5.1.

mod build;
mod calls;
mod error;
mod io;
mod run;
mod step;
#[cfg(test)]
mod tests;

pub use error::{Call, VmError};
pub use run::Stop;
pub use step::{Progress, Step};

use crate::devices::Devices;
use crate::{Fd, Layout, System, lock};
use calls::{Caller, Resources};
use realm_abi::kvm::{ExitReason, Generation};
use realm_abi::rmi::{HashAlgorithm, RPV_SIZE};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a person chooses about a realm that is not its machine.
#[derive(Clone, Copy, Debug)]
pub struct RealmSettings {
    /// Hash of RIM and REMs.
    pub hash: HashAlgorithm,
    /// Realm Personalization Value; `None` for zeros.
    pub rpv: Option<[u8; RPV_SIZE]>,
    /// The numbers of the kernel's realm interface.
    pub generation: Generation,
}

/// A realm that can run: one value for all its vCPU threads. Dropping it destroys the realm; [`RealmVm::destroy`] also
/// tells whether that went well.
pub struct RealmVm<'s, S: System> {
    resources: Resources<'s, S>,
    generation: Generation,
    layout: Layout,
    vm: Fd,
    /// Where the process sees RAM's shared side.
    shared_ram: u64,
    vcpus: Vec<Vcpu>,
    devices: Devices,
    /// A page for arguments of the ioctls that input makes.
    input_scratch: Mutex<u64>,
    exits: Mutex<BTreeMap<ExitReason, u64>>,
    stopping: AtomicBool,
}

/// A vCPU's file, the page it shares with the kernel, and a page of the process for arguments of its thread's ioctls.
#[derive(Clone, Copy, Debug)]
struct Vcpu {
    fd: Fd,
    run: u64,
    scratch: u64,
}

impl<'s, S: System> RealmVm<'s, S> {
    /// How often KVM_RUN returned, by reason.
    #[must_use]
    pub fn exits(&self) -> BTreeMap<ExitReason, u64> {
        lock(&self.exits).clone()
    }

    /// Reads what the realm shares of its RAM, at an address of the protected half. Memory that is private reads as
    /// zero.
    ///
    /// # Errors
    /// [`VmError::NotRam`] if the range is not all RAM.
    pub fn read_shared(&self, ipa: u64, out: &mut [u8]) -> Result<(), VmError> {
        let (ram, size) = (self.layout.ram, out.len() as u64);
        if !ram.contains(ipa, size) {
            return Err(VmError::NotRam { base: ipa, size });
        }
        let read = self.resources.system().read(self.shared_ram + (ipa - ram.base), out);
        read.map_err(|errno| VmError::System { what: "reading shared memory", errno })
    }

    /// The memory plan.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Makes all [`Self::run_vcpu`] return soon.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        for vcpu in &self.vcpus {
            self.resources.system().kick(vcpu.fd);
        }
    }

    /// Ends the realm and gives everything back.
    ///
    /// # Errors
    /// The first piece that could not be given back; the rest is given back all the same.
    pub fn destroy(self, progress: &mut dyn Progress) -> Result<(), VmError> {
        let Self { mut resources, .. } = self;
        step::within(progress, Step::Destroy, || resources.release())
    }

    fn caller(&self, scratch: u64) -> Caller<'_, S> {
        Caller::new(self.resources.system(), &self.generation, scratch)
    }
}
