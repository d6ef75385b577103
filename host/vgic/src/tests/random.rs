//! Guests that do anything, on several vCPUs with few list registers: the GIC behind a virtual CPU interface is the
//! architecture's. Whoever is woken while it runs leaves at once, as a kick makes it.

use super::hardware::{self, Interface, SPURIOUS};
use super::model::{self, Interrupt, Model, Route, id};
use super::{DIST, Gic, SGI, redist};
use proptest::prelude::*;
use realm_host::irqchip::{GicRegister, Irqchip};
use std::collections::BTreeSet;
use std::vec;
use std::vec::Vec;

const PRIVATE: [u32; 5] = [0, 1, 2, 27, 30];
const SHARED: [u32; 6] = [32, 33, 34, 35, 63, 70];
const IRQS: u32 = 96;
const PRIORITIES: [u8; 6] = [0x10, 0x40, 0x60, 0x80, 0xa0, 0xf8];
const MASKS: [u8; 4] = [0xf8, 0xf8, 0xa0, 0x40];

/// What a register does to one interrupt.
#[derive(Clone, Copy, Debug)]
enum Change {
    Enable(bool),
    Pending(bool),
    Active(bool),
    Group(bool),
    Edge(bool),
    Priority(u8),
    Route(Option<u32>),
}

#[derive(Clone, Copy, Debug)]
enum Op {
    /// A guest's steps, on a vCPU.
    Acknowledge(u32),
    End(u32),
    Dir(u32, usize),
    Mask(u32, u8),
    Groups(u32, usize, bool),
    Sgi(u32, usize, u64),
    Write(u32, usize, u32, Change),
    Forward(u32, usize, bool),
    Sleep(u32, u32, bool),
    /// What comes from elsewhere.
    Line(usize, u32, bool),
    Leave(u32),
    /// All leave, and all registers are read.
    Compare,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let cpu = || 0..3_u32;
    let which = || 0..PRIVATE.len() + SHARED.len();
    let change = prop_oneof![
        4 => prop::bool::weighted(0.7).prop_map(Change::Enable),
        3 => any::<bool>().prop_map(Change::Pending),
        2 => any::<bool>().prop_map(Change::Active),
        1 => prop::bool::weighted(0.8).prop_map(Change::Group),
        2 => any::<bool>().prop_map(Change::Edge),
        2 => prop::sample::select(&PRIORITIES[..]).prop_map(Change::Priority),
        2 => prop::option::weighted(0.7, 0..4_u32).prop_map(Change::Route),
    ];
    let op = prop_oneof![
        12 => cpu().prop_map(Op::Acknowledge),
        8 => cpu().prop_map(Op::End),
        3 => (cpu(), 0..8_usize).prop_map(|(cpu, n)| Op::Dir(cpu, n)),
        1 => (cpu(), prop::sample::select(&MASKS[..])).prop_map(|(cpu, mask)| Op::Mask(cpu, mask)),
        1 => (cpu(), 0..2_usize, prop::bool::weighted(0.8)).prop_map(|(cpu, group, on)| Op::Groups(cpu, group, on)),
        4 => (cpu(), 0..3_usize, any::<u64>()).prop_map(|(cpu, register, bits)| {
            // Sometimes all others, the cluster that is there most of the time, few targets.
            let far = if bits >> 60 == 0 { 1 << 16 } else { 0 };
            let value = (bits & 7) | (bits >> 8 & 3) << 24 | u64::from(bits >> 62 == 0) << 40 | far;
            Op::Sgi(cpu, register, value)
        }),
        14 => (cpu(), which(), cpu(), change).prop_map(|(cpu, which, at, change)| Op::Write(cpu, which, at, change)),
        1 => (cpu(), 0..2_usize, prop::bool::weighted(0.8)).prop_map(|(cpu, group, on)| Op::Forward(cpu, group, on)),
        1 => (cpu(), cpu(), prop::bool::weighted(0.3)).prop_map(|(cpu, at, asleep)| Op::Sleep(cpu, at, asleep)),
        14 => (3..PRIVATE.len() + SHARED.len(), cpu(), prop::bool::weighted(0.6))
            .prop_map(|(which, cpu, level)| Op::Line(which, cpu, level)),
        3 => cpu().prop_map(Op::Leave),
        1 => Just(Op::Compare),
    ];
    prop::collection::vec(op, 1..150)
}

fn intid(which: usize) -> u32 {
    *PRIVATE.iter().chain(&SHARED).nth(which).expect("one of them")
}

struct System {
    gic: Gic,
    model: Model,
    cpus: Vec<hardware::Cpu>,
    running: Vec<bool>,
    /// Acknowledged and not ended.
    handled: Vec<Vec<u32>>,
    /// Ended and not deactivated.
    open: Vec<model::Id>,
    lrs: usize,
    count: u32,
}

