//! The state the RMM 1.0 specification describes, as plain code: granules, realms, translation table entries, RECs and
//! measurements, and what each RMI, RSI and PSCI call does to them.
//!
//! It is an oracle: it shares no code with the RMM it judges, keeps its state in maps instead of granules, and answers
//! with *sets*. Where the specification leaves the order of failure conditions open every true condition may be
//! reported ([`Outcome::Failure`]); where it leaves a value open the model accepts what it is shown and goes on from there
//! ([`Model::observe_resume`]).
//!
//! A run of a REC has three parts: [`Model::rmi`] with REC_ENTER says [`Outcome::Entered`]; each time the realm starts
//! to run its registers go to [`Model::observe_resume`], and each time it traps the trap goes to [`Model::trap`]; when
//! REC_ENTER returns, the exit structure goes to [`Model::observe_exit`].
#![forbid(unsafe_code)]

mod data;
mod gic;
mod granule;
mod measurement;
mod outcome;
mod realm;
mod realm_config;
mod rec;
mod registers;
mod ripas;
mod rtt;
mod rtt_commands;
mod run;

pub use granule::{GranuleState, NsMemory};
pub use measurement::Measurement;
pub use outcome::{Expect, Failure, Outcome};
pub use realm::{Realm, RealmState};
pub use realm_config::{rtt_config, start_table_count};
pub use rec::{LastExit, Rec};
pub use registers::Registers;
pub use rtt::{Access, AccessKind, Entry, Table, Walk};
pub use run::Trap;

use realm_abi::rmi::{FeatureRegister0, ReturnCode, RmiCommand, Version};
use std::collections::BTreeMap;
use std::ops::Range;

/// What the specification leaves to the implementation.
#[derive(Clone, Debug)]
pub struct Config {
    /// RMI feature register 0.
    pub features: FeatureRegister0,
    /// Delegable physical memory, granule-aligned.
    pub delegable: Vec<Range<u64>>,
    /// Auxiliary granules of every REC.
    pub rec_aux_count: u64,
    /// Implemented physical address bits.
    pub pa_bits: u8,
    /// 16-bit VMIDs.
    pub vmid16: bool,
    /// FEAT_HPMN0: a PMU without event counters.
    pub hpmn0: bool,
    /// Implemented bits of an interrupt priority.
    pub gic_priority_bits: u8,
    /// Bits of an interrupt identifier.
    pub gic_id_bits: u8,
    /// GICv3.1 extended PPI and SPI ranges.
    pub gic_extended_range: bool,
}

/// The whole state.
#[derive(Clone, Debug)]
pub struct Model {
    pub(crate) config: Config,
    pub(crate) granules: BTreeMap<u64, GranuleState>,
    /// Content of DATA granules, `None` where the specification does not say what it is.
    pub(crate) data: BTreeMap<u64, Option<Vec<u8>>>,
    pub(crate) realms: BTreeMap<u64, Realm>,
    pub(crate) recs: BTreeMap<u64, Rec>,
    pub(crate) running: Option<run::alternative::Running>,
}

impl Model {
    /// The state after the RMM has booted: every delegable granule is UNDELEGATED.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            granules: BTreeMap::new(),
            data: BTreeMap::new(),
            realms: BTreeMap::new(),
            recs: BTreeMap::new(),
            running: None,
        }
    }

    /// The realms by the address of their descriptor.
    #[must_use]
    pub fn realms(&self) -> &BTreeMap<u64, Realm> {
        &self.realms
    }

    /// The RECs by address.
    #[must_use]
    pub fn recs(&self) -> &BTreeMap<u64, Rec> {
        &self.recs
    }

    /// The content of a DATA granule: `None` if it is not one, or if what it holds is not specified.
    #[must_use]
    pub fn data_content(&self, pa: u64) -> Option<&[u8]> {
        self.data.get(&pa)?.as_deref()
    }

    /// What the RMM is built with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Takes an RMI command: says what the RMM may answer and changes the state as it does.
    pub fn rmi(&mut self, regs: &[u64; 8], ns: &dyn NsMemory) -> Outcome {
        let mut regs = *regs;
        // The function identifier is W0, and the hint that the caller has no SVE state is not part of it (SMCCC 1.3).
        regs[0] &= 0xffff_ffff & !realm_abi::smccc::SVE_HINT;
        match RmiCommand::from_regs(&regs) {
            RmiCommand::Version { req } => version(req),
            RmiCommand::Features { index } => {
                Outcome::success(&[if index == 0 { self.config.features.0 } else { 0 }])
            }
            RmiCommand::GranuleDelegate { addr } => self.granule_delegate(addr, ns),
            RmiCommand::GranuleUndelegate { addr } => self.granule_undelegate(addr),
            RmiCommand::RealmCreate { rd, params_ptr } => self.realm_create(rd, params_ptr, ns),
            RmiCommand::RealmActivate { rd } => self.realm_activate(rd),
            RmiCommand::RealmDestroy { rd } => self.realm_destroy(rd),
            RmiCommand::RecAuxCount { rd } => self.rec_aux_count(rd),
            RmiCommand::RecCreate { rd, rec, params_ptr } => self.rec_create(rd, rec, params_ptr, ns),
            RmiCommand::RecDestroy { rec } => self.rec_destroy(rec),
            RmiCommand::RecEnter { rec, run_ptr } => self.rec_enter(rec, run_ptr, ns),
            RmiCommand::PsciComplete { calling_rec, target_rec, status } => {
                self.psci_complete(calling_rec, target_rec, status)
            }
            RmiCommand::RttCreate { rd, rtt, ipa, level } => self.rtt_create(rd, rtt, ipa, level),
            RmiCommand::RttDestroy { rd, ipa, level } => self.rtt_destroy(rd, ipa, level),
            RmiCommand::RttFold { rd, ipa, level } => self.rtt_fold(rd, ipa, level),
            RmiCommand::RttReadEntry { rd, ipa, level } => self.rtt_read_entry(rd, ipa, level),
            RmiCommand::RttMapUnprotected { rd, ipa, level, desc } => {
                self.rtt_map_unprotected(rd, ipa, level, desc.0)
            }
            RmiCommand::RttUnmapUnprotected { rd, ipa, level } => self.rtt_unmap_unprotected(rd, ipa, level),
            RmiCommand::RttInitRipas { rd, base, top } => self.rtt_init_ripas(rd, base, top),
            RmiCommand::RttSetRipas { rd, rec, base, top } => self.rtt_set_ripas(rd, rec, base, top),
            RmiCommand::DataCreate { rd, data, ipa, src, flags } => {
                self.data_create(rd, data, ipa, Some((src, flags.0)), ns)
            }
            RmiCommand::DataCreateUnknown { rd, data, ipa } => self.data_create(rd, data, ipa, None, ns),
            RmiCommand::DataDestroy { rd, ipa } => self.data_destroy(rd, ipa),
            RmiCommand::Unknown { .. } => Outcome::fails("unknown_function", ReturnCode::NOT_SUPPORTED),
        }
    }
}

/// RMI_VERSION of an RMM that implements 1.0 alone (RMM 1.0, RMI_VERSION): the range it supports is always 1.0 to 1.0.
fn version(req: Version) -> Outcome {
    let out = [Expect::Is(Version::V1_0.0), Expect::Is(Version::V1_0.0), Expect::Any, Expect::Any];
    if req == Version::V1_0 {
        return Outcome::Success(out);
    }
    Outcome::Failure(vec![Failure { condition: "version", code: ReturnCode::ERROR_INPUT, out }])
}
