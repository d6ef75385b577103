//! A virtual machine.
//!
//! Lock order: a vCPU's state, then [`Vm::config`], then [`Vm::layout`], then [`Vm::memory`], then the locks of the
//! realm. `memory` is held for bounded work only (one 2 MiB block); long removals run without it and are announced in
//! [`Memory::removals`], so that no fault maps again what is being taken away.

mod commands;
mod irqchip_file;
mod memory;
mod populate;
mod teardown;
#[cfg(test)]
mod tests;

pub use irqchip_file::IrqchipFile;
pub use memory::MemfdFile;

use crate::error::RealmError;
use crate::files::caps;
use crate::files::statistics::{ExitCounters, Exits};
use crate::host::user;
use crate::memory::attributes::PrivateRanges;
use crate::memory::guest_memfd::GuestMemfd;
use crate::memory::memslot::{Memslot, Memslots};
use crate::realm::Realm;
use crate::rmm::RmmInfo;
use crate::run::irqchip::Wake;
use crate::run::regs::{SharedRegisters, writable_masks};
use crate::{Device, Errno, File, Host, Lock, UserMemory, Vcpu};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use irqchip_file::GicState;
use realm_abi::kvm::{FileKind, Ioctl, IrqLevel, IrqLine, RegMaskRange, TARGET_GENERIC_V8, VcpuInit};
use zerocopy::IntoBytes;

/// The file behind the private side of a slot.
pub(crate) type Backing<H> = Arc<GuestMemfd<H>>;
/// A memory slot of a VM.
pub(crate) type Slot<H> = Memslot<Backing<H>>;

/// What `kvm->lock` protects.
pub(crate) struct Config {
    pub(crate) registers: SharedRegisters,
    /// Features all vCPUs have in common, from the first KVM_ARM_VCPU_INIT on.
    pub(crate) features: Option<VcpuInit>,
    pub(crate) gic: GicState,
}

/// The guest's address space.
pub(crate) struct Memory<H: Host> {
    pub(crate) slots: Memslots<Backing<H>>,
    pub(crate) private: PrivateRanges,
    /// Removals that are under way. While there is one, nothing new is mapped.
    pub(crate) removals: usize,
    /// Removals that ended: who looked something up before one must look again before mapping it.
    pub(crate) generation: u64,
}

/// A realm VM.
pub struct Vm<H: Host> {
    device: Arc<Device<H>>,
    pub(crate) info: RmmInfo,
    pub(crate) realm: Realm<H>,
    pub(crate) config: H::Lock<Config>,
    /// Held over a whole change of slots or attributes.
    layout: H::Lock<()>,
    pub(crate) memory: H::Lock<Memory<H>>,
    /// By id.
    vcpus: H::Lock<Vec<Arc<Vcpu<H>>>>,
    exits: ExitCounters,
    /// The owner is gone or the VM cannot go on: nothing but closing files is left.
    dead: AtomicBool,
    /// The realm switched itself off.
    off: AtomicBool,
    open: AtomicBool,
    /// Files that are open: this one, those of vCPUs and the interrupt controller.
    files: AtomicUsize,
}

