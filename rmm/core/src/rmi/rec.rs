//! RMI_REC_AUX_COUNT, RMI_REC_CREATE, RMI_REC_DESTROY and RMI_REC_ENTER.

use super::Outcome;
use crate::{Platform, Rmm};
use realm_abi::rmi::ReturnCode;

impl<P: Platform> Rmm<'_, P> {
    /// RMI_REC_AUX_COUNT.
    pub(super) fn rec_aux_count(&self, _rd: u64) -> Outcome {
        Err(ReturnCode::NOT_SUPPORTED)
    }
    /// RMI_REC_CREATE.
    pub(super) fn rec_create(&self, _rd: u64, _rec: u64, _params_ptr: u64) -> Outcome {
        Err(ReturnCode::NOT_SUPPORTED)
    }
    /// RMI_REC_DESTROY.
    pub(super) fn rec_destroy(&self, _rec: u64) -> Outcome {
        Err(ReturnCode::NOT_SUPPORTED)
    }
    /// RMI_REC_ENTER.
    pub(super) fn rec_enter(&self, _rec: u64, _run_ptr: u64) -> Outcome {
        Err(ReturnCode::NOT_SUPPORTED)
    }
}
