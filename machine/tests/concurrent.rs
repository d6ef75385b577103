//! Several CPUs give one RMM random commands about the same few granules while the realms among them run. Nobody
//! predicts the answers; but no world may ever touch what is not its own, no REC may run twice, and in the end
//! everything can be taken back.

use realm_abi::rmi::{
    DataFlags, EnterFlags, ExitReason, RecFlags, RecParams, RecRun, RmiCommand, UnprotectedDesc,
};
use realm_abi::rsi::RsiCall;
use realm_abi::{GRANULE_SIZE, psci::PsciCall};
use realm_machine::bare::realm_params;
use realm_machine::config::{ClockKind, DRAM_BASE};
use realm_machine::memory::Pas;
use realm_machine::program::{Access, Op, Outcome, ProgramKey, RealmProgram, SmcRegs};
use realm_machine::{Machine, MachineConfig};
use realm_rmm::cpu::CpuContext;
use std::collections::BTreeMap;
use zerocopy::IntoBytes;

const RAM: u64 = 0x8000_0000;
const UNPROTECTED: u64 = 1 << 32;
/// Addresses worth naming, in and around one table of each level.
const IPAS: [u64; 10] = [
    RAM,
    RAM + 0x1000,
    RAM + 0x1f_f000,
    RAM + 0x20_0000,
    RAM + 0x20_1000,
    0,
    UNPROTECTED,
    UNPROTECTED + 0x1000,
    UNPROTECTED + 0x20_0000,
    1 << 33,
];
const CPUS: usize = 4;

/// xorshift64*.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
    fn ipa(&mut self) -> u64 {
        self.one_of(&IPAS)
    }
}

/// Granules by what they are mostly used for.
mod pool {
    pub const RDS: std::ops::Range<u64> = 0..2;
    pub const ROOTS: std::ops::Range<u64> = 4..6;
    pub const TABLES: std::ops::Range<u64> = 6..16;
    pub const DATA: std::ops::Range<u64> = 16..28;
    pub const RECS: std::ops::Range<u64> = 28..32;
    pub const AUX: std::ops::Range<u64> = 32..48;
    pub const NS: std::ops::Range<u64> = 48..52;
    pub const ALL: std::ops::Range<u64> = 0..52;
    /// Pages only one thread writes: parameters and the run structure.
    pub const OWN: u64 = 64;
}

fn granule(index: u64) -> u64 {
    DRAM_BASE + index * GRANULE_SIZE
}

/// A virtual CPU that does random things.
struct RandomRealm(Random);

impl RealmProgram for RandomRealm {
    fn step(&mut self, _context: &mut CpuContext, _last: Outcome) -> Op {
        let random = &mut self.0;
        let ipa = random.ipa();
        let access = Access::new(ipa + 8 * random.below(512), 8);
        match random.below(16) {
            0..3 => Op::Load(access),
            3..6 => Op::Store(access, random.next()),
            6 => Op::Fetch(ipa),
            7 => Op::WriteBytes { ipa: ipa + 0x800, bytes: vec![0x77; 0x1000] },
            8 => smc(&RsiCall::RealmConfig { addr: ipa }.to_regs()),
            9 => {
                let ripas = random.below(2);
                let top = ipa + GRANULE_SIZE * (1 + random.below(4));
                smc(&RsiCall::IpaStateSet { base: ipa, top, ripas, flags: random.below(2) }.to_regs())
            }
            10 => smc(&RsiCall::IpaStateGet { base: ipa, top: ipa + 0x4000 }.to_regs()),
            11 => smc(&RsiCall::HostCall { addr: ipa }.to_regs()),
            12 => {
                let (target_cpu, entry_point) = (random.below(4), RAM);
                smc(&PsciCall::CpuOn { smc64: true, target_cpu, entry_point, context_id: 0 }.to_regs())
            }
            13 if random.below(8) == 0 => smc(&PsciCall::CpuOff.to_regs()),
            _ => smc(&PsciCall::CpuSuspend { smc64: true, power_state: 0, entry_point: 0, context_id: 0 }
                .to_regs()),
        }
    }
}

