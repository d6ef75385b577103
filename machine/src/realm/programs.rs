//! Which program runs as which virtual CPU.

use crate::probe::log::{Event, EventLog, lock};
use crate::realm::guest::{Guest, GuestFn, GuestProgram};
use crate::realm::instance::Instance;
use crate::realm::program::{Op, Outcome, ProgramFactory, ProgramKey, RealmProgram};
use realm_abi::psci;
use realm_rmm::cpu::CpuContext;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// The program of a realm nobody wrote one for: it turns the realm off.
struct SystemOff;

impl RealmProgram for SystemOff {
    fn step(&mut self, _context: &mut CpuContext, _last: Outcome) -> Op {
        let mut regs = [0; 18];
        regs[0] = psci::fid::SYSTEM_OFF;
        Op::Smc(regs)
    }
}

struct Slot {
    key: ProgramKey,
    /// `None` while it runs.
    instance: Option<Instance>,
}

#[derive(Default)]
struct State {
    factory: Option<Arc<ProgramFactory>>,
    slots: HashMap<u64, Slot>,
    last_id: u64,
}

/// Which program runs as which virtual CPU. A virtual CPU carries the number of its program in CONTEXTIDR_EL1, which
/// hardware gives no meaning while stage 1 is off: so the program goes where the RMM sends the registers, and a new or
/// reset virtual CPU, where it is zero, gets a new program.
#[derive(Default)]
pub(crate) struct Programs(Mutex<State>);

impl Programs {
    pub fn set_factory(&self, factory: Arc<ProgramFactory>) {
        lock(&self.0).factory = Some(factory);
    }

    /// Takes the program of the virtual CPU with these registers, to run it.
    pub fn take(&self, context: &mut CpuContext, key: ProgramKey, log: &EventLog) -> (u64, Instance) {
        let id = context.el1.contextidr_el1;
        let mut state = lock(&self.0);
        let mut over = None;
        if let Some(slot) = state.slots.get_mut(&id) {
            if slot.key != key {
                log.push(Event::RecMixup(format!("{key:x?} has the registers of {:x?}", slot.key)));
            }
            match slot.instance.take() {
                None => log.push(Event::RecMixup(format!("{key:x?} runs on two CPUs"))),
                Some(instance) if instance.is_over(context) => {
                    state.slots.remove(&id);
                    over = Some(instance);
                }
                Some(instance) => return (id, instance),
            }
        } else if id != 0 {
            log.push(Event::RecMixup(format!("{key:x?}: CONTEXTIDR_EL1 is {id:#x}, which nobody wrote")));
        }
        // A virtual CPU whose registers were reset leaves its old program behind.
        let old: Vec<u64> = state
            .slots
            .iter()
            .filter(|(_, slot)| slot.key == key && slot.instance.is_some())
            .map(|(id, _)| *id)
            .collect();
        let old: Vec<_> = old.iter().filter_map(|id| state.slots.remove(id)).collect();
        state.last_id += 1;
        let id = state.last_id;
        state.slots.insert(id, Slot { key, instance: None });
        let factory = state.factory.clone();
        drop(state);
        // Ending a program can wait for its thread, and making one runs the test's code.
        drop((old, over));
        let program =
            factory.map_or_else(|| Box::new(SystemOff) as Box<dyn RealmProgram>, |factory| factory(key));
        context.el1.contextidr_el1 = id;
        (id, Instance::new(program))
    }

    /// Puts a program back after a run.
    pub fn put(&self, id: u64, instance: Instance) {
        if let Some(slot) = lock(&self.0).slots.get_mut(&id) {
            slot.instance = Some(instance);
        }
    }

    /// Ends all programs and forgets them.
    pub fn clear(&self) {
        let slots = std::mem::take(&mut lock(&self.0).slots);
        drop(slots);
    }
}

/// A factory that runs `body` as every virtual CPU.
pub(crate) fn guest_factory(
    log: Arc<EventLog>,
    body: impl Fn(&mut Guest) + Send + Sync + 'static,
) -> Arc<ProgramFactory> {
    let body: Arc<GuestFn> = Arc::new(body);
    Arc::new(move |key| Box::new(GuestProgram::new(key, Arc::clone(&body), Arc::clone(&log))))
}