impl<H: Host> Vm<H> {
    pub(crate) fn new(device: &Arc<Device<H>>, ipa_bits: u8) -> Result<Arc<Self>, RealmError> {
        let realm = Realm::new(device.rmm().clone(), u32::from(ipa_bits))?;
        let rule = "the RMM must be usable";
        let info = *device.rmm().info().ok_or(RealmError::BadParameter { value: 0, rule })?;
        Ok(Arc::new(Self {
            device: device.clone(),
            info,
            realm,
            config: H::Lock::new(Config {
                registers: SharedRegisters::new(info.features),
                features: None,
                gic: GicState::None,
            }),
            layout: H::Lock::new(()),
            memory: H::Lock::new(Memory {
                slots: Memslots::default(),
                private: PrivateRanges::default(),
                removals: 0,
                generation: 0,
            }),
            vcpus: H::Lock::new(Vec::new()),
            exits: ExitCounters::default(),
            dead: AtomicBool::new(false),
            off: AtomicBool::new(false),
            open: AtomicBool::new(true),
            files: AtomicUsize::new(1),
        }))
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

    /// REC exits so far.
    #[must_use]
    pub fn exits(&self) -> Exits {
        self.exits.snapshot()
    }

    pub(crate) fn exit_counters(&self) -> &ExitCounters {
        &self.exits
    }

    pub(crate) fn page_size(&self) -> u64 {
        1 << self.host().page_shift().min(16)
    }

    /// The vCPUs there are, in the order they were made.
    #[must_use]
    pub fn vcpus(&self) -> Vec<Arc<Vcpu<H>>> {
        self.vcpus.lock().clone()
    }

    pub(crate) fn vcpu_by_id(&self, id: u32) -> Option<Arc<Vcpu<H>>> {
        self.vcpus.lock().iter().find(|vcpu| vcpu.id() == id).cloned()
    }

    /// Whether nothing but closing files is left.
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// Whether the realm switched itself off.
    pub(crate) fn is_off(&self) -> bool {
        self.off.load(Ordering::SeqCst)
    }

    /// The realm switched itself off: no REC of it can be entered again, so every vCPU returns to its VMM.
    pub(crate) fn switch_off(&self) {
        self.off.store(true, Ordering::SeqCst);
        for vcpu in self.vcpus() {
            vcpu.kick();
        }
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
    pub(crate) fn file_closed(self: &Arc<Self>) {
        if self.files.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.device.bury(self.clone());
        }
    }

    pub(crate) fn ioctl(self: &Arc<Self>, user: &impl UserMemory, cmd: u32, arg: u64) -> Result<i64, Errno> {
        let ioctl = Ioctl::parse(self.device.generation(), FileKind::Vm, cmd);
        if self.is_dead() {
            return Err(Errno::EIO);
        }
        match ioctl {
            Ioctl::CheckExtension => Ok(self.device.check_extension(arg)),
            Ioctl::EnableCap => self.enable_cap(user, &user::read(user, arg)?),
            Ioctl::CreateVcpu => self.create_vcpu(arg),
            Ioctl::SetUserMemoryRegion => self.set_region_v1(user, arg),
            Ioctl::SetUserMemoryRegion2 => self.set_region(&user::read(user, arg)?),
            Ioctl::SetMemoryAttributes => self.set_attributes(&user::read(user, arg)?),
            Ioctl::CreateGuestMemfd => self.create_guest_memfd(&user::read(user, arg)?),
            Ioctl::CreateDevice => self.create_device(user, arg),
            // The default interrupt controller of arm64 is a GICv2, which the RMM has no way to run.
            Ioctl::CreateIrqchip => Err(Errno::ENODEV),
            Ioctl::IrqLine => self.irq_line(&user::read(user, arg)?),
            Ioctl::ArmPreferredTarget => {
                let init = VcpuInit { target: TARGET_GENERIC_V8, ..VcpuInit::default() };
                user::write(user, arg, &init).map(|()| 0)
            }
            // The counters of a realm have no offset (RMM 1.0, realm timers).
            Ioctl::ArmSetCounterOffset => Err(Errno::EINVAL),
            Ioctl::ArmGetRegWritableMasks => Self::writable_masks(user, arg),
            Ioctl::SetDeviceAttr | Ioctl::GetDeviceAttr | Ioctl::HasDeviceAttr => Err(Errno::ENXIO),
            _ => Err(Errno::ENOTTY),
        }
    }

    fn writable_masks(user: &impl UserMemory, arg: u64) -> Result<i64, Errno> {
        let range: RegMaskRange = user::read(user, arg)?;
        if range.range != 0 || range.reserved != [0; 13] {
            return Err(Errno::EINVAL);
        }
        user.write(range.addr, writable_masks().as_bytes()).map(|()| 0)
    }

    fn create_vcpu(self: &Arc<Self>, id: u64) -> Result<i64, Errno> {
        let id = u32::try_from(id).map_err(|_| Errno::EINVAL)?;
        if u64::from(id) >= caps::max_vcpus(&self.info) {
            return Err(Errno::EINVAL);
        }
        let config = self.config.lock();
        // The GIC has a redistributor for each vCPU there was when it started.
        if config.gic.is_initialised() {
            return Err(Errno::EBUSY);
        }
        let vcpu = {
            let mut vcpus = self.vcpus.lock();
            let place = match vcpus.binary_search_by_key(&id, |vcpu| vcpu.id()) {
                Ok(_) => return Err(Errno::EEXIST),
                Err(place) => place,
            };
            vcpus.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            let vcpu = Vcpu::new(self, id)?;
            vcpus.insert(place, vcpu.clone());
            vcpu
        };
        drop(config);
        self.file_opened();
        self.device.install(File::Vcpu(vcpu.clone())).inspect_err(|_| {
            // Nobody has seen it, so the id is free again.
            self.vcpus.lock().retain(|other| !Arc::ptr_eq(other, &vcpu));
            vcpu.free_run_page();
        })
    }

    fn irq_line(&self, line: &IrqLevel) -> Result<i64, Errno> {
        let irqchip = self.config.lock().gic.running().ok_or(Errno::ENXIO)?;
        let irq = IrqLine(line.irq);
        let (intid, level) = (u32::from(irq.intid()), line.level != 0);
        match intid {
            16..=31 if irq.is_ppi() => {
                let vcpu = self.vcpu_by_id(irq.vcpu()).ok_or(Errno::EINVAL)?;
                irqchip.set_private(vcpu.id(), intid, level)?;
            }
            32.. if irq.is_spi() => irqchip.set_shared(intid, level)?,
            _ => return Err(Errno::EINVAL),
        }
        Ok(0)
    }
}

impl<H: Host> Wake for Vm<H> {
    fn wake(&self, vcpu: u32) {
        if let Some(vcpu) = self.vcpu_by_id(vcpu) {
            vcpu.kick();
        }
    }
}