fn smc(regs: &[u64]) -> Op {
    let mut all: SmcRegs = [0; 18];
    all[..regs.len()].copy_from_slice(regs);
    Op::Smc(all)
}

/// One CPU's stream of commands.
struct Stream<'m> {
    machine: &'m Machine,
    random: Random,
    /// A Non-secure page nobody else uses.
    own: u64,
}

impl Stream<'_> {
    fn pick(&mut self, role: std::ops::Range<u64>) -> u64 {
        let range = if self.random.below(24) == 0 { pool::ALL } else { role };
        granule(range.start + self.random.below(range.end - range.start))
    }

    fn write(&self, bytes: &[u8]) {
        self.machine.memory().write(Pas::NonSecure, Pas::NonSecure, self.own, bytes).expect("its own page");
    }

    fn realm_create(&mut self, rd: u64, vmid: u16, rtt_base: u64) -> RmiCommand {
        let mut params = realm_params(vmid, 33);
        params.rtt_base = rtt_base;
        self.write(params.as_bytes());
        RmiCommand::RealmCreate { rd, params_ptr: self.own }
    }

    fn rec_create(&mut self, rd: u64, rec: u64, mpidr: u64, aux: [u64; 2]) -> RmiCommand {
        let mut params = RecParams::default();
        params.flags = if mpidr == 0 { RecFlags::RUNNABLE.bits() } else { 0 };
        (params.mpidr, params.pc, params.num_aux) = (mpidr, RAM, 2);
        params.aux[..2].copy_from_slice(&aux);
        self.write(params.as_bytes());
        RmiCommand::RecCreate { rd, rec, params_ptr: self.own }
    }

    /// Builds one of the two realms as a Host would, whatever the others do meanwhile.
    fn build(&mut self) {
        let realm = self.random.below(2);
        let index = |role: &std::ops::Range<u64>, n: u64| {
            granule(role.start + realm * ((role.end - role.start) / 2) + n)
        };
        let (rd, root) = (index(&pool::RDS, 0), index(&pool::ROOTS, 0));
        let call = |stream: &Self, command| {
            stream.machine.rmi(&command);
        };
        let used = [rd, root].into_iter();
        let used = used.chain((0..4).map(|n| index(&pool::TABLES, n)));
        let used = used.chain((0..2).map(|n| index(&pool::RECS, n)));
        for addr in used.chain((0..4).map(|n| index(&pool::AUX, n))) {
            call(self, RmiCommand::GranuleDelegate { addr });
        }
        let create = self.realm_create(rd, 1 + realm as u16, root);
        call(self, create);
        for (n, (ipa, level)) in
            [(RAM, 2), (RAM, 3), (UNPROTECTED, 2), (UNPROTECTED, 3)].into_iter().enumerate()
        {
            call(self, RmiCommand::RttCreate { rd, rtt: index(&pool::TABLES, n as u64), ipa, level });
        }
        call(self, RmiCommand::RttInitRipas { rd, base: RAM, top: RAM + 0x20_0000 });
        for n in 0..2 {
            let aux = [index(&pool::AUX, 2 * n), index(&pool::AUX, 2 * n + 1)];
            let create = self.rec_create(rd, index(&pool::RECS, n), n, aux);
            call(self, create);
        }
        call(self, RmiCommand::RealmActivate { rd });
    }

    /// Runs a REC and answers its exits, most of the time as a Host would.
    fn serve(&mut self) {
        let realm = self.random.below(2);
        let rd = granule(pool::RDS.start + realm);
        let recs = [0, 1].map(|n| granule(pool::RECS.start + 2 * realm + n));
        let rec = self.random.one_of(&recs);
        for _ in 0..8 {
            let mut run = RecRun::default();
            run.enter.flags = self.random.next() & (EnterFlags::EMUL_MMIO | EnterFlags::TRAP_WFI).bits();
            self.write(run.as_bytes());
            if !self.machine.rmi(&RmiCommand::RecEnter { rec, run_ptr: self.own }).code.is_success() {
                break;
            }
            let memory = self.machine.memory();
            memory.read(Pas::NonSecure, Pas::NonSecure, self.own, run.as_mut_bytes()).expect("its own page");
            let ipa = run.exit.hpfar << 8;
            let (data, shared) = (self.pick(pool::DATA), self.pick(pool::NS));
            let complete = |target_rec| RmiCommand::PsciComplete { calling_rec: rec, target_rec, status: 0 };
            let answers = match run.exit.exit_reason {
                ExitReason::PSCI => recs.map(complete),
                ExitReason::RIPAS_CHANGE => {
                    let (base, top) = (run.exit.ripas_base, run.exit.ripas_top);
                    [RmiCommand::RttSetRipas { rd, rec, base, top }; 2]
                }
                ExitReason::SYNC if ipa < UNPROTECTED => [
                    RmiCommand::GranuleDelegate { addr: data },
                    RmiCommand::DataCreateUnknown { rd, data, ipa },
                ],
                ExitReason::SYNC => [
                    RmiCommand::GranuleUndelegate { addr: shared },
                    RmiCommand::RttMapUnprotected {
                        rd,
                        ipa,
                        level: 3,
                        desc: UnprotectedDesc::normal_rw(shared),
                    },
                ],
                _ => continue,
            };
            if self.random.below(8) > 0 {
                for answer in &answers {
                    self.machine.rmi(answer);
                }
            }
        }
    }

    /// Takes one of the two realms apart.
    fn destroy(&mut self) {
        let realm = self.random.below(2);
        let rd = granule(pool::RDS.start + realm);
        for n in 0..2 {
            self.machine.rmi(&RmiCommand::RecDestroy { rec: granule(pool::RECS.start + 2 * realm + n) });
        }
        destroy_realm(self.machine, rd);
    }

    fn command(&mut self) -> RmiCommand {
        let (rd, ipa, own) = (self.pick(pool::RDS), self.random.ipa(), self.own);
        let level = self.random.one_of(&[1, 2, 2, 3, 3, 3]);
        match self.random.below(40) {
            0..5 => RmiCommand::GranuleDelegate { addr: self.pick(pool::ALL) },
            5 => RmiCommand::GranuleUndelegate { addr: self.pick(pool::ALL) },
            6 => {
                let (vmid, root) = (1 + self.random.below(3) as u16, self.pick(pool::ROOTS));
                self.realm_create(rd, vmid, root)
            }
            9 => {
                let (rec, mpidr) = (self.pick(pool::RECS), self.random.below(4));
                let aux = [self.pick(pool::AUX), self.pick(pool::AUX)];
                self.rec_create(rd, rec, mpidr, aux)
            }
            10 if self.random.below(2) == 0 => RmiCommand::RealmActivate { rd },
            11 if self.random.below(3) == 0 => RmiCommand::RealmDestroy { rd },
            12 if self.random.below(2) == 0 => RmiCommand::RecDestroy { rec: self.pick(pool::RECS) },
            13..16 => {
                RmiCommand::RttCreate { rd, rtt: self.pick(pool::TABLES), ipa: align(ipa, level - 1), level }
            }
            16 => RmiCommand::RttDestroy { rd, ipa: align(ipa, level - 1), level },
            17 => RmiCommand::RttFold { rd, ipa: align(ipa, level - 1), level },
            18 => RmiCommand::RttReadEntry { rd, ipa, level },
            19..21 => RmiCommand::RttInitRipas { rd, base: ipa, top: ipa + 0x4000 },
            21 => RmiCommand::RttSetRipas { rd, rec: self.pick(pool::RECS), base: ipa, top: ipa + 0x1000 },
            22..24 => {
                let desc = UnprotectedDesc::normal_rw(self.pick(pool::NS));
                RmiCommand::RttMapUnprotected { rd, ipa, level: 3, desc }
            }
            24 => RmiCommand::RttUnmapUnprotected { rd, ipa, level },
            25..27 => {
                let (data, src) = (self.pick(pool::DATA), self.pick(pool::NS));
                RmiCommand::DataCreate { rd, data, ipa, src, flags: DataFlags::MEASURE }
            }
            27..30 => RmiCommand::DataCreateUnknown { rd, data: self.pick(pool::DATA), ipa },
            30..32 => RmiCommand::DataDestroy { rd, ipa },
            32 => RmiCommand::PsciComplete {
                calling_rec: self.pick(pool::RECS),
                target_rec: self.pick(pool::RECS),
                status: 0,
            },
            _ => {
                let mut run = RecRun::default();
                run.enter.flags = self.random.next() & (EnterFlags::EMUL_MMIO | EnterFlags::TRAP_WFI).bits();
                self.write(run.as_bytes());
                RmiCommand::RecEnter { rec: self.pick(pool::RECS), run_ptr: own }
            }
        }
    }

    fn run(&mut self, commands: usize) {
        for _ in 0..commands {
            match self.random.below(100) {
                0..3 => self.build(),
                3..40 => self.serve(),
                40 => self.destroy(),
                _ => {}
            }
            let command = self.command();
            self.machine.rmi(&command);
        }
    }
}

