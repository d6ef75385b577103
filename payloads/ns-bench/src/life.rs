//! Lives of realms in which every command happens.

use crate::bench::Bench;
use crate::call::{self, Times};
use crate::guest;
use crate::memory::Memory;
use realm_abi::GRANULE_SIZE;
use realm_abi::psci::fid;
use realm_abi::rmi::{
    DataFlags, ExitReason, HashAlgorithm, RealmParams, RecFlags, RecParams, Ripas, RmiCommand,
    UnprotectedDesc, Version,
};
use realm_abi::rsi::RsiCall;
use zerocopy::IntoBytes;

/// Lives of realms measured by SHA-256, and by SHA-512.
const LIVES: [(HashAlgorithm, u64); 2] = [(HashAlgorithm::SHA_256, 8), (HashAlgorithm::SHA_512, 2)];
/// Calls of a kind in a life.
const CALLS: u64 = 16;
/// Calls of commands that need no realm.
const FREE_CALLS: u64 = 64;

/// IPA width: two root tables at level 1, so three tables for a page.
const IPA_WIDTH: u8 = 40;
const ROOT_LEVEL: i64 = 1;
const ROOTS: u64 = 2;
const UNPROTECTED: u64 = 1 << (IPA_WIDTH - 1);
/// Where the realm's program is. No other world's code is at this address.
const CODE: u64 = 0x8000_0000;
/// Its host call structure.
const HOST_CALL: u64 = CODE + GRANULE_SIZE;
const MEASURED: u64 = CODE + 2 * GRANULE_SIZE;
const UNMEASURED: u64 = MEASURED + CALLS * GRANULE_SIZE;
const UNKNOWN: u64 = UNMEASURED + CALLS * GRANULE_SIZE;
/// Pages whose RIPAS changes.
const RIPAS_PAGES: u64 = UNKNOWN + CALLS * GRANULE_SIZE;
/// Pages of a range that costs what its further pages cost.
const RANGE: u64 = 9;
/// What a level 2 entry maps.
const BLOCK: u64 = 2 << 20;
/// The last page of the table of single pages.
const FAR_PAGE: u64 = CODE + BLOCK - GRANULE_SIZE;
const PAGES_IN_BLOCK: u64 = BLOCK / GRANULE_SIZE;
/// Behind the tables of single pages: tables that come and go, then a block.
const TABLES: u64 = CODE + BLOCK;
const WHOLE: u64 = TABLES + CALLS * BLOCK;
/// What the last entry of the level 2 table maps.
const FAR_TABLE: u64 = CODE + (1 << 30) - BLOCK;

/// Measures everything.
pub fn all(bench: &mut Bench) {
    let memory = Memory::new();
    for _ in 0..FREE_CALLS {
        bench.value("nothing", call::empty().ticks());
        bench.call("RMI_VERSION", &RmiCommand::Version { req: Version::V1_0 });
        bench.call("RMI_FEATURES", &RmiCommand::Features { index: 0 });
    }
    let mut vmid = 0;
    for (hash, lives) in LIVES {
        for _ in 0..lives {
            vmid += 1;
            Life::new(bench, &memory, hash, vmid).live();
        }
    }
}

/// A realm.
struct Life<'a> {
    bench: &'a mut Bench,
    memory: &'a Memory,
    hash: HashAlgorithm,
    rd: u64,
    recs: [u64; 2],
    run: u64,
}

impl<'a> Life<'a> {
    /// A realm is created.
    fn new(bench: &'a mut Bench, memory: &'a Memory, hash: HashAlgorithm, vmid: u16) -> Self {
        bench.state("a realm's life");
        let run = memory.granules(1);
        let mut life = Self { bench, memory, hash, rd: 0, recs: [0; 2], run };
        life.rd = life.delegated();
        let rtt_base = memory.granules(ROOTS);
        for root in 0..ROOTS {
            life.call(
                "RMI_GRANULE_DELEGATE",
                &RmiCommand::GranuleDelegate { addr: rtt_base + root * GRANULE_SIZE },
            );
        }
        let mut params = RealmParams::default();
        (params.s2sz, params.num_bps, params.num_wps) = (IPA_WIDTH, 1, 1);
        (params.vmid, params.hash_algo) = (vmid, hash);
        (params.rtt_base, params.rtt_level_start, params.rtt_num_start) =
            (rtt_base, ROOT_LEVEL, ROOTS as u32);
        let params_ptr = memory.page(params.as_bytes());
        life.call("RMI_REALM_CREATE", &RmiCommand::RealmCreate { rd: life.rd, params_ptr });
        life
    }

