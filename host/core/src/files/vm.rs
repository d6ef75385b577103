//! A virtual machine.

mod commands;
mod irqchip_file;
mod life;
mod memory;
mod populate;
mod teardown;
#[cfg(test)]
mod tests;

pub use irqchip_file::IrqchipFile;
pub use memory::MemfdFile;

use crate::error::RealmError;
use crate::files::caps;
use crate::files::statistics::Exits;
use crate::host::{LockClass, Owner, user};
use crate::memory::attributes::PrivateRanges;
use crate::memory::guest_memfd::GuestMemfd;
use crate::memory::memslot::{Memslot, Memslots};
use crate::realm::Realm;
use crate::rmm::RmmInfo;
use crate::room;
use crate::run::regs::{SharedRegisters, writable_masks};
use crate::{Device, Errno, File, Host, Lock, UserMemory, Vcpu};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use irqchip_file::GicState;
use life::{Inside, Life, LifeCycle};
use realm_abi::kvm::{FileKind, Ioctl, IrqLevel, IrqLine, RegMaskRange, TARGET_GENERIC_V8, VcpuInit};
use realm_alloc::{Arc, Box, Vec, try_uninit_box};

/// The file behind the private side of a slot.
pub(crate) type Backing<H> = Arc<GuestMemfd<H>>;
/// A memory slot of a VM.
pub(crate) type Slot<H> = Memslot<Backing<H>>;

/// What `kvm->lock` protects.
pub(crate) struct Config<H: Host> {
    pub(crate) registers: SharedRegisters,
    /// Features all vCPUs have in common, from the first KVM_ARM_VCPU_INIT on.
    pub(crate) features: Option<VcpuInit>,
    pub(crate) gic: GicState<H>,
}

/// The guest's address space.
pub(crate) struct Memory<H: Host> {
    pub(crate) slots: Memslots<Backing<H>>,
    pub(crate) private: PrivateRanges,
}

/// A realm VM.
pub struct Vm<H: Host> {
    device: Arc<Device<H>>,
    /// The process that made it, the only one that may use it.
    process: u64,
    owner: Owner,
    pub(crate) info: RmmInfo,
    pub(crate) realm: Box<Realm<H>>,
    pub(crate) config: H::Lock<Config<H>>,
    /// Held over a whole change of slots or attributes.
    layout: H::Lock<()>,
    pub(crate) memory: H::Lock<Memory<H>>,
    /// By id.
    vcpus: H::Lock<Vec<Arc<Vcpu<H>>>>,
    life: LifeCycle<H>,
    /// Whether its own file is open.
    open: AtomicBool,
    /// Files that are open: this one, those of vCPUs and the interrupt controller.
    files: AtomicUsize,
    /// Numbers of the machine's that its vCPUs have.
    pub(crate) vcpu_numbers: AtomicUsize,
}

impl<H: Host> Vm<H> {
    #[inline(never)]
    pub(crate) fn new(
        device: &Arc<Device<H>>,
        process: u64,
        owner: Owner,
        ipa_bits: u8,
    ) -> Result<Arc<Self>, RealmError> {
        let realm = Self::new_realm(device, &owner, ipa_bits)?;
        let rule = "the RMM must be usable";
        let info = *device.rmm().info().ok_or(RealmError::BadParameter { value: 0, rule })?;
        Self::around(device, process, owner, realm, info).map_err(|_| RealmError::NoMemory)
    }

    #[inline(never)]
    fn new_realm(device: &Arc<Device<H>>, owner: &Owner, ipa_bits: u8) -> Result<Box<Realm<H>>, RealmError> {
        let place = try_uninit_box()?;
        let pins = device.pins_for(owner).map_err(|_| RealmError::NoMemory)?;
        let realm = Realm::new(device.rmm().clone(), u32::from(ipa_bits), pins)?;
        Ok(Box::write(place, realm))
    }

    #[inline(never)]
    fn around(
        device: &Arc<Device<H>>,
        process: u64,
        owner: Owner,
        realm: Box<Realm<H>>,
        info: RmmInfo,
    ) -> Result<Arc<Self>, Errno> {
        let registers = SharedRegisters::new(info.features);
        let config = Config { registers, features: None, gic: GicState::None };
        let memory = Memory { slots: Memslots::default(), private: PrivateRanges::default() };
        Ok(Arc::try_new(Self {
            device: device.clone(),
            process,
            owner,
            info,
            realm,
            config: H::Lock::new(LockClass::Config, config)?,
            layout: H::Lock::new(LockClass::Layout, ())?,
            memory: H::Lock::new(LockClass::Slots, memory)?,
            vcpus: H::Lock::new(LockClass::Vcpus, Vec::new())?,
            life: LifeCycle::new()?,
            open: AtomicBool::new(true),
            files: AtomicUsize::new(1),
            vcpu_numbers: AtomicUsize::new(0),
        })?)
    }

