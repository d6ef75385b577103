//! The interrupt controller as a file: KVM_SET_DEVICE_ATTR.

use super::{Config, Vm};
use crate::host::user;
use crate::run::Gic;
use crate::run::irqchip::GicConfig;
use crate::run::waker::Wakers;
use crate::{Errno, File, Host, Lock, UserMemory};
use core::sync::atomic::{AtomicBool, Ordering};
use realm_abi::kvm::{
    CreateDevice, DeviceAttr, DeviceType, FileKind, Ioctl, VGIC_CTRL_INIT, VGIC_GRP_ADDR, VGIC_GRP_CTRL,
    VGIC_GRP_NR_IRQS, VGIC_V3_ADDR_DIST, VGIC_V3_ADDR_REDIST,
};
use realm_alloc::Arc;

/// KVM_CREATE_DEVICE_TEST.
const CREATE_DEVICE_TEST: u32 = 1;
/// Bytes of the distributor's frames, and what its address and the redistributors' are multiples of.
const DIST_SIZE: u64 = 0x1_0000;
/// Bytes of one redistributor.
const REDIST_SIZE: u64 = 0x2_0000;
/// Interrupts of a GIC that does not choose, as in KVM.
const DEFAULT_IRQS: u32 = 256;
/// Interrupts are configured in steps of 32, from 64 to 1024.
const IRQ_STEP: u32 = 32;

/// A GIC whose configuration is not complete.
#[derive(Clone, Copy)]
pub(crate) struct GicSetup {
    dist: Option<u64>,
    redist: Option<u64>,
    nr_irqs: Option<u32>,
    /// KVM_DEV_ARM_VGIC_CTRL_INIT came; a VMM may give the addresses after it.
    initialised: bool,
    /// A thread is starting it, which takes memory and so no lock.
    starting: bool,
}

/// The interrupt controller of a VM.
pub(crate) enum GicState<H: Host> {
    /// There is none.
    None,
    /// It is being configured.
    Setup(GicSetup),
    /// It runs.
    Running(Arc<Gic<H>>),
}

impl<H: Host> GicState<H> {
    pub(crate) fn is_initialised(&self) -> bool {
        match self {
            Self::None => false,
            Self::Setup(setup) => setup.initialised,
            Self::Running(_) => true,
        }
    }

    pub(crate) fn running(&self) -> Option<Arc<Gic<H>>> {
        match self {
            Self::Running(gic) => Some(gic.clone()),
            _ => None,
        }
    }

    /// The GIC for a vCPU that is about to run.
    ///
    /// # Errors
    /// `EOPNOTSUPP` without one, `EBUSY` before INIT, `ENXIO` before it has addresses.
    pub(crate) fn for_run(&self) -> Result<Arc<Gic<H>>, Errno> {
        match self {
            Self::None => Err(Errno::EOPNOTSUPP),
            Self::Setup(setup) if !setup.initialised || setup.starting => Err(Errno::EBUSY),
            Self::Setup(_) => Err(Errno::ENXIO),
            Self::Running(gic) => Ok(gic.clone()),
        }
    }
}

/// The GICv3 of a VM, from KVM_CREATE_DEVICE.
pub struct IrqchipFile<H: Host> {
    vm: Arc<Vm<H>>,
    open: AtomicBool,
}

