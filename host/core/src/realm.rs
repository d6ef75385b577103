//! A realm from its configuration to its end.
//!
//! Methods documented as long work in pieces, let go of all locks and call [`Host::yield_now`] in between, and end early
//! when they are told to, so callers hold no lock that others wait for.

mod create;
mod destroy;
pub mod ipa;
mod memory;
mod pins;
pub(crate) mod rec;
pub(crate) mod stage2;
#[cfg(test)]
mod tests;

pub use crate::error::{Operation, Phase, RealmError};
pub use create::Parts;
pub use memory::{Fault, PopulateRun, RipasChange, SharedFault};
pub use pins::{Pins, UserPins};

use crate::host::LockClass;
use crate::realm::ipa::IpaSpace;
use crate::rmm::Rmm;
use crate::rmm::granule::DelegatedGranule;
use crate::rmm::numbers::Number;
use crate::{Host, Lock};
use realm_abi::rmi::{HashAlgorithm, RPV_SIZE};
use realm_alloc::{Arc, Vec};
pub(crate) use stage2::{Spare, Supply};
use stage2::{Stage2, Tables, Tidy};

/// What a VMM chooses before it creates a realm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Hash of the measurements; SHA-256 unless chosen.
    pub hash: HashAlgorithm,
    /// Realm Personalization Value; zeros unless chosen.
    pub rpv: [u8; RPV_SIZE],
}

impl Default for Config {
    fn default() -> Self {
        Self { hash: HashAlgorithm::SHA_256, rpv: [0; RPV_SIZE] }
    }
}

/// What the vCPUs decide about a realm, in the encodings of `RmiRealmParams`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuParams {
    /// SVE vector length in quadwords minus one, `None` without SVE.
    pub sve_vl: Option<u8>,
    /// Breakpoints minus one.
    pub num_bps: u8,
    /// Watchpoints minus one.
    pub num_wps: u8,
    /// PMU event counters, `None` without a PMU.
    pub pmu_num_ctrs: Option<u8>,
}

/// What a realm is made of once the RMM knows it.
struct Live {
    rd: DelegatedGranule,
    /// The tables of the starting level, ascending.
    root: Vec<DelegatedGranule>,
    vmid: Number,
    /// Auxiliary granules each REC needs.
    aux_count: usize,
}

/// A realm's state with the data that exists in it.
enum State {
    None(Config),
    New(Live),
    Active(Live),
    Dying(Live),
    Dead,
}

/// A realm.
pub struct Realm<H: Host> {
    rmm: Arc<Rmm<H>>,
    ipa: IpaSpace,
    state: H::Lock<State>,
    tables: Tables<H>,
}

impl State {
    fn phase(&self) -> Phase {
        match self {
            Self::None(_) => Phase::None,
            Self::New(_) => Phase::New,
            Self::Active(_) => Phase::Active,
            Self::Dying(_) => Phase::Dying,
            Self::Dead => Phase::Dead,
        }
    }

    fn refuse(&self, operation: Operation) -> RealmError {
        RealmError::WrongState { operation, state: self.phase() }
    }

    /// What the RMM holds, in any state in which it holds something.
    fn live(&mut self) -> Option<&mut Live> {
        match self {
            Self::New(live) | Self::Active(live) | Self::Dying(live) => Some(live),
            Self::None(_) | Self::Dead => None,
        }
    }

    /// What the RMM holds of a realm that can still run.
    fn usable(&mut self, operation: Operation) -> Result<&mut Live, RealmError> {
        match self {
            Self::New(live) | Self::Active(live) => Ok(live),
            _ => Err(self.refuse(operation)),
        }
    }

    /// What the RMM holds of a realm that is not activated yet.
    fn new_only(&mut self, operation: Operation) -> Result<&mut Live, RealmError> {
        match self {
            Self::New(live) => Ok(live),
            _ => Err(self.refuse(operation)),
        }
    }

    /// From now on only destruction is possible.
    fn condemn(&mut self) {
        *self = match core::mem::replace(self, Self::Dead) {
            Self::New(live) | Self::Active(live) | Self::Dying(live) => Self::Dying(live),
            Self::None(_) | Self::Dead => Self::Dead,
        };
    }
}