    /// The device this VM was made from.
    #[must_use]
    pub fn device(&self) -> &Arc<Device<H>> {
        &self.device
    }

    /// What it runs on.
    #[must_use]
    pub fn host(&self) -> &H {
        self.device.host()
    }

    /// Who owns it.
    #[must_use]
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// REC exits so far.
    #[must_use]
    pub fn exits(&self) -> Exits {
        self.vcpus().fold(Exits::default(), |sum, vcpu| sum.plus(vcpu.exits()))
    }

    /// Bytes of the VMM's memory that are held in place because the realm can reach them.
    #[must_use]
    pub fn pinned(&self) -> u64 {
        self.realm.pinned()
    }

    pub(crate) fn page_size(&self) -> u64 {
        1 << self.host().page_shift().min(16)
    }

    /// The vCPUs there are, by id. Process context.
    pub fn vcpus(&self) -> impl Iterator<Item = Arc<Vcpu<H>>> {
        (0..usize::MAX).map_while(|index| self.vcpus.lock().get(index).cloned())
    }

    pub(crate) fn vcpu_by_id(&self, id: u32) -> Option<Arc<Vcpu<H>>> {
        let vcpus = self.vcpus.lock();
        let place = vcpus.binary_search_by_key(&id, |vcpu| vcpu.id()).ok()?;
        vcpus.get(place).cloned()
    }

    /// Whether nothing but closing files is left.
    pub(crate) fn is_dead(&self) -> bool {
        self.life.get() == Life::Over
    }

    /// Whether the realm switched itself off.
    pub(crate) fn is_off(&self) -> bool {
        self.life.get() == Life::Off
    }

    /// Whether any file of it is open.
    pub(crate) fn has_files(&self) -> bool {
        self.files.load(Ordering::SeqCst) > 0
    }

