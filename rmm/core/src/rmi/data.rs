//! RMI_DATA_CREATE, RMI_DATA_CREATE_UNKNOWN and RMI_DATA_DESTROY.

use super::Outcome;
use crate::granule::{Exclusive, GranuleState};
use crate::platform::Broken;
use crate::realm::{RealmDescriptor, RealmState};
use crate::rtt::{Rtte, Stage2, Walk, walk};
use crate::{Platform, Rmm, measurement};
use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::{DataFlags, RTT_PAGE_LEVEL, ReturnCode, Ripas, RmiReply};
use zerocopy::IntoBytes;

impl<'a, P: Platform> Rmm<'a, P> {
    /// RMI_DATA_CREATE.
    pub(super) fn data_create(&self, rd: u64, data: u64, ipa: u64, src: u64, flags: DataFlags) -> Outcome {
        // Bits other than "measure" should be zero; they would be measured, so they are refused as deployed firmware does.
        if flags != DataFlags::MEASURE && flags != DataFlags::NO_MEASURE {
            return Err(ReturnCode::ERROR_INPUT);
        }
        // src_align, src_bound, src_pas
        self.check_ns(src)?;
        // data_align, data_bound, data_state and those of the RD
        let (mut data, mut rd) =
            self.granules.lock_pair((data, GranuleState::Delegated), (rd, GranuleState::Rd))?;
        let (stage2, state) = rd.with(&self.platform, |rd: &mut RealmDescriptor| (rd.stage2(), rd.state()));
        if state != RealmState::New {
            return Err(ReturnCode::ERROR_REALM);
        }
        let mut walk = self.walk_to_unassigned(&stage2, data.pa(), ipa)?.0;

        let copied = rd.with(&self.platform, |rd: &mut RealmDescriptor| {
            self.platform.with_granule(&mut data, |granule| {
                let bytes = granule.as_mut_bytes();
                if self.platform.read_ns(src, bytes).is_err() {
                    // src_pas, found out by the access: the granule stays DELEGATED and nothing is left in it.
                    bytes.fill(0);
                    return Err(ReturnCode::ERROR_INPUT);
                }
                measurement::extend_data(&self.platform, rd, ipa, flags, bytes);
                Ok(())
            })
        });
        copied?;
        // A realm runs what is measured here, not what another one ran in this granule.
        self.platform.sync_instructions(&mut data);
        data.set_state(GranuleState::Data);
        walk.set(self, &stage2, Rtte::Assigned { ripas: Ripas::RAM, pa: data.pa() });
        Ok(RmiReply::SUCCESS)
    }

    /// RMI_DATA_CREATE_UNKNOWN. The content is zeros, as of every DELEGATED granule.
    pub(super) fn data_create_unknown(&self, rd: u64, data: u64, ipa: u64) -> Outcome {
        let (mut data, mut rd) =
            self.granules.lock_pair((data, GranuleState::Delegated), (rd, GranuleState::Rd))?;
        let stage2 = rd.with(&self.platform, |rd: &mut RealmDescriptor| rd.stage2());
        let (mut walk, ripas) = self.walk_to_unassigned(&stage2, data.pa(), ipa)?;
        drop(rd);
        data.set_state(GranuleState::Data);
        walk.set(self, &stage2, Rtte::Assigned { ripas, pa: data.pa() });
        Ok(RmiReply::SUCCESS)
    }

    /// The conditions both commands share from `data_bound2` on: the UNASSIGNED page entry for `ipa`, and its RIPAS.
    fn walk_to_unassigned(
        &self,
        stage2: &Stage2,
        data: u64,
        ipa: u64,
    ) -> Result<(Walk<'a>, Ripas), ReturnCode> {
        // data_bound2, ipa_align, ipa_bound
        if data >= stage2.pa_top() || !ipa.is_multiple_of(GRANULE_SIZE) || !stage2.is_protected(ipa) {
            return Err(ReturnCode::ERROR_INPUT);
        }
        let walk = walk(self, stage2, ipa, RTT_PAGE_LEVEL)?;
        // rtt_walk, rtte_state
        match walk.entry {
            Rtte::Unassigned { ripas } if walk.level() == RTT_PAGE_LEVEL => Ok((walk, ripas)),
            _ => Err(walk.error()),
        }
    }

    /// RMI_DATA_DESTROY.
    pub(super) fn data_destroy(&self, rd: u64, ipa: u64) -> Outcome {
        let (rd, stage2) = self.lock_stage2(rd)?;
        // ipa_align, ipa_bound
        if !ipa.is_multiple_of(GRANULE_SIZE) || !stage2.is_protected(ipa) {
            return Err(ReturnCode::ERROR_INPUT);
        }
        let mut walk = walk(self, &stage2, ipa, RTT_PAGE_LEVEL)?;
        drop(rd);
        // rtt_walk, rtte_state
        let (Rtte::Assigned { ripas, pa }, RTT_PAGE_LEVEL) = (walk.entry, walk.level()) else {
            let top = walk.skip_non_live(&self.platform);
            return Ok(RmiReply { code: walk.error(), out: [0, top, 0, 0] });
        };
        let data = self.must(self.granules.lock(pa, GranuleState::Data), Broken::State);
        let ripas = if ripas == Ripas::RAM { Ripas::DESTROYED } else { ripas };
        walk.set(self, &stage2, Rtte::Unassigned { ripas });
        data.release(&self.platform);
        let top = walk.skip_removed(&self.platform);
        Ok(RmiReply::success([pa, top, 0, 0]))
    }
}
