//! RMI_REALM_CREATE, RMI_REALM_ACTIVATE and RMI_REALM_DESTROY.

use super::Outcome;
use crate::{Platform, Rmm};
use realm_abi::rmi::ReturnCode;

impl<P: Platform> Rmm<'_, P> {
    pub(super) fn realm_create(&self, _rd: u64, _params_ptr: u64) -> Outcome {
        Err(ReturnCode::NOT_SUPPORTED)
    }
    pub(super) fn realm_activate(&self, _rd: u64) -> Outcome {
        Err(ReturnCode::NOT_SUPPORTED)
    }
    pub(super) fn realm_destroy(&self, _rd: u64) -> Outcome {
        Err(ReturnCode::NOT_SUPPORTED)
    }
}
