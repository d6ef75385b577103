//! RTT commands.

use super::Outcome;
use crate::{Platform, Rmm};
use realm_abi::rmi::{ReturnCode, UnprotectedDesc};

impl<P: Platform> Rmm<'_, P> {
    pub(super) fn rtt_create(&self, _rd: u64, _rtt: u64, _ipa: u64, _level: i64) -> Outcome {
        Err(ReturnCode::NOT_SUPPORTED)
    }
    pub(super) fn rtt_destroy(&self, _rd: u64, _ipa: u64, _level: i64) -> Outcome {
        Err(ReturnCode::NOT_SUPPORTED)
    }
    pub(super) fn rtt_fold(&self, _rd: u64, _ipa: u64, _level: i64) -> Outcome {
        Err(ReturnCode::NOT_SUPPORTED)
    }
    pub(super) fn rtt_map_unprotected(
        &self,
        _rd: u64,
        _ipa: u64,
        _level: i64,
        _desc: UnprotectedDesc,
    ) -> Outcome {
        Err(ReturnCode::NOT_SUPPORTED)
    }
    pub(super) fn rtt_unmap_unprotected(&self, _rd: u64, _ipa: u64, _level: i64) -> Outcome {
        Err(ReturnCode::NOT_SUPPORTED)
    }
    pub(super) fn rtt_read_entry(&self, _rd: u64, _ipa: u64, _level: i64) -> Outcome {
        Err(ReturnCode::NOT_SUPPORTED)
    }
    pub(super) fn rtt_init_ripas(&self, _rd: u64, _base: u64, _top: u64) -> Outcome {
        Err(ReturnCode::NOT_SUPPORTED)
    }
    pub(super) fn rtt_set_ripas(&self, _rd: u64, _rec: u64, _base: u64, _top: u64) -> Outcome {
        Err(ReturnCode::NOT_SUPPORTED)
    }
}