impl System {
    fn new(count: u32, lrs: usize, splits_eoi: bool) -> Self {
        // As the RMM makes a REC.
        let interface = Interface { mask: 0, groups: [false; 2], splits_eoi };
        let mut interrupts = std::collections::BTreeMap::new();
        for cpu in 0..count {
            for intid in PRIVATE {
                let fresh = Interrupt { edge: intid < 16, ..Interrupt::default() };
                interrupts.insert((cpu, intid), fresh);
            }
        }
        interrupts.extend(SHARED.map(|intid| ((0, intid), Interrupt::default())));
        let side = model::Cpu { interface, asleep: true, running: Vec::new() };
        let mut system = Self {
            gic: Gic::new(count, IRQS),
            model: Model { groups: [false; 2], cpus: vec![side; count as usize], interrupts },
            cpus: (0..count).map(|_| hardware::Cpu::new(interface)).collect(),
            running: vec![false; count as usize],
            handled: vec![Vec::new(); count as usize],
            open: Vec::new(),
            lrs,
            count,
        };
        // As a guest starts: forwarding on, awake, everything in Group 1 and most of it enabled.
        for group in 0..2 {
            system.step(Op::Forward(0, group, true));
        }
        for cpu in 0..count {
            system.step(Op::Sleep(cpu, cpu, false));
            system.step(Op::Mask(cpu, 0xf8));
            for group in 0..2 {
                system.step(Op::Groups(cpu, group, true));
            }
            for which in 0..PRIVATE.len() + SHARED.len() {
                system.step(Op::Write(cpu, which, cpu, Change::Group(true)));
                system.step(Op::Write(cpu, which, cpu, Change::Enable(which % 4 != 3)));
                system.step(Op::Write(cpu, which, cpu, Change::Priority(PRIORITIES[which % 5])));
            }
        }
        system
    }

    fn leave(&mut self, cpu: u32) {
        if std::mem::take(&mut self.running[cpu as usize]) {
            let exit = self.cpus[cpu as usize].leave();
            self.gic.sync(cpu, &exit);
        }
    }

    fn enter(&mut self, cpu: u32) {
        if !std::mem::replace(&mut self.running[cpu as usize], true) {
            let entry = self.gic.flush(cpu, self.lrs);
            self.cpus[cpu as usize].enter(&entry, self.lrs);
            assert_eq!(self.cpus[cpu as usize].misr(), 0, "maintenance without an end");
        }
    }

    /// Those that must have an interrupt to be woken by.
    fn wanted(&self) -> BTreeSet<u32> {
        let held = |intid: u32| self.cpus.iter().any(|cpu| cpu.holds(intid));
        let wanted = |cpu: &u32| {
            let mut mine = self.model.signalled(*cpu, true);
            mine.append(&mut self.model.wake_requests(*cpu));
            mine.iter().any(|(intid, interrupt)| interrupt.route != Route::Any || !held(*intid))
        };
        (0..self.count).filter(wanted).collect()
    }

    /// One step, and what must hold after it.
    fn step(&mut self, op: Op) {
        let before = self.wanted();
        self.gic.woken();
        let actor = self.act(op);
        // Whoever runs and is woken leaves, which may wake others.
        let mut woken = BTreeSet::new();
        for round in 0.. {
            let now = self.gic.woken();
            let again: Vec<u32> = now.iter().copied().filter(|cpu| self.running[*cpu as usize]).collect();
            woken.extend(now);
            if again.is_empty() {
                break;
            }
            assert!(round < 10, "they wake each other for ever");
            for cpu in again {
                self.leave(cpu);
            }
        }
        for cpu in 0..self.count {
            if self.running[cpu as usize] {
                continue;
            }
            let wanted = self.wanted().contains(&cpu);
            let pending = self.gic.chip.pending(cpu);
            assert!(!wanted || pending, "vCPU {cpu} has an interrupt, and sleeps");
            let may =
                !self.model.signalled(cpu, false).is_empty() || !self.model.wake_requests(cpu).is_empty();
            assert!(!pending || may, "vCPU {cpu} is woken by nothing");
            let heard = woken.contains(&cpu) || actor == Some(cpu) || before.contains(&cpu);
            assert!(!wanted || heard, "vCPU {cpu} was not woken");
        }
    }

