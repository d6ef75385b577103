//! Steps of a sequence: each is a kind and a number, and what it does follows from them and the state of the model. Most
//! of what it names is right; one argument in a dozen is not.

use crate::oracle::addresses::{BAD_PAS, BLOCK, GEOMETRIES, RUN_IPA, interesting_ipas};
use crate::oracle::driver::Driver;
use crate::oracle::random::Choice;
use realm_abi::rmi::{
    DataFlags, HashAlgorithm, RealmFlags, RealmParams, RecFlags, RecParams, RmiCommand, UnprotectedDesc,
    Version,
};
use realm_machine::memory::Pas;
use realm_model::{Entry, GranuleState, LastExit, RealmState};
use zerocopy::IntoBytes;

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub kind: u8,
    pub seed: u32,
}

/// What a step's kind stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Realm,
    Tables,
    Data,
    Rec,
    Activate,
    Enter,
    Service,
    Command(u8),
    Secure,
    Garbage,
    Block,
}

const fn kind(byte: u8) -> Kind {
    match byte {
        0..=11 => Kind::Realm,
        12..=31 => Kind::Tables,
        32..=55 => Kind::Data,
        56..=69 => Kind::Rec,
        70..=75 => Kind::Activate,
        76..=123 => Kind::Enter,
        124..=143 => Kind::Service,
        144..=250 => Kind::Command(byte - 144),
        251..=252 => Kind::Secure,
        253 => Kind::Garbage,
        _ => Kind::Block,
    }
}

/// Host commands of [`Kind::Command`], the ones with more to go wrong more often.
const COMMANDS: [&str; 28] = [
    "delegate",
    "undelegate",
    "undelegate",
    "realm_create",
    "realm_destroy",
    "rec_destroy",
    "rec_create",
    "rtt_create",
    "rtt_create",
    "rtt_destroy",
    "rtt_destroy",
    "fold",
    "fold",
    "map",
    "map",
    "map",
    "unmap",
    "unmap",
    "read",
    "data",
    "data_unknown",
    "data_destroy",
    "data_destroy",
    "init_ripas",
    "init_ripas",
    "set_ripas",
    "psci_complete",
    "version_features_aux_count",
];

impl Driver {
    /// Does one step.
    ///
    /// # Errors
    /// What differs between the RMM and the model.
    pub fn step(&mut self, step: Step) -> Result<(), String> {
        let mut choice = Choice::new(u64::from(step.seed));
        let c = &mut choice;
        match self.useful(kind(step.kind), c) {
            Kind::Realm => self.build_realm(c),
            Kind::Tables => self.build_tables(c),
            Kind::Data => self.add_data(c),
            Kind::Rec => self.add_rec(c),
            Kind::Activate => {
                let populated: Vec<u64> = {
                    let shared = self.shared();
                    let ready = shared
                        .model
                        .realms()
                        .iter()
                        .filter(|(_, r)| r.num_recs > 0 && r.state == RealmState::New);
                    ready.map(|(rd, _)| *rd).collect()
                };
                let rd = match c.maybe(&populated) {
                    Some(rd) if !c.one_in(8) => rd,
                    _ => self.rd(c),
                };
                self.call(RmiCommand::RealmActivate { rd }).map(drop)
            }
            Kind::Enter => self.enter(c),
            Kind::Service => self.service(c),
            Kind::Command(n) => {
                let command = self.command(c, COMMANDS[usize::from(n) % COMMANDS.len()]);
                self.call(command).map(drop)
            }
            Kind::Secure => {
                self.secure(c);
                Ok(())
            }
            Kind::Garbage => {
                let regs = std::array::from_fn(|_| c.next());
                let function = 0xC400_0150 + c.below(0x40);
                let mut regs: [u64; 8] = regs;
                regs[0] = function;
                let name = RmiCommand::from_regs(&regs).name().unwrap_or("unknown");
                self.regs(regs, &format!("{regs:x?}"), name).map(drop)
            }
            Kind::Block => self.block(c),
        }
    }