impl<H: Host> Vm<H> {
    #[inline(never)]
    pub(super) fn create_device(this: &Arc<Self>, user: &impl UserMemory, arg: u64) -> Result<i64, Errno> {
        let request: CreateDevice = user::read(user, arg)?;
        if request.flags & !CREATE_DEVICE_TEST != 0 {
            return Err(Errno::EINVAL);
        }
        // A GICv2 has no list registers the RMM would take, and the ITS is not emulated.
        if DeviceType(request.device_type) != DeviceType::ARM_VGIC_V3 {
            return Err(Errno::ENODEV);
        }
        if request.flags & CREATE_DEVICE_TEST != 0 {
            return Ok(0);
        }
        let there_is_one = |config: &Config<H>| !matches!(config.gic, GicState::None);
        if there_is_one(&*this.config.lock_killable()?) {
            return Err(Errno::EEXIST);
        }
        let file = IrqchipFile { vm: this.clone(), open: AtomicBool::new(true) };
        let file = File::Irqchip(Arc::try_new(file)?);
        {
            let mut config = this.config.lock_killable()?;
            if there_is_one(&config) {
                return Err(Errno::EEXIST);
            }
            let (dist, redist, nr_irqs) = (None, None, None);
            let (initialised, starting) = (false, false);
            config.gic = GicState::Setup(GicSetup { dist, redist, nr_irqs, initialised, starting });
        }
        this.file_opened();
        let fd = this.device().install(file).inspect_err(|_| {
            let old = core::mem::replace(&mut this.config.lock().gic, GicState::None);
            drop(old);
        })?;
        // The descriptor is the caller's from here on, even if it cannot be told.
        let fd = u32::try_from(fd).map_err(|_| Errno::EMFILE)?;
        user::write(user, arg, &CreateDevice { fd, ..request })?;
        Ok(0)
    }
}

impl<H: Host> IrqchipFile<H> {
    /// The VM it belongs to.
    #[must_use]
    pub fn vm(&self) -> &Arc<Vm<H>> {
        &self.vm
    }

    #[inline(never)]
    pub(crate) fn ioctl(&self, user: &impl UserMemory, cmd: u32, arg: u64) -> Result<i64, Errno> {
        let ioctl = Ioctl::parse(self.vm.device().generation(), FileKind::Emulated, cmd);
        let _inside = self.vm.enter(user)?;
        match ioctl {
            Ioctl::SetDeviceAttr => self.set(user, &user::read(user, arg)?).map(|()| 0),
            Ioctl::HasDeviceAttr => {
                let attr: DeviceAttr = user::read(user, arg)?;
                if is_known(&attr) { Ok(0) } else { Err(Errno::ENXIO) }
            }
            Ioctl::GetDeviceAttr => Err(Errno::ENXIO),
            _ => Err(Errno::ENOTTY),
        }
    }

    fn set(&self, user: &impl UserMemory, attr: &DeviceAttr) -> Result<(), Errno> {
        if attr.flags != 0 {
            return Err(Errno::EINVAL);
        }
        if !is_known(attr) {
            return Err(Errno::ENXIO);
        }
        // User memory is read before the lock: a page fault may need it.
        let value = match attr.group {
            VGIC_GRP_ADDR => user::read::<u64>(user, attr.addr)?,
            VGIC_GRP_NR_IRQS => u64::from(user::read::<u32>(user, attr.addr)?),
            _ => 0,
        };
        let complete = {
            let mut config = self.vm.config.lock_killable()?;
            // With the configuration locked no vCPU is added.
            let count = self.vm.vcpus().last().map_or(0, |vcpu| vcpu.id().saturating_add(1));
            let GicState::Setup(old) = &mut config.gic else {
                // INIT may be repeated; everything else is too late.
                return if attr.group == VGIC_GRP_CTRL { Ok(()) } else { Err(Errno::EBUSY) };
            };
            if old.starting {
                return Err(Errno::EBUSY);
            }
            let mut setup = *old;
            self.change(&mut setup, attr, value, count)?;
            let complete = self.complete(&setup, count)?;
            setup.starting = complete.is_some();
            *old = setup;
            complete
        };
        complete.map_or(Ok(()), |config| self.start(&config))
    }