    /// Does it; who noticed by itself.
    fn act(&mut self, op: Op) -> Option<u32> {
        let cpu = match op {
            Op::Acknowledge(cpu)
            | Op::End(cpu)
            | Op::Dir(cpu, _)
            | Op::Mask(cpu, _)
            | Op::Groups(cpu, ..)
            | Op::Sgi(cpu, ..)
            | Op::Write(cpu, ..)
            | Op::Forward(cpu, ..)
            | Op::Sleep(cpu, ..)
            | Op::Line(_, cpu, _)
            | Op::Leave(cpu) => cpu % self.count,
            Op::Compare => 0,
        };
        match op {
            Op::Acknowledge(_) | Op::End(_) | Op::Dir(..) | Op::Mask(..) | Op::Groups(..) => {
                self.enter(cpu);
                self.guest(cpu, op);
                if self.running[cpu as usize] && self.cpus[cpu as usize].misr() != 0 {
                    self.leave(cpu);
                    self.enter(cpu);
                }
                return Some(cpu);
            }
            Op::Sgi(_, register, value) => {
                self.leave(cpu);
                self.send(cpu, register, value);
            }
            Op::Write(_, which, at, change) => {
                self.leave(cpu);
                self.change(id(at % self.count, intid(which)), change);
            }
            Op::Forward(_, group, on) => {
                self.leave(cpu);
                self.model.groups[group] = on;
                let value = self.model.groups.iter().enumerate().map(|(bit, on)| u64::from(*on) << bit).sum();
                self.gic.write(DIST, 4, value);
            }
            Op::Sleep(_, at, asleep) => {
                self.leave(cpu);
                let at = at % self.count;
                self.model.cpus[at as usize].asleep = asleep;
                self.gic.write(redist(at) + 0x14, 4, u64::from(asleep) << 1);
            }
            Op::Line(which, _, level) => {
                let id = id(cpu, intid(which));
                self.model.drive(id, level);
                let wake = &self.gic.woken;
                let driven = match id {
                    (cpu, intid @ ..32) => self.gic.chip.set_private(cpu, intid, level, wake),
                    (_, intid) => self.gic.chip.set_shared(intid, level, wake),
                };
                driven.expect("it has a line");
                return None;
            }
            Op::Leave(_) => self.leave(cpu),
            Op::Compare => self.compare(),
        }
        Some(cpu)
    }

    /// What a guest does without the Host.
    fn guest(&mut self, cpu: u32, op: Op) {
        let hardware = &mut self.cpus[cpu as usize];
        match op {
            Op::Acknowledge(_) => {
                let intid = hardware.acknowledge();
                let allowed = self.model.acknowledge(cpu, intid);
                assert_eq!(allowed, Ok(()), "vCPU {cpu} acknowledges {intid}: {:x?}", self.model);
                if intid != SPURIOUS {
                    self.handled[cpu as usize].push(intid);
                }
            }
            Op::End(_) => {
                if let Some(intid) = self.handled[cpu as usize].pop() {
                    hardware.end(intid);
                    self.model.end(cpu, intid);
                    if hardware.interface.splits_eoi {
                        self.open.push(id(cpu, intid));
                    }
                }
            }
            Op::Dir(_, n) => {
                let mine = |id: &model::Id| id.1 >= 32 || id.0 == cpu;
                let Some(place) = (0..self.open.len()).filter(|place| mine(&self.open[*place])).nth(n) else {
                    return;
                };
                let (_, intid) = self.open.remove(place);
                self.model.deactivate(cpu, intid);
                if hardware.deactivate_by_dir(intid) {
                    self.leave(cpu);
                    self.gic.chip.write_register(cpu, GicRegister::Dir, intid.into(), &self.gic.woken);
                    self.enter(cpu);
                }
            }
            Op::Mask(_, mask) => {
                hardware.interface.mask = mask;
                self.model.cpus[cpu as usize].interface.mask = mask;
            }
            Op::Groups(_, group, on) => {
                hardware.interface.groups[group] = on;
                self.model.cpus[cpu as usize].interface.groups[group] = on;
            }
            _ => unreachable!("nothing else is the guest's alone"),
        }
    }

    fn send(&mut self, sender: u32, register: usize, value: u64) {
        let register = [GicRegister::Sgi1r, GicRegister::Sgi0r, GicRegister::Asgi1r][register];
        let intid = (value >> 24 & 0xf) as u32;
        for target in 0..self.count {
            let named = if value >> 40 & 1 != 0 {
                target != sender
            } else {
                value >> 16 & 0xff == 0 && value >> target & 1 != 0
            };
            if let Some(interrupt) = self.model.interrupts.get_mut(&(target, intid)).filter(|_| named)
                && (register == GicRegister::Sgi1r || !interrupt.group_1)
            {
                interrupt.latched = true;
            }
        }
        self.gic.chip.write_register(sender, register, value, &self.gic.woken);
    }