    /// A realm with memory and some RECs that can run, so that what follows is about them.
    ///
    /// # Errors
    /// What differs between the RMM and the model.
    pub(crate) fn boot(&mut self, c: &mut Choice) -> Result<(), String> {
        for _ in 0..20 {
            if !self.shared().model.realms().is_empty() {
                break;
            }
            self.build_realm(c)?;
        }
        let Some(rd) = self.shared().model.realms().keys().next().copied() else { return Ok(()) };
        self.populate(c, rd)?;
        for _ in 0..3 {
            self.add_rec(c)?;
        }
        self.call(RmiCommand::RealmActivate { rd }).map(drop)
    }

    /// What has to come first for a step to do more than fail; mostly. Sequences so reach deep states.
    fn useful(&self, kind: Kind, c: &mut Choice) -> Kind {
        if c.one_in(8) {
            return kind;
        }
        let shared = self.shared();
        let realms = shared.model.realms();
        let new = |realm: &realm_model::Realm| realm.state == RealmState::New;
        let can_run = realms.values().any(|realm| realm.state == RealmState::Active && realm.num_recs > 0);
        match kind {
            Kind::Secure | Kind::Garbage | Kind::Realm => kind,
            _ if realms.is_empty() => Kind::Realm,
            Kind::Rec | Kind::Activate if !realms.values().any(new) => Kind::Enter,
            Kind::Activate if realms.values().any(|realm| new(realm) && realm.num_recs < 2) => Kind::Rec,
            Kind::Enter if !can_run && c.one_in(4) => Kind::Data,
            Kind::Enter if !can_run && realms.values().any(|realm| new(realm) && realm.num_recs > 0) => {
                Kind::Activate
            }
            Kind::Enter if !can_run && realms.values().any(new) => Kind::Rec,
            Kind::Enter if !can_run => Kind::Realm,
            kind => kind,
        }
    }

    /// Another world takes a granule of the Host's, or gives one back.
    fn secure(&mut self, c: &mut Choice) {
        let pa = if c.one_in(3) { c.of(&self.host_pages) } else { c.of(&self.pool) };
        let memory = self.machine.memory();
        // Fails for what is neither; nothing happens then.
        let _ = memory.transition(pa, Pas::Secure, Pas::NonSecure).or_else(|_| {
            if c.one_in(3) { memory.transition(pa, Pas::NonSecure, Pas::Secure) } else { Ok(()) }
        });
    }

    /// A pool granule in `state`, mostly.
    pub(crate) fn granule(&mut self, c: &mut Choice, state: GranuleState) -> u64 {
        match c.below(24) {
            0 => return c.of(&BAD_PAS),
            1 => return c.of(&self.pool),
            2 if c.one_in(2) => return c.of(&self.host_pages),
            _ => {}
        }
        let shared = self.shared();
        let fitting: Vec<u64> =
            self.pool.iter().copied().filter(|pa| shared.model.granule_state(*pa) == Some(state)).collect();
        drop(shared);
        c.maybe(&fitting).unwrap_or_else(|| c.of(&self.pool))
    }

    /// A granule that is DELEGATED, by a call if none is.
    pub(crate) fn delegated(&mut self, c: &mut Choice) -> Result<u64, String> {
        let pa = self.granule(c, GranuleState::Delegated);
        if self.shared().model.granule_state(pa) != Some(GranuleState::Undelegated) {
            return Ok(pa);
        }
        self.call(RmiCommand::GranuleDelegate { addr: pa })?;
        Ok(pa)
    }

    /// A granule that was UNDELEGATED until now.
    pub(crate) fn fresh(&mut self, c: &mut Choice) -> Result<u64, String> {
        let pa = self.granule(c, GranuleState::Undelegated);
        self.call(RmiCommand::GranuleDelegate { addr: pa })?;
        Ok(pa)
    }

