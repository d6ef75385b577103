//! The device file: what the machine offers, and the VMs made from it.

use crate::files::caps::check_extension;
use crate::files::statistics::{ExitCounters, Statistics};
use crate::rmm::{Rmm, RmmStatus};
use crate::{Errno, File, Host, Lock, UserMemory, Vm};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};
use realm_abi::kvm::{API_VERSION, Cap, FileKind, Generation, Ioctl};

/// IPA width of a VM that does not choose one.
const DEFAULT_IPA_BITS: u8 = 40;

/// The device, one for a machine.
pub struct Device<H: Host> {
    rmm: Arc<Rmm<H>>,
    generation: Generation,
    exits: ExitCounters,
    vcpu_numbers: AtomicU32,
    /// VMs without a file that are not destroyed completely.
    undead: H::Lock<Vec<Arc<Vm<H>>>>,
}

impl<H: Host> Device<H> {
    /// Looks for an RMM and makes the device, with the user ABI of version 8. A machine without an RMM, or with one of
    /// another version, has a device that makes no VMs: see [`Self::status`].
    pub fn new(host: H) -> Arc<Self> {
        Arc::new(Self {
            rmm: Arc::new(Rmm::start(host)),
            generation: Generation::V8,
            exits: ExitCounters::default(),
            vcpu_numbers: AtomicU32::new(0),
            undead: H::Lock::new(Vec::new()),
        })
    }

    /// What the device runs on.
    #[must_use]
    pub fn host(&self) -> &H {
        self.rmm.host()
    }

    /// The RMM.
    #[must_use]
    pub fn rmm(&self) -> &Arc<Rmm<H>> {
        &self.rmm
    }

    /// What start-up found.
    #[must_use]
    pub fn status(&self) -> &RmmStatus {
        self.rmm.status()
    }

    /// The numbers of the user ABI.
    #[must_use]
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// What happened so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        Statistics {
            exits: self.exits.snapshot(),
            ledger: self.rmm.ledger().snapshot(),
            undead_vms: self.undead.lock().len(),
        }
    }

    /// Tries again to destroy the VMs that could not be destroyed when their last file was closed; returns how many are
    /// left. Also done before each KVM_CREATE_VM.
    pub fn reclaim(&self) -> usize {
        let vms = core::mem::take(&mut *self.undead.lock());
        for vm in vms {
            self.bury(vm);
        }
        self.undead.lock().len()
    }

    /// Destroys a VM without files, now or, if the RMM does not let go of it, later.
    pub(crate) fn bury(&self, vm: Arc<Vm<H>>) {
        if let Err(error) = vm.tear_down() {
            self.host().explain(format_args!("a VM could not be destroyed yet: {error}"));
            self.undead.lock().push(vm);
        }
    }

    pub(crate) fn exits(&self) -> &ExitCounters {
        &self.exits
    }

    pub(crate) fn next_vcpu_number(&self) -> u32 {
        self.vcpu_numbers.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn check_extension(&self, cap: u64) -> i64 {
        u32::try_from(cap).map_or(0, |cap| check_extension(&self.generation, self.rmm.info(), Cap(cap)))
    }

    /// Gives the calling process a descriptor, or closes the file again.
    pub(crate) fn install(&self, file: File<H>) -> Result<i64, Errno> {
        let installed = self.host().install_file(file.clone());
        if installed.is_err() {
            file.release();
        }
        installed.map(i64::from)
    }

    pub(crate) fn ioctl(self: &Arc<Self>, _user: &impl UserMemory, cmd: u32, arg: u64) -> Result<i64, Errno> {
        match Ioctl::parse(&self.generation, FileKind::Device, cmd) {
            Ioctl::GetApiVersion if arg == 0 => Ok(API_VERSION),
            Ioctl::GetVcpuMmapSize if arg == 0 => Ok(1 << self.host().page_shift().min(16)),
            Ioctl::GetApiVersion | Ioctl::GetVcpuMmapSize => Err(Errno::EINVAL),
            Ioctl::CheckExtension => Ok(self.check_extension(arg)),
            Ioctl::CreateVm => self.create_vm(arg),
            _ => Err(Errno::ENOTTY),
        }
    }

    fn create_vm(self: &Arc<Self>, arg: u64) -> Result<i64, Errno> {
        let vm = self.generation.parse_vm_type(arg).map_err(|error| {
            self.host().explain(format_args!("KVM_CREATE_VM: argument {arg:#x} has no meaning: {error:?}"));
            Errno::EINVAL
        })?;
        if !vm.realm {
            self.host()
                .explain(format_args!("KVM_CREATE_VM: this device makes realms only, a normal VM is KVM's"));
            return Err(Errno::EINVAL);
        }
        if self.rmm.info().is_none() {
            self.host().explain(format_args!("KVM_CREATE_VM: {}", self.status()));
            return Err(Errno::EPERM);
        }
        self.reclaim();
        let ipa_bits = if vm.ipa_bits == 0 { DEFAULT_IPA_BITS } else { vm.ipa_bits };
        let vm = Vm::new(self, ipa_bits).map_err(|error| {
            self.host().explain(format_args!("KVM_CREATE_VM: {error}"));
            error.errno()
        })?;
        self.install(File::Vm(vm))
    }

    /// The device has no state of its own to give back; VMs outlive its file.
    pub(crate) fn release(&self) {
        self.reclaim();
    }
}
