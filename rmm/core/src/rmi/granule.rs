//! RMI_GRANULE_DELEGATE and RMI_GRANULE_UNDELEGATE.

use super::Outcome;
use crate::granule::GranuleState;
use crate::{Platform, Rmm};
use realm_abi::rmi::{ReturnCode, RmiReply};

impl<P: Platform> Rmm<'_, P> {
    /// RMI_GRANULE_DELEGATE. The granule is wiped here, so every DELEGATED granule is zeros.
    pub(super) fn granule_delegate(&self, addr: u64) -> Outcome {
        let mut granule = self.granules.lock(addr, GranuleState::Undelegated)?;
        // gran_gpt: only EL3 knows whether the granule is Non-secure.
        self.platform.gtsi_delegate(addr).map_err(|_| ReturnCode::ERROR_INPUT)?;
        granule.set_state(GranuleState::Delegated);
        self.platform.wipe(&mut granule);
        Ok(RmiReply::SUCCESS)
    }

    /// RMI_GRANULE_UNDELEGATE. What was in the granule went when it became DELEGATED.
    pub(super) fn granule_undelegate(&self, addr: u64) -> Outcome {
        let mut granule = self.granules.lock(addr, GranuleState::Delegated)?;
        // The specification knows no failure of EL3 here; the granule stays DELEGATED and the Host may try again.
        self.platform.gtsi_undelegate(addr).map_err(|_| ReturnCode::ERROR_INPUT)?;
        granule.set_state(GranuleState::Undelegated);
        Ok(RmiReply::SUCCESS)
    }
}
