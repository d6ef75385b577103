//! RMI_RTT_CREATE, RMI_RTT_DESTROY, RMI_RTT_FOLD and RMI_RTT_READ_ENTRY; the mapping and RIPAS commands are beside.

mod ripas;
mod unprotected;

use super::Outcome;
use crate::granule::{Exclusive, GranuleGuard, GranuleState};
use crate::realm::RealmDescriptor;
use crate::rtt::{Rtte, Stage2, Table, Walk, entry_size, fold, is_aligned, uncount, unfold, walk};
use crate::{Platform, Rmm};
use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::{ReturnCode, Ripas, RmiReply, RttEntryState};

impl<'a, P: Platform> Rmm<'a, P> {
    /// Locks an RD; what its realm's stage 2 is.
    pub(super) fn lock_stage2(&self, rd: u64) -> Result<(GranuleGuard<'a>, Stage2), ReturnCode> {
        let mut rd = self.granules.lock(rd, GranuleState::Rd)?;
        let stage2 = rd.with(&self.platform, |rd: &mut RealmDescriptor| rd.stage2());
        Ok((rd, stage2))
    }

    /// RMI_RTT_CREATE.
    pub(super) fn rtt_create(&self, rd: u64, rtt: u64, ipa: u64, level: i64) -> Outcome {
        let (mut rtt, mut rd) =
            self.granules.lock_pair((rtt, GranuleState::Delegated), (rd, GranuleState::Rd))?;
        let stage2 = rd.with(&self.platform, |rd: &mut RealmDescriptor| rd.stage2());
        let parent_level = check_table(&stage2, ipa, level)?;
        // rtt_bound2
        if rtt.pa() >= stage2.pa_top() {
            return Err(ReturnCode::ERROR_INPUT);
        }
        let mut walk = walk(self, &stage2, ipa, parent_level)?;
        drop(rd);
        // rtt_walk, rtte_state
        if walk.level() != parent_level || matches!(walk.entry, Rtte::Table { .. }) {
            return Err(walk.error());
        }
        let pa = rtt.pa();
        rtt.set_state(GranuleState::Rtt);
        unfold(self, &mut Table { guard: rtt, level, lpa2: stage2.lpa2 }, walk.entry);
        if walk.entry.is_mapping() {
            walk.break_entry(self, &stage2);
        }
        walk.set(self, &stage2, Rtte::Table { pa });
        Ok(RmiReply::SUCCESS)
    }

    /// RMI_RTT_DESTROY.
    pub(super) fn rtt_destroy(&self, rd: u64, ipa: u64, level: i64) -> Outcome {
        let (rd, stage2) = self.lock_stage2(rd)?;
        let parent_level = check_table(&stage2, ipa, level)?;
        let mut walk = walk(self, &stage2, ipa, parent_level)?;
        drop(rd);
        // rtt_walk, rtte_state
        let Some(table) = self.lock_child(&walk, parent_level)? else {
            let top = walk.skip_non_live(&self.platform);
            return Ok(RmiReply { code: walk.error(), out: [0, top, 0, 0] });
        };
        // rtt_live
        if table.is_live() {
            return Ok(RmiReply { code: ReturnCode::error_rtt(level), out: [0, ipa, 0, 0] });
        }
        let protected = stage2.is_protected(ipa);
        walk.set(self, &stage2, Rtte::destroyed(protected));
        // A protected table that is not live maps nothing, so only walks to it can be cached; an unprotected one may.
        let cached = if protected { GRANULE_SIZE } else { entry_size(parent_level) };
        stage2.forget(self, ipa, cached);
        let pa = table.guard.pa();
        table.guard.release(&self.platform);
        let top = walk.skip_removed(&self.platform);
        Ok(RmiReply::success([pa, top, 0, 0]))
    }

    /// RMI_RTT_FOLD.
    pub(super) fn rtt_fold(&self, rd: u64, ipa: u64, level: i64) -> Outcome {
        let (rd, stage2) = self.lock_stage2(rd)?;
        let parent_level = check_table(&stage2, ipa, level)?;
        let mut walk = walk(self, &stage2, ipa, parent_level)?;
        drop(rd);
        // rtt_walk, rtte_state
        let mut table = self.lock_child(&walk, parent_level)?.ok_or(walk.error())?;
        // rtt_homo
        let entry = fold(self, &mut table).ok_or(ReturnCode::error_rtt(level))?;
        // Break before make: the table is out of reach, and what it mapped forgotten, when the block appears.
        walk.break_entry(self, &stage2);
        let cached = if entry.is_mapping() { entry_size(parent_level) } else { GRANULE_SIZE };
        stage2.forget(self, ipa, cached);
        walk.set(self, &stage2, entry);
        uncount(self, &mut table, entry);
        let pa = table.guard.pa();
        table.guard.release(&self.platform);
        Ok(RmiReply::success([pa, 0, 0, 0]))
    }

    /// The table the entry at `parent_level` points to, locked; `None` if the walk did not get there or found no table.
    fn lock_child(&self, walk: &Walk<'a>, parent_level: i64) -> Result<Option<Table<'a>>, ReturnCode> {
        match walk.entry {
            Rtte::Table { pa } if walk.level() == parent_level => {
                let guard = self.granules.lock(pa, GranuleState::Rtt)?;
                Ok(Some(Table { guard, level: parent_level.saturating_add(1), lpa2: walk.table.lpa2 }))
            }
            _ => Ok(None),
        }
    }

    /// RMI_RTT_READ_ENTRY.
    pub(super) fn rtt_read_entry(&self, rd: u64, ipa: u64, level: i64) -> Outcome {
        let (rd, stage2) = self.lock_stage2(rd)?;
        // level_bound, ipa_align, ipa_bound
        if !stage2.has_level(level) || !is_aligned(ipa, level) || !stage2.contains(ipa) {
            return Err(ReturnCode::ERROR_INPUT);
        }
        let walk = walk(self, &stage2, ipa, level)?;
        drop(rd);
        let state = match walk.entry {
            Rtte::Unassigned { .. } | Rtte::UnassignedNs => RttEntryState::UNASSIGNED,
            Rtte::Assigned { .. } | Rtte::AssignedNs { .. } => RttEntryState::ASSIGNED,
            Rtte::Table { .. } => RttEntryState::TABLE,
        };
        let ripas = walk.entry.ripas().unwrap_or(Ripas::EMPTY);
        let desc = walk.entry.host_view(stage2.lpa2);
        Ok(RmiReply::success([walk.level().cast_unsigned(), state.0.into(), desc, ripas.0.into()]))
    }
}

/// `level_bound`, `ipa_align` and `ipa_bound` of the commands that name a table by its level and the range it covers; the
/// level of the entry that points, or is to point, to it.
fn check_table(stage2: &Stage2, ipa: u64, level: i64) -> Result<i64, ReturnCode> {
    if !stage2.has_inner_level(level) {
        return Err(ReturnCode::ERROR_INPUT);
    }
    let parent_level = level.saturating_sub(1);
    if is_aligned(ipa, parent_level) && stage2.contains(ipa) {
        Ok(parent_level)
    } else {
        Err(ReturnCode::ERROR_INPUT)
    }
}
