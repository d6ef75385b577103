//! The device file: what the machine offers, and the VMs made from it.

use crate::files::caps::check_extension;
use crate::files::statistics::{ExitCounters, Statistics};
use crate::host::{LockClass, Owner};
use crate::realm::{Pins, UserPins};
use crate::rmm::numbers::{Number, Numbers};
use crate::rmm::{Rmm, RmmStatus};
use crate::room;
use crate::{Errno, File, Host, Lock, UserMemory, Vm};
use core::sync::atomic::{AtomicBool, Ordering};
use realm_abi::kvm::{API_VERSION, Cap, FileKind, Generation, Ioctl};
use realm_alloc::{Arc, Vec};

/// IPA width of a VM that does not choose one.
const DEFAULT_IPA_BITS: u8 = 40;

/// Bits of the number by which a Host knows a vCPU.
const VCPU_NUMBER_BITS: u32 = 16;

/// What an administrator chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of its VMM's memory that one VM may hold in place because the realm shares it: bounce buffers, queues. It is not
    /// RLIMIT_MEMLOCK, whose usual 8 MiB are less than a guest's bounce buffers.
    pub pinned: u64,
    /// Bytes that all VMs of one user may hold together. Nobody else can use them, so many VMs must not take much of the machine.
    pub pinned_by_user: u64,
    /// The share of all VMIDs, and of all vCPUs, that the VMs of one user may have: one of so many.
    pub users: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { pinned: 256 << 20, pinned_by_user: 1 << 30, users: 4 }
    }
}

/// The VMs of the machine and what their users share.
struct Vms<H: Host> {
    /// All that are not destroyed completely, with and without files.
    list: Vec<Arc<Vm<H>>>,
    /// What the VMs of a user hold, of each user who has one, and perhaps of some who had.
    pins: Vec<Arc<UserPins>>,
}

/// The device, one for a machine.
pub struct Device<H: Host> {
    rmm: Arc<Rmm<H>>,
    generation: Generation,
    limits: Limits,
    /// Exits of VMs that are gone.
    exits: ExitCounters,
    vcpu_numbers: Numbers<H>,
    vms: H::Lock<Vms<H>>,
    /// The machine goes down: no more VMs.
    closed: AtomicBool,
}

/// What [`Device::shut_down`] could not take back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StillHeld {
    /// VMs the RMM does not let go of.
    pub vms: usize,
    /// Granules the RMM still has, or did not give back.
    pub granules: u64,
}

impl<H: Host> Device<H> {
    /// Looks for an RMM and makes the device, with the user ABI of version 8. A machine without an RMM, or with one of
    /// another version, has a device that makes no VMs: see [`Self::status`].
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(host: H, limits: Limits) -> Result<Arc<Self>, Errno> {
        let rmm = Arc::try_new(Rmm::start(host)?)?;
        Ok(Arc::try_new(Self {
            rmm,
            generation: Generation::V8,
            limits,
            exits: ExitCounters::default(),
            vcpu_numbers: Numbers::new(VCPU_NUMBER_BITS)?,
            vms: H::Lock::new(LockClass::Vms, Vms { list: Vec::new(), pins: Vec::new() })?,
            closed: AtomicBool::new(false),
        })?)
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

    /// What the administrator chose.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What happened so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let mut exits = self.exits.snapshot();
        let mut unfinished_vms = 0_usize;
        for vm in self.vms() {
            exits = exits.plus(vm.exits());
            unfinished_vms = unfinished_vms.saturating_add(usize::from(!vm.has_files()));
        }
        Statistics { exits, ledger: self.rmm.ledger().snapshot(), unfinished_vms }
    }

    /// The VMs that are not destroyed completely. One that goes meanwhile may hide another.
    pub fn vms(&self) -> impl Iterator<Item = Arc<Vm<H>>> {
        (0..usize::MAX).map_while(|index| self.vms.lock().list.get(index).cloned())
    }

    /// Tries again to destroy the VMs that could not be destroyed when their last file was closed; returns how many are
    /// left. Also done before each KVM_CREATE_VM.
    pub fn reclaim(&self) -> usize {
        let mut left = 0_usize;
        // From behind: what goes moves only what was looked at.
        let count = self.vms.lock().list.len();
        for index in (0..count).rev() {
            let vm = self.vms.lock().list.get(index).cloned();
            if let Some(vm) = vm.filter(|vm| !vm.has_files())
                && !self.finish(&vm)
            {
                left = left.saturating_add(1);
            }
        }
        left
    }