    /// A page of the Host that is filled with `content` if possible.
    pub(crate) fn host_page(&mut self, c: &mut Choice, content: &[u8]) -> u64 {
        let pa = match c.below(40) {
            0 => c.of(&BAD_PAS),
            1 => c.of(&self.pool),
            _ => c.of(&self.host_pages),
        };
        self.host_write(pa & !0xfff, content);
        pa
    }

    pub(crate) fn rd(&mut self, c: &mut Choice) -> u64 {
        if c.one_in(24) {
            return self.granule(c, GranuleState::Data);
        }
        let realms: Vec<u64> = self.shared().model.realms().keys().copied().collect();
        c.maybe(&realms).unwrap_or_else(|| c.of(&self.pool))
    }

    pub(crate) fn rec(&mut self, c: &mut Choice) -> u64 {
        if c.one_in(24) {
            return self.granule(c, GranuleState::RecAux);
        }
        let recs: Vec<u64> = self.shared().model.recs().keys().copied().collect();
        c.maybe(&recs).unwrap_or_else(|| c.of(&self.pool))
    }

    /// An IPA whose entry, as deep as there are tables, is as `wanted` says; mostly.
    fn ipa(&mut self, c: &mut Choice, rd: u64, wanted: impl Fn(i64, Entry) -> bool) -> u64 {
        let shared = self.shared();
        let ipas = interesting_ipas(&shared.model, rd);
        if c.one_in(10) {
            return c.of(&ipas) | if c.one_in(3) { c.of(&[1, 0x800]) } else { 0 };
        }
        let fitting: Vec<u64> = ipas
            .iter()
            .copied()
            .filter(|ipa| shared.model.walk(rd, *ipa, 3).is_some_and(|walk| wanted(walk.level, walk.entry)))
            .collect();
        c.maybe(&fitting).unwrap_or_else(|| c.of(&ipas))
    }

    fn start_level(&self, rd: u64) -> i64 {
        self.shared().model.realms().get(&rd).map_or(0, |realm| realm.rtt_level_start)
    }

    fn build_realm(&mut self, c: &mut Choice) -> Result<(), String> {
        if self.shared().model.realms().len() >= 3 {
            return self.enter(c);
        }
        let (s2sz, level, tables) = c.of(&GEOMETRIES);
        // Starting tables need a run of granules, which only the end of the pool has for sure.
        let free: Vec<u64> = {
            let shared = self.shared();
            let free = |pa: u64| {
                matches!(
                    shared.model.granule_state(pa),
                    Some(GranuleState::Delegated | GranuleState::Undelegated)
                )
            };
            let size = u64::from(tables) * 0x1000;
            let run = |pa: u64| (0..u64::from(tables)).all(|i| free(pa + i * 0x1000));
            self.pool.iter().copied().filter(|pa| pa.is_multiple_of(size) && run(*pa)).collect()
        };
        let Some(rtt_base) = c.maybe(&free) else { return Ok(()) };
        for i in 0..u64::from(tables) {
            self.make_delegated(rtt_base + i * 0x1000)?;
        }
        let rd = self.delegated(c)?;
        let params = self.realm_params(c, rtt_base, (s2sz, level, tables));
        let mut page = params.as_bytes().to_vec();
        if c.one_in(3) {
            // Bytes between fields mean nothing, and are not measured.
            for hole in [0x9..0x10, 0x31..0x400, 0x440..0x800, 0x802..0x808, 0x81c..0x1000] {
                page[hole].fill(c.next() as u8);
            }
        }
        let params_ptr = self.host_page(c, &page);
        self.call(RmiCommand::RealmCreate { rd, params_ptr }).map(drop)
    }

    fn make_delegated(&mut self, pa: u64) -> Result<(), String> {
        if self.shared().model.granule_state(pa) == Some(GranuleState::Undelegated) {
            self.call(RmiCommand::GranuleDelegate { addr: pa })?;
        }
        Ok(())
    }

