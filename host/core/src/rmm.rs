//! The RMM of this machine: found and agreed with at start-up, and what all realms share of it.

pub mod granule;
pub mod ledger;
pub mod numbers;
pub mod rmi;

use crate::error::RealmError;
use crate::host::Purpose;
use crate::realm::ipa::{IpaSpace, MAX_IPA_BITS, MAX_IPA_BITS_NO_LPA2, MIN_IPA_BITS};
use crate::{Errno, Host, room};
use core::fmt;
use granule::{DelegatedGranule, GranulePool, NotDelegated, OwnedGranule};
use ledger::Ledger;
use numbers::Numbers;
use realm_abi::rmi::{FeatureRegister0, HashAlgorithm, ReturnCode, Status, Version};
use realm_alloc::Vec;
use rmi::{Rmi, VersionReply};

/// The interface version the Host core speaks.
pub const RMI_VERSION: Version = Version::V1_0;

/// What start-up found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RmmStatus {
    /// There is no RMM: a normal machine without realms.
    Absent,
    /// There is an RMM, but none of its versions is ours.
    Incompatible {
        /// The version the Host core speaks.
        requested: Version,
        /// The nearest version below it that the RMM speaks, or its lowest.
        lower: Version,
        /// The highest version the RMM speaks.
        higher: Version,
    },
    /// There is an RMM of the right version with which no realm can be made.
    Unusable {
        /// Why.
        reason: &'static str,
    },
    /// Realms can be created.
    Ready(RmmInfo),
}

/// An RMM that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RmmInfo {
    /// The negotiated version.
    pub version: Version,
    /// The highest version the RMM speaks.
    pub higher: Version,
    /// RMI feature register 0.
    pub features: FeatureRegister0,
}

impl RmmInfo {
    /// Widest IPA space of a realm in bits.
    #[must_use]
    pub fn max_ipa_bits(&self) -> u32 {
        let offered = u32::try_from(self.features.s2sz()).unwrap_or(0);
        offered.min(if self.features.lpa2() != 0 { MAX_IPA_BITS } else { MAX_IPA_BITS_NO_LPA2 })
    }

    /// The space of `bits` bits, if the RMM offers it.
    #[must_use]
    pub fn ipa_space(&self, bits: u32) -> Option<IpaSpace> {
        IpaSpace::new(bits).filter(|space| space.bits() <= self.max_ipa_bits())
    }
}

impl fmt::Display for RmmStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("no RMM: this machine runs no realms"),
            Self::Incompatible { requested, lower, higher } => {
                write!(f, "the RMM does not speak RMI {requested}; it reports {lower} to {higher}")
            }
            Self::Unusable { reason } => write!(f, "the RMM cannot be used: {reason}"),
            Self::Ready(info) => {
                write!(f, "RMM with RMI {}, realms up to {} IPA bits", info.version, info.max_ipa_bits())
            }
        }
    }
}

/// The RMM, with everything that belongs to all realms of the machine. One value per machine.
pub struct Rmm<H: Host> {
    rmi: Rmi<H>,
    granules: GranulePool<H>,
    vmids: Numbers<H>,
    status: RmmStatus,
}

/// How many granules the RMM may refuse before an allocation is given up. A Host that was told of one offers other memory
/// ([`Host::free_refused`]).
const MAX_REFUSALS: usize = 8;

