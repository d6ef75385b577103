//! What `cargo xtask bench` counts under callgrind: every RMI command in one process, called the way a Host calls it.
//!
//! `instructions COMMAND` runs a fixed scenario in which each command happens several times and makes the calls of COMMAND
//! through `realmkit_measured`, the only function callgrind collects in. It prints how many calls those were.
//!
//! `instructions --life MIB` takes a realm with MIB of memory through its whole life, from opening the device to closing it,
//! inside `realmkit_measured_life`. The realm touches every granule. It prints what happened as JSON.

use realm_abi::GRANULE_SIZE;
use realm_abi::kvm::Generation;
use realm_abi::psci::fid;
use realm_abi::rmi::{
    DataFlags, HashAlgorithm, RealmParams, RecFlags, RecParams, RmiCommand, RmiReply, UnprotectedDesc,
    Version,
};
use realm_abi::rsi::RsiCall;
use realm_machine::config::{ClockKind, DRAM_BASE};
use realm_machine::memory::Pas;
use realm_machine::program::{Access, Outcome, RealmProgram};
use realm_machine::program::{Op, Script};
use realm_machine::{Machine, MachineConfig, MachineHost, Process};
use realm_rmm::cpu::CpuContext;
use realm_vmm::{Guest, GuestConfig, RealmSettings, RealmVm};
use std::cell::Cell;
use std::sync::Arc;
use zerocopy::IntoBytes;

/// Realm lives in one scenario; each uses every command at least once.
const LIVES: u64 = 4;
/// Pages of each kind a life creates.
const PAGES: u64 = 16;
const PROTECTED: u64 = 0x8000_0000;
const UNPROTECTED: u64 = PROTECTED + (1 << 32);
const BLOCK: u64 = 2 << 20;

fn main() {
    let Some(only) = std::env::args().nth(1) else {
        for (_, name) in RmiCommand::TABLE {
            println!("{name}");
        }
        println!("RMI_DATA_CREATE/unmeasured");
        return;
    };
    if only == "--life" {
        let mib = std::env::args().nth(2).and_then(|mib| mib.parse().ok());
        return life(mib.expect("--life takes a number of MiB"));
    }
    let scenario = Scenario::new(only);
    for life in 0..LIVES {
        scenario.life(life);
    }
    println!("{}", scenario.calls.get());
}

/// A machine with one CPU whose clock stands still, so that runs repeat exactly.
fn still_machine(dram_size: u64) -> MachineConfig {
    MachineConfig { clock: ClockKind::Manual, ..MachineConfig::new(dram_size, 1) }
}

/// The function callgrind collects in.
#[inline(never)]
fn realmkit_measured(machine: &Machine, command: &RmiCommand) -> RmiReply {
    machine.rmi(command)
}

struct Scenario {
    machine: Arc<Machine>,
    only: String,
    calls: Cell<u64>,
    next: Cell<u64>,
}

impl Scenario {
    fn new(only: String) -> Self {
        let machine = Machine::new(still_machine(64 << 20)).expect("64 MiB are whole granules");
        Self { machine, only, calls: Cell::new(0), next: Cell::new(DRAM_BASE) }
    }

    /// Makes a call that must succeed, measured if it is the one asked for.
    fn call(&self, command: RmiCommand) -> RmiReply {
        self.call_as(command.name().unwrap_or_default(), command)
    }

    fn call_as(&self, name: &str, command: RmiCommand) -> RmiReply {
        let reply = if name == self.only {
            self.calls.set(self.calls.get() + 1);
            realmkit_measured(&self.machine, &command)
        } else {
            self.machine.rmi(&command)
        };
        assert!(reply.code.is_success(), "{command:?}: {}", reply.code);
        reply
    }

    /// Non-secure granules nobody has used, aligned to their number.
    fn pages(&self, count: u64) -> u64 {
        let base = self.next.get().next_multiple_of(count * GRANULE_SIZE);
        self.next.set(base + count * GRANULE_SIZE);
        base
    }

    fn delegated(&self) -> u64 {
        let addr = self.pages(1);
        self.call(RmiCommand::GranuleDelegate { addr });
        addr
    }

    fn host_page(&self, bytes: &[u8]) -> u64 {
        let page = self.pages(1);
        self.machine
            .memory()
            .write(Pas::NonSecure, Pas::NonSecure, page, bytes)
            .expect("the page is Non-secure");
        page
    }

    fn undelegate(&self, addr: u64) {
        self.call(RmiCommand::GranuleUndelegate { addr });
    }