    /// Changes the configuration as `attr` says, with `count` redistributors.
    fn change(&self, setup: &mut GicSetup, attr: &DeviceAttr, value: u64, count: u32) -> Result<(), Errno> {
        match (attr.group, attr.attr) {
            (VGIC_GRP_ADDR, VGIC_V3_ADDR_DIST) => self.set_address(&mut setup.dist, value, DIST_SIZE),
            (VGIC_GRP_ADDR, _) => {
                let size = REDIST_SIZE.saturating_mul(u64::from(count).max(1));
                self.set_address(&mut setup.redist, value, size)
            }
            (VGIC_GRP_NR_IRQS, _) => {
                let irqs = u32::try_from(value).map_err(|_| Errno::EINVAL)?;
                if !(2 * IRQ_STEP..=1024).contains(&irqs) || !irqs.is_multiple_of(IRQ_STEP) {
                    return Err(Errno::EINVAL);
                }
                if setup.nr_irqs.replace(irqs).is_some() || setup.initialised {
                    return Err(Errno::EBUSY);
                }
                Ok(())
            }
            _ => {
                setup.initialised = true;
                Ok(())
            }
        }
    }

    fn set_address(&self, slot: &mut Option<u64>, address: u64, size: u64) -> Result<(), Errno> {
        if slot.is_some() {
            return Err(Errno::EEXIST);
        }
        if !address.is_multiple_of(DIST_SIZE) {
            return Err(Errno::EINVAL);
        }
        if address.checked_add(size).is_none_or(|end| end > self.vm.realm.ipa().protected_end()) {
            return Err(Errno::E2BIG);
        }
        *slot = Some(address);
        Ok(())
    }

    /// What the GIC is started with, if its configuration is complete.
    fn complete(&self, setup: &GicSetup, vcpus: u32) -> Result<Option<GicConfig>, Errno> {
        let (true, Some(dist), Some(redist)) = (setup.initialised, setup.dist, setup.redist) else {
            return Ok(None);
        };
        // vCPUs may have come since the address was checked.
        let frames = redist..redist.saturating_add(REDIST_SIZE.saturating_mul(u64::from(vcpus)));
        if dist < frames.end && frames.start < dist.saturating_add(DIST_SIZE) {
            return Err(Errno::EINVAL);
        }
        if frames.end > self.vm.realm.ipa().protected_end() {
            return Err(Errno::E2BIG);
        }
        let nr_irqs = setup.nr_irqs.unwrap_or(DEFAULT_IRQS);
        Ok(Some(GicConfig { dist, redist, nr_irqs, vcpus }))
    }

    /// Starts the GIC, which this thread alone does: it is marked as starting. No vCPU is added any more.
    fn start(&self, config: &GicConfig) -> Result<(), Errno> {
        let started = self.make_gic(config);
        let mut locked = self.vm.config.lock();
        let old = match (&mut locked.gic, &started) {
            (_, Ok(gic)) => core::mem::replace(&mut locked.gic, GicState::Running(gic.clone())),
            // As if the attribute that completed it had not come: INIT has to come again.
            (GicState::Setup(setup), Err(_)) => {
                (setup.starting, setup.initialised) = (false, false);
                return started.map(|_| ());
            }
            (_, Err(_)) => return started.map(|_| ()),
        };
        drop(locked);
        drop(old);
        Ok(())
    }

    #[inline(never)]
    fn make_gic(&self, config: &GicConfig) -> Result<Arc<Gic<H>>, Errno> {
        let mut wakers = Wakers::new(self.vm.device().rmm().clone(), config.vcpus)?;
        for vcpu in self.vm.vcpus() {
            wakers.set(vcpu.id(), vcpu.waker().clone());
        }
        let chip = self.vm.host().create_irqchip(config)?;
        Ok(Arc::try_new(Gic::new(chip, wakers))?)
    }

    pub(crate) fn release(&self) {
        if self.open.swap(false, Ordering::SeqCst) {
            Vm::file_closed(&self.vm);
        }
    }
}

fn is_known(attr: &DeviceAttr) -> bool {
    match attr.group {
        VGIC_GRP_ADDR => matches!(attr.attr, VGIC_V3_ADDR_DIST | VGIC_V3_ADDR_REDIST),
        VGIC_GRP_NR_IRQS => attr.attr == 0,
        VGIC_GRP_CTRL => attr.attr == VGIC_CTRL_INIT,
        _ => false,
    }
}