    /// Destroys a VM for good, now or, if the RMM does not let go of it, later; whether it is gone.
    pub(crate) fn finish(&self, vm: &Arc<Vm<H>>) -> bool {
        if let Err(error) = vm.tear_down() {
            self.host().explain(format_args!("a VM could not be destroyed yet: {error}"));
            return false;
        }
        let more = self.rmm.ledger().unreported();
        if more > 0 {
            self.host().warn(format_args!("{more} more granules were lost by the time a realm ended"));
        }
        let exits = vm.exits();
        let gone = {
            let mut vms = self.vms.lock();
            let place = vms.list.iter().position(|other| Arc::ptr_eq(other, vm));
            place.and_then(|place| vms.list.remove(place))
        };
        if let Some(gone) = gone {
            self.exits.add(&exits);
            // Until here the vCPUs kept the VM and the VM kept the vCPUs.
            gone.retire_vcpus();
        }
        true
    }

    /// The kernel goes down (reboot, kexec) or the module is to go: ends all VMs, whoever has files of them, and takes
    /// everything back. Long. From now on no VM is made.
    ///
    /// # Errors
    /// What the RMM still has: whatever comes next must not touch that memory.
    pub fn shut_down(&self) -> Result<(), StillHeld> {
        self.closed.store(true, Ordering::SeqCst);
        let mut vms = 0_usize;
        let count = self.vms.lock().list.len();
        for index in (0..count).rev() {
            let vm = self.vms.lock().list.get(index).cloned();
            if let Some(vm) = vm
                && !self.finish(&vm)
            {
                vms = vms.saturating_add(1);
            }
        }
        let granules = self.missing_granules();
        if granules == 0 && vms == 0 { Ok(()) } else { Err(StillHeld { vms, granules }) }
    }

    /// Granules the RMM has or did not give back.
    #[inline(never)]
    fn missing_granules(&self) -> u64 {
        let ledger = self.rmm.ledger().snapshot();
        ledger.held().saturating_add(ledger.leaked)
    }

    /// Users whose pins are known.
    #[cfg(test)]
    pub(crate) fn known_users(&self) -> usize {
        self.vms.lock().pins.len()
    }

    #[cfg(test)]
    pub(crate) fn vcpu_numbers(&self) -> &Numbers<H> {
        &self.vcpu_numbers
    }

    /// Takes a number for a vCPU of this VM. There are enough for 65,536 vCPUs, and of a user for a share of them.
    ///
    /// # Errors
    /// `EMFILE` if the VM's owner has as many as one user may, `ENOMEM` if nobody can have another.
    pub(crate) fn reserve_vcpu_number(&self, vm: &Vm<H>) -> Result<Number, Errno> {
        let number = self.vcpu_numbers.reserve().ok_or(Errno::ENOMEM)?;
        let most = self.share_of(self.vcpu_numbers.count());
        // Under the lock: what is counted here is decided here.
        let vms = self.vms.lock();
        let theirs = vms.list.iter().filter(|other| other.owner().user == vm.owner().user);
        let taken =
            theirs.fold(0_usize, |sum, other| sum.saturating_add(other.vcpu_numbers.load(Ordering::SeqCst)));
        if vm.owner().privileged || taken < most {
            vm.vcpu_numbers.fetch_add(1, Ordering::SeqCst);
            return Ok(number);
        }
        drop(vms);
        self.vcpu_numbers.release(number);
        Err(self.explain_share("KVM_CREATE_VCPU", "vCPUs", vm.owner()))
    }

    /// Gives a number of this VM back.
    pub(crate) fn release_vcpu_number(&self, vm: &Vm<H>, number: Number) {
        vm.vcpu_numbers.fetch_sub(1, Ordering::SeqCst);
        self.vcpu_numbers.release(number);
    }

    /// What one user may have of so many.
    fn share_of(&self, all: usize) -> usize {
        let users = usize::try_from(self.limits.users.max(1)).unwrap_or(1);
        all.checked_div(users).unwrap_or(1).max(1)
    }

    /// Bytes of their processes' memory that the VMs of a user hold in place.
    #[must_use]
    pub fn pinned_by(&self, user: u32) -> u64 {
        let vms = self.vms.lock();
        vms.pins.iter().find(|pins| pins.user() == user).map_or(0, |pins| pins.bytes())
    }

    /// What a new VM of this owner counts by what it holds. The privileged are counted, not limited.
    #[inline(never)]
    pub(crate) fn pins_for(&self, owner: &Owner) -> Result<Pins, Errno> {
        let limit = if owner.privileged { u64::MAX } else { self.limits.pinned_by_user };
        Ok(Pins::new(self.limits.pinned, self.user_pins(owner.user)?, limit))
    }