    fn realm_params(
        &self,
        c: &mut Choice,
        rtt_base: u64,
        (s2sz, level, tables): (u8, i64, u32),
    ) -> RealmParams {
        let features = self.shared().model.config().features;
        let mut params = RealmParams::default();
        (params.s2sz, params.rtt_level_start, params.rtt_num_start, params.rtt_base) =
            (s2sz, level, tables, rtt_base);
        params.num_bps = 1 + c.below(features.num_bps()) as u8;
        params.num_wps = 1 + c.below(features.num_wps()) as u8;
        params.hash_algo = c.of(&[HashAlgorithm::SHA_256, HashAlgorithm::SHA_256, HashAlgorithm::SHA_512]);
        params.vmid = c.below(5) as u16;
        params.rpv = std::array::from_fn(|_| c.next() as u8);
        let mut flags = RealmFlags::empty();
        if c.one_in(4) {
            flags |= RealmFlags::PMU;
            params.pmu_num_ctrs = 1 + c.below(features.pmu_num_ctrs()) as u8;
        }
        if features.sve_en() == 1 && c.one_in(3) {
            flags |= RealmFlags::SVE;
            params.sve_vl = c.below(features.sve_vl() + 1) as u8;
        }
        if features.lpa2() == 1 && c.one_in(2) {
            flags |= RealmFlags::LPA2;
            if c.one_in(3) {
                (params.s2sz, params.rtt_level_start, params.rtt_num_start) = (50, -1, 1);
            }
        }
        // One parameter in a few realms is wrong.
        match c.below(60) {
            0 => params.s2sz = c.of(&[0, 31, 34, 43, 49, 53, 64, 255]),
            1 => params.num_bps = c.of(&[0, 63]),
            2 => params.num_wps = c.of(&[0, 63]),
            3 => params.hash_algo = HashAlgorithm(2),
            4 => params.vmid = c.of(&[256, 0xffff]),
            5 => params.rtt_level_start = c.of(&[-2, -1, 0, 1, 2, 3, 4, i64::MIN, i64::MAX]),
            6 => params.rtt_num_start = c.of(&[0, 2, 3, 16, 17, u32::MAX]),
            7 => params.rtt_base = c.of(&BAD_PAS),
            8 => params.rtt_base = rtt_base.wrapping_add(0x1000),
            9 => flags |= RealmFlags::LPA2,
            10 => {
                flags |= RealmFlags::SVE;
                params.sve_vl = 15;
            }
            11 => {
                flags |= RealmFlags::PMU;
                params.pmu_num_ctrs = c.of(&[0, 31]);
            }
            _ => {}
        }
        params.flags = flags.bits();
        params
    }

    /// Tables for an IPA down to a level.
    fn build_tables(&mut self, c: &mut Choice) -> Result<(), String> {
        let rd = self.rd(c);
        let ipa = self.ipa(c, rd, |level, _| level < 3);
        let to = if c.one_in(4) { c.below(4) as i64 } else { 3 };
        self.tables(c, rd, ipa, to)
    }

    fn tables(&mut self, c: &mut Choice, rd: u64, ipa: u64, to: i64) -> Result<(), String> {
        for level in self.start_level(rd) + 1..=to {
            let table =
                self.shared().model.walk(rd, ipa, level - 1).is_some_and(|walk| walk.entry == Entry::Table);
            if !table {
                let rtt = self.delegated(c)?;
                self.call(RmiCommand::RttCreate { rd, rtt, ipa: align(ipa, level - 1), level })?;
            }
        }
        Ok(())
    }