impl<H: Host> Realm<H> {
    /// A realm nobody has created yet, with an IPA space of `ipa_bits` bits, that counts by `pins` what it holds of its VMM's
    /// memory.
    ///
    /// # Errors
    /// [`RealmError::BadParameter`] if the RMM does not offer that width or cannot be used at all, [`RealmError::NoMemory`].
    pub fn new(rmm: Arc<Rmm<H>>, ipa_bits: u32, pins: Pins) -> Result<Self, RealmError> {
        let rule = "an IPA width must be 32 bits at least and at most what the RMM offers";
        let space = rmm.info().and_then(|info| info.ipa_space(ipa_bits));
        let ipa = space.ok_or(RealmError::BadParameter { value: u64::from(ipa_bits), rule })?;
        let no_memory = |_| RealmError::NoMemory;
        let state = H::Lock::new(LockClass::Realm, State::None(Config::default())).map_err(no_memory)?;
        let tables = Tables::new(ipa, pins).map_err(no_memory)?;
        Ok(Self { rmm, ipa, state, tables })
    }

    /// The RMM that knows the realm.
    #[must_use]
    pub fn rmm(&self) -> &Arc<Rmm<H>> {
        &self.rmm
    }

    /// Its IPA space.
    #[must_use]
    pub fn ipa(&self) -> IpaSpace {
        self.ipa
    }

    /// Its state.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.state.lock().phase()
    }

    /// Physical address of the RD while the RMM knows the realm.
    #[must_use]
    pub fn rd(&self) -> Option<u64> {
        self.state.lock().live().map(|live| live.rd.pa())
    }

    /// RD and the number of auxiliary granules of a REC, if RECs can be created now.
    ///
    /// # Errors
    /// [`RealmError::WrongState`] unless the realm is created and not active.
    pub fn for_rec_create(&self) -> Result<(u64, usize), RealmError> {
        let mut state = self.state.lock();
        let live = state.new_only(Operation::CreateRec)?;
        Ok((live.rd.pa(), live.aux_count))
    }

    /// Whether an operation that needs a created, not activated realm can be done.
    ///
    /// # Errors
    /// [`RealmError::WrongState`] if not.
    pub fn require_new(&self, operation: Operation) -> Result<(), RealmError> {
        self.state.lock().new_only(operation).map(|_| ())
    }

    /// The realm's tables, if it can still run; and whether it is active.
    fn usable(&self, operation: Operation) -> Result<(Stage2<'_, H>, bool), RealmError> {
        let mut state = self.state.lock();
        let active = matches!(&*state, State::Active(_));
        let rd = state.usable(operation)?.rd.pa();
        Ok((self.tables.of(&self.rmm, rd), active))
    }

    /// The realm's tables, if it is created and not active.
    fn new_only(&self, operation: Operation) -> Result<Stage2<'_, H>, RealmError> {
        let rd = self.state.lock().new_only(operation)?.rd.pa();
        Ok(self.tables.of(&self.rmm, rd))
    }

    /// The realm's tables as long as the RMM knows it; and what becomes of those in which nothing is left.
    fn known(&self) -> Option<(Stage2<'_, H>, Tidy)> {
        let mut state = self.state.lock();
        let tidy = match state.phase() {
            Phase::Active => Tidy::Fold,
            Phase::Dying => Tidy::Destroy,
            _ => Tidy::Keep,
        };
        let rd = state.live()?.rd.pa();
        Some((self.tables.of(&self.rmm, rd), tidy))
    }

    /// Makes the realm unusable: every later operation but destruction fails. No effect on a realm the RMM does not know.
    pub fn condemn(&self) {
        let mut state = self.state.lock();
        if state.live().is_some() {
            state.condemn();
        }
    }

    /// Activates the realm; the RIM is final then.
    ///
    /// # Errors
    /// [`RealmError::WrongState`] unless it is created and not active, or the RMM refused; it can be tried again.
    pub fn activate(&self) -> Result<(), RealmError> {
        let mut state = self.state.lock();
        let rd = state.new_only(Operation::Activate)?.rd.pa();
        self.rmm.rmi().realm_activate(rd)?;
        *state = match core::mem::replace(&mut *state, State::Dead) {
            State::New(live) => State::Active(live),
            other => other,
        };
        Ok(())
    }
}
