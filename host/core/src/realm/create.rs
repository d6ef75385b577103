//! Configuration and creation.

use super::{Config, CpuParams, Live, Realm, State};
use crate::error::{Operation, RealmError};
use crate::realm::stage2::Stage2;
use crate::rmm::rmi::RmiError;
use crate::{Host, Lock};
use realm_abi::rmi::{HashAlgorithm, RPV_SIZE, RealmFlags, RealmParams};
use zerocopy::IntoBytes;

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

    /// Creates the realm (docs/kvm-realm-abi.md section 3.4). After an error it can be tried again, except when the
    /// RMM keeps what it was given: then the realm can only be destroyed.
    ///
    /// # Errors
    /// [`RealmError::WrongState`] if it exists, [`RealmError::NoVmid`], [`RealmError::NoMemory`], or a command failed.
    pub fn create(&self, cpu: &CpuParams) -> Result<(), RealmError> {
        let mut state = self.state.lock();
        let State::None(config) = &*state else { return Err(state.refuse(Operation::Create)) };
        let config = *config;
        if !self.rmm.info().is_some_and(|info| info.features.supports_hash(config.hash)) {
            let rule = "the hash algorithm must be one the RMM offers";
            return Err(RealmError::BadParameter { value: u64::from(config.hash.0), rule });
        }
        let live = self.build(&config, cpu)?;
        match self.rmm.rmi().rec_aux_count(live.rd.pa()) {
            Ok(aux_count) => {
                *state = State::New(Live { aux_count, ..live });
                Ok(())
            }
            Err(error) => {
                *state = self.undo(config, live);
                Err(error.into())
            }
        }
    }

    /// Gathers what a realm needs and gives it to the RMM; on failure everything goes back where it came from.
    fn build(&self, config: &Config, cpu: &CpuParams) -> Result<Live, RealmError> {
        let rmm = &self.rmm;
        let vmid = rmm.vmids().reserve().ok_or(RealmError::NoVmid)?;
        let rd = match rmm.take_delegated() {
            Ok(rd) => rd,
            Err(error) => {
                rmm.vmids().release(vmid);
                return Err(error);
            }
        };
        let root = match rmm.take_delegated_run(self.ipa.root_tables()) {
            Ok(root) => root,
            Err(error) => {
                rmm.give_back(rd);
                rmm.vmids().release(vmid);
                return Err(error);
            }
        };
        let live = Live { stage2: Stage2::new(rd.pa(), self.ipa), rd, root, vmid, aux_count: 0 };
        match self.ask_to_create(config, cpu, &live) {
            Ok(()) => Ok(live),
            Err(error) => {
                self.unmake(live);
                Err(error)
            }
        }
    }

    fn ask_to_create(&self, config: &Config, cpu: &CpuParams, live: &Live) -> Result<(), RealmError> {
        let params = self.params(config, cpu, live)?;
        let page = self.rmm.take_owned()?;
        self.rmm.host().write_phys(page.pa(), params.as_bytes());
        let created = self.rmm.rmi().realm_create(live.rd.pa(), page.pa());
        self.rmm.put_owned(page);
        created.map_err(RmiError::into)
    }

    fn params(&self, config: &Config, cpu: &CpuParams, live: &Live) -> Result<RealmParams, RealmError> {
        let mut flags = RealmFlags::empty();
        flags.set(RealmFlags::LPA2, self.ipa.needs_lpa2());
        flags.set(RealmFlags::SVE, cpu.sve_vl.is_some());
        flags.set(RealmFlags::PMU, cpu.pmu_num_ctrs.is_some());
        let width = self.ipa.bits();
        let too_wide =
            |_| RealmError::BadParameter { value: u64::from(width), rule: "an IPA width fits a byte" };
        let mut params = RealmParams::default();
        params.flags = flags.bits();
        params.s2sz = u8::try_from(width).map_err(too_wide)?;
        params.sve_vl = cpu.sve_vl.unwrap_or(0);
        params.num_bps = cpu.num_bps;
        params.num_wps = cpu.num_wps;
        params.pmu_num_ctrs = cpu.pmu_num_ctrs.unwrap_or(0);
        params.hash_algo = config.hash;
        params.rpv = config.rpv;
        params.vmid = live.vmid.get();
        params.rtt_base = live.root.first().map_or(0, |table| table.pa());
        params.rtt_level_start = self.ipa.start_level();
        params.rtt_num_start = u32::try_from(live.root.len()).unwrap_or(0);
        Ok(params)
    }

    /// Destroys a realm that was created but cannot be used. If the RMM will not, it still holds RD, root tables and
    /// VMID: they stay with the realm, which is then dying.
    fn undo(&self, config: Config, live: Live) -> State {
        match self.rmm.rmi().realm_destroy(live.rd.pa()) {
            Ok(()) => {
                self.release(live);
                State::None(config)
            }
            Err(_) => State::Dying(live),
        }
    }

    /// Takes back what a realm was made of once the RMM no longer uses it. Every granule is tried; those that do not
    /// come back are in the ledger.
    pub(super) fn release(&self, live: Live) {
        self.rmm.give_back_all(live.root);
        self.rmm.give_back(live.rd);
        self.rmm.vmids().release(live.vmid);
    }

    /// Takes back what a realm was to be made of. An RMM that keeps the RD may have made the realm in spite of its answer:
    /// then the VMID stays reserved.
    fn unmake(&self, live: Live) {
        self.rmm.give_back_all(live.root);
        if self.rmm.give_back(live.rd) {
            self.rmm.vmids().release(live.vmid);
        }
    }
}