    /// Gives a new realm memory at its first pages, as a VMM does.
    fn populate(&mut self, c: &mut Choice, rd: u64) -> Result<(), String> {
        self.tables(c, rd, 0, 3)?;
        self.call(RmiCommand::RttInitRipas { rd, base: 0, top: c.of(&[0x3000, 0x5000, 0x20_0000]) })?;
        for ipa in [0, 0x1000, 0x2000] {
            let content: Vec<u8> = (0..0x200).flat_map(|_| c.next().to_le_bytes()).collect();
            let src = self.host_page(c, &content);
            let data = self.fresh(c)?;
            self.call(RmiCommand::DataCreate { rd, data, ipa, src, flags: DataFlags(c.below(2)) })?;
        }
        Ok(())
    }

    fn add_data(&mut self, c: &mut Choice) -> Result<(), String> {
        let rd = self.rd(c);
        let new = self.shared().model.realms().get(&rd).is_some_and(|realm| realm.state == RealmState::New);
        if new && c.one_in(2) {
            return self.populate(c, rd);
        }
        let name = c.of(&["data", "data_unknown"]);
        let command = self.command(c, name);
        if let RmiCommand::DataCreate { data, .. } | RmiCommand::DataCreateUnknown { data, .. } = command {
            self.make_delegated(data)?;
        }
        self.call(command).map(drop)
    }

    fn rec_params(&mut self, c: &mut Choice, rd: u64, aux: Vec<u64>) -> RecParams {
        let mut params = RecParams::default();
        params.flags = if c.one_in(3) { 0 } else { RecFlags::RUNNABLE.bits() };
        let index = self.shared().model.realms().get(&rd).map_or(0, |realm| realm.rec_index);
        params.mpidr = index & 0xf | (index >> 4) << 8;
        params.pc = c.next() & 0xffff_fff0 | 4;
        params.gprs = std::array::from_fn(|_| c.next());
        params.num_aux = aux.len() as u64;
        params.aux[..aux.len()].copy_from_slice(&aux);
        match c.below(40) {
            0 => params.mpidr = c.of(&[index + 1, 1 << 8, 1 << 16, 1 << 24, index | 0x10, index | 1 << 32]),
            1 => params.num_aux = c.of(&[0, 2, 16, 17, u64::MAX]),
            2 => params.aux[0] = c.of(&BAD_PAS),
            3 => params.aux[0] = c.of(&self.pool),
            _ => {}
        }
        params
    }

    fn add_rec(&mut self, c: &mut Choice) -> Result<(), String> {
        let realms: Vec<(u64, u64)> = {
            let shared = self.shared();
            shared
                .model
                .realms()
                .iter()
                .filter(|(_, realm)| realm.state == RealmState::New)
                .map(|(rd, realm)| (*rd, realm.num_recs))
                .collect()
        };
        let rd = match c.maybe(&realms) {
            Some((rd, recs)) if recs < 3 && !c.one_in(12) => rd,
            _ => self.rd(c),
        };
        let rec = self.delegated(c)?;
        let count = self.shared().model.config().rec_aux_count;
        let mut aux = Vec::new();
        for _ in 0..count {
            aux.push(self.fresh(c)?);
        }
        let params = self.rec_params(c, rd, aux);
        let mut page = params.as_bytes().to_vec();
        if c.one_in(3) {
            for hole in [0x8..0x100, 0x108..0x200, 0x208..0x300, 0x340..0x800, 0x888..0x1000] {
                page[hole].fill(c.next() as u8);
            }
        }
        let params_ptr = self.host_page(c, &page);
        self.call(RmiCommand::RecCreate { rd, rec, params_ptr }).map(drop)
    }

