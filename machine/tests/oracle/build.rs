//! Steps of several calls, as a Host makes them to get somewhere.

use crate::oracle::addresses::{BAD_PAS, BLOCK, GEOMETRIES, RUN_IPA};
use crate::oracle::driver::Driver;
use crate::oracle::pick::align;
use crate::oracle::random::Choice;
use realm_abi::rmi::{
    DataFlags, HashAlgorithm, RealmFlags, RealmParams, RecFlags, RecParams, RmiCommand, UnprotectedDesc,
};
use realm_model::{Entry, GranuleState, LastExit, RealmState};
use zerocopy::IntoBytes;

impl Driver {
    pub(crate) fn start_level(&self, rd: u64) -> i64 {
        self.shared().model.realms().get(&rd).map_or(0, |realm| realm.rtt_level_start)
    }

    pub(crate) fn build_realm(&mut self, c: &mut Choice) -> Result<(), String> {
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

    pub(crate) fn make_delegated(&mut self, pa: u64) -> Result<(), String> {
        if self.shared().model.granule_state(pa) == Some(GranuleState::Undelegated) {
            self.call(RmiCommand::GranuleDelegate { addr: pa })?;
        }
        Ok(())
    }

    pub(crate) fn realm_params(
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
    pub(crate) fn build_tables(&mut self, c: &mut Choice) -> Result<(), String> {
        let rd = self.rd(c);
        let ipa = self.ipa(c, rd, |level, _| level < 3);
        let to = if c.one_in(4) { c.below(4) as i64 } else { 3 };
        self.tables(c, rd, ipa, to)
    }

    pub(crate) fn tables(&mut self, c: &mut Choice, rd: u64, ipa: u64, to: i64) -> Result<(), String> {
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
    pub(crate) fn populate(&mut self, c: &mut Choice, rd: u64) -> Result<(), String> {
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

    pub(crate) fn add_data(&mut self, c: &mut Choice) -> Result<(), String> {
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

    pub(crate) fn rec_params(&mut self, c: &mut Choice, rd: u64, aux: Vec<u64>) -> RecParams {
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

    pub(crate) fn add_rec(&mut self, c: &mut Choice) -> Result<(), String> {
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
    pub(crate) fn block(&mut self, c: &mut Choice) -> Result<(), String> {
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
}