/// `ipa` aligned to an entry at `level`.
fn align(ipa: u64, level: i64) -> u64 {
    ipa & !((1 << (12 + 9 * (3 - level))) - 1)
}

/// Everything that could be in a realm's tables, then the realm.
fn destroy_realm(machine: &Machine, rd: u64) {
    for ipa in IPAS.iter().flat_map(|ipa| (0..4).map(move |page| ipa + page * GRANULE_SIZE)) {
        machine.rmi(&RmiCommand::DataDestroy { rd, ipa: align(ipa, 3) });
    }
    for level in [3, 2] {
        for ipa in IPAS {
            machine.rmi(&RmiCommand::RttDestroy { rd, ipa: align(ipa, level - 1), level });
        }
    }
    machine.rmi(&RmiCommand::RealmDestroy { rd });
}

/// Takes everything back without knowing what there is: whatever order works.
fn take_everything_back(machine: &Machine) {
    loop {
        let before = machine.memory().count(Pas::Realm);
        for rec in pool::ALL.map(granule) {
            machine.rmi(&RmiCommand::RecDestroy { rec });
        }
        pool::ALL.map(granule).for_each(|rd| destroy_realm(machine, rd));
        for addr in pool::ALL.map(granule) {
            machine.rmi(&RmiCommand::GranuleUndelegate { addr });
        }
        let after = machine.memory().count(Pas::Realm);
        if after == 0 || after == before {
            break;
        }
    }
    assert_eq!(machine.memory().count(Pas::Realm), 0, "something cannot be taken back");
}