    /// Fills a whole table with a run, which mostly fits a block, and folds it; so there is a block to read, destroy and
    /// unfold.
    fn block(&mut self, c: &mut Choice) -> Result<(), String> {
        let rd = self.rd(c);
        let half = self.shared().model.realms().get(&rd).map_or(0, |realm| realm.ipa_end() / 2);
        let unprotected = c.one_in(3);
        let ipa = c.of(&[RUN_IPA, RUN_IPA, RUN_IPA + 0x20_0000]) + if unprotected { half } else { 0 };
        let first = c.of(&[0, 0, 0, 0x1000]);
        let odd_one = c.one_in(4).then(|| c.below(512));
        self.tables(c, rd, ipa, 3)?;
        if self.shared().model.walk(rd, ipa, 3).is_none_or(|walk| walk.level != 3) {
            return Ok(());
        }
        if unprotected {
            for i in 0..512 {
                let at = i * 0x1000;
                let attributes = if odd_one == Some(i) { 0x58 } else { 0xd8 };
                let desc = UnprotectedDesc((0x8000_0000 + first + at) | attributes);
                self.call(RmiCommand::RttMapUnprotected { rd, ipa: ipa + at, level: 3, desc })?;
            }
            return self.call(RmiCommand::RttFold { rd, ipa, level: 3 }).map(drop);
        }
        let run = BLOCK + first;
        let free =
            |driver: &Self, pa| driver.shared().model.granule_state(pa) == Some(GranuleState::Undelegated);
        if !(0..=512).all(|i| free(self, run + i * 0x1000)) {
            return Ok(());
        }
        for i in 0..512 {
            let data = run + if odd_one == Some(i) { 512 } else { i } * 0x1000;
            self.call(RmiCommand::GranuleDelegate { addr: data })?;
            self.call(RmiCommand::DataCreateUnknown { rd, data, ipa: ipa + i * 0x1000 })?;
        }
        self.call(RmiCommand::RttFold { rd, ipa, level: 3 }).map(drop)
    }

    /// What a Host does about the last exit of some REC.
    pub(crate) fn service(&mut self, c: &mut Choice) -> Result<(), String> {
        let waiting: Vec<(u64, LastExit)> = {
            let shared = self.shared();
            let waits = |last: &LastExit| matches!(last, LastExit::Ripas { .. } | LastExit::Psci(_));
            shared
                .model
                .recs()
                .iter()
                .filter(|(_, rec)| waits(&rec.last_exit))
                .map(|(pa, rec)| (*pa, rec.last_exit))
                .collect()
        };
        let command = match c.maybe(&waiting) {
            Some((_, LastExit::Psci(_))) => "psci_complete",
            Some(_) => "set_ripas",
            None => "data_unknown",
        };
        let command = self.command(c, command);
        if let RmiCommand::DataCreateUnknown { data, .. } = command {
            self.make_delegated(data)?;
        }
        self.call(command).map(drop)
    }

