//! A REC with everything it is made of (docs/kvm-realm-abi.md section 3.16).

use crate::Host;
use crate::error::RealmError;
use crate::realm::Realm;
use crate::rmm::Rmm;
use crate::rmm::granule::{DelegatedGranule, OwnedGranule};
use crate::rmm::rmi::RmiError;
use realm_abi::rmi::{MAX_REC_AUX, REC_CREATE_GPRS, RecFlags, RecParams};
use realm_alloc::Vec;
use zerocopy::{FromZeros, transmute_mut};

/// What a vCPU decides about its REC.
#[derive(Clone, Copy, Debug)]
pub struct RecConfig {
    /// Affinity.
    pub mpidr: u64,
    /// Initial program counter.
    pub pc: u64,
    /// Initial X0 to X7.
    pub gprs: [u64; REC_CREATE_GPRS],
    /// Whether it can be entered at once.
    pub runnable: bool,
}

/// A REC the RMM knows.
#[derive(Debug)]
pub struct Rec {
    granule: DelegatedGranule,
    aux: Vec<DelegatedGranule>,
    run: OwnedGranule,
}

/// What a REC is made of before it is made.
#[must_use = "parts that are dropped are lost"]
pub struct RecParts {
    rec: Rec,
    params: OwnedGranule,
}

impl RecParts {
    /// Gathers the parts of a REC of `realm`, with no lock held but the vCPU's own.
    ///
    /// # Errors
    /// [`RealmError::WrongState`] unless the realm is created and not active, [`RealmError::NoMemory`], or a delegation
    /// failed; everything is back then.
    pub fn gather<H: Host>(realm: &Realm<H>) -> Result<Self, RealmError> {
        let rmm = realm.rmm();
        let (_, aux_count) = realm.for_rec_create()?;
        if aux_count > MAX_REC_AUX {
            let rule = "a REC has at most 16 auxiliary granules";
            return Err(RealmError::BadParameter { value: aux_count as u64, rule });
        }
        let aux = Vec::with_capacity(aux_count)?;
        let run = rmm.take_owned()?;
        let params = match rmm.take_owned() {
            Ok(params) => params,
            Err(error) => {
                rmm.put_owned(run);
                return Err(error);
            }
        };
        let granule = match rmm.take_delegated() {
            Ok(granule) => granule,
            Err(error) => {
                rmm.put_owned(run);
                rmm.put_owned(params);
                return Err(error);
            }
        };
        let mut parts = Self { rec: Rec { granule, aux, run }, params };
        for _ in 0..aux_count {
            match rmm.take_delegated() {
                Ok(granule) => {
                    // There is room for all of them.
                    let _full = parts.rec.aux.push_within(granule);
                }
                Err(error) => {
                    parts.scatter(rmm);
                    return Err(error);
                }
            }
        }
        Ok(parts)
    }

    /// Gives the parts back.
    pub fn scatter<H: Host>(self, rmm: &Rmm<H>) {
        self.rec.give_back(rmm);
        rmm.put_owned(self.params);
    }

    /// Makes the REC. Allocates nothing.
    ///
    /// # Errors
    /// [`RealmError::WrongState`], or the RMM refused; everything is given back then.
    pub fn create<H: Host>(self, realm: &Realm<H>, config: &RecConfig) -> Result<Rec, RealmError> {
        let rmm = realm.rmm();
        let created = self.ask_to_create(realm, config);
        let Self { rec, params } = self;
        rmm.put_owned(params);
        match created {
            Ok(()) => Ok(rec),
            Err(error) => {
                // A REC that the RMM made and denies would keep the realm for ever.
                let _: Result<(), RmiError> = rmm.rmi().rec_destroy(rec.granule.pa());
                rec.give_back(rmm);
                Err(error)
            }
        }
    }

    fn ask_to_create<H: Host>(&self, realm: &Realm<H>, config: &RecConfig) -> Result<(), RealmError> {
        let (rd, _) = realm.for_rec_create()?;
        let rmm = realm.rmm();
        rmm.host().with_granule(self.params.pa(), |bytes| {
            let params: &mut RecParams = transmute_mut!(bytes);
            params.zero();
            let flags = if config.runnable { RecFlags::RUNNABLE } else { RecFlags::empty() };
            params.flags = flags.bits();
            params.mpidr = config.mpidr;
            params.pc = config.pc;
            params.gprs = config.gprs;
            params.num_aux = self.rec.aux.len() as u64;
            for (slot, granule) in params.aux.iter_mut().zip(self.rec.aux.iter()) {
                *slot = granule.pa();
            }
        });
        Ok(rmm.rmi().rec_create(rd, self.rec.granule.pa(), self.params.pa())?)
    }
}

impl Rec {
    /// Physical address of the REC.
    #[must_use]
    pub const fn pa(&self) -> u64 {
        self.granule.pa()
    }

    /// Physical address of the page shared with the RMM (`RmiRecRun`).
    #[must_use]
    pub const fn run_pa(&self) -> u64 {
        self.run.pa()
    }

    /// Destroys the REC in `slot` and takes its granules back; each is tried, what does not come back is in the ledger.
    ///
    /// # Errors
    /// The RMM keeps the REC, which stays in `slot` to be destroyed later.
    pub fn destroy<H: Host>(slot: &mut Option<Self>, rmm: &Rmm<H>) -> Result<(), RealmError> {
        if let Some(rec) = slot {
            rmm.rmi().rec_destroy(rec.granule.pa())?;
        }
        Self::take_back(slot, rmm);
        Ok(())
    }

    /// The realm is destroyed, and a REC with it that the RMM would not destroy before: takes its granules back.
    pub fn take_back<H: Host>(slot: &mut Option<Self>, rmm: &Rmm<H>) {
        if let Some(rec) = slot.take() {
            rec.give_back(rmm);
        }
    }

    fn give_back<H: Host>(self, rmm: &Rmm<H>) {
        rmm.give_back_all(self.aux);
        rmm.give_back(self.granule);
        rmm.put_owned(self.run);
    }
}
