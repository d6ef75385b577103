//! The interrupt controller of a VM.

use crate::bank::{Groups, bit};
use crate::cpu::Cpu;
use crate::dist::Dist;
use crate::lists::View;
use crate::registers::{self, Access, Field, Kind};
use crate::sgi::Sgi;
use crate::{Locks, Order, SGIS, SPECIAL, SPI, SpinLock};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use realm_abi::Errno;
use realm_abi::kvm::vcpu_mpidr;
use realm_alloc::Vec;
use realm_host::irqchip::{GicConfig, GicEntry, GicExit, GicRegister, Irqchip, Wake};

const DIST_SIZE: u64 = 0x1_0000;
const REDIST_SIZE: u64 = 0x2_0000;
/// GICR_TYPER.Processor_Number has 16 bits.
const MAX_VCPUS: u32 = 1 << 16;

/// See the crate.
pub struct Vgic<L: Locks> {
    config: GicConfig,
    /// GICD_CTLR.EnableGrp0 and EnableGrp1. Written with the lock of the shared interrupts held.
    groups: AtomicU32,
    /// Whether any shared interrupt needs a look. Written with their lock held, before whom it concerns is woken.
    busy: AtomicBool,
    dist: L::Lock<Dist>,
    /// By index.
    cpus: Vec<L::Lock<Cpu>>,
}

/// Where an access goes.
enum Frame {
    Dist(u32),
    /// Of this vCPU.
    Redist(u32, u32),
}

impl<L: Locks> Vgic<L> {
    /// A GIC after a reset, with all the memory it ever needs. Process context.
    ///
    /// # Errors
    /// `ENOMEM`; `EINVAL` for a configuration it cannot have.
    #[inline(never)]
    pub fn new(config: &GicConfig) -> Result<Self, Errno> {
        let redists = REDIST_SIZE.saturating_mul(config.vcpus.into());
        let fits = config.nr_irqs.is_multiple_of(32)
            && (SPI..=1024).contains(&config.nr_irqs)
            && config.vcpus <= MAX_VCPUS
            && config.dist.checked_add(DIST_SIZE).is_some()
            && config.redist.checked_add(redists).is_some();
        if !fits {
            return Err(Errno::EINVAL);
        }
        let mut cpus = Vec::with_capacity(config.vcpus as usize)?;
        for _ in 0..config.vcpus {
            cpus.push_within(L::Lock::new(Order::Vcpu, Cpu::new())?).map_err(|_| Errno::ENOMEM)?;
        }
        Ok(Self {
            config: *config,
            groups: AtomicU32::new(0),
            busy: AtomicBool::new(false),
            dist: L::Lock::new(Order::Distributor, Dist::new(config.nr_irqs)?)?,
            cpus,
        })
    }

    fn groups(&self) -> Groups {
        Groups(self.groups.load(Ordering::SeqCst))
    }

    fn cpu(&self, vcpu: u32) -> Option<&L::Lock<Cpu>> {
        self.cpus.get(vcpu as usize)
    }

    /// Works on the shared interrupts.
    fn with_dist<R>(&self, work: impl FnOnce(&mut Dist, Groups) -> R) -> R {
        let mut dist = self.dist.lock();
        // Whoever is woken by the work has to find them.
        self.busy.store(true, Ordering::SeqCst);
        let result = work(&mut dist, self.groups());
        self.busy.store(dist.is_busy(), Ordering::SeqCst);
        result
    }

