//! Compares the whole state of the RMM with the model's.

use crate::oracle::addresses::{DRAM_SIZE, interesting_ipas};
use crate::oracle::driver::Driver;
use realm_abi::rmi::{RmiCommand, RmiReply};
use realm_machine::config::DRAM_BASE;
use realm_machine::memory::Pas;
use realm_model::{GranuleState, Model, RealmState};
use realm_rmm::Platform;
use realm_rmm::granule::{self as rmm, Content};
use realm_rmm::realm::{RealmDescriptor, RealmState as RmmRealmState};

fn same_state(model: GranuleState, rmm: rmm::GranuleState) -> bool {
    use rmm::GranuleState as R;
    matches!(
        (model, rmm),
        (GranuleState::Undelegated, R::Undelegated)
            | (GranuleState::Delegated, R::Delegated)
            | (GranuleState::Rd, R::Rd)
            | (GranuleState::Rec, R::Rec)
            | (GranuleState::RecAux, R::RecAux)
            | (GranuleState::Data, R::Data)
            | (GranuleState::Rtt, R::Rtt)
    )
}

impl Driver {
    /// Granules, realms and data; of the tables every entry if `all`, else those at interesting IPAs.
    ///
    /// # Errors
    /// The first difference.
    pub fn compare(&mut self, all: bool) -> Result<(), String> {
        let model = self.shared().model.clone();
        self.compare_granules(&model)?;
        self.compare_data(&model)?;
        for rd in model.realms().keys() {
            self.compare_realm(&model, *rd)?;
            let mut entries = Vec::new();
            let realm = &model.realms()[rd];
            if all {
                for ((level, base), table) in realm.rtts.tables() {
                    let size = 1u64 << (12 + 9 * (3 - level));
                    let end = realm.ipa_end();
                    let ipas = (0..table.entries.len() as u64).map(|i| base + i * size);
                    entries.extend(ipas.take_while(|ipa| *ipa < end).map(|ipa| (ipa, *level)));
                }
            } else {
                entries.extend(
                    interesting_ipas(&model, *rd)
                        .into_iter()
                        .filter(|ipa| *ipa < realm.ipa_end())
                        .map(|ipa| (ipa, 3)),
                );
            }
            for (ipa, level) in entries {
                self.compare_entry(&model, *rd, ipa, level)?;
            }
        }
        Ok(())
    }

    fn compare_granules(&self, model: &Model) -> Result<(), String> {
        for pa in (DRAM_BASE..DRAM_BASE + DRAM_SIZE).step_by(0x1000) {
            let expected = model.granule_state(pa).unwrap_or(GranuleState::Undelegated);
            let found = self.machine.rmm().granules().peek(pa);
            if !found.is_some_and(|found| same_state(expected, found)) {
                return Err(format!("granule {pa:#x} is {found:?} in the RMM, {expected:?} in the model"));
            }
            let realm = self.machine.memory().pas(pa) == Some(Pas::Realm);
            if realm != (expected != GranuleState::Undelegated) {
                return Err(format!("granule {pa:#x} is {expected:?} and its GPT entry says Realm: {realm}"));
            }
        }
        Ok(())
    }

    fn compare_data(&self, model: &Model) -> Result<(), String> {
        let granules = (DRAM_BASE..DRAM_BASE + DRAM_SIZE).step_by(0x1000);
        for (pa, content) in granules.filter_map(|pa| Some((pa, model.data_content(pa)?))) {
            let mut found = vec![0; 0x1000];
            let memory = self.machine.memory();
            memory.read(Pas::Root, Pas::Realm, pa, &mut found).map_err(|fault| fault.to_string())?;
            if let Some(at) = found.iter().zip(content).position(|(a, b)| a != b) {
                return Err(format!("data granule {pa:#x} differs at offset {at:#x}"));
            }
        }
        Ok(())
    }

    fn compare_realm(&self, model: &Model, rd: u64) -> Result<(), String> {
        let rmm = self.machine.rmm();
        let mut guard = rmm
            .granules()
            .lock(rd, rmm::GranuleState::Rd)
            .map_err(|error| format!("RD {rd:#x} cannot be locked: {error:?}"))?;
        let recs = u64::from(guard.refcount());
        let found = rmm.platform().with_granule(&mut guard, |granule| RealmDescriptor::of(granule).clone());
        drop(guard);
        let realm = &model.realms()[&rd];
        let state = match found.state() {
            RmmRealmState::New => RealmState::New,
            RmmRealmState::Active => RealmState::Active,
            RmmRealmState::SystemOff => RealmState::SystemOff,
        };
        let same = state == realm.state
            && found.measurements == realm.measurements
            && found.rpv == realm.rpv
            && found.rtt_base == realm.rtt_base
            && found.rtt_level_start == realm.rtt_level_start
            && found.rtt_num_start == u64::from(realm.rtt_num_start)
            && found.rec_index == realm.rec_index
            && found.vmid == realm.vmid
            && found.ipa_width == realm.ipa_width
            && found.hash_algo == realm.hash_algo
            && (found.lpa2 != 0) == realm.lpa2
            && recs == realm.num_recs;
        if same {
            Ok(())
        } else {
            Err(format!("realm {rd:#x} is {found:x?} with {recs} RECs, not {realm:x?}"))
        }
    }

    fn compare_entry(&self, model: &Model, rd: u64, ipa: u64, level: i64) -> Result<(), String> {
        let regs = RmiCommand::RttReadEntry { rd, ipa, level }.to_regs();
        let outcome = model.rtt_read_entry(rd, ipa, level);
        let reply = RmiReply::from_regs(&self.machine.smc(regs));
        outcome
            .check(&reply)
            .map(drop)
            .map_err(|why| format!("entry of {rd:#x} at {ipa:#x}, level {level}: {why}"))
    }
}
