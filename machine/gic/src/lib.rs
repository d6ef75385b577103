//! A GICv3 just good enough for tests of the Host core, in one process and on bare metal: every interrupt enabled, one
//! priority, no routing.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::collections::{BTreeMap, BTreeSet};
use realm_abi::Errno;
use realm_host::irqchip::{GicConfig, GicEntry, GicExit, GicRegister, Irqchip, Wake};
use spin::Mutex;

/// State of a list register, bits 63:62.
const LR_PENDING: u64 = 1 << 62;
const LR_STATE: u64 = 3 << 62;
/// A maintenance interrupt tells when the virtual CPU is done with it.
const LR_EOI: u64 = 1 << 41;
/// Group 1, priority 0xa0.
const LR_GROUP1: u64 = 1 << 60;
const LR_PRIORITY: u64 = 0xa0 << 48;
const DIST_SIZE: u64 = 0x1_0000;
const REDIST_SIZE: u64 = 0x2_0000;
/// SGIs have no lines.
const SGIS: u32 = 16;
/// First shared interrupt.
const SPI: u32 = 32;

#[derive(Default)]
struct State {
    config: Option<GicConfig>,
    /// Lines that are high: vCPU (0 for shared ones) and interrupt.
    lines: BTreeSet<(u32, u32)>,
    /// SGIs that wait.
    sgis: BTreeSet<(u32, u32)>,
    /// Interrupts in list registers that are not finished: vCPU, interrupt, list register.
    listed: BTreeMap<(u32, u32), u64>,
    /// What was written to the frames.
    frames: BTreeMap<u64, u64>,
}

impl State {
    /// Interrupts `vcpu` has or would take.
    fn wanted(&self, vcpu: u32) -> BTreeSet<u32> {
        let lines = self.lines.iter().filter(|(owner, intid)| *owner == vcpu || (*intid >= SPI && vcpu == 0));
        let sgis = self.sgis.iter().filter(|(owner, _)| *owner == vcpu);
        let listed = self.listed.keys().filter(|(owner, _)| *owner == vcpu);
        lines.chain(sgis).chain(listed).map(|(_, intid)| *intid).collect()
    }

    /// Forgets interrupts of `vcpu` that were never taken and whose line is low again.
    fn withdraw(&mut self, vcpu: u32) {
        let lines = &self.lines;
        self.listed.retain(|&(owner, intid), lr| {
            let line = (if intid < SPI { owner } else { 0 }, intid);
            let waits = *lr & LR_STATE == LR_PENDING;
            owner != vcpu || intid < SGIS || !waits || lines.contains(&line)
        });
    }

    fn in_frames(&self, ipa: u64) -> bool {
        let Some(config) = self.config else { return false };
        let redists = REDIST_SIZE * u64::from(config.vcpus);
        ipa.wrapping_sub(config.dist) < DIST_SIZE || ipa.wrapping_sub(config.redist) < redists
    }
}

/// See the crate.
#[derive(Default)]
pub struct SimpleGic(Mutex<State>);

impl Irqchip for SimpleGic {
    fn init(&self, config: &GicConfig) -> Result<(), Errno> {
        self.0.lock().config = Some(*config);
        Ok(())
    }

    fn flush(&self, vcpu: u32, lrs: usize) -> GicEntry {
        let mut state = self.0.lock();
        state.withdraw(vcpu);
        let mut entry = GicEntry::default();
        let wanted = state.wanted(vcpu);
        for (lr, intid) in entry.lrs.iter_mut().take(lrs).zip(wanted) {
            // A line that is high again afterwards has to be noticed, and its timer is masked until the next exit.
            let told = if intid < SGIS { 0 } else { LR_EOI };
            let fresh = LR_PENDING | LR_GROUP1 | LR_PRIORITY | told | u64::from(intid);
            *lr = *state.listed.entry((vcpu, intid)).or_insert(fresh);
            state.sgis.remove(&(vcpu, intid));
        }
        entry
    }

    fn sync(&self, vcpu: u32, exit: &GicExit, _wake: &dyn Wake) {
        let mut state = self.0.lock();
        state.listed.retain(|(owner, _), _| *owner != vcpu);
        for lr in exit.lrs.iter().filter(|lr| *lr & LR_STATE != 0) {
            state.listed.insert((vcpu, (lr & 0xffff_ffff) as u32), *lr);
        }
    }

    fn pending(&self, vcpu: u32) -> bool {
        let mut state = self.0.lock();
        state.withdraw(vcpu);
        !state.wanted(vcpu).is_empty()
    }

