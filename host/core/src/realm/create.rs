//! Configuration and creation.

use super::{Config, CpuParams, Live, Realm, State};
use crate::error::{Operation, RealmError};
use crate::rmm::granule::{DelegatedGranule, OwnedGranule};
use crate::rmm::numbers::Number;
use crate::rmm::rmi::RmiError;
use crate::{Host, Lock};
use realm_abi::rmi::{HashAlgorithm, RPV_SIZE, RealmFlags, RealmParams};
use realm_alloc::Vec;
use zerocopy::{FromZeros, transmute_mut};

impl<H: Host> Realm<H> {
    /// Chooses the hash of the measurements.
    ///
    /// # Errors
    /// [`RealmError::WrongState`] once the realm is created, [`RealmError::BadParameter`] for a hash the RMM does not
    /// offer.
    pub fn set_hash(&self, hash: HashAlgorithm) -> Result<(), RealmError> {
        self.configure(|config| {
            let rule = "the hash algorithm must be one the RMM offers";
            if !self.rmm.info().is_some_and(|info| info.features.supports_hash(hash)) {
                return Err(RealmError::BadParameter { value: u64::from(hash.0), rule });
            }
            config.hash = hash;
            Ok(())
        })
    }

    /// Chooses the Realm Personalization Value.
    ///
    /// # Errors
    /// [`RealmError::WrongState`] once the realm is created.
    pub fn set_rpv(&self, rpv: [u8; RPV_SIZE]) -> Result<(), RealmError> {
        self.configure(|config| {
            config.rpv = rpv;
            Ok(())
        })
    }

    fn configure(
        &self,
        change: impl FnOnce(&mut Config) -> Result<(), RealmError>,
    ) -> Result<(), RealmError> {
        match &mut *self.state.lock() {
            State::None(config) => change(config),
            other => Err(other.refuse(Operation::Configure)),
        }
    }

    /// Gathers what a realm is made of. With no lock held.
    ///
    /// # Errors
    /// [`RealmError::WrongState`] if the realm exists, [`RealmError::NoVmid`], [`RealmError::NoMemory`], or a delegation
    /// failed; everything is back then.
    pub fn gather(&self) -> Result<Parts, RealmError> {
        match &*self.state.lock() {
            State::None(_) => {}
            other => return Err(other.refuse(Operation::Create)),
        }
        let rmm = &self.rmm;
        let mut parts = Parts::default();
        let gathered = (|| {
            parts.vmid = Some(rmm.vmids().reserve().ok_or(RealmError::NoVmid)?);
            parts.rd = Some(rmm.take_delegated()?);
            parts.root = rmm.take_delegated_run(self.ipa.root_tables())?;
            parts.reserve = Some(rmm.take_delegated()?);
            parts.params = Some(rmm.take_owned()?);
            Ok(())
        })();
        match gathered {
            Ok(()) => Ok(parts),
            Err(error) => {
                self.scatter(parts);
                Err(error)
            }
        }
    }

    /// Creates the realm out of `parts` (docs/kvm-realm-abi.md section 3.4). Allocates nothing. After an error it can be
    /// tried again, except when the RMM keeps what it was given: then the realm can only be destroyed.
    ///
    /// # Errors
    /// [`RealmError::WrongState`] if it exists, or a command failed.
    pub fn create_from(&self, parts: Parts, cpu: &CpuParams) -> Result<(), RealmError> {
        let (result, mut left) = self.make(parts, cpu);
        if result.is_ok()
            && let Some(reserve) = left.reserve.take()
        {
            // The first table that is given back is the reserve.
            self.tables.of(&self.rmm, 0).give_back_table(reserve);
        }
        self.scatter(left);
        result
    }

    /// [`Self::gather`] and [`Self::create_from`].
    ///
    /// # Errors
    /// Theirs.
    pub fn create(&self, cpu: &CpuParams) -> Result<(), RealmError> {
        self.create_from(self.gather()?, cpu)
    }