    fn user_pins(&self, user: u32) -> Result<Arc<UserPins>, Errno> {
        self.forget_a_user();
        let mut new = Arc::try_new(UserPins::new(user))?;
        loop {
            room::make(&self.vms, |vms| &mut vms.pins, 1)?;
            let mut vms = self.vms.lock();
            if let Some(pins) = vms.pins.iter().find(|pins| pins.user() == user) {
                return Ok(pins.clone());
            }
            match vms.pins.push_within(new.clone()) {
                Ok(()) => return Ok(new),
                Err(back) => new = back,
            }
        }
    }

    /// Forgets a user who has no VM, if there is one: before each that may come, so there are never more of them than there were
    /// users at a time.
    fn forget_a_user(&self) {
        let forgotten = {
            let mut vms = self.vms.lock();
            // Nobody but who has this lock makes another owner of one that the list alone owns.
            let unused = |pins: &Arc<UserPins>| Arc::strong_count(pins) == 1 && pins.bytes() == 0;
            let place = vms.pins.iter().position(unused);
            place.and_then(|place| vms.pins.remove(place))
        };
        drop(forgotten);
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

    #[inline(never)]
    pub(crate) fn ioctl(this: &Arc<Self>, user: &impl UserMemory, cmd: u32, arg: u64) -> Result<i64, Errno> {
        match Ioctl::parse(&this.generation, FileKind::Device, cmd) {
            Ioctl::GetApiVersion if arg == 0 => Ok(API_VERSION),
            Ioctl::GetVcpuMmapSize if arg == 0 => Ok(1 << this.host().page_shift().min(16)),
            Ioctl::GetApiVersion | Ioctl::GetVcpuMmapSize => Err(Errno::EINVAL),
            Ioctl::CheckExtension => Ok(this.check_extension(arg)),
            Ioctl::CreateVm => Self::create_vm(this, user, arg),
            _ => Err(Errno::ENOTTY),
        }
    }

    #[inline(never)]
    fn create_vm(this: &Arc<Self>, user: &impl UserMemory, arg: u64) -> Result<i64, Errno> {
        let host = this.host();
        let vm = this.generation.parse_vm_type(arg).map_err(|error| {
            host.explain(format_args!("KVM_CREATE_VM: argument {arg:#x} has no meaning: {error:?}"));
            Errno::EINVAL
        })?;
        if !vm.realm {
            host.explain(format_args!("KVM_CREATE_VM: this device makes realms only, a normal VM is KVM's"));
            return Err(Errno::EINVAL);
        }
        if this.rmm.info().is_none() {
            host.explain(format_args!("KVM_CREATE_VM: {}", this.status()));
            return Err(Errno::EPERM);
        }
        this.reclaim();
        let owner = user.owner();
        // Looked at before much is made, and again when it counts.
        if !this.leaves_room(&this.vms.lock().list, &owner) {
            return Err(this.explain_share("KVM_CREATE_VM", "realms", &owner));
        }
        let ipa_bits = if vm.ipa_bits == 0 { DEFAULT_IPA_BITS } else { vm.ipa_bits };
        let vm = Vm::new(this, user.process(), owner, ipa_bits).map_err(|error| {
            host.explain(format_args!("KVM_CREATE_VM: {error}"));
            error.errno()
        })?;
        this.add_vm(vm.clone())?;
        if this.closed.load(Ordering::SeqCst) {
            // It came too late for the shutdown to see it, or the shutdown ends it as well.
            Vm::release(&vm);
            return Err(Errno::EPERM);
        }
        this.install(File::Vm(vm))
    }

    /// Adds a VM to the list, if its owner may have another.
    fn add_vm(&self, vm: Arc<Vm<H>>) -> Result<(), Errno> {
        let mut vm = vm;
        loop {
            room::make(&self.vms, |vms| &mut vms.list, 1)?;
            let mut vms = self.vms.lock();
            if !self.leaves_room(&vms.list, vm.owner()) {
                drop(vms);
                return Err(self.explain_share("KVM_CREATE_VM", "realms", vm.owner()));
            }
            match vms.list.push_within(vm) {
                Ok(()) => return Ok(()),
                Err(back) => vm = back,
            }
        }
    }

    /// Whether one more VM of this owner leaves the others theirs: VMIDs are few (256 where they have 8 bits).
    fn leaves_room(&self, vms: &[Arc<Vm<H>>], owner: &Owner) -> bool {
        let theirs = room::count(vms.iter().filter(|vm| vm.owner().user == owner.user));
        owner.privileged || theirs < self.share_of(self.rmm.vmids().count())
    }

    /// The error of an ioctl by which a user would get more than one user may have.
    fn explain_share(&self, ioctl: &str, what: &str, owner: &Owner) -> Errno {
        self.host().explain(format_args!("{ioctl}: user {} has as many {what} as one user may", owner.user));
        Errno::EMFILE
    }

    /// The device has no state of its own to give back; VMs outlive its file.
    pub(crate) fn release(&self) {
        self.reclaim();
    }
}