impl<H: Host> Rmm<H> {
    /// Looks for an RMM and agrees on a version. That there is none is no failure: [`Self::status`] tells what was found.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn start(host: H) -> Result<Self, Errno> {
        let rmi = Rmi::new(host)?;
        let status = negotiate(&rmi);
        let vmids = Numbers::new(rmi.host().vmid_bits())?;
        Ok(Self { rmi, granules: GranulePool::new()?, vmids, status })
    }

    /// What start-up found.
    #[must_use]
    pub fn status(&self) -> &RmmStatus {
        &self.status
    }

    /// The RMM if realms can be created.
    #[must_use]
    pub fn info(&self) -> Option<&RmmInfo> {
        match &self.status {
            RmmStatus::Ready(info) => Some(info),
            _ => None,
        }
    }

    /// The commands.
    #[must_use]
    pub fn rmi(&self) -> &Rmi<H> {
        &self.rmi
    }

    /// The surroundings.
    #[must_use]
    pub fn host(&self) -> &H {
        self.rmi.host()
    }

    /// The record of calls and granules.
    #[must_use]
    pub fn ledger(&self) -> &Ledger<H> {
        self.rmi.ledger()
    }

    /// The VMIDs of realms.
    #[must_use]
    pub fn vmids(&self) -> &Numbers<H> {
        &self.vmids
    }

    /// A zeroed granule of the Host, to be shared with the RMM as Non-secure memory.
    ///
    /// # Errors
    /// [`RealmError::NoMemory`].
    pub fn take_owned(&self) -> Result<OwnedGranule, RealmError> {
        Ok(self.granules.take(self.host(), Purpose::Exchange)?)
    }

    /// Puts a granule back that [`Self::take_owned`] gave.
    pub fn put_owned(&self, granule: OwnedGranule) {
        self.granules.put(self.host(), granule);
    }

    /// A granule allocated and given to the RMM.
    ///
    /// # Errors
    /// [`RealmError::NoMemory`], or the RMM refused all that the Host offered; nothing is kept then.
    pub fn take_delegated(&self) -> Result<DelegatedGranule, RealmError> {
        let mut refusals = 0_usize;
        loop {
            let granule = self.granules.take(self.host(), Purpose::Realm)?;
            let NotDelegated { granule, error } = match granule.delegate(&self.rmi) {
                Ok(granule) => return Ok(granule),
                Err(refused) => refused,
            };
            self.granules.put_refused(self.host(), granule);
            refusals = refusals.saturating_add(1);
            if refusals >= MAX_REFUSALS {
                return Err(error.into());
            }
        }
    }

    /// `count` granules like [`GranulePool::take_run`], all given to the RMM.
    ///
    /// # Errors
    /// [`RealmError::NoMemory`], or the RMM refused all that the Host offered; nothing is kept then.
    pub fn take_delegated_run(&self, count: usize) -> Result<Vec<DelegatedGranule>, RealmError> {
        let mut refusals = 0_usize;
        loop {
            match self.try_delegated_run(count) {
                Err(RealmError::Rmi(_)) if refusals < MAX_REFUSALS => refusals = refusals.saturating_add(1),
                result => return result,
            }
        }
    }

    fn try_delegated_run(&self, count: usize) -> Result<Vec<DelegatedGranule>, RealmError> {
        let mut given = Vec::with_capacity(count)?;
        let mut failure = None;
        for granule in self.granules.take_run(self.host(), count, Purpose::Realm)? {
            if failure.is_some() {
                self.put_owned(granule);
                continue;
            }
            match granule.delegate(&self.rmi) {
                Ok(granule) => {
                    // There is room for `count`.
                    let _full = given.push_within(granule);
                }
                Err(refused) => {
                    self.granules.put_refused(self.host(), refused.granule);
                    failure = Some(refused.error);
                }
            }
        }
        match failure {
            None => Ok(given),
            Some(error) => {
                self.give_back_all(given);
                Err(error.into())
            }
        }
    }

    /// Takes a granule back from the RMM and frees it. If the RMM refuses it is lost and counted; returns whether it
    /// came back.
    pub fn give_back(&self, granule: DelegatedGranule) -> bool {
        match granule.undelegate(&self.rmi) {
            Ok(granule) => {
                self.put_owned(granule);
                true
            }
            Err(_) => false,
        }
    }

    /// [`Self::give_back`] for each, whatever happens to the others; returns how many were lost.
    pub fn give_back_all(&self, granules: impl IntoIterator<Item = DelegatedGranule>) -> usize {
        room::count(granules.into_iter().filter_map(|granule| (!self.give_back(granule)).then_some(())))
    }
}