    /// Makes the realm; what is left of its parts.
    fn make(&self, mut parts: Parts, cpu: &CpuParams) -> (Result<(), RealmError>, Parts) {
        let mut state = self.state.lock();
        let State::None(config) = &*state else { return (Err(state.refuse(Operation::Create)), parts) };
        let config = *config;
        if let Err(error) = self.ask_to_create(&config, cpu, &parts) {
            return (Err(error), parts);
        }
        let (Some(rd), Some(vmid)) = (parts.rd.take(), parts.vmid.take()) else {
            return (Err(RealmError::NoMemory), parts);
        };
        let mut live = Live { rd, root: core::mem::take(&mut parts.root), vmid, aux_count: 0 };
        match self.rmm.rmi().rec_aux_count(live.rd.pa()) {
            Ok(aux_count) => {
                live.aux_count = aux_count;
                *state = State::New(live);
                (Ok(()), parts)
            }
            Err(error) => {
                // Nobody can use such a realm. If the RMM will not destroy it, it still holds RD, root tables and VMID.
                if self.rmm.rmi().realm_destroy(live.rd.pa()).is_ok() {
                    (parts.rd, parts.root, parts.vmid) = (Some(live.rd), live.root, Some(live.vmid));
                } else {
                    *state = State::Dying(live);
                }
                (Err(error.into()), parts)
            }
        }
    }

    fn ask_to_create(&self, config: &Config, cpu: &CpuParams, parts: &Parts) -> Result<(), RealmError> {
        if !self.rmm.info().is_some_and(|info| info.features.supports_hash(config.hash)) {
            let rule = "the hash algorithm must be one the RMM offers";
            return Err(RealmError::BadParameter { value: u64::from(config.hash.0), rule });
        }
        let (Some(rd), Some(page), Some(vmid)) = (&parts.rd, &parts.params, &parts.vmid) else {
            return Err(RealmError::NoMemory);
        };
        self.rmm.host().with_granule(page.pa(), |bytes| {
            let params: &mut RealmParams = transmute_mut!(bytes);
            params.zero();
            self.fill_params(params, config, cpu, &parts.root, vmid);
        });
        self.rmm.rmi().realm_create(rd.pa(), page.pa()).map_err(RmiError::into)
    }

    fn fill_params(
        &self,
        params: &mut RealmParams,
        config: &Config,
        cpu: &CpuParams,
        root: &[DelegatedGranule],
        vmid: &Number,
    ) {
        let mut flags = RealmFlags::empty();
        flags.set(RealmFlags::LPA2, self.ipa.needs_lpa2());
        flags.set(RealmFlags::SVE, cpu.sve_vl.is_some());
        flags.set(RealmFlags::PMU, cpu.pmu_num_ctrs.is_some());
        params.flags = flags.bits();
        // 32 to 52.
        params.s2sz = u8::try_from(self.ipa.bits()).unwrap_or(0);
        params.sve_vl = cpu.sve_vl.unwrap_or(0);
        params.num_bps = cpu.num_bps;
        params.num_wps = cpu.num_wps;
        params.pmu_num_ctrs = cpu.pmu_num_ctrs.unwrap_or(0);
        params.hash_algo = config.hash;
        params.rpv = config.rpv;
        params.vmid = vmid.get();
        params.rtt_base = root.first().map_or(0, |table| table.pa());
        params.rtt_level_start = self.ipa.start_level();
        params.rtt_num_start = u32::try_from(root.len()).unwrap_or(0);
    }

    /// Takes back what a realm was to be made of. An RMM that keeps the RD may have made the realm in spite of its answer:
    /// then the VMID stays reserved.
    pub fn scatter(&self, parts: Parts) {
        let Parts { vmid, rd, root, reserve, params } = parts;
        self.rmm.give_back_all(root);
        let rd_is_back = rd.is_none_or(|rd| self.rmm.give_back(rd));
        if let Some(vmid) = vmid.filter(|_| rd_is_back) {
            self.rmm.vmids().release(vmid);
        }
        if let Some(reserve) = reserve {
            self.rmm.give_back(reserve);
        }
        if let Some(params) = params {
            self.rmm.put_owned(params);
        }
    }
}

/// What a realm is made of before it is made: [`Realm::gather`]. Give what is not used to [`Realm::scatter`].
#[derive(Default)]
#[must_use = "parts that are dropped are lost"]
pub struct Parts {
    vmid: Option<Number>,
    rd: Option<DelegatedGranule>,
    root: Vec<DelegatedGranule>,
    reserve: Option<DelegatedGranule>,
    params: Option<OwnedGranule>,
}
