//! Changing and reading the RIPAS of a range (RMM 1.0, RIPAS). Each works in the one table where the walk to the
//! start of the range ends.

use super::stage2::{Stage2, entry_size, is_aligned};
use super::{Rtte, walk};
use crate::realm::RealmDescriptor;
use crate::{Platform, Rmm, measurement};
use realm_abi::rmi::{RTT_ENTRIES, RTT_PAGE_LEVEL, ReturnCode, Ripas};

/// RTT_INIT_RIPAS: makes entries of `[base, top)` RAM, measures each, and returns how far it got. `base < top`, both in
/// the protected half, `top` granule aligned. Only a TABLE entry stops it, not a state of HIPAS or RIPAS.
///
/// # Errors
/// `RMI_ERROR_RTT` for `base_align`, `rtte_state` and `no_progress`, in this order.
pub(crate) fn init_ripas<P: Platform>(
    rmm: &Rmm<'_, P>,
    rd: &mut RealmDescriptor,
    base: u64,
    top: u64,
) -> Result<u64, ReturnCode> {
    let stage2 = rd.stage2();
    let mut walk = walk(rmm, &stage2, base, RTT_PAGE_LEVEL)?;
    let (level, size, index) = (walk.level(), entry_size(walk.level()), walk.index);
    // base_align, rtte_state
    if !is_aligned(base, level) || !matches!(walk.entry, Rtte::Unassigned { .. }) {
        return Err(walk.error());
    }
    let mut position = base;
    walk.table.with(&rmm.platform, |words| {
        for index in index..RTT_ENTRIES {
            let entry = words.get(index);
            let end = position.saturating_add(size);
            if end > top || entry.ripas().is_none() {
                break;
            }
            words.set(index, entry.with_ripas(Ripas::RAM));
            measurement::extend_ripas(&rmm.platform, rd, position, end);
            position = end;
        }
    });
    // no_progress
    if position == base { Err(walk.error()) } else { Ok(position) }
}

/// RTT_SET_RIPAS: gives entries of `[base, top)` the RIPAS the realm asked for and returns how far it got. It stops at a
/// TABLE entry and, unless `from_destroyed`, at a DESTROYED one. `base < top`, both in the protected half, `top` granule
/// aligned.
///
/// If the entry at `base` has the RIPAS already it does not matter that it begins before or ends after the range:
/// `base_align` and `no_progress` hold only where the RIPAS differs. The specification's count of whole entries would not
/// move there; the range is done as far as that entry goes.
///
/// # Errors
/// `RMI_ERROR_RTT` for `base_align` and `no_progress`.
pub(crate) fn set_ripas<P: Platform>(
    rmm: &Rmm<'_, P>,
    stage2: &Stage2,
    (base, top): (u64, u64),
    ripas: Ripas,
    from_destroyed: bool,
) -> Result<u64, ReturnCode> {
    let mut walk = walk(rmm, stage2, base, RTT_PAGE_LEVEL)?;
    let (size, index) = (entry_size(walk.level()), walk.index);
    let as_requested = walk.entry.ripas() == Some(ripas);
    // base_align
    if base != walk.base() && !as_requested {
        return Err(walk.error());
    }
    let (mut position, mut unmapped) = (walk.base(), false);
    walk.table.with(&rmm.platform, |words| {
        for index in index..RTT_ENTRIES {
            let entry = words.get(index);
            let end = position.saturating_add(size);
            let Some(old) = entry.ripas() else { break };
            if end > top || (old == Ripas::DESTROYED && !from_destroyed) {
                break;
            }
            if old != ripas {
                words.set(index, entry.with_ripas(ripas));
                unmapped |= entry.is_mapping();
            }
            position = end;
        }
    });
    if unmapped {
        stage2.forget(rmm, base, position.saturating_sub(base));
    }
    match position {
        position if position > base => Ok(position),
        _ if as_requested => Ok(top.min(walk.end())),
        // no_progress
        _ => Err(walk.error()),
    }
}

/// RSI_IPA_STATE_GET: the RIPAS at `base` and the end, at most `top`, of a range that has it. `base < top`, both in the
/// protected half.
///
/// # Errors
/// As [`walk()`].
pub(crate) fn common_ripas<P: Platform>(
    rmm: &Rmm<'_, P>,
    stage2: &Stage2,
    base: u64,
    top: u64,
) -> Result<(u64, Ripas), ReturnCode> {
    let mut walk = walk(rmm, stage2, base, RTT_PAGE_LEVEL)?;
    let ripas = walk.entry.ripas().ok_or(walk.error())?;
    let (size, first) = (entry_size(walk.level()), walk.index.saturating_add(1));
    let mut end = walk.end();
    walk.table.with(&rmm.platform, |words| {
        for index in first..RTT_ENTRIES {
            if end >= top || words.get(index).ripas() != Some(ripas) {
                break;
            }
            end = end.saturating_add(size);
        }
    });
    Ok((end.min(top), ripas))
}
