//! A realm from its configuration to its end.
//!
//! Lock order: whatever the caller holds, then the realm, then a [`GuestMemfd`](crate::memory::guest_memfd::GuestMemfd), then the
//! granule pool and the ledger. A realm's lock is never held for more than the commands of one 2 MiB block; methods
//! documented as long release it and call [`Host::yield_now`] in between, so callers hold no lock that others wait for.

mod create;
mod destroy;
pub mod ipa;
mod memory;
pub(crate) mod rec;
pub(crate) mod stage2;
#[cfg(test)]
mod tests;

pub use crate::error::{Operation, Phase, RealmError};
pub use memory::{Fault, PopulateRun, RipasChange, SharedPage};

use crate::realm::ipa::IpaSpace;
use crate::realm::stage2::Stage2;
use crate::rmm::Rmm;
use crate::rmm::granule::DelegatedGranule;
use crate::rmm::vmid::Vmid;
use crate::{Host, Lock};
use alloc::sync::Arc;
use alloc::vec::Vec;
use realm_abi::rmi::{HashAlgorithm, RPV_SIZE};

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
    vmid: Vmid,
    /// Auxiliary granules each REC needs.
    aux_count: usize,
    stage2: Stage2,
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
    fn doom(&mut self) {
        *self = match core::mem::replace(self, Self::Dead) {
            Self::New(live) | Self::Active(live) | Self::Dying(live) => Self::Dying(live),
            Self::None(_) | Self::Dead => Self::Dead,
        };
    }
}

impl<H: Host> Realm<H> {
    /// A realm nobody has created yet, with an IPA space of `ipa_bits` bits.
    ///
    /// # Errors
    /// [`RealmError::BadParameter`] if the RMM does not offer that width or cannot be used at all.
    pub fn new(rmm: Arc<Rmm<H>>, ipa_bits: u32) -> Result<Self, RealmError> {
        let rule = "an IPA width must be 32 bits at least and at most what the RMM offers";
        let space = rmm.info().and_then(|info| info.ipa_space(ipa_bits));
        let ipa = space.ok_or(RealmError::BadParameter { value: u64::from(ipa_bits), rule })?;
        Ok(Self { rmm, ipa, state: H::Lock::new(State::None(Config::default())) })
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

    /// Makes the realm unusable: every later operation but destruction fails. No effect on a realm the RMM does not know.
    pub fn doom(&self) {
        let mut state = self.state.lock();
        if state.live().is_some() {
            state.doom();
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
