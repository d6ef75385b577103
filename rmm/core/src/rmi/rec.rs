//! RMI_REC_AUX_COUNT, RMI_REC_CREATE, RMI_REC_DESTROY and RMI_REC_ENTER.

use super::Outcome;
use crate::granule::{Exclusive, GranuleGuard, GranuleState, Miscounted};
use crate::platform::Broken;
use crate::realm::{RealmDescriptor, RealmState};
use crate::rec::{Mpidr, OWN_AUX, Rec, Running};
use crate::{Platform, Rmm, measurement};
use core::mem::offset_of;
use realm_abi::rmi::{MAX_REC_AUX, RecEnter, RecExit, RecParams, RecRun, ReturnCode, RmiReply};
use zerocopy::{FromZeros, IntoBytes};

/// Granules REC_CREATE names: rd, rec and the auxiliary ones.
const NAMED: usize = 2 + MAX_REC_AUX;

impl<P: Platform> Rmm<'_, P> {
    /// Auxiliary granules of a REC, the same for all realms.
    fn aux_count(&self) -> usize {
        OWN_AUX.saturating_add(self.platform.simd_aux_granules()).min(MAX_REC_AUX)
    }

    /// RMI_REC_AUX_COUNT (RMM 1.0).
    pub(super) fn rec_aux_count(&self, rd: u64) -> Outcome {
        // rd_align, rd_bound, rd_state
        self.granules.lock(rd, GranuleState::Rd)?;
        // At most 16.
        Ok(RmiReply::success([u64::try_from(self.aux_count()).unwrap_or(0), 0, 0, 0]))
    }

    /// RMI_REC_CREATE (RMM 1.0).
    pub(super) fn rec_create(&self, rd: u64, rec: u64, params_ptr: u64) -> Outcome {
        // params_align, params_bound, params_pas
        let mut params = RecParams::new_zeroed();
        self.copy_from_ns(params_ptr, &mut params)?;
        // num_aux
        let count = usize::try_from(params.num_aux).map_err(|_| ReturnCode::ERROR_INPUT)?;
        let aux =
            params.aux.get(..count).filter(|_| count == self.aux_count()).ok_or(ReturnCode::ERROR_INPUT)?;
        let mpidr = Mpidr::from_rmi(params.mpidr).ok_or(ReturnCode::ERROR_INPUT)?;

        // rec_*, rd_*, aux_*: all granules named are locked in ascending order, so that none changes in between.
        let mut wanted = [(0, GranuleState::Delegated); NAMED];
        let named = [(rd, GranuleState::Rd), (rec, GranuleState::Delegated)].into_iter();
        let named = named.chain(aux.iter().map(|pa| (*pa, GranuleState::Delegated)));
        for (slot, want) in wanted.iter_mut().zip(named) {
            *slot = want;
        }
        let wanted = wanted.get_mut(..count.saturating_add(2)).ok_or(ReturnCode::ERROR_INPUT)?;
        wanted.sort_unstable_by_key(|(pa, _)| *pa);
        let mut guards: [Option<GranuleGuard<'_>>; NAMED] = [const { None }; NAMED];
        let mut previous = None;
        for (slot, (pa, state)) in guards.iter_mut().zip(wanted.iter()) {
            // aux_alias
            if previous == Some(*pa) {
                return Err(ReturnCode::ERROR_INPUT);
            }
            previous = Some(*pa);
            *slot = Some(self.granules.lock(*pa, *state)?);
        }

        let rd_guard =
            guards.iter_mut().flatten().find(|guard| guard.pa() == rd).ok_or(ReturnCode::ERROR_INPUT)?;
        let num_recs = rd_guard.refcount();
        let has_pmu = rd_guard.with(&self.platform, |descriptor: &mut RealmDescriptor| {
            // realm_state, num_recs
            if descriptor.state() != RealmState::New || u64::from(num_recs) >= self.features.max_recs() {
                return Err(ReturnCode::ERROR_REALM);
            }
            // mpidr_index
            if mpidr.index() != descriptor.rec_index {
                return Err(ReturnCode::ERROR_INPUT);
            }
            // Below the largest index a MPIDR has.
            let next = descriptor.rec_index.checked_add(1).ok_or(Miscounted);
            descriptor.rec_index = self.must(next, Broken::Count);
            Ok(descriptor.pmu != 0)
        })?;
        let content = Rec::new(rd, mpidr, &params, has_pmu);
        if content.is_runnable() {
            rd_guard.with(&self.platform, |descriptor| {
                measurement::extend_rec(&self.platform, descriptor, &params)
            });
        }
        self.must(rd_guard.count(1), Broken::Count);

        for guard in guards.iter_mut().flatten() {
            if guard.pa() == rec {
                guard.with(&self.platform, |slot: &mut Rec| slot.clone_from(&content));
                guard.set_state(GranuleState::Rec);
            } else if guard.pa() != rd {
                guard.set_state(GranuleState::RecAux);
            }
        }
        Ok(RmiReply::SUCCESS)
    }

    /// RMI_REC_DESTROY (RMM 1.0).
    pub(super) fn rec_destroy(&self, rec: u64) -> Outcome {
        // rec_align, rec_bound, rec_gran_state
        let mut guard = self.granules.lock(rec, GranuleState::Rec)?;
        // rec_state
        if guard.refcount() != 0 {
            return Err(ReturnCode::ERROR_REC);
        }
        let mut aux = [None; MAX_REC_AUX];
        let owner = guard.with(&self.platform, |rec: &mut Rec| {
            for (slot, pa) in aux.iter_mut().zip(rec.aux()) {
                *slot = Some(*pa);
            }
            rec.owner
        });
        for pa in aux.into_iter().flatten() {
            self.must(self.granules.lock(pa, GranuleState::RecAux), Broken::State).release(&self.platform);
        }
        guard.release(&self.platform);
        // Only now, as an RD is not waited for with a REC locked. Until here the REC counts, so the RD is there.
        let mut rd = self.must(self.granules.lock(owner, GranuleState::Rd), Broken::State);
        self.must(rd.count(-1), Broken::Count);
        Ok(RmiReply::SUCCESS)
    }

    /// RMI_REC_ENTER (RMM 1.0).
    pub(super) fn rec_enter(&self, rec: u64, run_ptr: u64) -> Outcome {
        // run_align, run_bound, run_pas
        let mut enter = RecEnter::new_zeroed();
        self.copy_from_ns(run_ptr, &mut enter)?;
        let (mut copy, mut exit) = (Rec::new_zeroed(), RecExit::new_zeroed());
        let mut running = Running::enter(self, rec, &enter, &mut copy, &mut exit)?;
        running.run(&enter);
        // The realm has run: what it did stays done although the Host does not hear of it.
        let exit_ptr = run_ptr.saturating_add(offset_of!(RecRun, exit) as u64);
        self.platform.write_ns(exit_ptr, running.exit.as_bytes()).map_err(|_| ReturnCode::ERROR_INPUT)?;
        Ok(RmiReply::SUCCESS)
    }
}
