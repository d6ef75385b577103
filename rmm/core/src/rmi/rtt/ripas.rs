//! RMI_RTT_INIT_RIPAS and RMI_RTT_SET_RIPAS.

use super::super::Outcome;
use crate::granule::GranuleState;
use crate::realm::{RealmDescriptor, RealmState};
use crate::rec::Rec;
use crate::rtt::{init_ripas, set_ripas};
use crate::{Platform, Rmm};
use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::{ReturnCode, RmiReply};

impl<P: Platform> Rmm<'_, P> {
    /// RMI_RTT_INIT_RIPAS.
    pub(in crate::rmi) fn rtt_init_ripas(&self, rd: u64, base: u64, top: u64) -> Outcome {
        let mut rd = self.granules.lock(rd, GranuleState::Rd)?;
        rd.with(&self.platform, |rd: &mut RealmDescriptor| {
            // size_valid, top_bound, top_gran_align
            let bound = rd.stage2().is_protected(top.wrapping_sub(GRANULE_SIZE));
            if top <= base || !bound || !top.is_multiple_of(GRANULE_SIZE) {
                return Err(ReturnCode::ERROR_INPUT);
            }
            if rd.state() != RealmState::New {
                return Err(ReturnCode::ERROR_REALM);
            }
            // base_align, rtte_state, no_progress
            let out_top = init_ripas(self, rd, base, top)?;
            Ok(RmiReply::success([out_top, 0, 0, 0]))
        })
    }

    /// RMI_RTT_SET_RIPAS.
    pub(in crate::rmi) fn rtt_set_ripas(&self, rd: u64, rec: u64, base: u64, top: u64) -> Outcome {
        // rd_*, rec_align, rec_bound, rec_gran_state
        let owner = rd;
        let (mut rd, mut rec) = self.granules.lock_pair((rd, GranuleState::Rd), (rec, GranuleState::Rec))?;
        let stage2 = rd.with(&self.platform, |rd: &mut RealmDescriptor| rd.stage2());
        let running = rec.refcount() != 0;
        rec.with(&self.platform, |rec: &mut Rec| {
            // rec_state, rec_owner
            if running || rec.owner != owner {
                return Err(ReturnCode::ERROR_REC);
            }
            // size_valid, base_bound, top_bound, top_gran_align. Without a request `top` is past its end, which is 0.
            let change = rec.ripas_change();
            if top <= base || base != change.addr || top > change.top || !top.is_multiple_of(GRANULE_SIZE) {
                return Err(ReturnCode::ERROR_INPUT);
            }
            // base_align, no_progress
            let out_top = set_ripas(self, &stage2, (base, top), change.ripas, change.destroyed)?;
            rec.set_ripas_addr(out_top);
            Ok(RmiReply::success([out_top, 0, 0, 0]))
        })
    }
}
