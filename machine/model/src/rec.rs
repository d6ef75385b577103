//! RECs (RMM 1.0, REC states, RMI_REC_*).

use crate::granule::{GranuleState, NsMemory, aligned};
use crate::measurement::{Measurement, REC, extend_rim, hash};
use crate::outcome::{Conditions, Outcome};
use crate::registers::{PSTATE_RESET, Registers, Rule};
use crate::{Model, RealmState};
use realm_abi::psci::PsciCall;
use realm_abi::rmi::{MAX_REC_AUX, RecFlags, RecParams, ReturnCode, Ripas};
use std::collections::BTreeSet;
use zerocopy::IntoBytes;

/// What the last exit of a REC left open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastExit {
    /// Nothing.
    Other,
    /// A data abort at an unprotected IPA.
    Abort {
        /// ESR_EL2.
        esr: u64,
        /// FAR_EL2.
        far: u64,
        /// The Host may emulate the access.
        emulatable: bool,
    },
    /// A RIPAS change the Host has answered up to `addr`.
    Ripas {
        /// First IPA that is not done.
        addr: u64,
        /// End.
        top: u64,
        /// The RIPAS wanted.
        value: Ripas,
        /// DESTROYED may be changed.
        destroyed: bool,
    },
    /// A host call through the structure at this IPA.
    HostCall {
        /// Address of the structure.
        ipa: u64,
    },
    /// A PSCI call that RMI_PSCI_COMPLETE must answer.
    Psci(PsciCall),
    /// CPU_SUSPEND, answered by the next entry.
    Suspend,
}

/// A REC.
#[derive(Clone, Debug)]
pub struct Rec {
    /// The realm's descriptor.
    pub owner: u64,
    /// Its index, which its MPIDR encodes.
    pub index: u64,
    /// It can be entered.
    pub runnable: bool,
    /// Registers while it does not run.
    pub registers: Registers,
    /// Auxiliary granules.
    pub aux: Vec<u64>,
    /// What the last exit left open.
    pub last_exit: LastExit,
    /// A token is being made: the bound its length was given.
    pub token: Option<u64>,
    /// General-purpose registers that may be zero instead of what `registers` says.
    pub(crate) kept_or_zero: u32,
    /// How registers at the next entry are judged beyond that.
    pub(crate) rule: Rule,
}

/// `RecIndex` of an `RmiRecMpidr`.
pub(crate) fn rec_index(mpidr: u64) -> u64 {
    let aff = |shift: u32| (mpidr >> shift) & 0xff;
    (mpidr & 0xf) + 16 * (aff(8) + 256 * (aff(16) + 256 * aff(24)))
}

/// `RecIndex` of an MPIDR_EL1 value, which has Aff3 elsewhere. `None` if no REC can have it.
pub(crate) fn realm_rec_index(mpidr: u64) -> Option<u64> {
    (mpidr & 0xf0 == 0).then(|| rec_index((mpidr & 0xff_ffff) | (mpidr >> 32 & 0xff) << 24))
}

impl Model {
    /// The REC group; the REC if the group holds.
    pub(crate) fn rec_group(&self, c: &mut Conditions, rec: u64) -> Option<&Rec> {
        let fine =
            self.granule_group(c, ["rec_align", "rec_bound", "rec_gran_state"], rec, GranuleState::Rec);
        if fine { self.recs.get(&rec) } else { None }
    }

    pub(crate) fn rec_create(&mut self, rd: u64, rec: u64, params_ptr: u64, ns: &dyn NsMemory) -> Outcome {
        let mut c = Conditions::default();
        let params: Option<RecParams> =
            self.ns_group(&mut c, ["params_align", "params_bound", "params_pas"], params_ptr, ns);
        self.granule_group(&mut c, ["rec_align", "rec_bound", "rec_state"], rec, GranuleState::Delegated);
        let mut index = None;
        if let Some(realm) = self.rd_group(&mut c, rd) {
            c.fail_if("realm_state", realm.state != RealmState::New, ReturnCode::ERROR_REALM);
            let full = realm.num_recs == self.config.features.max_recs();
            c.fail_if("num_recs", full, ReturnCode::ERROR_REALM);
            index = Some(realm.rec_index);
        }
        let mut aux = Vec::new();
        if let Some(params) = &params {
            let reserved = params.mpidr & !0xffff_ff0f != 0;
            c.input_if("mpidr_index", reserved || index.is_some_and(|i| i != rec_index(params.mpidr)));
            c.input_if("num_aux", params.num_aux != self.config.rec_aux_count);
            let count = usize::try_from(params.num_aux).unwrap_or(usize::MAX).min(MAX_REC_AUX);
            aux = params.aux.iter().copied().take(count).collect();
            c.input_if("aux_align", !aux.iter().all(|pa| aligned(*pa)));
            let distinct: BTreeSet<u64> = aux.iter().copied().chain([rec]).collect();
            c.input_if("aux_alias", distinct.len() != aux.len() + 1);
            let delegated = |pa: &u64| self.granule_state(pa & !0xfff) == Some(GranuleState::Delegated);
            c.input_if("aux_state", !aux.iter().all(delegated));
        }
        c.order(&["rd_bound", "rd_state"], &["realm_state", "num_recs"]);
        if let Some(failure) = c.outcome(None) {
            return failure;
        }
        if let (Some(params), Some(realm)) = (params, self.realms.get_mut(&rd)) {
            let runnable = RecFlags::from_bits_retain(params.flags).contains(RecFlags::RUNNABLE);
            if runnable {
                let content: Measurement = hash(realm.hash_algo, params.measured().as_bytes());
                realm.measurements[0] = extend_rim(realm.hash_algo, &realm.measurements[0], REC, &[&content]);
            }
            let mut registers = Registers { pc: params.pc, pstate: PSTATE_RESET, ..Registers::default() };
            registers.gprs[..params.gprs.len()].copy_from_slice(&params.gprs);
            let new = Rec {
                owner: rd,
                index: realm.rec_index,
                runnable,
                registers,
                aux: aux.clone(),
                last_exit: LastExit::Other,
                token: None,
                kept_or_zero: 0,
                rule: Rule::Fresh,
            };
            realm.rec_index += 1;
            realm.num_recs += 1;
            self.recs.insert(rec, new);
            self.set_granule(rec, GranuleState::Rec);
            for pa in aux {
                self.set_granule(pa, GranuleState::RecAux);
            }
        }
        Outcome::success(&[])
    }

    pub(crate) fn rec_destroy(&mut self, rec: u64) -> Outcome {
        let mut c = Conditions::default();
        self.rec_group(&mut c, rec);
        if let Some(failure) = c.outcome(None) {
            return failure;
        }
        if let Some(old) = self.recs.remove(&rec) {
            for pa in old.aux.into_iter().chain([rec]) {
                self.set_granule(pa, GranuleState::Delegated);
            }
            if let Some(realm) = self.realms.get_mut(&old.owner) {
                realm.num_recs -= 1;
            }
        }
        Outcome::success(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_counts_affinity_fields_from_16_256_and_256() {
        assert_eq!(rec_index(0xf), 15);
        assert_eq!(rec_index(1 << 8), 16);
        assert_eq!(rec_index(1 << 16), 4096);
        assert_eq!(rec_index(1 << 24), 1_048_576);
        assert_eq!(realm_rec_index(1 << 32 | 1 << 31), Some(1_048_576));
        assert_eq!(realm_rec_index(0x10), None);
    }
}
