//! RMI_DATA_CREATE, RMI_DATA_CREATE_UNKNOWN and RMI_DATA_DESTROY.

use super::Outcome;
use crate::{Platform, Rmm};
use realm_abi::rmi::{DataFlags, ReturnCode};

impl<P: Platform> Rmm<'_, P> {
    pub(super) fn data_create(
        &self,
        _rd: u64,
        _data: u64,
        _ipa: u64,
        _src: u64,
        _flags: DataFlags,
    ) -> Outcome {
        Err(ReturnCode::NOT_SUPPORTED)
    }
    pub(super) fn data_create_unknown(&self, _rd: u64, _data: u64, _ipa: u64) -> Outcome {
        Err(ReturnCode::NOT_SUPPORTED)
    }
    pub(super) fn data_destroy(&self, _rd: u64, _ipa: u64) -> Outcome {
        Err(ReturnCode::NOT_SUPPORTED)
    }
}
