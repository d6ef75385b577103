//! Makes each call on the machine and on the model, and compares.

use crate::oracle::addresses::{DRAM_SIZE, host_pages, pool};
use crate::oracle::coverage::Coverage;
use crate::oracle::guest::{OracleProgram, Pending};
use crate::oracle::random::Choice;
use crate::oracle::sequence::Start;
use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::{EnterFlags, RealmParams, RecEnter, RecExit, RecRun, ReturnCode, RmiCommand, RmiReply};
use realm_abi::smccc::SVE_HINT;
use realm_machine::config::{ClockKind, DRAM_BASE};
use realm_machine::memory::{Memory, Pas};
use realm_machine::{Machine, MachineConfig};
use realm_model::{Config, Expect, Failure, Model, NsMemory, Outcome};
use realm_rmm::platform::CpuFeatures;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// What the programs of realms and the Host's side share.
pub struct Shared {
    pub model: Model,
    pub machine: Weak<Machine>,
    pub coverage: Coverage,
    pub pending: BTreeMap<u64, Pending>,
    pub failures: Vec<String>,
    /// Chooses what realms do.
    pub choice: Choice,
    /// Operations since the REC was entered.
    pub guest_ops: u32,
    pub trap_wfi: bool,
    pub trap_wfe: bool,
    /// Whether the realm runs in this REC_ENTER, and what was passed.
    pub ran: bool,
    pub enter: RecEnter,
    /// The run structure of this REC_ENTER.
    pub run_page: u64,
    /// The run structure, if another world took it while the realm ran.
    pub lost_page: Option<u64>,
}

/// The Host's memory as the model reads it.
struct HostMemory<'a>(&'a Memory);

impl NsMemory for HostMemory<'_> {
    fn is_ns(&self, pa: u64) -> bool {
        self.0.pas(pa) == Some(Pas::NonSecure)
    }
    fn read(&self, pa: u64, out: &mut [u8]) {
        if self.0.read(Pas::Root, Pas::NonSecure, pa, out).is_err() {
            out.fill(0);
        }
    }
}

pub struct Driver {
    pub machine: Arc<Machine>,
    shared: Arc<Mutex<Shared>>,
    pub pool: Vec<u64>,
    pub host_pages: Vec<u64>,
    history: Vec<String>,
}

/// What the sequences run on: without and with LPA2, SVE, 16-bit VMIDs.
pub fn features(wide: bool) -> CpuFeatures {
    let mut features = MachineConfig::FEATURES;
    if wide {
        features.pa_bits = 52;
        features.lpa2 = true;
        features.vmid16 = false;
        features.sve_vl = Some(3);
        features.hpmn0 = true;
        features.gic_extended_range = true;
    }
    features
}

impl Shared {
    /// What became one entry, or a table.
    fn count_folding(&mut self, regs: &[u64; 8]) {
        let (call, rd, ipa, level) = match RmiCommand::from_regs(regs) {
            RmiCommand::RttFold { rd, ipa, level } => ("folded into", rd, ipa, level - 1),
            RmiCommand::RttCreate { rd, ipa, level, .. } => ("unfolded from", rd, ipa, level),
            _ => return,
        };
        let Some(walk) = self.model.walk(rd, ipa, level) else { return };
        let text = format!("{:?}", walk.entry);
        let name = text.split([' ', '(']).next().unwrap_or_default();
        self.coverage.count(call, &format!("{name} at level {}", walk.level));
    }
}

impl Driver {
    pub fn new(start: Start) -> Self {
        let mut config = MachineConfig::new(DRAM_SIZE, 1);
        config.clock = ClockKind::Manual;
        config.features = features(start.wide);
        let cpu = config.features;
        let machine = Machine::new(config).unwrap_or_else(|error| panic!("{error:?}"));
        let model = Model::new(Config {
            features: expected_features(&cpu, machine.rmm().features().max_recs_order()),
            delegable: std::iter::once(DRAM_BASE..DRAM_BASE + DRAM_SIZE).collect(),
            rec_aux_count: rec_aux_count(&machine),
            pa_bits: cpu.pa_bits,
            vmid16: cpu.vmid16,
            hpmn0: cpu.hpmn0,
            gic_priority_bits: cpu.gic_priority_bits,
            gic_id_bits: cpu.gic_id_bits,
            gic_extended_range: cpu.gic_extended_range,
        });
        let shared = Arc::new(Mutex::new(Shared {
            model,
            machine: Arc::downgrade(&machine),
            coverage: Coverage::default(),
            pending: BTreeMap::new(),
            failures: Vec::new(),
            choice: Choice::new(start.seed),
            guest_ops: 0,
            trap_wfi: false,
            trap_wfe: false,
            ran: false,
            enter: RecEnter::default(),
            run_page: 0,
            lost_page: None,
        }));
        let programs = Arc::clone(&shared);
        machine.set_programs(move |key| Box::new(OracleProgram { key, shared: Arc::clone(&programs) }));
        Self { machine, shared, pool: pool(), host_pages: host_pages(), history: Vec::new() }
    }