fn negotiate<H: Host>(rmi: &Rmi<H>) -> RmmStatus {
    let VersionReply { code, lower, higher } = rmi.version(RMI_VERSION);
    if code == ReturnCode::NOT_SUPPORTED {
        return RmmStatus::Absent;
    }
    if !code.is_success() {
        // ERROR_INPUT is the only failure of RMI_VERSION (RMM 1.0, RMI_VERSION), and only then is there a range.
        if code.status() == Status::ERROR_INPUT {
            return RmmStatus::Incompatible { requested: RMI_VERSION, lower, higher };
        }
        return RmmStatus::Unusable { reason: "RMI_VERSION failed with an unknown code" };
    }
    let Ok(features) = rmi.features(0) else {
        return RmmStatus::Unusable { reason: "RMI_FEATURES does not answer" };
    };
    let info = RmmInfo { version: RMI_VERSION, higher, features: FeatureRegister0(features) };
    if info.max_ipa_bits() < MIN_IPA_BITS {
        return RmmStatus::Unusable { reason: "it offers less than 32 IPA bits" };
    }
    if ![HashAlgorithm::SHA_256, HashAlgorithm::SHA_512].iter().any(|&hash| info.features.supports_hash(hash))
    {
        return RmmStatus::Unusable { reason: "it offers no hash algorithm" };
    }
    if info.features.max_recs() == 0 {
        return RmmStatus::Unusable { reason: "it allows no REC in a realm" };
    }
    RmmStatus::Ready(info)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeHost;
    use alloc::string::ToString;

    fn start(prepare: impl FnOnce(&mut crate::fake::MiniRmm)) -> Rmm<FakeHost> {
        let host = FakeHost::new(12);
        host.with_rmm(prepare);
        Rmm::start(host).unwrap()
    }

    #[test]
    fn a_machine_without_an_rmm_is_a_normal_answer() {
        let rmm = start(|rmm| rmm.versions = None);
        assert_eq!((rmm.status(), rmm.host().warnings()), (&RmmStatus::Absent, 0));
        assert_eq!(rmm.status().to_string(), "no RMM: this machine runs no realms");
        assert!(rmm.info().is_none());
    }

    #[test]
    fn an_rmm_of_another_version_is_reported_with_its_range() {
        let rmm = start(|rmm| rmm.versions = Some((Version::new(2, 0), Version::new(2, 1))));
        assert_eq!(rmm.status().to_string(), "the RMM does not speak RMI 1.0; it reports 2.0 to 2.1");
    }

    #[test]
    fn an_rmm_no_realm_can_be_made_with_is_unusable() {
        for (features, reason) in [
            (FeatureRegister0(0), "it offers less than 32 IPA bits"),
            (FeatureRegister0(0).with_s2sz(48), "it offers no hash algorithm"),
            (FeatureRegister0(0).with_s2sz(48).with_hash_sha_512(1), "it allows no REC in a realm"),
        ] {
            let rmm = start(|rmm| rmm.features = features);
            assert_eq!(rmm.status(), &RmmStatus::Unusable { reason });
        }
    }

    #[test]
    fn ipa_widths_end_at_what_the_rmm_offers_and_at_48_bits_without_lpa2() {
        for (s2sz, lpa2, max) in [(40, 0, 40), (48, 0, 48), (52, 0, 48), (52, 1, 52), (255, 1, 52)] {
            let rmm = start(|rmm| rmm.features = rmm.features.with_s2sz(s2sz).with_lpa2(lpa2));
            let info = rmm.info().unwrap();
            assert_eq!(info.max_ipa_bits(), max);
            assert!(
                info.ipa_space(max).is_some()
                    && info.ipa_space(max + 1).is_none()
                    && info.ipa_space(31).is_none()
            );
        }
    }

    #[test]
    fn host_pages_of_every_size_are_served() {
        for shift in [12, 14, 16] {
            assert!(FakeHost::started(shift).info().is_some());
        }
    }
}