    /// Works on what a vCPU has and can take.
    fn with_view<R>(&self, vcpu: u32, work: impl FnOnce(&mut View<'_>) -> R) -> Option<R> {
        let cpu = self.cpu(vcpu)?;
        let everyone = self.config.vcpus;
        if self.busy.load(Ordering::SeqCst) {
            Some(self.with_dist(|dist, groups| {
                let cpu = &mut *cpu.lock();
                work(&mut View { vcpu, everyone, groups, cpu, dist: Some(dist) })
            }))
        } else {
            let cpu = &mut *cpu.lock();
            Some(work(&mut View { vcpu, everyone, groups: self.groups(), cpu, dist: None }))
        }
    }

    /// Works on the private interrupts of a vCPU; it is woken if that gave it one, or changed one in its list registers.
    fn with_private(&self, vcpu: u32, wake: &dyn Wake, work: impl FnOnce(&mut Cpu) -> u32) {
        let Some(cpu) = self.cpu(vcpu) else { return };
        let cpu = &mut *cpu.lock();
        let changed = work(cpu);
        if changed & (cpu.bank.listed() | cpu.bank.deliverable(self.groups())) != 0 {
            wake.wake(vcpu);
        }
    }

    fn frame(&self, ipa: u64) -> Option<Frame> {
        let in_dist = ipa.wrapping_sub(self.config.dist);
        if in_dist < DIST_SIZE {
            return Some(Frame::Dist(in_dist as u32));
        }
        let in_redists = ipa.wrapping_sub(self.config.redist);
        let vcpu = u32::try_from(in_redists >> 17).ok().filter(|vcpu| *vcpu < self.config.vcpus)?;
        Some(Frame::Redist(vcpu, in_redists as u32 & 0x1_ffff))
    }

    fn read_dist(&self, access: &Access) -> u64 {
        match access.row.kind {
            Kind::Ctlr => self.groups().0.into(),
            Kind::DistType => u64::from(self.config.nr_irqs >> 5).saturating_sub(1),
            Kind::Route => self.with_dist(|dist, _| dist.route(access.index.saturating_add(SPI))).into(),
            Kind::Interrupts(field) => self.with_dist(|dist, _| dist.read(field, access.index)).into(),
            Kind::Constant | Kind::RedistType | Kind::Waker | Kind::PpiConfig => 0,
        }
    }

    fn write_dist(&self, access: &Access, value: u64, wake: &dyn Wake) {
        let (value, mask) = access.written(value);
        let (value, mask) = (value as u32, mask as u32);
        let everyone = self.config.vcpus;
        match access.row.kind {
            Kind::Ctlr => {
                let changed = self.with_dist(|_, before| {
                    let new = before.0 & !mask | value;
                    self.groups.store(new, Ordering::SeqCst);
                    new != before.0
                });
                if changed {
                    (0..everyone).for_each(|vcpu| wake.wake(vcpu));
                }
            }
            Kind::Route => self.with_dist(|dist, groups| {
                if let Some((spis, changed)) = dist.set_route(access.index.saturating_add(SPI), value, mask) {
                    spis.wake(changed, groups, everyone, wake);
                }
            }),
            Kind::Interrupts(field) => self.with_dist(|dist, groups| {
                if let Some((spis, changed)) = dist.write(field, access.index, value, mask) {
                    spis.wake(changed, groups, everyone, wake);
                }
            }),
            Kind::Constant | Kind::DistType | Kind::RedistType | Kind::Waker | Kind::PpiConfig => {}
        }
    }

    fn read_redist(&self, vcpu: u32, access: &Access) -> u64 {
        let Some(cpu) = self.cpu(vcpu) else { return 0 };
        match access.row.kind {
            Kind::RedistType => {
                let mpidr = vcpu_mpidr(vcpu);
                let last = u64::from(vcpu.saturating_add(1) == self.config.vcpus);
                (mpidr & 0xff_ffff) << 32 | u64::from(vcpu) << 8 | last << 4
            }
            Kind::Waker => {
                if cpu.lock().asleep {
                    0x6
                } else {
                    0
                }
            }
            Kind::PpiConfig => cpu.lock().bank.read(Field::Config, 1).into(),
            Kind::Interrupts(field) => cpu.lock().bank.read(field, access.index).into(),
            Kind::Constant | Kind::Ctlr | Kind::DistType | Kind::Route => 0,
        }
    }

    fn write_redist(&self, vcpu: u32, access: &Access, value: u64, wake: &dyn Wake) {
        let (value, mask) = access.written(value);
        let (value, mask) = (value as u32, mask as u32);
        match access.row.kind {
            Kind::Waker => {
                if let Some(cpu) = self.cpu(vcpu) {
                    cpu.lock().asleep = value != 0;
                }
                // What was held back can be taken, or is not to be taken any more.
                wake.wake(vcpu);
            }
            Kind::PpiConfig => {
                self.with_private(vcpu, wake, |cpu| cpu.bank.write(Field::Config, 1, value, mask));
            }
            Kind::Interrupts(field) => {
                self.with_private(vcpu, wake, |cpu| cpu.bank.write(field, access.index, value, mask));
            }
            Kind::Constant | Kind::Ctlr | Kind::DistType | Kind::RedistType | Kind::Route => {}
        }
    }

    fn send(&self, sender: u32, sgi: Sgi, wake: &dyn Wake) {
        let raise = |target| {
            self.with_private(target, wake, |cpu| {
                let reaches = sgi.group_1 || !cpu.bank.is_group_1(sgi.intid);
                let reached = if reaches { bit(sgi.intid) } else { 0 };
                cpu.bank.trigger(reached);
                reached
            });
        };
        if sgi.to_all_others() {
            (0..self.config.vcpus).filter(|target| *target != sender).for_each(raise);
        } else {
            sgi.targets().for_each(raise);
        }
    }

    /// ICC_DIR_EL1, which has a meaning only while EOIs are split from it.
    fn deactivate(&self, vcpu: u32, intid: u32, wake: &dyn Wake) {
        if intid >= SPECIAL {
            return;
        }
        self.with_view(vcpu, |view| {
            if view.cpu.vmcr.is_none_or(|vmcr| vmcr.splits_eoi()) {
                view.deactivate(intid, wake);
            }
        });
    }
}

impl<L: Locks> Irqchip for Vgic<L> {
    fn flush(&self, vcpu: u32, lrs: usize) -> GicEntry {
        self.with_view(vcpu, |view| view.flush(lrs)).unwrap_or_default()
    }

