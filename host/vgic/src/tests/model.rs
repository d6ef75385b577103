//! The architecture, small (IHI 0069, interrupt handling state machine, with one Security state): no list registers, no waking,
//! and nothing of how the GIC does it.

use super::hardware::{Interface, SPURIOUS};
use std::collections::BTreeMap;
use std::vec::Vec;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interrupt {
    pub enabled: bool,
    pub group_1: bool,
    pub edge: bool,
    pub line: bool,
    /// Pending not by its line.
    pub latched: bool,
    pub active: bool,
    pub priority: u8,
    /// Who has it active.
    pub by: u32,
    pub route: Route,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    To(u32),
    Any,
}

impl Default for Route {
    fn default() -> Self {
        Self::To(0)
    }
}

impl Interrupt {
    pub fn pending(&self) -> bool {
        self.latched || self.line && !self.edge
    }
}

/// A CPU's side.
#[derive(Clone, Debug)]
pub struct Cpu {
    pub interface: Interface,
    pub asleep: bool,
    /// Priorities that were acknowledged and not dropped.
    pub running: Vec<u8>,
}

/// (vCPU for private ones and 0 for shared ones, INTID).
pub type Id = (u32, u32);

#[derive(Debug)]
pub struct Model {
    pub groups: [bool; 2],
    pub cpus: Vec<Cpu>,
    pub interrupts: BTreeMap<Id, Interrupt>,
}

pub fn id(cpu: u32, intid: u32) -> Id {
    (if intid < 32 { cpu } else { 0 }, intid)
}

impl Model {
    /// Whether the distributor and the redistributor would hand it to this CPU.
    fn forwards(&self, cpu: u32, id: Id, interrupt: &Interrupt) -> bool {
        let here = if id.1 < 32 {
            id.0 == cpu
        } else {
            match interrupt.route {
                Route::To(target) => target == cpu,
                Route::Any => true,
            }
        };
        here && interrupt.pending()
            && interrupt.enabled
            && !interrupt.active
            && self.groups[usize::from(interrupt.group_1)]
    }

    /// What `cpu` can acknowledge; without `running` as if it handled nothing.
    pub fn signalled(&self, cpu: u32, running: bool) -> BTreeMap<u32, Interrupt> {
        let side = &self.cpus[cpu as usize];
        let above = if running { side.running.iter().copied().min().unwrap_or(0xff) } else { 0xff };
        let passes = |interrupt: &Interrupt| {
            side.interface.groups[usize::from(interrupt.group_1)]
                && interrupt.priority < side.interface.mask
                && interrupt.priority < above
        };
        let mine = self.interrupts.iter().filter(|(id, interrupt)| self.forwards(cpu, **id, interrupt));
        let mine = mine.filter(|(_, interrupt)| !side.asleep && passes(interrupt));
        mine.map(|(id, interrupt)| (id.1, *interrupt)).collect()
    }

    /// What the redistributor of a sleeping CPU asks to be woken for.
    pub fn wake_requests(&self, cpu: u32) -> BTreeMap<u32, Interrupt> {
        let mine = self.interrupts.iter().filter(|(id, interrupt)| self.forwards(cpu, **id, interrupt));
        let mine = mine.filter(|_| self.cpus[cpu as usize].asleep);
        mine.map(|(id, interrupt)| (id.1, *interrupt)).collect()
    }

    /// The machine acknowledged `intid`: whether it may have, and what comes of it.
    pub fn acknowledge(&mut self, cpu: u32, intid: u32) -> Result<(), &'static str> {
        let signalled = self.signalled(cpu, true);
        // One that any vCPU can have may be in another one's list registers.
        let certain = signalled.values().filter(|interrupt| interrupt.route != Route::Any);
        let certain = certain.map(|interrupt| interrupt.priority).min();
        if intid == SPURIOUS {
            return if certain.is_none() { Ok(()) } else { Err("there is one") };
        }
        let interrupt = signalled.get(&intid).ok_or("it cannot be taken")?;
        if certain.is_some_and(|certain| certain < interrupt.priority) {
            return Err("there is one of a higher priority");
        }
        self.cpus[cpu as usize].running.push(interrupt.priority);
        let interrupt = self.interrupts.get_mut(&id(cpu, intid)).expect("known");
        (interrupt.latched, interrupt.active, interrupt.by) = (false, true, cpu);
        Ok(())
    }

    /// EOI of the last that was acknowledged.
    pub fn end(&mut self, cpu: u32, intid: u32) {
        let side = &mut self.cpus[cpu as usize];
        let highest = side.running.iter().copied().min();
        if let Some(place) = side.running.iter().rposition(|priority| Some(*priority) == highest) {
            side.running.remove(place);
        }
        if !side.interface.splits_eoi {
            self.deactivate(cpu, intid);
        }
    }

    pub fn deactivate(&mut self, cpu: u32, intid: u32) {
        if let Some(interrupt) = self.interrupts.get_mut(&id(cpu, intid)) {
            interrupt.active = false;
        }
    }

    pub fn drive(&mut self, id: Id, level: bool) {
        let interrupt = self.interrupts.get_mut(&id).expect("known");
        if interrupt.edge && level && !interrupt.line {
            interrupt.latched = true;
        }
        interrupt.line = level;
    }
}
