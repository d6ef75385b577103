//! What all tests of the GIC need, and tests of the whole.

mod cpus;
mod hardware;
mod linux;
mod lists;
mod model;
mod noise;
mod random;
mod registers;
mod sgi;
mod threads;

use crate::{Locks, Order, SpinLock, Vgic};
use realm_abi::Errno;
use realm_host::irqchip::{GicConfig, GicEntry, GicExit, Irqchip, Wake};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};

pub const DIST: u64 = 0x800_0000;
pub const REDIST: u64 = 0x80a_0000;
/// The second frame of a redistributor.
pub const SGI: u64 = 0x1_0000;

pub struct StdLock<T>(Mutex<T>);

impl<T: Send> SpinLock<T> for StdLock<T> {
    type Guard<'a>
        = MutexGuard<'a, T>
    where
        T: 'a;
    fn new(_order: Order, value: T) -> Result<Self, Errno> {
        Ok(Self(Mutex::new(value)))
    }
    fn lock(&self) -> MutexGuard<'_, T> {
        self.0.try_lock().expect("one thread takes a lock once")
    }
}

pub struct Std;

impl Locks for Std {
    type Lock<T: Send> = StdLock<T>;
}

/// Who was woken.
#[derive(Default)]
pub struct Woken(RefCell<BTreeSet<u32>>);

impl Wake for Woken {
    fn wake(&self, vcpu: u32) {
        self.0.borrow_mut().insert(vcpu);
    }
}

/// A GIC, and who it woke.
pub struct Gic {
    pub chip: Vgic<Std>,
    woken: Woken,
}

pub const fn config(vcpus: u32, nr_irqs: u32) -> GicConfig {
    GicConfig { dist: DIST, redist: REDIST, nr_irqs, vcpus }
}

impl Gic {
    pub fn new(vcpus: u32, nr_irqs: u32) -> Self {
        Self { chip: Vgic::new(&config(vcpus, nr_irqs)).expect("a GIC"), woken: Woken::default() }
    }

    /// One whose guest has enabled both groups everywhere, and put all interrupts into Group 1 at priority 0xa0.
    pub fn awake(vcpus: u32, nr_irqs: u32) -> Self {
        let gic = Self::new(vcpus, nr_irqs);
        gic.write(DIST, 4, 3);
        for word in 1..u64::from(nr_irqs / 32) {
            gic.write(DIST + 0x80 + word * 4, 4, 0xffff_ffff);
        }
        for word in 8..u64::from(nr_irqs / 4) {
            gic.write(DIST + 0x400 + word * 4, 4, 0xa0a0_a0a0);
        }
        for vcpu in 0..vcpus {
            gic.write(redist(vcpu) + 0x14, 4, 0);
            gic.write(redist(vcpu) + SGI + 0x80, 4, 0xffff_ffff);
            for word in 0..8 {
                gic.write(redist(vcpu) + SGI + 0x400 + word * 4, 4, 0xa0a0_a0a0);
            }
        }
        gic.woken();
        gic
    }

    pub fn read(&self, ipa: u64, size: usize) -> u64 {
        self.chip.mmio_read(0, ipa, size).expect("in a frame")
    }

    pub fn write(&self, ipa: u64, size: usize, value: u64) {
        assert!(self.chip.mmio_write(0, ipa, size, value, &self.woken), "{ipa:#x} is in a frame");
    }

    /// Whom the GIC has woken since the last question.
    pub fn woken(&self) -> BTreeSet<u32> {
        self.woken.0.take()
    }

    /// Enables an interrupt, at `vcpu` if it is private.
    pub fn enable(&self, vcpu: u32, intid: u32) {
        let at = if intid < 32 { redist(vcpu) + SGI } else { DIST + u64::from(intid / 32) * 4 };
        self.write(at + 0x100, 4, 1 << (intid % 32));
    }

    /// Makes a shared interrupt, or a private one of vCPU 0, edge-triggered.
    pub fn make_edge(&self, intid: u32) {
        let at = if intid < 32 { redist(0) + SGI } else { DIST };
        let at = at + 0xc00 + u64::from(intid / 16) * 4;
        let old = self.read(at, 4);
        self.write(at, 4, old | 2 << (intid % 16 * 2));
    }