    fn set_private(&self, vcpu: u32, intid: u32, level: bool, wake: &dyn Wake) -> Result<(), Errno> {
        if !(SGIS..SPI).contains(&intid) {
            return Err(Errno::EINVAL);
        }
        self.drive(vcpu, intid, level, wake);
        Ok(())
    }

    fn set_shared(&self, intid: u32, level: bool, wake: &dyn Wake) -> Result<(), Errno> {
        let known = self.0.lock().config.is_some_and(|config| (SPI..config.nr_irqs).contains(&intid));
        if !known {
            return Err(Errno::EINVAL);
        }
        self.drive(0, intid, level, wake);
        Ok(())
    }

    fn write_register(&self, vcpu: u32, register: GicRegister, value: u64, wake: &dyn Wake) {
        if register == GicRegister::Dir {
            return;
        }
        let mut state = self.0.lock();
        let intid = ((value >> 24) & 0xf) as u32;
        let all_others = value & (1 << 40) != 0;
        let vcpus = state.config.map_or(0, |config| config.vcpus);
        for target in 0..vcpus {
            let listed = target < 16 && value & (1 << target) != 0;
            if if all_others { target != vcpu } else { listed } {
                state.sgis.insert((target, intid));
                wake.wake(target);
            }
        }
    }

    fn mmio_read(&self, _vcpu: u32, ipa: u64, _size: usize) -> Option<u64> {
        let state = self.0.lock();
        state.in_frames(ipa).then(|| state.frames.get(&ipa).copied().unwrap_or(0))
    }

    fn mmio_write(&self, _vcpu: u32, ipa: u64, _size: usize, value: u64, _wake: &dyn Wake) -> bool {
        let mut state = self.0.lock();
        let inside = state.in_frames(ipa);
        if inside {
            state.frames.insert(ipa, value);
        }
        inside
    }
}

impl SimpleGic {
    fn drive(&self, vcpu: u32, intid: u32, level: bool, wake: &dyn Wake) {
        let mut state = self.0.lock();
        if level {
            if state.lines.insert((vcpu, intid)) {
                wake.wake(vcpu);
            }
        } else {
            state.lines.remove(&(vcpu, intid));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACTIVE: u64 = 1 << 63;

    fn lrs(gic: &SimpleGic) -> [u64; 2] {
        let entry = gic.flush(0, 4);
        [entry.lrs[0], entry.lrs[1]]
    }

    fn back(gic: &SimpleGic, lr: u64) {
        let mut exit = GicExit::default();
        exit.lrs[0] = lr;
        gic.sync(0, &exit, &Nobody);
    }

    #[test]
    fn a_line_that_goes_low_takes_back_what_was_not_taken() {
        let gic = SimpleGic::default();
        gic.set_private(0, 27, true, &Nobody).expect("a private interrupt");
        let [lr, none] = lrs(&gic);
        assert_eq!((lr & LR_STATE, lr & 0xffff_ffff, none), (LR_PENDING, 27, 0));
        assert_eq!(lr & LR_EOI, LR_EOI, "its end has to be told");
        back(&gic, lr);
        gic.set_private(0, 27, false, &Nobody).expect("a private interrupt");
        assert!(!gic.pending(0));
        assert_eq!(lrs(&gic), [0, 0]);

        gic.set_private(0, 27, true, &Nobody).expect("a private interrupt");
        let active = lrs(&gic)[0] & !LR_STATE | ACTIVE;
        gic.set_private(0, 27, false, &Nobody).expect("a private interrupt");
        back(&gic, active);
        assert_eq!(lrs(&gic), [active, 0], "what is being handled stays");
        back(&gic, 0);
        assert_eq!(lrs(&gic), [0, 0]);
    }

    #[test]
    fn an_sgi_has_no_line() {
        let gic = SimpleGic::default();
        let config = GicConfig { dist: 0, redist: 0x10_0000, nr_irqs: 64, vcpus: 1 };
        gic.init(&config).expect("a GIC");
        gic.write_register(0, GicRegister::Sgi1r, 3 << 24 | 1, &Nobody);
        let [lr, _] = lrs(&gic);
        assert_eq!((lr & LR_STATE, lr & 0xffff_ffff, lr & LR_EOI), (LR_PENDING, 3, 0));
        back(&gic, lr);
        assert_eq!(lrs(&gic), [lr, 0], "it waits until it is taken");
    }

    struct Nobody;

    impl Wake for Nobody {
        fn wake(&self, _vcpu: u32) {}
    }
}
