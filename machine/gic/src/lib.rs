//! A GICv3 just good enough for tests of the Host core, in one process and on bare metal: every interrupt enabled, one
//! priority, no routing.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Weak;
use realm_abi::Errno;
use realm_host::irqchip::{GicConfig, GicEntry, GicExit, GicRegister, Irqchip, Wake};
use spin::Mutex;

/// State of a list register, bits 63:62.
const LR_PENDING: u64 = 1 << 62;
const LR_STATE: u64 = 3 << 62;
/// Group 1, priority 0xa0.
const LR_GROUP1: u64 = 1 << 60;
const LR_PRIORITY: u64 = 0xa0 << 48;
const DIST_SIZE: u64 = 0x1_0000;
const REDIST_SIZE: u64 = 0x2_0000;
/// First shared interrupt.
const SPI: u32 = 32;

#[derive(Default)]
struct State {
    config: Option<GicConfig>,
    wake: Option<Weak<dyn Wake>>,
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

    fn wake(&self, vcpu: u32) {
        if let Some(wake) = self.wake.as_ref().and_then(Weak::upgrade) {
            wake.wake(vcpu);
        }
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
    fn init(&self, config: &GicConfig, wake: Weak<dyn Wake>) -> Result<(), Errno> {
        let mut state = self.0.lock();
        (state.config, state.wake) = (Some(*config), Some(wake));
        Ok(())
    }

    fn flush(&self, vcpu: u32, lrs: usize) -> GicEntry {
        let mut state = self.0.lock();
        let mut entry = GicEntry::default();
        let wanted = state.wanted(vcpu);
        for (lr, intid) in entry.lrs.iter_mut().take(lrs).zip(wanted) {
            let fresh = LR_PENDING | LR_GROUP1 | LR_PRIORITY | u64::from(intid);
            *lr = *state.listed.entry((vcpu, intid)).or_insert(fresh);
            state.sgis.remove(&(vcpu, intid));
        }
        entry
    }

    fn sync(&self, vcpu: u32, exit: &GicExit) {
        let mut state = self.0.lock();
        state.listed.retain(|(owner, _), _| *owner != vcpu);
        for lr in exit.lrs.iter().filter(|lr| *lr & LR_STATE != 0) {
            state.listed.insert((vcpu, (lr & 0xffff_ffff) as u32), *lr);
        }
    }

    fn pending(&self, vcpu: u32) -> bool {
        !self.0.lock().wanted(vcpu).is_empty()
    }

    fn set_private(&self, vcpu: u32, intid: u32, level: bool) -> Result<(), Errno> {
        if !(16..SPI).contains(&intid) {
            return Err(Errno::EINVAL);
        }
        self.drive(vcpu, intid, level);
        Ok(())
    }

    fn set_shared(&self, intid: u32, level: bool) -> Result<(), Errno> {
        let known = self.0.lock().config.is_some_and(|config| (SPI..config.nr_irqs).contains(&intid));
        if !known {
            return Err(Errno::EINVAL);
        }
        self.drive(0, intid, level);
        Ok(())
    }

    fn write_register(&self, vcpu: u32, register: GicRegister, value: u64) {
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
                state.wake(target);
            }
        }
    }

    fn mmio_read(&self, _vcpu: u32, ipa: u64, _size: usize) -> Option<u64> {
        let state = self.0.lock();
        state.in_frames(ipa).then(|| state.frames.get(&ipa).copied().unwrap_or(0))
    }

    fn mmio_write(&self, _vcpu: u32, ipa: u64, _size: usize, value: u64) -> bool {
        let mut state = self.0.lock();
        let inside = state.in_frames(ipa);
        if inside {
            state.frames.insert(ipa, value);
        }
        inside
    }
}

impl SimpleGic {
    fn drive(&self, vcpu: u32, intid: u32, level: bool) {
        let mut state = self.0.lock();
        if level {
            if state.lines.insert((vcpu, intid)) {
                state.wake(vcpu);
            }
        } else {
            state.lines.remove(&(vcpu, intid));
        }
    }
}