    pub fn priority(&self, intid: u32, priority: u8) {
        let at = if intid < 32 { redist(0) + SGI } else { DIST };
        self.write(at + 0x400 + u64::from(intid), 1, priority.into());
    }

    pub fn line(&self, intid: u32, level: bool) {
        if intid < 32 {
            self.chip.set_private(0, intid, level, &self.woken).expect("a PPI");
        } else {
            self.chip.set_shared(intid, level, &self.woken).expect("an SPI");
        }
    }

    pub fn flush(&self, vcpu: u32, lrs: usize) -> GicEntry {
        self.chip.flush(vcpu, lrs)
    }

    pub fn sync(&self, vcpu: u32, exit: &GicExit) {
        self.chip.sync(vcpu, exit, &self.woken);
    }

    /// An exit of vCPU 0 that leaves these list registers.
    pub fn back(&self, lrs: &[u64]) {
        self.back_counting(lrs, 0);
    }

    /// The same, after so many EOIs of what was not in them.
    pub fn back_counting(&self, lrs: &[u64], eois: u64) {
        let mut exit = GicExit { hcr: eois << 27, vmcr: Some(OPEN), ..GicExit::default() };
        exit.lrs[..lrs.len()].copy_from_slice(lrs);
        self.sync(0, &exit);
    }
}

/// ICH_VMCR_EL2 of a guest that takes everything.
pub const OPEN: u64 = 0xff00_0003;

pub fn redist(vcpu: u32) -> u64 {
    REDIST + u64::from(vcpu) * 0x2_0000
}

#[test]
fn a_configuration_that_cannot_be_is_refused() {
    let good = config(1, 64);
    let bad = [
        GicConfig { nr_irqs: 63, ..good },
        GicConfig { nr_irqs: 0, ..good },
        GicConfig { nr_irqs: 1056, ..good },
        GicConfig { vcpus: 0x1_0001, ..good },
        GicConfig { dist: u64::MAX - 0xfffe, ..good },
        GicConfig { redist: u64::MAX - 0x1_fffe, ..good },
    ];
    for config in bad {
        assert_eq!(Vgic::<Std>::new(&config).err(), Some(Errno::EINVAL), "{config:?}");
    }
    for nr_irqs in [32, 64, 1024] {
        assert!(Vgic::<Std>::new(&GicConfig { nr_irqs, ..good }).is_ok());
    }
}

#[test]
fn only_interrupts_that_are_there_have_lines() {
    let gic = Gic::new(2, 64);
    let private = |vcpu, intid| gic.chip.set_private(vcpu, intid, true, &gic.woken);
    assert_eq!([private(0, 15), private(0, 32), private(2, 27)], [Err(Errno::EINVAL); 3]);
    assert_eq!([private(0, 16), private(1, 31)], [Ok(()); 2]);
    let shared = |gic: &Gic, intid| gic.chip.set_shared(intid, true, &gic.woken);
    assert_eq!([shared(&gic, 31), shared(&gic, 64)], [Err(Errno::EINVAL); 2]);
    assert_eq!([shared(&gic, 32), shared(&gic, 63)], [Ok(()); 2]);
    let all = Gic::new(1, 1024);
    assert_eq!((shared(&all, 1019), shared(&all, 1020)), (Ok(()), Err(Errno::EINVAL)));
}

#[test]
fn a_vcpu_that_is_not_there_has_nothing() {
    let gic = Gic::new(1, 64);
    assert_eq!(gic.flush(7, 4), GicEntry::default());
    gic.sync(7, &GicExit::default());
    assert!(!gic.chip.pending(7));
    assert_eq!(gic.chip.mmio_read(0, redist(1), 4), None);
    assert_eq!(gic.chip.mmio_read(0, DIST - 4, 4), None);
    assert_eq!(gic.chip.mmio_read(0, DIST + 0x1_0000, 4), None);
    assert!(!gic.chip.mmio_write(0, redist(1), 4, 0, &gic.woken));
}
