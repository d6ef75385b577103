//! The machine: hardware, EL3 and the real RMM core, as the Non-secure world meets it.

use crate::config::{DRAM_BASE, MachineConfig};
use crate::hardware::Hardware;
use crate::hardware::clock::Clock;
use crate::hardware::el3::{El3, Route};
use crate::hardware::memory::Memory;
use crate::platform::MachinePlatform;
use crate::probe::fault::{FaultPlan, Point};
use crate::probe::log::{Event, EventLog, lock};
use crate::probe::trace::Trace;
use crate::realm::guest::Guest;
use crate::realm::program::{ProgramFactory, ProgramKey, RealmProgram};
use crate::realm::programs::guest_factory;
use realm_abi::GRANULE_SHIFT;
use realm_abi::rmi::{RmiCommand, RmiReply};
use realm_rmm::Rmm;
use realm_rmm::granule::{Bank, GranuleEntry, TableError};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// Granule tables no machine uses. A table lives as long as the process, as an RMM borrows it for ever; machines that
/// are gone leave theirs to later ones.
static TABLES: Mutex<Vec<&'static [GranuleEntry]>> = Mutex::new(Vec::new());

fn granule_table(granules: usize) -> &'static [GranuleEntry] {
    let mut tables = lock(&TABLES);
    match tables.iter().position(|table| table.len() == granules) {
        Some(index) => tables.swap_remove(index),
        None => Box::leak((0..granules).map(|_| GranuleEntry::default()).collect()),
    }
}

/// An RME machine with an RMM.
pub struct Machine {
    hardware: Arc<Hardware>,
    rmm: Rmm<'static, MachinePlatform>,
    table: &'static [GranuleEntry],
}

impl Machine {
    /// Builds and boots a machine.
    ///
    /// # Errors
    /// [`TableError`] for a size of DRAM that is not a positive multiple of the granule size.
    pub fn new(config: MachineConfig) -> Result<Arc<Self>, TableError> {
        Self::with_el3(config, El3::default())
    }

    /// [`Self::new`] on another EL3.
    ///
    /// # Errors
    /// See [`Self::new`].
    pub fn with_el3(config: MachineConfig, el3: El3) -> Result<Arc<Self>, TableError> {
        let bank = Bank { base: DRAM_BASE, size: config.dram_size };
        let table = granule_table(usize::try_from(config.dram_size >> GRANULE_SHIFT).unwrap_or(usize::MAX));
        let hardware = Arc::new(Hardware::new(config, el3));
        let rmm = Rmm::new(MachinePlatform(Arc::clone(&hardware)), &[bank], table)?;
        if let Err(error) = rmm.init_attestation() {
            hardware.log.push(Event::MachineCheck(format!("the RMM boots without attestation: {error:?}")));
        }
        Ok(Arc::new(Self { hardware, rmm, table }))
    }

    /// A secure monitor call of the Non-secure world: X0 to X7 in, X0 to X4 out. The calling thread is on the CPU
    /// [`Self::load`] put it on, or on any free one for the time of the call.
    pub fn smc(&self, regs: [u64; 8]) -> [u64; 5] {
        match self.hardware.el3.route(regs[0]) {
            Route::Answer(value) => [value, 0, 0, 0, 0],
            Route::Rmm => {
                let reply = self.faulty_rmi(&regs);
                self.hardware.trace.smc(regs, reply);
                reply
            }
        }
    }

    fn faulty_rmi(&self, regs: &[u64; 8]) -> [u64; 5] {
        let faults = &self.hardware.faults;
        let [before, before_this] =
            [Point::RmiBefore, Point::RmiCommandBefore(regs[0])].map(|point| faults.hit(point));
        if let Some(code) = before.or(before_this) {
            return [code, 0, 0, 0, 0];
        }
        let reply = match self.hardware.cpus.current() {
            Some(_) => self.rmm.handle_rmi(regs),
            None => {
                self.hardware.cpus.load(None);
                let reply = self.rmm.handle_rmi(regs);
                self.hardware.cpus.put(None);
                reply
            }
        };
        let [after, after_this] =
            [Point::RmiAfter, Point::RmiCommandAfter(regs[0])].map(|point| faults.hit(point));
        after.or(after_this).map_or(reply, |code| [code, 0, 0, 0, 0])
    }

    /// An RMI command of the Non-secure world.
    pub fn rmi(&self, command: &RmiCommand) -> RmiReply {
        RmiReply::from_regs(&self.smc(command.to_regs()))
    }

    /// Puts the calling thread on a CPU until [`Self::put`]: a [`Self::kick`] of `vcpu` interrupts that CPU.
    pub fn load(&self, vcpu: u32) {
        self.hardware.cpus.load(Some(vcpu));
    }

    /// Ends [`Self::load`]; the CPU takes its pending interrupt.
    pub fn put(&self, vcpu: u32) {
        self.hardware.cpus.put(Some(vcpu));
    }

    /// Interrupts the CPU that `vcpu` is loaded on, if it is.
    pub fn kick(&self, vcpu: u32) {
        self.hardware.cpus.kick(vcpu);
    }

    /// Makes a physical interrupt pending on a CPU.
    pub fn raise(&self, cpu: usize) {
        self.hardware.cpus.raise(cpu);
    }

    /// Says what runs in virtual CPUs that start from now on.
    pub fn set_programs(
        &self,
        factory: impl Fn(ProgramKey) -> Box<dyn RealmProgram> + Send + Sync + 'static,
    ) {
        let factory: Arc<ProgramFactory> = Arc::new(factory);
        self.hardware.programs.set_factory(factory);
    }

    /// Runs `body` as every virtual CPU that starts from now on; [`Guest::key`] tells them apart. When it returns, the
    /// virtual CPU with MPIDR 0 turns its realm off and any other itself.
    pub fn set_guest(&self, body: impl Fn(&mut Guest) + Send + Sync + 'static) {
        self.hardware.programs.set_factory(guest_factory(Arc::clone(&self.hardware.log), body));
    }

    /// A closure as a program, for a factory that tells virtual CPUs or realms apart.
    pub fn guest_program(
        &self,
        key: ProgramKey,
        body: impl Fn(&mut Guest) + Send + Sync + 'static,
    ) -> Box<dyn RealmProgram> {
        guest_factory(Arc::clone(&self.hardware.log), body)(key)
    }

    /// What the machine was made as.
    #[must_use]
    pub fn config(&self) -> &MachineConfig {
        &self.hardware.config
    }
    /// DRAM and its Granule Protection Table.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.hardware.memory
    }
    /// What went wrong.
    #[must_use]
    pub fn log(&self) -> &EventLog {
        &self.hardware.log
    }
    /// What goes wrong on purpose.
    #[must_use]
    pub fn faults(&self) -> &FaultPlan {
        &self.hardware.faults
    }
    /// What passed between the worlds.
    #[must_use]
    pub fn trace(&self) -> &Trace {
        &self.hardware.trace
    }
    /// The system counter.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.hardware.clock
    }
    /// The RMM, for comparison with an oracle.
    #[must_use]
    pub const fn rmm(&self) -> &Rmm<'static, MachinePlatform> {
        &self.rmm
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.hardware.programs.clear();
        for entry in self.table {
            entry.0.store(0, Ordering::Relaxed);
        }
        lock(&TABLES).push(self.table);
    }
}