    /// A command with arguments that mostly fit the state.
    pub(crate) fn command(&mut self, c: &mut Choice, name: &str) -> RmiCommand {
        use GranuleState as G;
        let rd = self.rd(c);
        let ns_entry = |_: i64, e: Entry| e == Entry::UnassignedNs;
        match name {
            "delegate" => RmiCommand::GranuleDelegate { addr: self.granule(c, G::Undelegated) },
            "undelegate" => RmiCommand::GranuleUndelegate { addr: self.granule(c, G::Delegated) },
            "realm_create" => {
                let base = self.granule(c, G::Delegated);
                let geometry = c.of(&GEOMETRIES);
                let params = self.realm_params(c, base, geometry);
                RmiCommand::RealmCreate {
                    rd: self.granule(c, G::Delegated),
                    params_ptr: self.host_page(c, params.as_bytes()),
                }
            }
            "realm_destroy" => RmiCommand::RealmDestroy { rd },
            "rec_destroy" => {
                RmiCommand::RecDestroy { rec: if c.one_in(2) { self.rec(c) } else { c.of(&self.pool) } }
            }
            "rec_create" => {
                let count = self.shared().model.config().rec_aux_count;
                let aux = (0..count).map(|_| self.granule(c, G::Delegated)).collect();
                let params = self.rec_params(c, rd, aux);
                let rec = self.granule(c, G::Delegated);
                RmiCommand::RecCreate { rd, rec, params_ptr: self.host_page(c, params.as_bytes()) }
            }
            "rtt_create" => {
                let ipa = self.ipa(c, rd, |level, e| level < 3 || matches!(e, Entry::AssignedNs(_)));
                let level = self.level(c, rd, ipa, 1);
                RmiCommand::RttCreate {
                    rd,
                    rtt: self.granule(c, G::Delegated),
                    ipa: self.aligned(c, ipa, level.saturating_sub(1)),
                    level,
                }
            }
            "rtt_destroy" | "fold" => {
                let ipa = self.ipa(c, rd, |level, _| level > 0);
                let level = self.level(c, rd, ipa, 0);
                let ipa = self.aligned(c, ipa, level.saturating_sub(1));
                if name == "fold" {
                    RmiCommand::RttFold { rd, ipa, level }
                } else {
                    RmiCommand::RttDestroy { rd, ipa, level }
                }
            }
            "map" => {
                let ipa = self.ipa(c, rd, ns_entry);
                let level = self.level(c, rd, ipa, 0);
                RmiCommand::RttMapUnprotected {
                    rd,
                    ipa: self.aligned(c, ipa, level),
                    level,
                    desc: self.desc(c, level),
                }
            }
            "unmap" => {
                let ipa = self.ipa(c, rd, |_, e| matches!(e, Entry::AssignedNs(_)));
                let level = self.level(c, rd, ipa, 0);
                RmiCommand::RttUnmapUnprotected { rd, ipa: self.aligned(c, ipa, level), level }
            }
            "read" => {
                let ipa = self.ipa(c, rd, |_, _| true);
                let level = c.of(&[-1, 0, 1, 2, 3, 3, 3, 4]);
                RmiCommand::RttReadEntry { rd, ipa: self.aligned(c, ipa, level), level }
            }
            "data" => RmiCommand::DataCreate {
                rd,
                data: self.granule(c, G::Delegated),
                ipa: self.ipa(c, rd, |level, e| level == 3 && matches!(e, Entry::Unassigned(_))),
                src: {
                    let content: Vec<u8> = (0..0x200).flat_map(|_| c.next().to_le_bytes()).collect();
                    self.host_page(c, &content)
                },
                flags: DataFlags(c.of(&[0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 1 << 63])),
            },
            "data_unknown" => RmiCommand::DataCreateUnknown {
                rd,
                data: self.granule(c, G::Delegated),
                ipa: self.ipa(c, rd, |level, e| level == 3 && matches!(e, Entry::Unassigned(_))),
            },
            "data_destroy" => RmiCommand::DataDestroy {
                rd,
                ipa: self.ipa(c, rd, |_, e| matches!(e, Entry::Assigned { .. })),
            },
            "init_ripas" => {
                let ipa = self.ipa(c, rd, |level, e| level >= 2 && matches!(e, Entry::Unassigned(_)));
                let size = c.of(&[
                    0x1000,
                    0x1000,
                    0x2000,
                    0x5000,
                    0x20_0000,
                    0x20_1000,
                    0x4000_0000,
                    0,
                    0x800,
                    u64::MAX,
                ]);
                RmiCommand::RttInitRipas { rd, base: ipa, top: ipa.wrapping_add(size) }
            }
            "set_ripas" => self.set_ripas(c, rd),
            "psci_complete" => self.psci_complete(c),
            _ => match c.below(4) {
                0 => RmiCommand::Version {
                    req: c.of(&[Version::V1_0, Version::new(1, 1), Version::new(2, 0), Version::new(0, 1)]),
                },
                1 => RmiCommand::Features { index: c.of(&[0, 0, 1, u64::MAX]) },
                _ => RmiCommand::RecAuxCount { rd },
            },
        }
    }

