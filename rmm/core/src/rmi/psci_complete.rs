//! RMI_PSCI_COMPLETE.

use super::Outcome;
use crate::{Platform, Rmm};
use realm_abi::rmi::ReturnCode;

impl<P: Platform> Rmm<'_, P> {
    /// RMI_PSCI_COMPLETE.
    pub(super) fn psci_complete(&self, _calling_rec: u64, _target_rec: u64, _status: i64) -> Outcome {
        Err(ReturnCode::NOT_SUPPORTED)
    }
}