    fn change(&mut self, id: model::Id, change: Change) {
        let (cpu, intid) = id;
        let interrupt = self.model.interrupts.get_mut(&id).expect("known");
        let base = if intid < 32 { redist(cpu) + SGI } else { DIST };
        let bit_at = |offset| base + offset + u64::from(intid / 32) * 4;
        let bit = 1_u64 << (intid % 32);
        let set_or_clear = |on, set: u64| bit_at(if on { set } else { set + 0x80 });
        let (at, size, value) = match change {
            Change::Enable(on) => {
                interrupt.enabled = on;
                (set_or_clear(on, 0x100), 4, bit)
            }
            Change::Pending(on) => {
                interrupt.latched = on;
                (set_or_clear(on, 0x200), 4, bit)
            }
            Change::Active(on) => {
                // An EOI of what a register made inactive is a guest's error.
                let handled = self.handled.iter().flatten().any(|handled| *handled == intid);
                if handled {
                    return;
                }
                interrupt.active = on;
                (set_or_clear(on, 0x300), 4, bit)
            }
            Change::Group(on) => {
                interrupt.group_1 = on;
                let at = bit_at(0x80);
                let old = self.gic.read(at, 4);
                (at, 4, if on { old | bit } else { old & !bit })
            }
            Change::Edge(_) if intid < 16 => return,
            Change::Edge(on) => {
                interrupt.edge = on;
                let at = base + 0xc00 + u64::from(intid / 16) * 4;
                let (old, bit) = (self.gic.read(at, 4), 2 << (intid % 16 * 2));
                (at, 4, if on { old | bit } else { old & !bit })
            }
            // What it is to change the priority of an active one is not defined.
            Change::Priority(_) if interrupt.active => return,
            Change::Priority(priority) => {
                interrupt.priority = priority;
                (base + 0x400 + u64::from(intid), 1, priority.into())
            }
            Change::Route(_) if intid < 32 => return,
            Change::Route(to) => {
                interrupt.route = to.map_or(Route::Any, Route::To);
                (DIST + 0x6000 + u64::from(intid) * 8, 8, to.map_or(1 << 31, u64::from))
            }
        };
        self.gic.write(at, size, value);
    }

    /// At rest every register shows what the architecture says.
    fn compare(&mut self) {
        for cpu in 0..self.count {
            self.leave(cpu);
        }
        for (&(cpu, intid), interrupt) in &self.model.interrupts {
            let base = if intid < 32 { redist(cpu) + SGI } else { DIST };
            let shows = |offset: u64| {
                self.gic.read(base + offset + u64::from(intid / 32) * 4, 4) >> (intid % 32) & 1 != 0
            };
            let shown = Interrupt {
                enabled: shows(0x100),
                group_1: shows(0x80),
                edge: self.gic.read(base + 0xc00 + u64::from(intid / 16) * 4, 4) >> (intid % 16 * 2) & 2 != 0,
                active: shows(0x300),
                priority: self.gic.read(base + 0x400 + u64::from(intid), 1) as u8,
                ..*interrupt
            };
            assert_eq!((shown, shows(0x200)), (*interrupt, interrupt.pending()), "{intid} of {cpu}");
        }
    }

    /// Lets every guest handle all it can get.
    fn drain(&mut self) {
        for which in 3..PRIVATE.len() + SHARED.len() {
            (0..self.count).for_each(|cpu| self.step(Op::Line(which, cpu, false)));
        }
        for cpu in 0..self.count {
            for group in 0..2 {
                self.step(Op::Forward(cpu, group, true));
                self.step(Op::Groups(cpu, group, true));
            }
            self.step(Op::Mask(cpu, 0xf8));
            self.step(Op::Sleep(cpu, cpu, false));
        }
        for _ in 0..40 {
            for cpu in 0..self.count {
                self.step(Op::End(cpu));
                self.step(Op::Dir(cpu, 0));
            }
        }
        for _ in 0..10 {
            for cpu in 0..self.count {
                for op in [Op::Acknowledge(cpu), Op::End(cpu), Op::Dir(cpu, 0), Op::Leave(cpu)] {
                    self.step(op);
                }
            }
        }
        for cpu in 0..self.count {
            let left = self.model.signalled(cpu, true);
            assert!(left.is_empty(), "vCPU {cpu} never got {left:?}");
        }
        self.compare();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn a_guest_finds_what_the_architecture_says(
        ops in ops(), count in 1..4_u32, lrs in 1..5_usize, splits_eoi in any::<bool>()
    ) {
        let mut system = System::new(count, lrs, splits_eoi);
        for op in ops {
            system.step(op);
        }
        system.drain();
    }
}