    /// The level a walk reaches at `ipa` plus `more`; mostly.
    fn level(&self, c: &mut Choice, rd: u64, ipa: u64, more: i64) -> i64 {
        if c.one_in(5) {
            return c.of(&[1, 2, 3, 2, 3, 0, -1, 4, i64::MIN, i64::MAX]);
        }
        self.shared().model.walk(rd, ipa, 3).map_or(3, |walk| walk.level + more)
    }

    fn aligned(&self, c: &mut Choice, ipa: u64, level: i64) -> u64 {
        if c.one_in(20) { ipa } else { align(ipa, level) }
    }

    fn desc(&self, c: &mut Choice, level: i64) -> UnprotectedDesc {
        let pa = if level == 3 || c.one_in(12) {
            if c.one_in(2) { c.of(&self.host_pages) } else { c.of(&self.pool) }
        } else {
            c.of(&[0x8000_0000, 0x8000_0000, 0xc000_0000, 0])
        };
        let memattr = c.of(&[0u64, 1, 5, 6, 6, 6, 7]) << 2;
        let access = c.of(&[0u64, 1, 2, 3, 3, 3, 3, 3]) << 6;
        let wrong = match c.below(40) {
            0 => 1,
            1 => 1 << 5,
            2 => 1 << 55,
            3 => 1 << 10,
            4 => 3 << 8,
            5 => 1 << 48,
            6 => 1 << 50,
            _ => 0,
        };
        UnprotectedDesc(pa | memattr | access | wrong)
    }

    fn set_ripas(&mut self, c: &mut Choice, rd: u64) -> RmiCommand {
        let asking: Vec<(u64, u64, u64, u64)> = {
            let shared = self.shared();
            shared
                .model
                .recs()
                .iter()
                .filter_map(|(pa, rec)| match rec.last_exit {
                    LastExit::Ripas { addr, top, .. } => Some((*pa, rec.owner, addr, top)),
                    _ => None,
                })
                .collect()
        };
        let (rec, owner, addr, limit) = c.maybe(&asking).unwrap_or((self.rec(c), rd, 0, 0x1000));
        let near = [limit, limit, limit, addr.wrapping_add(0x1000), addr.wrapping_add(0x20_0000)];
        let mut top = c.of(&near).min(limit);
        let (mut owner, mut base) = (owner, addr);
        match c.below(20) {
            0 => {
                top = c.of(&[
                    limit.wrapping_add(0x1000),
                    base,
                    base.wrapping_sub(0x1000),
                    0,
                    limit | 0x800,
                    u64::MAX,
                ])
            }
            1 => base = c.of(&[base.wrapping_add(0x1000), base | 0x800, 0, 1 << 63]),
            2 => owner = rd,
            _ => {}
        }
        RmiCommand::RttSetRipas { rd: owner, rec, base, top }
    }

    fn psci_complete(&mut self, c: &mut Choice) -> RmiCommand {
        let pairs: Vec<(u64, u64)> = {
            let shared = self.shared();
            let recs = shared.model.recs();
            let pending = recs.iter().filter(|(_, rec)| matches!(rec.last_exit, LastExit::Psci(_)));
            pending
                .flat_map(|(pa, rec)| {
                    recs.iter()
                        .filter(move |(_, target)| target.owner == rec.owner)
                        .map(move |(target, _)| (*pa, *target))
                })
                .collect()
        };
        let any = (self.rec(c), self.rec(c));
        let (calling_rec, mut target_rec) = c.maybe(&pairs).unwrap_or(any);
        if c.one_in(12) {
            target_rec = self.rec(c);
        }
        RmiCommand::PsciComplete { calling_rec, target_rec, status: c.of(&[0, 0, 0, -3, -3, -4, 1]) }
    }
}

/// `ipa` rounded down to an entry of `level`, as far as there is such a level.
pub(crate) fn align(ipa: u64, level: i64) -> u64 {
    realm_abi::rmi::rtt_entry_size(level).map_or(ipa, |size| ipa / size * size)
}
