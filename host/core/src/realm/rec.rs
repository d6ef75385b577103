//! A REC with everything it is made of (docs/kvm-realm-abi.md section 3.16).

use crate::Host;
use crate::error::RealmError;
use crate::realm::Realm;
use crate::rmm::Rmm;
use crate::rmm::granule::{DelegatedGranule, OwnedGranule};
use alloc::vec::Vec;
use realm_abi::rmi::{MAX_REC_AUX, REC_CREATE_GPRS, RecFlags, RecParams};
use zerocopy::IntoBytes;

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

impl Rec {
    /// Creates a REC of a realm that is created and not active.
    ///
    /// # Errors
    /// [`RealmError::WrongState`], [`RealmError::NoMemory`], or a command failed; everything is given back then.
    pub fn create<H: Host>(realm: &Realm<H>, config: &RecConfig) -> Result<Self, RealmError> {
        let rmm = realm.rmm();
        let (rd, aux_count) = realm.for_rec_create()?;
        let run = rmm.take_owned()?;
        let granule = match rmm.take_delegated() {
            Ok(granule) => granule,
            Err(error) => {
                rmm.put_owned(run);
                return Err(error);
            }
        };
        let mut rec = Self { granule, aux: Vec::new(), run };
        let created = rec.take_aux(rmm, aux_count).and_then(|()| rec.ask_to_create(rmm, rd, config));
        match created {
            Ok(()) => Ok(rec),
            Err(error) => {
                rec.give_back(rmm);
                Err(error)
            }
        }
    }

    fn take_aux<H: Host>(&mut self, rmm: &Rmm<H>, count: usize) -> Result<(), RealmError> {
        if count > MAX_REC_AUX {
            let rule = "a REC has at most 16 auxiliary granules";
            return Err(RealmError::BadParameter { value: count as u64, rule });
        }
        for _ in 0..count {
            self.aux.push(rmm.take_delegated()?);
        }
        Ok(())
    }

    fn ask_to_create<H: Host>(&self, rmm: &Rmm<H>, rd: u64, config: &RecConfig) -> Result<(), RealmError> {
        let mut params = RecParams::default();
        let flags = if config.runnable { RecFlags::RUNNABLE } else { RecFlags::empty() };
        params.flags = flags.bits();
        params.mpidr = config.mpidr;
        params.pc = config.pc;
        params.gprs = config.gprs;
        params.num_aux = self.aux.len() as u64;
        for (slot, granule) in params.aux.iter_mut().zip(&self.aux) {
            *slot = granule.pa();
        }
        let page = rmm.take_owned()?;
        rmm.host().write_phys(page.pa(), params.as_bytes());
        let created = rmm.rmi().rec_create(rd, self.granule.pa(), page.pa());
        rmm.put_owned(page);
        Ok(created?)
    }

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
        if let Some(rec) = slot.take() {
            rec.give_back(rmm);
        }
        Ok(())
    }

    fn give_back<H: Host>(self, rmm: &Rmm<H>) {
        rmm.give_back_all(self.aux);
        rmm.give_back(self.granule);
        rmm.put_owned(self.run);
    }
}