    fn life(&self, life: u64) {
        self.call(RmiCommand::Version { req: Version::V1_0 });
        self.call(RmiCommand::Features { index: 0 });
        let rd = self.realm(life);
        let tables = self.tables(rd);
        self.call(RmiCommand::RttInitRipas { rd, base: PROTECTED, top: PROTECTED + PAGES * GRANULE_SIZE });
        self.contents(rd);
        let recs = self.recs(rd);
        self.call(RmiCommand::RealmActivate { rd });
        self.unprotected(rd);
        self.fold(rd);
        self.run(rd, recs);
        for rec in recs {
            self.call(RmiCommand::RecDestroy { rec });
            self.undelegate(rec);
        }
        for page in 0..2 * PAGES {
            let data = self.call(RmiCommand::DataDestroy { rd, ipa: PROTECTED + page * GRANULE_SIZE }).out[0];
            self.undelegate(data);
        }
        for (ipa, level) in tables {
            let rtt = self.call(RmiCommand::RttDestroy { rd, ipa, level }).out[0];
            self.undelegate(rtt);
        }
        self.call(RmiCommand::RealmDestroy { rd });
        self.undelegate(rd);
    }

    /// A realm with 33 bits of IPA space: two levels, eight starting tables.
    fn realm(&self, life: u64) -> u64 {
        let rd = self.delegated();
        let rtt_base = self.pages(8);
        for table in 0..8 {
            self.call(RmiCommand::GranuleDelegate { addr: rtt_base + table * GRANULE_SIZE });
        }
        let mut params = RealmParams::default();
        (params.s2sz, params.num_bps, params.num_wps) = (33, 1, 1);
        params.vmid = u16::try_from(life + 1).expect("few lives");
        (params.rtt_base, params.rtt_level_start, params.rtt_num_start) = (rtt_base, 2, 8);
        self.call(RmiCommand::RealmCreate { rd, params_ptr: self.host_page(params.as_bytes()) });
        rd
    }

    /// Level 3 tables, and where they are: two for data, one for shared memory.
    fn tables(&self, rd: u64) -> [(u64, i64); 3] {
        let tables = [(PROTECTED, 3), (PROTECTED + BLOCK, 3), (UNPROTECTED, 3)];
        for (ipa, level) in tables {
            self.call(RmiCommand::RttCreate { rd, rtt: self.delegated(), ipa, level });
            self.call(RmiCommand::RttReadEntry { rd, ipa, level });
        }
        tables
    }

    fn contents(&self, rd: u64) {
        let src = self.host_page(&[0xa5; 4096]);
        for page in 0..PAGES {
            let ipa = PROTECTED + page * GRANULE_SIZE;
            let (name, flags) = if page % 2 == 0 {
                ("RMI_DATA_CREATE", DataFlags::MEASURE)
            } else {
                ("RMI_DATA_CREATE/unmeasured", DataFlags::NO_MEASURE)
            };
            self.call_as(name, RmiCommand::DataCreate { rd, data: self.delegated(), ipa, src, flags });
        }
        for page in PAGES..2 * PAGES {
            let ipa = PROTECTED + page * GRANULE_SIZE;
            self.call(RmiCommand::DataCreateUnknown { rd, data: self.delegated(), ipa });
        }
    }

    /// Two RECs, the first of which can run.
    fn recs(&self, rd: u64) -> [u64; 2] {
        let num_aux = self.call(RmiCommand::RecAuxCount { rd }).out[0];
        [0, 1].map(|index| {
            let rec = self.delegated();
            let mut params = RecParams::default();
            (params.mpidr, params.pc, params.num_aux) = (index, PROTECTED, num_aux);
            if index == 0 {
                params.flags = RecFlags::RUNNABLE.bits();
            }
            for slot in params.aux.iter_mut().take(usize::try_from(num_aux).expect("at most 16")) {
                *slot = self.delegated();
            }
            self.call(RmiCommand::RecCreate { rd, rec, params_ptr: self.host_page(params.as_bytes()) });
            rec
        })
    }

    fn unprotected(&self, rd: u64) {
        for page in 0..PAGES {
            let ipa = UNPROTECTED + page * GRANULE_SIZE;
            let desc = UnprotectedDesc::normal_rw(self.pages(1));
            self.call(RmiCommand::RttMapUnprotected { rd, ipa, level: 3, desc });
        }
        for page in 0..PAGES {
            let ipa = UNPROTECTED + page * GRANULE_SIZE;
            self.call(RmiCommand::RttUnmapUnprotected { rd, ipa, level: 3 });
        }
    }