    /// From the first table to the last granule.
    fn live(mut self) {
        let bases = [(CODE, 2), (CODE, 3), (UNPROTECTED, 2), (UNPROTECTED, 3)];
        for (ipa, level) in bases {
            self.table("RMI_RTT_CREATE", ipa, level);
        }
        self.tables();
        self.contents();
        self.recs();
        self.call("RMI_REALM_ACTIVATE", &RmiCommand::RealmActivate { rd: self.rd });
        self.unprotected();
        self.block();
        self.runs();

        let rd = self.rd;
        for rec in self.recs {
            self.call("RMI_REC_DESTROY", &RmiCommand::RecDestroy { rec });
            self.undelegate(rec);
        }
        // With a page far behind them, then with none behind any.
        let data = self.delegated();
        self.call("RMI_DATA_CREATE_UNKNOWN", &RmiCommand::DataCreateUnknown { rd, data, ipa: FAR_PAGE });
        for page in (0..CALLS).rev() {
            self.destroy_data("RMI_DATA_DESTROY/far-live", UNKNOWN + page * GRANULE_SIZE);
        }
        self.destroy_data("RMI_DATA_DESTROY", FAR_PAGE);
        let pages = (UNKNOWN - CODE) / GRANULE_SIZE;
        for page in (0..pages).rev() {
            self.destroy_data("RMI_DATA_DESTROY", CODE + page * GRANULE_SIZE);
        }
        for (ipa, level) in bases.into_iter().rev() {
            let name = if level == 3 { "RMI_RTT_DESTROY" } else { "RMI_RTT_DESTROY/level-2" };
            self.destroy_table(name, ipa, level);
        }
        self.call("RMI_REALM_DESTROY", &RmiCommand::RealmDestroy { rd });
        self.undelegate(rd);
    }

    /// Makes a call. What depends on the hash is measured under a name of its own for SHA-512.
    fn call(&mut self, name: &str, command: &RmiCommand) -> ([u64; 4], Times) {
        let name = match (self.hash, name) {
            (HashAlgorithm::SHA_512, "RMI_REALM_CREATE") => "RMI_REALM_CREATE/sha-512",
            (HashAlgorithm::SHA_512, "RMI_REC_CREATE") => "RMI_REC_CREATE/sha-512",
            (HashAlgorithm::SHA_512, "RMI_DATA_CREATE") => "RMI_DATA_CREATE/sha-512",
            (HashAlgorithm::SHA_512, "RMI_DATA_CREATE/unmeasured") => "RMI_DATA_CREATE/unmeasured/sha-512",
            (HashAlgorithm::SHA_512, "RMI_RTT_INIT_RIPAS") => "RMI_RTT_INIT_RIPAS/sha-512",
            (HashAlgorithm::SHA_512, "RMI_RTT_INIT_RIPAS/9-pages") => "RMI_RTT_INIT_RIPAS/9-pages/sha-512",
            (_, name) => name,
        };
        let (reply, times) = self.bench.call(name, command);
        (reply.out, times)
    }

    fn delegated(&mut self) -> u64 {
        let addr = self.memory.granules(1);
        self.call("RMI_GRANULE_DELEGATE", &RmiCommand::GranuleDelegate { addr });
        addr
    }

    fn undelegate(&mut self, addr: u64) {
        self.call("RMI_GRANULE_UNDELEGATE", &RmiCommand::GranuleUndelegate { addr });
    }

    fn table(&mut self, name: &str, ipa: u64, level: i64) {
        let rtt = self.delegated();
        self.call(name, &RmiCommand::RttCreate { rd: self.rd, rtt, ipa, level });
    }

    fn destroy_table(&mut self, name: &str, ipa: u64, level: i64) {
        let ([rtt, ..], _) = self.call(name, &RmiCommand::RttDestroy { rd: self.rd, ipa, level });
        self.undelegate(rtt);
    }

    fn destroy_data(&mut self, name: &str, ipa: u64) {
        let ([data, ..], _) = self.call(name, &RmiCommand::DataDestroy { rd: self.rd, ipa });
        self.undelegate(data);
    }