/// Successful calls by command.
fn storm(seed: u64, commands: usize) -> BTreeMap<&'static str, u64> {
    let config = MachineConfig { clock: ClockKind::Real, ..MachineConfig::new(2 << 20, CPUS) };
    let machine = Machine::new(config).expect("a valid size");
    machine.set_programs(move |key: ProgramKey| {
        Box::new(RandomRealm(Random(seed ^ (u64::from(key.vmid) << 8 | key.mpidr << 32 | 1))))
    });
    std::thread::scope(|scope| {
        for cpu in 0..CPUS as u64 {
            let machine = &machine;
            scope.spawn(move || {
                let random = Random(seed.wrapping_mul(CPUS as u64 + cpu) | 1 << 50);
                Stream { machine, random, own: granule(pool::OWN + cpu) }.run(commands);
            });
        }
    });
    machine.log().assert_clean();
    take_everything_back(&machine);
    machine.log().assert_clean();
    let failures = machine.trace().failures();
    let mut commands = machine.trace().commands();
    commands.iter_mut().for_each(|(name, count)| *count -= failures.get(name).copied().unwrap_or(0));
    commands
}

#[test]
fn random_commands_of_four_cpus_break_nothing() {
    let mut all = BTreeMap::new();
    for seed in 1..7 {
        for (name, count) in storm(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed), 3000) {
            *all.entry(name).or_insert(0) += count;
        }
    }
    // A storm in which hardly anything succeeds would prove nothing.
    for (name, least) in [("RMI_REALM_CREATE", 50), ("RMI_REC_ENTER", 1000), ("RMI_DATA_CREATE_UNKNOWN", 100)]
    {
        assert!(all.get(name).is_some_and(|count| *count >= least), "{name}: {all:?}");
    }
}