    /// Folds the second data table, which holds nothing, and makes it again.
    fn fold(&self, rd: u64) {
        let ipa = PROTECTED + BLOCK;
        let rtt = self.call(RmiCommand::RttFold { rd, ipa, level: 3 }).out[0];
        self.call(RmiCommand::RttCreate { rd, rtt, ipa, level: 3 });
    }

    /// Round trips: host calls, a PSCI call that names the other REC, a RIPAS change.
    fn run(&self, rd: u64, [boot, other]: [u64; 2]) {
        let call = |regs: &[u64]| {
            let mut all = [0; 18];
            all[..regs.len()].copy_from_slice(regs);
            Op::Smc(all)
        };
        let host_call = RsiCall::HostCall { addr: PROTECTED }.to_regs();
        let first = PROTECTED + PAGES * GRANULE_SIZE;
        let (base, top) = (first, first + PAGES * GRANULE_SIZE);
        let ram = RsiCall::IpaStateSet { base, top, ripas: 1, flags: 0 }.to_regs();
        let script = move || {
            let mut ops: Vec<Op> = (0..8).map(|_| call(&host_call)).collect();
            ops.push(call(&[fid::AFFINITY_INFO_64, 1, 0]));
            ops.push(call(&ram));
            Script::new(ops).0
        };
        self.machine.set_programs(move |_| Box::new(script()));
        let run_ptr = self.host_page(&[0; 4096]);
        for _ in 0..8 {
            self.call(RmiCommand::RecEnter { rec: boot, run_ptr });
        }
        self.call(RmiCommand::RecEnter { rec: boot, run_ptr });
        self.call(RmiCommand::PsciComplete { calling_rec: boot, target_rec: other, status: 0 });
        self.call(RmiCommand::RecEnter { rec: boot, run_ptr });
        self.call(RmiCommand::RttSetRipas { rd, rec: boot, base, top });
    }
}

/// The synthetic kernel of a life, so that its share of the cost is the same at every memory size.
const KERNEL_SIZE: usize = 1 << 20;

/// Writes to every granule of RAM, then turns the realm off.
struct TouchAll {
    next: u64,
    end: u64,
}

impl RealmProgram for TouchAll {
    fn step(&mut self, _context: &mut CpuContext, last: Outcome) -> Op {
        assert!(!matches!(last, Outcome::Exception(_)), "at {:#x}: {last:?}", self.next);
        if self.next == self.end {
            let mut regs = [0; 18];
            regs[0] = fid::SYSTEM_OFF;
            return Op::Smc(regs);
        }
        let access = Access::new(self.next, 8);
        self.next += GRANULE_SIZE;
        Op::Store(access, 1)
    }
}

fn life(mib: u64) {
    let ram_size = mib << 20;
    let mut kernel = vec![0x5a; KERNEL_SIZE];
    kernel[..64].fill(0);
    kernel[16..24].copy_from_slice(&(KERNEL_SIZE as u64).to_le_bytes());
    kernel[56..60].copy_from_slice(b"ARM\x64");
    let config = GuestConfig {
        kernel: &kernel,
        initrd: None,
        bootargs: None,
        ram_size,
        cpus: 1,
        ipa_bits: None,
        page_size: GRANULE_SIZE,
    };
    let guest = Guest::new(&config).expect("the kernel is made to fit");
    // Room for the shared side of what is loaded, tables, and the Host's own pages.
    let machine = Machine::new(still_machine(2 * ram_size + (64 << 20))).expect("whole granules");
    let ram = guest.layout.ram;
    machine.set_programs(move |_| Box::new(TouchAll { next: ram.base, end: ram.base + ram.size }));
    realmkit_measured_life(&machine, &guest);
    machine.log().assert_clean();
    println!("{{\"granules\": {}, \"rmi_calls\": {}}}", ram_size / GRANULE_SIZE, machine.trace().total());
}

/// The function callgrind collects in.
#[inline(never)]
fn realmkit_measured_life(machine: &Arc<Machine>, guest: &Guest) {
    let device = MachineHost::boot(Arc::clone(machine));
    let process = Process::new(&device);
    let settings = RealmSettings { hash: HashAlgorithm::SHA_256, rpv: None, generation: Generation::V8 };
    let vm = RealmVm::build(&process, guest, &settings, &mut ()).expect("the realm is built");
    vm.run_vcpu(0).expect("the realm runs");
    vm.destroy(&mut ()).expect("the realm is destroyed");
    drop(process);
    let ledger = device.statistics().ledger;
    assert_eq!((ledger.leaked, ledger.delegated), (0, ledger.undelegated), "granules came back");
}