    /// Tables that hold nothing: read, folded, destroyed in both directions.
    fn tables(&mut self) {
        let rd = self.rd;
        let blocks = || (0..CALLS).map(|block| TABLES + block * BLOCK);
        for ipa in blocks() {
            self.table("RMI_RTT_CREATE", ipa, 3);
            self.call("RMI_RTT_READ_ENTRY", &RmiCommand::RttReadEntry { rd, ipa, level: 3 });
        }
        for ipa in blocks() {
            let ([rtt, ..], _) =
                self.call("RMI_RTT_FOLD/unassigned", &RmiCommand::RttFold { rd, ipa, level: 3 });
            self.undelegate(rtt);
        }
        for ipa in blocks() {
            self.table("RMI_RTT_CREATE", ipa, 3);
        }
        // With a table behind each but the last, then with none behind any.
        for ipa in blocks() {
            self.destroy_table("RMI_RTT_DESTROY/next-live", ipa, 3);
        }
        for ipa in blocks() {
            self.table("RMI_RTT_CREATE", ipa, 3);
        }
        for ipa in blocks().rev() {
            self.destroy_table("RMI_RTT_DESTROY", ipa, 3);
        }
        // With one far behind them.
        for ipa in blocks().chain([FAR_TABLE]) {
            self.table("RMI_RTT_CREATE", ipa, 3);
        }
        for ipa in blocks().rev() {
            self.destroy_table("RMI_RTT_DESTROY/far-live", ipa, 3);
        }
        self.destroy_table("RMI_RTT_DESTROY", FAR_TABLE, 3);
    }

    /// Memory before activation.
    fn contents(&mut self) {
        let rd = self.rd;
        let mut base = RIPAS_PAGES;
        for pages in [1, RANGE] {
            let name = if pages == 1 { "RMI_RTT_INIT_RIPAS" } else { "RMI_RTT_INIT_RIPAS/9-pages" };
            for _ in 0..CALLS {
                let top = base + pages * GRANULE_SIZE;
                self.call(name, &RmiCommand::RttInitRipas { rd, base, top });
                base = top;
            }
        }
        let program = self.memory.page(guest::program());
        let zeros = self.memory.granules(1);
        for page in 0..2 + 2 * CALLS {
            let ipa = CODE + page * GRANULE_SIZE;
            let (name, flags) = if ipa < UNMEASURED {
                ("RMI_DATA_CREATE", DataFlags::MEASURE)
            } else {
                ("RMI_DATA_CREATE/unmeasured", DataFlags::NO_MEASURE)
            };
            let src = if ipa == CODE { program } else { zeros };
            let data = self.delegated();
            self.call(name, &RmiCommand::DataCreate { rd, data, ipa, src, flags });
        }
        for page in 0..CALLS {
            let data = self.delegated();
            self.call(
                "RMI_DATA_CREATE_UNKNOWN",
                &RmiCommand::DataCreateUnknown { rd, data, ipa: UNKNOWN + page * GRANULE_SIZE },
            );
        }
    }

    /// Two RECs, the first of which can run.
    fn recs(&mut self) {
        let rd = self.rd;
        let ([num_aux, ..], _) = self.call("RMI_REC_AUX_COUNT", &RmiCommand::RecAuxCount { rd });
        for index in 0..2 {
            let rec = self.delegated();
            let mut params = RecParams::default();
            (params.mpidr, params.pc, params.num_aux) = (index, CODE, num_aux);
            params.gprs[0] = HOST_CALL;
            let runnable = index == 0;
            if runnable {
                params.flags = RecFlags::RUNNABLE.bits();
            }
            for aux in params.aux.iter_mut().take(num_aux as usize) {
                *aux = self.delegated();
            }
            let params_ptr = self.memory.page(params.as_bytes());
            let name = if runnable { "RMI_REC_CREATE" } else { "RMI_REC_CREATE/not-runnable" };
            self.call(name, &RmiCommand::RecCreate { rd, rec, params_ptr });
            self.recs[index as usize] = rec;
        }
    }

    /// Shared memory.
    fn unprotected(&mut self) {
        let rd = self.rd;
        let pages = || (0..CALLS).map(|page| UNPROTECTED + page * GRANULE_SIZE);
        for ipa in pages() {
            let desc = UnprotectedDesc::normal_rw(self.memory.granules(1));
            self.call("RMI_RTT_MAP_UNPROTECTED", &RmiCommand::RttMapUnprotected { rd, ipa, level: 3, desc });
        }
        for ipa in pages() {
            self.call("RMI_RTT_UNMAP_UNPROTECTED", &RmiCommand::RttUnmapUnprotected { rd, ipa, level: 3 });
        }
    }

