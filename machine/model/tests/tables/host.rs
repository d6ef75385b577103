//! A Host that builds what a test needs, on the model.

use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::{
    DataFlags, FeatureRegister0, RealmParams, RecParams, ReturnCode, Ripas, RmiCommand, RmiReply,
    UnprotectedDesc,
};
use realm_model::{Config, Entry, Expect, Model, NsMemory, Outcome};
use std::cell::RefCell;
use std::collections::BTreeMap;
use zerocopy::IntoBytes;

pub const DRAM: u64 = 0x8000_0000;

/// The Host's memory.
#[derive(Default)]
pub struct Memory(RefCell<BTreeMap<u64, Vec<u8>>>);

impl NsMemory for Memory {
    fn is_ns(&self, _pa: u64) -> bool {
        true
    }
    fn read(&self, pa: u64, out: &mut [u8]) {
        match self.0.borrow().get(&pa) {
            Some(page) => out.copy_from_slice(&page[..out.len()]),
            None => out.fill(0),
        }
    }
}

pub struct Host {
    pub model: Model,
    memory: Memory,
    next: u64,
}

impl Host {
    pub fn new() -> Self {
        let features = FeatureRegister0::default()
            .with_s2sz(48)
            .with_num_bps(5)
            .with_num_wps(3)
            .with_hash_sha_256(1)
            .with_hash_sha_512(1)
            .with_gicv3_num_lrs(3)
            .with_max_recs_order(2);
        let config = Config {
            features,
            delegable: std::iter::once(DRAM..DRAM + 0x4000_0000).collect(),
            rec_aux_count: 1,
            pa_bits: 48,
            vmid16: false,
            hpmn0: false,
            gic_priority_bits: 5,
            gic_id_bits: 16,
            gic_extended_range: false,
        };
        Self { model: Model::new(config), memory: Memory::default(), next: DRAM }
    }

    pub fn call(&mut self, command: RmiCommand) -> Outcome {
        self.model.rmi(&command.to_regs(), &self.memory)
    }

    /// Makes a call that must succeed; its outputs, 0 where they are open.
    pub fn ok(&mut self, command: RmiCommand) -> [u64; 4] {
        match self.call(command) {
            Outcome::Success(out) => out.map(|expect| match expect {
                Expect::Is(value) => value,
                Expect::Any => 0,
            }),
            other => panic!("{command:x?}: {other:x?}"),
        }
    }

    /// Makes a call that must fail with exactly this code and outputs (`None`: open).
    pub fn fails(&mut self, command: RmiCommand, code: ReturnCode, out: [Option<u64>; 4]) {
        let reply = RmiReply { code, out: out.map(|value| value.unwrap_or(0xdead)) };
        let outcome = self.call(command);
        if let Err(why) = outcome.check(&reply) {
            panic!("{command:x?}: {why}");
        }
        let Outcome::Failure(failures) = outcome else { panic!("{command:x?} succeeds") };
        assert!(failures.iter().all(|f| f.code == code), "{command:x?} may also fail with {failures:x?}");
    }

    pub fn ns_page(&mut self, content: &[u8]) -> u64 {
        let pa = self.take(1);
        self.memory.0.borrow_mut().insert(pa, content.to_vec());
        pa
    }

    fn take(&mut self, count: u64) -> u64 {
        let size = count * GRANULE_SIZE;
        let pa = self.next.next_multiple_of(size);
        self.next = pa + size;
        pa
    }

    /// `count` delegated granules, aligned to their size.
    pub fn granules(&mut self, count: u64) -> u64 {
        let pa = self.take(count);
        for i in 0..count {
            self.ok(RmiCommand::GranuleDelegate { addr: pa + i * GRANULE_SIZE });
        }
        pa
    }

    pub fn granule(&mut self) -> u64 {
        self.granules(1)
    }

    /// A realm with one starting-level table.
    pub fn realm(&mut self, ipa_bits: u8, start: i64) -> u64 {
        let mut params = RealmParams::default();
        (params.s2sz, params.num_bps, params.num_wps) = (ipa_bits, 1, 1);
        self.realm_of(params, start)
    }

    pub fn realm_of(&mut self, mut params: RealmParams, start: i64) -> u64 {
        let rd = self.granule();
        params.rtt_base = self.granule();
        params.rtt_level_start = start;
        params.rtt_num_start = 1;
        params.vmid = u16::try_from(self.model.realms().len()).unwrap();
        let params_ptr = self.ns_page(params.as_bytes());
        self.ok(RmiCommand::RealmCreate { rd, params_ptr });
        rd
    }

    /// Tables for `ipa` down to `level`.
    pub fn tables(&mut self, rd: u64, ipa: u64, level: i64) {
        let start = self.model.realms()[&rd].rtt_level_start;
        for level in start + 1..=level {
            if self.model.walk(rd, ipa, level - 1).unwrap().entry != Entry::Table {
                let rtt = self.granule();
                let covers = 1u64 << (12 + 9 * (4 - level));
                self.ok(RmiCommand::RttCreate { rd, rtt, ipa: ipa / covers * covers, level });
            }
        }
    }

    pub fn data_unknown(&mut self, rd: u64, ipa: u64) -> u64 {
        let data = self.granule();
        self.ok(RmiCommand::DataCreateUnknown { rd, data, ipa });
        data
    }

    pub fn data(&mut self, rd: u64, ipa: u64, byte: u8, flags: DataFlags) -> u64 {
        let src = self.ns_page(&[byte; 4096]);
        let data = self.granule();
        self.ok(RmiCommand::DataCreate { rd, data, ipa, src, flags });
        data
    }

    /// Fills the level 3 table at `ipa` with a run of granules and folds it.
    pub fn block(&mut self, rd: u64, ipa: u64) -> u64 {
        self.tables(rd, ipa, 3);
        let data = self.granules(512);
        for i in 0..512 {
            let at = i * GRANULE_SIZE;
            self.ok(RmiCommand::DataCreateUnknown { rd, data: data + at, ipa: ipa + at });
        }
        self.ok(RmiCommand::RttFold { rd, ipa, level: 3 });
        data
    }

    pub fn map(&mut self, rd: u64, ipa: u64, level: i64) {
        self.ok(RmiCommand::RttMapUnprotected { rd, ipa, level, desc: UnprotectedDesc::normal_rw(DRAM) });
    }

    pub fn rec(&mut self, rd: u64, params: &RecParams) -> u64 {
        let mut params = params.clone();
        let rec = self.granule();
        params.num_aux = 1;
        params.aux[0] = self.granule();
        params.mpidr = self.model.realms()[&rd].rec_index;
        let params_ptr = self.ns_page(params.as_bytes());
        self.ok(RmiCommand::RecCreate { rd, rec, params_ptr });
        rec
    }

    pub fn entry(&self, rd: u64, ipa: u64, level: i64) -> Entry {
        self.model.walk(rd, ipa, level).unwrap().entry
    }

    /// Gives the entry at `ipa` a RIPAS by the commands that lead there, whatever memory is behind it then.
    pub fn set_ripas(&mut self, rd: u64, ipa: u64, ripas: Ripas) {
        match ripas {
            Ripas::RAM => {
                self.ok(RmiCommand::RttInitRipas { rd, base: ipa, top: ipa + GRANULE_SIZE });
            }
            Ripas::DESTROYED => {
                self.data(rd, ipa, 0, DataFlags::NO_MEASURE);
                self.ok(RmiCommand::DataDestroy { rd, ipa });
            }
            _ => {}
        }
    }
}
