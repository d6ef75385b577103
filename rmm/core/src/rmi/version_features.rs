//! RMI_VERSION and RMI_FEATURES.

use super::Outcome;
use crate::{Platform, Rmm};
use realm_abi::rmi::{ReturnCode, RmiReply, Version};

impl<P: Platform> Rmm<'_, P> {
    /// RMI_VERSION. This RMM supports exactly 1.0, so `lower` and `higher` are 1.0 whatever is asked (the range rules of
    /// RMM 1.0, RMI_VERSION).
    pub(super) fn version(&self, req: Version) -> Outcome {
        let code = if req == Version::V1_0 { ReturnCode::SUCCESS } else { ReturnCode::ERROR_INPUT };
        Ok(RmiReply { code, out: [Version::V1_0.0, Version::V1_0.0, 0, 0] })
    }

    /// RMI_FEATURES. Registers other than 0 read as zero.
    pub(super) fn features_read(&self, index: u64) -> Outcome {
        let value = if index == 0 { self.features.0 } else { 0 };
        Ok(RmiReply::success([value, 0, 0, 0]))
    }
}