    /// A table full of memory becomes a block and a table again.
    fn block(&mut self) {
        let rd = self.rd;
        self.table("RMI_RTT_CREATE", WHOLE, 3);
        let memory = self.memory.granules(PAGES_IN_BLOCK);
        for page in 0..PAGES_IN_BLOCK {
            let (data, ipa) = (memory + page * GRANULE_SIZE, WHOLE + page * GRANULE_SIZE);
            self.call("RMI_GRANULE_DELEGATE", &RmiCommand::GranuleDelegate { addr: data });
            self.call("RMI_DATA_CREATE_UNKNOWN", &RmiCommand::DataCreateUnknown { rd, data, ipa });
        }
        let ([rtt, ..], _) =
            self.call("RMI_RTT_FOLD/assigned", &RmiCommand::RttFold { rd, ipa: WHOLE, level: 3 });
        self.call("RMI_RTT_CREATE/unfold", &RmiCommand::RttCreate { rd, rtt, ipa: WHOLE, level: 3 });
        for page in 0..PAGES_IN_BLOCK {
            self.destroy_data("RMI_DATA_DESTROY/next-live", WHOLE + page * GRANULE_SIZE);
        }
        self.destroy_table("RMI_RTT_DESTROY", WHOLE, 3);
    }

    /// Enters the first REC and checks why it exits.
    fn enter(&mut self, name: &str, expected: ExitReason) -> Times {
        let (_, times) = self.call(name, &RmiCommand::RecEnter { rec: self.recs[0], run_ptr: self.run });
        let reason = ExitReason((Memory::word(self.run, guest::EXIT_REASON) & 0xff) as u8);
        if reason != expected {
            self.bench.check("exit", false, format_args!("{reason} instead of {expected}"));
        }
        times
    }

    /// Answers the host call the realm waits in with a call it is to make.
    fn ask(&self, call: &[u64]) {
        for register in 0..5 {
            Memory::set_word(self.run, guest::answer(register), call.get(register).copied().unwrap_or(0));
        }
    }

    /// Round trips: host calls, RIPAS changes, a PSCI call that names the other REC.
    fn runs(&mut self) {
        let (rd, [rec, other]) = (self.rd, self.recs);
        self.enter("RMI_REC_ENTER/first", ExitReason::HOST_CALL);
        for round in 0..2 * CALLS {
            let times = self.enter("RMI_REC_ENTER", ExitReason::HOST_CALL);
            let (arrived, leaving) =
                (Memory::word(self.run, guest::EXIT_ARRIVED), Memory::word(self.run, guest::EXIT_LEAVING));
            let ordered = times.before < arrived && arrived < leaving && leaving < times.after;
            if !ordered {
                let why =
                    format_args!("{} {arrived} {leaving} {} in round {round}", times.before, times.after);
                self.bench.check("times", false, why);
            }
            self.bench.realm_value("RMI_REC_ENTER/in", arrived - times.before);
            self.bench.realm_value("RMI_REC_ENTER/out", times.after - leaving);
        }
        self.bench.check("runs", true, format_args!(""));
        let mut base = RIPAS_PAGES;
        for pages in [1, RANGE] {
            let name = if pages == 1 { "RMI_RTT_SET_RIPAS" } else { "RMI_RTT_SET_RIPAS/9-pages" };
            for _ in 0..CALLS {
                let top = base + pages * GRANULE_SIZE;
                let call = RsiCall::IpaStateSet { base, top, ripas: Ripas::EMPTY.0.into(), flags: 0 };
                self.ask(&call.to_regs());
                self.enter("RMI_REC_ENTER/ripas-change", ExitReason::RIPAS_CHANGE);
                self.call(name, &RmiCommand::RttSetRipas { rd, rec, base, top });
                self.ask(&[]);
                self.enter("RMI_REC_ENTER/ripas-done", ExitReason::HOST_CALL);
                base = top;
            }
        }
        self.ask(&[fid::CPU_ON_64, 1, CODE, 0]);
        self.enter("RMI_REC_ENTER/psci", ExitReason::PSCI);
        self.call(
            "RMI_PSCI_COMPLETE",
            &RmiCommand::PsciComplete { calling_rec: rec, target_rec: other, status: 0 },
        );
        self.ask(&[]);
        self.enter("RMI_REC_ENTER/psci-done", ExitReason::HOST_CALL);
        self.bench.check("life", true, format_args!(""));
    }
}
