//! Tables that become one entry, and entries that become a table (RMM 1.0, RTT folding and unfolding).

use super::stage2::{entry_size, is_aligned};
use super::{Rtte, Table};
use crate::{Platform, Rmm};
use realm_abi::rmi::RTT_ENTRIES;

/// The parent entry that says what all entries of `table` say, if one can.
pub(crate) fn fold<P: Platform>(rmm: &Rmm<'_, P>, table: &mut Table<'_>) -> Option<Rtte> {
    let (level, lpa2) = (table.level, table.lpa2);
    // A protected table with some but not all entries live is not homogeneous: no need to look.
    let count = table.guard.refcount();
    if count != 0 && count != RTT_ENTRIES as u32 {
        return None;
    }
    table.with(&rmm.platform, |words| {
        let first = words.get(0);
        let step = match first {
            Rtte::Unassigned { .. } | Rtte::UnassignedNs => 0,
            Rtte::Assigned { pa, .. } if level >= 2 && is_aligned(pa, level.saturating_sub(1)) => {
                entry_size(level)
            }
            Rtte::AssignedNs { desc }
                if level >= 2
                    && is_aligned(Rtte::unprotected_address(desc, lpa2), level.saturating_sub(1)) =>
            {
                entry_size(level)
            }
            _ => return None,
        };
        // From an address aligned to the block, adding within the block changes only address bits below it, which
        // stand in the descriptor as in the address: the descriptors themselves can be compared.
        words.counts_up(step).then_some(first)
    })
}

/// Fills the new `table`, all zeros, with entries that together say what `parent` said of the whole.
pub(crate) fn unfold<P: Platform>(rmm: &Rmm<'_, P>, table: &mut Table<'_>, parent: Rtte) {
    let (level, lpa2) = (table.level, table.lpa2);
    let step = if parent.is_live() { entry_size(level) } else { 0 };
    let first = parent.encode(level, lpa2);
    // As in `fold`: a block's address is aligned, so addresses count up in the descriptors as they are.
    if first != 0 {
        table.with(&rmm.platform, |words| words.fill(0, first, step));
    }
    if parent.is_live() {
        table.reach(RTT_ENTRIES.saturating_sub(1));
    }
    if parent.is_counted() {
        table.count(rmm, RTT_ENTRIES as i32);
    }
}

/// Counts the entries of a folded `table` no more, which were all as `parent` is.
pub(crate) fn uncount<P: Platform>(rmm: &Rmm<'_, P>, table: &mut Table<'_>, parent: Rtte) {
    if parent.is_counted() {
        const ALL_LESS: i32 = -(RTT_ENTRIES as i32);
        table.count(rmm, ALL_LESS);
    }
}
