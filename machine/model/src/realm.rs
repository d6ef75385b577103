//! Realms (RMM 1.0, realm states, RMI_REALM_*).

use crate::granule::{GranuleState, NsMemory, aligned};
use crate::measurement::{Measurement, hash};
use crate::outcome::{Conditions, Outcome};
use crate::realm_config::{rtt_config, supported, valid};
use crate::rtt::{Entry, Rtts};
use crate::{Model, Table};
use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::{HashAlgorithm, RealmFlags, RealmParams, ReturnCode};
use zerocopy::IntoBytes;

/// `RmmRealmState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RealmState {
    /// Under construction.
    New,
    /// Its RECs can run.
    Active,
    /// It has switched itself off.
    SystemOff,
}

/// A realm.
#[derive(Clone, Debug)]
pub struct Realm {
    /// Lifecycle.
    pub state: RealmState,
    /// Addresses in tables are 52 bits wide.
    pub lpa2: bool,
    /// Bits of an IPA.
    pub ipa_width: u8,
    /// RIM, then the four REMs.
    pub measurements: [Measurement; 5],
    /// Hash of the measurements.
    pub hash_algo: HashAlgorithm,
    /// Index the next REC must have.
    pub rec_index: u64,
    /// First starting-level table.
    pub rtt_base: u64,
    /// Starting level.
    pub rtt_level_start: i64,
    /// Starting-level tables.
    pub rtt_num_start: u32,
    /// VMID.
    pub vmid: u16,
    /// Personalization value.
    pub rpv: [u8; 64],
    /// RECs that exist.
    pub num_recs: u64,
    /// Translation tables.
    pub rtts: Rtts,
}

impl Realm {
    /// End of the IPA space.
    #[must_use]
    pub fn ipa_end(&self) -> u64 {
        1 << self.ipa_width
    }
    /// Whether `ipa` is in the protected half.
    #[must_use]
    pub fn protected(&self, ipa: u64) -> bool {
        ipa < self.ipa_end() / 2
    }
    /// Whether all of `[base, top)` is in the protected half; `base < top`.
    #[must_use]
    pub fn range_protected(&self, base: u64, top: u64) -> bool {
        self.protected(base) && top <= self.ipa_end() / 2
    }
}

impl Model {
    pub(crate) fn realm_create(&mut self, rd: u64, params_ptr: u64, ns: &dyn NsMemory) -> Outcome {
        let mut c = Conditions::default();
        self.granule_group(&mut c, ["rd_align", "rd_bound", "rd_state"], rd, GranuleState::Delegated);
        let params: Option<RealmParams> =
            self.ns_group(&mut c, ["params_align", "params_bound", "params_pas"], params_ptr, ns);
        if let Some(params) = &params {
            self.check_realm_params(&mut c, rd, params);
        }
        if let Some(failure) = c.outcome(None) {
            return failure;
        }
        let Some(params) = params else {
            return Outcome::fails("params_pas", ReturnCode::ERROR_INPUT);
        };
        self.set_granule(rd, GranuleState::Rd);
        let realm = new_realm(&params);
        for table in realm.rtts.tables.values() {
            self.granules.insert(table.pa, GranuleState::Rtt);
        }
        self.realms.insert(rd, realm);
        Outcome::success(&[])
    }

    /// Every failure of REALM_CREATE has one code, so only whether there is one matters.
    fn check_realm_params(&self, c: &mut Conditions, rd: u64, params: &RealmParams) {
        let lpa2 = RealmFlags::from_bits_retain(params.flags).contains(RealmFlags::LPA2);
        c.input_if("params_valid", !valid(params));
        c.input_if("params_supp", !supported(&self.config, params));
        let geometry = rtt_config(&self.config, params.s2sz, lpa2)
            .contains(&(params.rtt_level_start, params.rtt_num_start));
        c.input_if("rtt_num_level", !geometry);
        if geometry {
            let size = u64::from(params.rtt_num_start) * GRANULE_SIZE;
            c.input_if("rtt_align", !params.rtt_base.is_multiple_of(size));
            let tables = start_tables(params);
            c.input_if("alias", tables.contains(&Some(rd)));
            let fine = tables.iter().all(|pa| {
                pa.is_some_and(|pa| aligned(pa) && self.granule_state(pa) == Some(GranuleState::Delegated))
            });
            c.input_if("rtt_state", !fine);
        }
        let in_use = self.realms.values().any(|realm| realm.vmid == params.vmid);
        c.input_if("vmid_valid", in_use || (params.vmid > 255 && !self.config.vmid16));
    }