    pub fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a call and judges the answer.
    ///
    /// # Errors
    /// What differs, with the last calls before.
    pub fn call(&mut self, command: RmiCommand) -> Result<RmiReply, String> {
        let mut regs = command.to_regs();
        let mut shared = self.shared();
        let c = &mut shared.choice;
        if c.one_in(4) {
            // Registers a command does not use should be zero, and mean nothing if they are not.
            let mut all = [u64::MAX; 8];
            all[0] = regs[0];
            for (register, used) in regs.iter_mut().zip(RmiCommand::from_regs(&all).to_regs()).skip(1) {
                if used == 0 {
                    *register = c.next();
                }
            }
        }
        if c.one_in(16) {
            regs[0] |= SVE_HINT;
        }
        drop(shared);
        self.regs(regs, &format!("{command:x?}"), command.name().unwrap_or("unknown"))
    }

    pub fn regs(&mut self, regs: [u64; 8], text: &str, name: &str) -> Result<RmiReply, String> {
        if self.history.len() == 24 {
            self.history.remove(0);
        }
        self.history.push(text.to_owned());
        self.judged(regs, name).map_err(|why| {
            let mut report = format!("{why}\nthe last calls were:\n");
            for call in &self.history {
                let _ = writeln!(report, "  {call}");
            }
            report
        })
    }

    fn judged(&mut self, regs: [u64; 8], name: &str) -> Result<RmiReply, String> {
        let outcome = self.shared().model.rmi(&regs, &HostMemory(self.machine.memory()));
        if outcome == Outcome::Entered {
            self.prepare_run(regs[1], regs[2])?;
        }
        let reply = RmiReply::from_regs(&self.machine.smc(regs));
        if let Some(entry) = self.history.last_mut() {
            let _ = write!(entry, " -> {reply:x?}");
        }
        let mut shared = self.shared();
        if let Some(why) = shared.failures.drain(..).next() {
            return Err(why);
        }
        if let Some(page) = shared.lost_page.take() {
            // The realm has run; the Host does not learn how that went (RMM 1.0, RMI_REC_ENTER).
            let _ = self.machine.memory().transition(page, Pas::Secure, Pas::NonSecure);
            let name = shared.model.observe_lost_exit()?;
            shared.coverage.count("exit nobody sees", name);
            let lost = Outcome::Failure(vec![Failure {
                condition: "run_pas on exit",
                code: ReturnCode::ERROR_INPUT,
                out: [Expect::Any; 4],
            }]);
            return lost.check(&reply).map(|_| reply);
        }
        let conditions = outcome.check(&reply).map_err(|why| format!("{name}: {why}"))?;
        let end = if conditions.is_empty() { "ok".to_owned() } else { conditions.join("|") };
        shared.coverage.count(name, &end);
        if reply.code.is_success() {
            shared.count_folding(&regs);
            self.check_wiped(&regs)?;
        }
        shared.coverage.count("returned", &format!("{:?}", reply.code));
        if outcome == Outcome::Entered {
            let exit = self.read_exit(regs[2])?;
            if shared.ran {
                check_interrupts(&shared.enter, &exit, shared.model.config().features.gicv3_num_lrs() + 1)?;
            }
            let name = shared.model.observe_exit(&exit)?;
            shared.coverage.count("exit", name);
            shared.coverage.count("exit reason", &exit.exit_reason.to_string());
            drop(shared);
            if let Some(entry) = self.history.last_mut() {
                let _ = write!(entry, ", {name}, esr {:#x} hpfar {:#x}", exit.esr, exit.hpfar);
            }
        }
        let events = self.machine.log().take();
        match events.first() {
            None => Ok(reply),
            Some(event) => Err(format!("{name}: the machine reports {event}")),
        }
    }

    fn prepare_run(&mut self, rec: u64, run_ptr: u64) -> Result<(), String> {
        let mut run = RecRun::new_zeroed();
        let memory = self.machine.memory();
        memory
            .read(Pas::NonSecure, Pas::NonSecure, run_ptr, run.as_mut_bytes())
            .map_err(|fault| fault.to_string())?;
        let flags = EnterFlags::from_bits_retain(run.enter.flags);
        let mut shared = self.shared();
        shared.guest_ops = 0;
        shared.ran = shared.model.expected_resume().is_some();
        shared.enter = run.enter.clone();
        shared.run_page = run_ptr;
        shared.trap_wfi = flags.contains(EnterFlags::TRAP_WFI);
        shared.trap_wfe = flags.contains(EnterFlags::TRAP_WFE);
        if shared.choice.one_in(12) {
            // The machine takes the interrupt before the realm's first instruction.
            shared.model.interrupt_before_run();
            self.machine.raise(0);
            return Ok(());
        }
        shared.retry(rec)
    }