    /// Enters an ioctl of one of the VM's files.
    ///
    /// # Errors
    /// `EIO` for another process than the one that made the VM, and when the VM is over.
    #[inline(never)]
    pub(crate) fn enter(&self, user: &impl UserMemory) -> Result<Inside<'_, H>, Errno> {
        if user.process() != self.process {
            self.host().explain(format_args!("a VM can only be used by the process that made it"));
            return Err(Errno::EIO);
        }
        self.life.enter()
    }

    /// The realm switched itself off: no REC of it can be entered again, so every vCPU returns to its VMM.
    pub(crate) fn switch_off(&self) {
        self.life.switch_off();
        self.vcpus().for_each(|vcpu| vcpu.kick());
    }

    /// Says why an operation on the realm failed and translates it to what the ioctl returns.
    pub(crate) fn explain(&self, what: &str, error: &RealmError) -> Errno {
        self.host().explain(format_args!("{what}: {error}"));
        error.errno()
    }

    pub(crate) fn file_opened(&self) {
        self.files.fetch_add(1, Ordering::SeqCst);
    }

    /// One of the VM's files was closed; the last one takes the VM with it.
    pub(crate) fn file_closed(this: &Arc<Self>) {
        if this.files.fetch_sub(1, Ordering::SeqCst) == 1 {
            this.device.finish(this);
        }
    }

    #[inline(never)]
    pub(crate) fn ioctl(this: &Arc<Self>, user: &impl UserMemory, cmd: u32, arg: u64) -> Result<i64, Errno> {
        let ioctl = Ioctl::parse(this.device.generation(), FileKind::Vm, cmd);
        let _inside = this.enter(user)?;
        match ioctl {
            Ioctl::CheckExtension => Ok(this.device.check_extension(arg)),
            Ioctl::EnableCap => this.enable_cap(user, arg),
            Ioctl::CreateVcpu => Self::create_vcpu(this, arg),
            Ioctl::SetUserMemoryRegion => this.set_region(user, this.read_region_v1(user, arg)?),
            Ioctl::SetUserMemoryRegion2 => this.set_region(user, this.read_region(user, arg)?),
            Ioctl::SetMemoryAttributes => this.set_attributes(user, &user::read(user, arg)?),
            Ioctl::CreateGuestMemfd => this.create_guest_memfd(user, arg),
            Ioctl::CreateDevice => Self::create_device(this, user, arg),
            // The default interrupt controller of arm64 is a GICv2, which the RMM has no way to run.
            Ioctl::CreateIrqchip => Err(Errno::ENODEV),
            Ioctl::IrqLine => this.irq_line(&user::read(user, arg)?),
            Ioctl::ArmPreferredTarget => Self::preferred_target(user, arg),
            // The counters of a realm have no offset (RMM 1.0, realm timers).
            Ioctl::ArmSetCounterOffset => Err(Errno::EINVAL),
            Ioctl::ArmGetRegWritableMasks => Self::writable_masks(user, arg),
            Ioctl::SetDeviceAttr | Ioctl::GetDeviceAttr | Ioctl::HasDeviceAttr => Err(Errno::ENXIO),
            _ => Err(Errno::ENOTTY),
        }
    }

    #[inline(never)]
    fn preferred_target(user: &impl UserMemory, arg: u64) -> Result<i64, Errno> {
        let init = VcpuInit { target: TARGET_GENERIC_V8, ..VcpuInit::default() };
        user::write(user, arg, &init).map(|()| 0)
    }

    #[inline(never)]
    fn writable_masks(user: &impl UserMemory, arg: u64) -> Result<i64, Errno> {
        let range: RegMaskRange = user::read(user, arg)?;
        if range.range != 0 || range.reserved != [0; 13] {
            return Err(Errno::EINVAL);
        }
        let mut addr = range.addr;
        for mask in writable_masks() {
            user::write(user, addr, &mask)?;
            addr = addr.checked_add(size_of::<u64>() as u64).ok_or(Errno::EFAULT)?;
        }
        Ok(0)
    }

    #[inline(never)]
    fn create_vcpu(this: &Arc<Self>, id: u64) -> Result<i64, Errno> {
        let id = u32::try_from(id).map_err(|_| Errno::EINVAL)?;
        if u64::from(id) >= caps::max_vcpus(&this.info) {
            return Err(Errno::EINVAL);
        }
        this.may_add_vcpu(&*this.config.lock_killable()?, id)?;
        let vcpu = Vcpu::new(this, id)?;
        if let Err(errno) = this.add_vcpu(&vcpu) {
            vcpu.retire();
            return Err(errno);
        }
        vcpu.opened();
        this.device.install(File::Vcpu(vcpu.clone())).inspect_err(|_| {
            // Nobody has seen it, so the id is free again.
            let removed = {
                let mut vcpus = this.vcpus.lock();
                let place = vcpus.iter().position(|other| Arc::ptr_eq(other, &vcpu));
                place.and_then(|place| vcpus.remove(place))
            };
            drop(removed);
            vcpu.retire();
        })
    }

    fn may_add_vcpu(&self, config: &Config<H>, id: u32) -> Result<(), Errno> {
        // The GIC has a redistributor for each vCPU there was when it started.
        if config.gic.is_initialised() {
            return Err(Errno::EBUSY);
        }
        if self.vcpu_by_id(id).is_some() { Err(Errno::EEXIST) } else { Ok(()) }
    }

    #[inline(never)]
    fn add_vcpu(&self, vcpu: &Arc<Vcpu<H>>) -> Result<(), Errno> {
        let mut added = vcpu.clone();
        loop {
            room::make(&self.vcpus, |vcpus| vcpus, 1)?;
            let config = self.config.lock_killable()?;
            self.may_add_vcpu(&config, vcpu.id())?;
            let mut vcpus = self.vcpus.lock();
            let place = vcpus.partition_point(|other| other.id() < vcpu.id());
            match vcpus.insert_within(place, added) {
                Ok(()) => return Ok(()),
                Err(back) => added = back,
            }
        }
    }

    #[inline(never)]
    fn irq_line(&self, line: &IrqLevel) -> Result<i64, Errno> {
        let gic = self.config.lock_killable()?.gic.running().ok_or(Errno::ENXIO)?;
        let irq = IrqLine(line.irq);
        let (intid, level) = (u32::from(irq.intid()), line.level != 0);
        match intid {
            16..=31 if irq.is_ppi() => {
                let vcpu = self.vcpu_by_id(irq.vcpu()).ok_or(Errno::EINVAL)?;
                gic.set_private(vcpu.id(), intid, level)?;
            }
            32.. if irq.is_spi() => gic.set_shared(intid, level)?,
            _ => return Err(Errno::EINVAL),
        }
        Ok(0)
    }
}