    pub(crate) fn realm_activate(&mut self, rd: u64) -> Outcome {
        let mut c = Conditions::default();
        if let Some(realm) = self.rd_group(&mut c, rd) {
            c.fail_if("realm_state", realm.state != RealmState::New, ReturnCode::ERROR_REALM);
        }
        c.order(&["rd_bound", "rd_state"], &["realm_state"]);
        if let Some(failure) = c.outcome(None) {
            return failure;
        }
        if let Some(realm) = self.realms.get_mut(&rd) {
            realm.state = RealmState::Active;
        }
        Outcome::success(&[])
    }

    pub(crate) fn realm_destroy(&mut self, rd: u64) -> Outcome {
        let mut c = Conditions::default();
        if let Some(realm) = self.rd_group(&mut c, rd) {
            let start = realm.rtt_level_start;
            let live = realm.rtts.tables.iter().any(|((level, _), table)| *level == start && table.live());
            c.fail_if("realm_live", realm.num_recs != 0 || live, ReturnCode::ERROR_REALM);
        }
        c.order(&["rd_bound", "rd_state"], &["realm_live"]);
        if let Some(failure) = c.outcome(None) {
            return failure;
        }
        if let Some(realm) = self.realms.remove(&rd) {
            for table in realm.rtts.tables.values() {
                self.granules.insert(table.pa, GranuleState::Delegated);
            }
        }
        self.set_granule(rd, GranuleState::Delegated);
        Outcome::success(&[])
    }

    pub(crate) fn rec_aux_count(&self, rd: u64) -> Outcome {
        let mut c = Conditions::default();
        self.rd_group(&mut c, rd);
        c.outcome(None).unwrap_or_else(|| Outcome::success(&[self.config.rec_aux_count]))
    }
}

/// Addresses of the starting-level tables, `None` for one past the end of all addresses.
fn start_tables(params: &RealmParams) -> Vec<Option<u64>> {
    (0..u64::from(params.rtt_num_start)).map(|i| params.rtt_base.checked_add(i * GRANULE_SIZE)).collect()
}

fn new_realm(params: &RealmParams) -> Realm {
    let mut measurements = [[0; 64]; 5];
    measurements[0] = hash(params.hash_algo, params.measured().as_bytes());
    let mut realm = Realm {
        state: RealmState::New,
        lpa2: RealmFlags::from_bits_retain(params.flags).contains(RealmFlags::LPA2),
        ipa_width: params.s2sz,
        measurements,
        hash_algo: params.hash_algo,
        rec_index: 0,
        rtt_base: params.rtt_base,
        rtt_level_start: params.rtt_level_start,
        rtt_num_start: params.rtt_num_start,
        vmid: params.vmid,
        rpv: params.rpv,
        num_recs: 0,
        rtts: Rtts::new(params.rtt_level_start),
    };
    let half = realm.ipa_end() / 2;
    let size = crate::rtt::entry_size(params.rtt_level_start);
    for (i, pa) in (0u64..).zip(start_tables(params).into_iter().flatten()) {
        let base = i * 512 * size;
        let entries = (0..512u64)
            .map(|e| if base + e * size < half { Entry::EMPTY } else { Entry::UnassignedNs })
            .collect();
        realm.rtts.tables.insert((params.rtt_level_start, base), Table { pa, entries });
    }
    realm
}