    /// What comes back to the Host shows nothing of what it was: this RMM leaves zeros.
    fn check_wiped(&self, regs: &[u64; 8]) -> Result<(), String> {
        let RmiCommand::GranuleUndelegate { addr } = RmiCommand::from_regs(regs) else { return Ok(()) };
        let mut page = [0; GRANULE_SIZE as usize];
        let memory = self.machine.memory();
        memory.read(Pas::NonSecure, Pas::NonSecure, addr, &mut page).map_err(|fault| fault.to_string())?;
        match page.iter().position(|byte| *byte != 0) {
            None => Ok(()),
            Some(at) => Err(format!("granule {addr:#x} comes back with something at offset {at:#x}")),
        }
    }

    fn read_exit(&self, run_ptr: u64) -> Result<RecExit, String> {
        let mut page = [0; 0x1000];
        let memory = self.machine.memory();
        memory.read(Pas::NonSecure, Pas::NonSecure, run_ptr, &mut page).map_err(|fault| fault.to_string())?;
        RecExit::read_from_bytes(&page[0x800..]).map_err(|error| error.to_string())
    }

    /// The Host writes one of its pages, if it still is one.
    pub fn host_write(&self, pa: u64, bytes: &[u8]) {
        // A page that has been given away stays as it is; the call that names it must cope.
        let _ = self.machine.memory().write(Pas::NonSecure, Pas::NonSecure, pa, bytes);
    }
}

/// How many auxiliary granules a REC takes, which is for the RMM to choose: asked of a realm made for that.
fn rec_aux_count(machine: &Machine) -> u64 {
    let [rd, rtt_base, params_ptr] = [DRAM_BASE, DRAM_BASE + 0x1000, DRAM_BASE + 0x2000];
    let mut params = RealmParams::default();
    (params.s2sz, params.num_bps, params.num_wps) = (40, 1, 1);
    (params.rtt_base, params.rtt_num_start) = (rtt_base, 1);
    machine.memory().write(Pas::NonSecure, Pas::NonSecure, params_ptr, params.as_bytes()).unwrap();
    let done = |command| {
        let reply = machine.rmi(&command);
        assert!(reply.code.is_success(), "{command:x?}: {reply:x?}");
        reply.out[0]
    };
    done(RmiCommand::GranuleDelegate { addr: rd });
    done(RmiCommand::GranuleDelegate { addr: rtt_base });
    done(RmiCommand::RealmCreate { rd, params_ptr });
    let count = done(RmiCommand::RecAuxCount { rd });
    done(RmiCommand::RealmDestroy { rd });
    done(RmiCommand::GranuleUndelegate { addr: rd });
    done(RmiCommand::GranuleUndelegate { addr: rtt_base });
    count
}

/// Nothing in this machine changes list registers while a realm runs: they come back as they went, those the CPU does not
/// have as zeros, and of ICH_HCR_EL2 only the Host's bits (RMM 1.0, RmiRecExit).
fn check_interrupts(enter: &RecEnter, exit: &RecExit, implemented: u64) -> Result<(), String> {
    let lrs = (0u64..).zip(enter.gicv3_lrs).map(|(i, lr)| if i < implemented { lr } else { 0 });
    if !lrs.eq(exit.gicv3_lrs) {
        return Err(format!("list registers {:x?} come back as {:x?}", enter.gicv3_lrs, exit.gicv3_lrs));
    }
    if exit.gicv3_hcr != enter.gicv3_hcr {
        return Err(format!("ICH_HCR_EL2 {:#x} comes back as {:#x}", enter.gicv3_hcr, exit.gicv3_hcr));
    }
    Ok(())
}

/// Feature register 0 as the machine's features make it.
fn expected_features(cpu: &CpuFeatures, max_recs_order: u64) -> realm_abi::rmi::FeatureRegister0 {
    realm_abi::rmi::FeatureRegister0::default()
        .with_s2sz(if cpu.lpa2 { cpu.pa_bits } else { cpu.pa_bits.min(48) }.into())
        .with_lpa2(cpu.lpa2.into())
        .with_sve_en(cpu.sve_vl.is_some().into())
        .with_sve_vl(cpu.sve_vl.unwrap_or(0).into())
        .with_num_bps(cpu.num_bps.into())
        .with_num_wps(cpu.num_wps.into())
        .with_pmu_en(cpu.pmu_counters.is_some().into())
        .with_pmu_num_ctrs(cpu.pmu_counters.unwrap_or(0).into())
        .with_hash_sha_256(1)
        .with_hash_sha_512(1)
        .with_gicv3_num_lrs(cpu.gic_num_lrs.into())
        .with_max_recs_order(max_recs_order)
}
