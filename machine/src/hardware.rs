//! Everything of the machine that is not software: memory, CPUs, translations, time, EL3, and what realms run.

pub mod clock;
pub(crate) mod cpus;
pub mod el3;
pub mod memory;
pub(crate) mod mmu;
pub(crate) mod realm_cpu;
pub(crate) mod syndrome;
pub mod sysregs;
pub(crate) mod tlb;

use crate::config::MachineConfig;
use crate::probe::fault::FaultPlan;
use crate::probe::log::EventLog;
use crate::probe::trace::Trace;
use crate::realm::programs::Programs;
use clock::Clock;
use cpus::Cpus;
use el3::El3;
use memory::Memory;
use std::sync::Arc;
use tlb::Tlb;

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
