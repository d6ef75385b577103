//! RMI_RTT_INIT_RIPAS and RMI_RTT_SET_RIPAS.

use super::super::Outcome;
use crate::granule::{Exclusive, GranuleState};
use crate::realm::{RealmDescriptor, RealmState};
use crate::rtt::init_ripas;
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
    pub(in crate::rmi) fn rtt_set_ripas(&self, _rd: u64, _rec: u64, _base: u64, _top: u64) -> Outcome {
        Err(ReturnCode::NOT_SUPPORTED)
    }
}
