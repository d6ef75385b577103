//! Everything of the machine that is not software: memory, CPUs, translations, time, EL3, and what realms run.

use crate::clock::Clock;
use crate::config::MachineConfig;
use crate::cpus::Cpus;
use crate::el3::El3;
use crate::fault::FaultPlan;
use crate::guest::{Guest, GuestProgram};
use crate::log::{Event, EventLog, lock};
use crate::memory::Memory;
use crate::program::{Op, Outcome, ProgramFactory, ProgramKey, RealmProgram};
use crate::realm_cpu::Instance;
use crate::tlb::Tlb;
use crate::trace::Trace;
use realm_abi::psci;
use realm_rmm::cpu::CpuContext;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// The hardware of one machine.
pub struct Hardware {
    pub(crate) config: MachineConfig,
    pub(crate) memory: Memory,
    pub(crate) cpus: Cpus,
    pub(crate) tlb: Tlb,
    pub(crate) clock: Clock,
    pub(crate) el3: El3,
    pub(crate) log: Arc<EventLog>,
    pub(crate) faults: FaultPlan,
    pub(crate) trace: Trace,
    pub(crate) programs: Programs,
}

impl Hardware {
    pub(crate) fn new(config: MachineConfig, el3: El3) -> Self {
        Self {
            memory: Memory::new(config.dram_size),
            cpus: Cpus::new(config.cpus),
            tlb: Tlb::default(),
            clock: Clock::new(config.clock),
            el3,
            log: Arc::default(),
            faults: FaultPlan::default(),
            trace: Trace::new(config.record_host_view),
            programs: Programs::default(),
            config,
        }
    }
}

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
    let body: Arc<crate::guest::GuestFn> = Arc::new(body);
    Arc::new(move |key| Box::new(GuestProgram::new(key, Arc::clone(&body), Arc::clone(&log))))
}
