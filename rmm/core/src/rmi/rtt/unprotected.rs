//! RMI_RTT_MAP_UNPROTECTED and RMI_RTT_UNMAP_UNPROTECTED.

use super::super::Outcome;
use crate::rtt::{Rtte, Stage2, is_aligned, is_valid_unprotected, walk};
use crate::{Platform, Rmm};
use realm_abi::rmi::{ReturnCode, RmiReply, UnprotectedDesc};

impl<P: Platform> Rmm<'_, P> {
    /// RMI_RTT_MAP_UNPROTECTED. That the address is Non-secure is for the GPT to see when the realm uses it.
    pub(in crate::rmi) fn rtt_map_unprotected(
        &self,
        rd: u64,
        ipa: u64,
        level: i64,
        desc: UnprotectedDesc,
    ) -> Outcome {
        let (rd, stage2) = self.lock_stage2(rd)?;
        // attr_valid, and addr_bound: without LPA2 a descriptor has no place for more than 48 bits of address.
        if !is_valid_unprotected(desc.0, stage2.lpa2) {
            return Err(ReturnCode::ERROR_INPUT);
        }
        check_mapping(&stage2, ipa, level)?;
        // addr_align
        if !is_aligned(Rtte::unprotected_address(desc.0, stage2.lpa2), level) {
            return Err(ReturnCode::ERROR_INPUT);
        }
        let mut walk = walk(self, &stage2, ipa, level)?;
        drop(rd);
        // rtt_walk, rtte_state
        if walk.level() != level || walk.entry != Rtte::UnassignedNs {
            return Err(walk.error());
        }
        walk.set(self, &stage2, Rtte::AssignedNs { desc: desc.0 });
        Ok(RmiReply::SUCCESS)
    }

    /// RMI_RTT_UNMAP_UNPROTECTED.
    pub(in crate::rmi) fn rtt_unmap_unprotected(&self, rd: u64, ipa: u64, level: i64) -> Outcome {
        let (rd, stage2) = self.lock_stage2(rd)?;
        check_mapping(&stage2, ipa, level)?;
        let mut walk = walk(self, &stage2, ipa, level)?;
        drop(rd);
        // rtt_walk, rtte_state
        let mapped = walk.level() == level && matches!(walk.entry, Rtte::AssignedNs { .. });
        if !mapped {
            let top = walk.skip_non_live(&self.platform);
            return Ok(RmiReply { code: walk.error(), out: [top, 0, 0, 0] });
        }
        walk.set(self, &stage2, Rtte::UnassignedNs);
        let top = walk.skip_removed(&self.platform);
        Ok(RmiReply::success([top, 0, 0, 0]))
    }
}

/// `level_bound`, `ipa_align` and `ipa_bound` of both commands.
fn check_mapping(stage2: &Stage2, ipa: u64, level: i64) -> Result<(), ReturnCode> {
    let valid = stage2.maps_at(level) && is_aligned(ipa, level) && stage2.is_unprotected(ipa);
    if valid { Ok(()) } else { Err(ReturnCode::ERROR_INPUT) }
}