    fn sync(&self, vcpu: u32, exit: &GicExit, wake: &dyn Wake) {
        self.with_view(vcpu, |view| view.sync(exit, wake));
    }

    fn pending(&self, vcpu: u32) -> bool {
        self.with_view(vcpu, |view| view.is_pending()).unwrap_or(false)
    }

    fn set_private(&self, vcpu: u32, intid: u32, level: bool, wake: &dyn Wake) -> Result<(), Errno> {
        if vcpu >= self.config.vcpus || !(SGIS..SPI).contains(&intid) {
            return Err(Errno::EINVAL);
        }
        self.with_private(vcpu, wake, |cpu| cpu.bank.drive(intid, level));
        Ok(())
    }

    fn set_shared(&self, intid: u32, level: bool, wake: &dyn Wake) -> Result<(), Errno> {
        if !(SPI..self.config.nr_irqs.min(SPECIAL)).contains(&intid) {
            return Err(Errno::EINVAL);
        }
        self.with_dist(|dist, groups| {
            if let Some((spis, number)) = dist.find(intid) {
                let changed = spis.bank.drive(number, level);
                spis.wake(changed, groups, self.config.vcpus, wake);
            }
        });
        Ok(())
    }

    fn write_register(&self, vcpu: u32, register: GicRegister, value: u64, wake: &dyn Wake) {
        match Sgi::of_write(register, value) {
            Some(sgi) => self.send(vcpu, sgi, wake),
            None => self.deactivate(vcpu, value as u32 & 0xff_ffff, wake),
        }
    }

    fn mmio_read(&self, _vcpu: u32, ipa: u64, size: usize) -> Option<u64> {
        let frame = self.frame(ipa)?;
        let (rows, offset): (&[registers::Row], _) = match frame {
            Frame::Dist(offset) => (&registers::DIST, offset),
            Frame::Redist(_, offset) => (&registers::REDIST, offset),
        };
        let Some(access) = registers::find(rows, offset, size) else { return Some(0) };
        let value = match frame {
            Frame::Dist(_) => self.read_dist(&access),
            Frame::Redist(vcpu, _) => self.read_redist(vcpu, &access),
        };
        Some(access.read(value))
    }

    fn mmio_write(&self, _vcpu: u32, ipa: u64, size: usize, value: u64, wake: &dyn Wake) -> bool {
        match self.frame(ipa) {
            None => return false,
            Some(Frame::Dist(offset)) => {
                if let Some(access) = registers::find(&registers::DIST, offset, size) {
                    self.write_dist(&access, value, wake);
                }
            }
            Some(Frame::Redist(vcpu, offset)) => {
                if let Some(access) = registers::find(&registers::REDIST, offset, size) {
                    self.write_redist(vcpu, &access, value, wake);
                }
            }
        }
        true
    }
}
