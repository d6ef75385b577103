//! The monitor: the few things that are not in a granule.

use crate::Platform;
use crate::attest::{AttestError, Attestation};
use crate::granule::{Bank, GranuleEntry, GranuleState, GranuleTable, LockError, TableError};
use crate::platform::{Broken, CpuFeatures};
use crate::realm::RealmDescriptor;
use crate::vmid::Vmids;
use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::{FeatureRegister0, HostStructure, ReturnCode};
use zerocopy::{FromBytes, IntoBytes};

/// A realm has at most `2^MAX_RECS_ORDER - 1` RECs.
pub const MAX_RECS_ORDER: u64 = 10;

/// One RMM for one machine. Every method takes `&self` and may be called on several CPUs at once; commands on different
/// realms do not wait for each other.
#[derive(Debug)]
pub struct Rmm<'a, P> {
    pub(crate) platform: P,
    pub(crate) granules: GranuleTable<'a>,
    pub(crate) vmids: Vmids,
    pub(crate) cpu: CpuFeatures,
    pub(crate) features: FeatureRegister0,
    pub(crate) attestation: Attestation,
}

impl<'a, P: Platform> Rmm<'a, P> {
    /// An RMM that manages the delegable memory of `banks` with one of `entries` (all default) for each granule in it.
    ///
    /// # Errors
    /// See [`TableError`].
    pub fn new(platform: P, banks: &[Bank], entries: &'a [GranuleEntry]) -> Result<Self, TableError> {
        let granules = GranuleTable::new(banks, entries, P::wait_for_lock)?;
        let cpu = platform.features();
        Ok(Self {
            platform,
            granules,
            vmids: Vmids::new(cpu.vmid16),
            cpu,
            features: feature_register_0(&cpu),
            attestation: Attestation::new(),
        })
    }

    /// Gets the Realm Attestation Key and the platform token from EL3, at boot. Until it has succeeded realms run but get
    /// no attestation token.
    ///
    /// # Errors
    /// See [`AttestError`]; it can be tried again.
    pub fn init_attestation(&self) -> Result<(), AttestError> {
        self.attestation.init(&self.platform)
    }

    /// The machine under this RMM.
    #[must_use]
    pub const fn platform(&self) -> &P {
        &self.platform
    }

    /// The granule table, for tools that compare it with an oracle.
    #[must_use]
    pub const fn granules(&self) -> &GranuleTable<'a> {
        &self.granules
    }

    /// What RMI_FEATURES reports at index 0.
    #[must_use]
    pub const fn features(&self) -> FeatureRegister0 {
        self.features
    }

    /// Runs `f` on the descriptor of the realm at `rd`, locked.
    ///
    /// # Errors
    /// If `rd` is no RD.
    pub(crate) fn with_rd<R>(
        &self,
        rd: u64,
        f: impl FnOnce(&mut RealmDescriptor) -> R,
    ) -> Result<R, LockError> {
        self.granules.lock(rd, GranuleState::Rd).map(|mut rd| rd.with(&self.platform, f))
    }

    /// What a result is, which cannot be an error unless the RMM is broken; if it is one, nobody goes on.
    pub(crate) fn must<T, E>(&self, result: Result<T, E>, why: Broken) -> T {
        result.unwrap_or_else(|_| self.platform.stop(why))
    }

    /// Checks that the Host may name `pa` as Non-secure memory: a granule that is aligned, delegable and not the Realm
    /// world's. Whether it is accessible only the access can tell, as EL3 may give it away at any moment.
    ///
    /// # Errors
    /// `RMI_ERROR_INPUT`.
    pub(crate) fn check_ns(&self, pa: u64) -> Result<(), ReturnCode> {
        let undelegated = self.granules.peek(pa) == Some(GranuleState::Undelegated);
        if pa.is_multiple_of(GRANULE_SIZE) && undelegated { Ok(()) } else { Err(ReturnCode::ERROR_INPUT) }
    }

    /// Copies a structure of the Host to `copy`, which is zeros: each field once, so that what is validated is what is
    /// used, and hardly any reserved byte. It is the caller's, so that it is not moved about.
    ///
    /// # Errors
    /// `RMI_ERROR_INPUT` if `pa` is not Non-secure memory.
    pub(crate) fn copy_from_ns<T: HostStructure + FromBytes + IntoBytes>(
        &self,
        pa: u64,
        copy: &mut T,
    ) -> Result<(), ReturnCode> {
        self.check_ns(pa)?;
        for used in T::USED {
            let from = pa.saturating_add(used.start as u64);
            let to = copy.as_mut_bytes().get_mut(used.clone()).unwrap_or_default();
            self.platform.read_ns(from, to).map_err(|_| ReturnCode::ERROR_INPUT)?;
        }
        Ok(())
    }
}

/// What realms can be offered on these CPUs (RMM 1.0, RmiFeatureRegister0).
fn feature_register_0(cpu: &CpuFeatures) -> FeatureRegister0 {
    let s2sz = if cpu.lpa2 { cpu.pa_bits } else { cpu.pa_bits.min(48) };
    FeatureRegister0::default()
        .with_s2sz(s2sz.into())
        .with_lpa2(cpu.lpa2.into())
        .with_sve_en(cpu.sve_vl.is_some().into())
        .with_sve_vl(cpu.sve_vl.unwrap_or(0).into())
        .with_num_bps(cpu.num_bps.into())
        .with_num_wps(cpu.num_wps.into())
        .with_pmu_en(cpu.pmu_counters.is_some().into())
        .with_pmu_num_ctrs(cpu.pmu_counters.unwrap_or(0).into())
        .with_hash_sha_256(1)
        .with_hash_sha_512(1)
        .with_gicv3_num_lrs(cpu.gic_num_lrs.into())
        .with_max_recs_order(MAX_RECS_ORDER)
}
