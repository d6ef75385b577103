//! From the IPA a realm names to the granule behind it.

use super::stage2::Stage2;
use super::{Rtte, walk};
use crate::granule::{GranuleGuard, GranuleState};
use crate::{Platform, Rmm};
use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::{RTT_PAGE_LEVEL, Ripas};

/// Why there is no memory of the realm at an IPA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Translate {
    /// The IPA is not protected.
    NotProtected,
    /// The RIPAS is EMPTY: an error of the realm.
    Empty,
    /// RAM without memory, or DESTROYED: the Host has to act.
    NotMapped {
        /// Where the walk ended.
        level: i64,
    },
}

/// The DATA granule that holds `ipa`, locked, so that it stays the realm's while the guard lives. The caller has the RD
/// locked or runs a REC of the realm.
///
/// # Errors
/// See [`Translate`].
pub(crate) fn translate<'a, P: Platform>(
    rmm: &Rmm<'a, P>,
    stage2: &Stage2,
    ipa: u64,
) -> Result<GranuleGuard<'a>, Translate> {
    if !stage2.is_protected(ipa) {
        return Err(Translate::NotProtected);
    }
    let gone = Translate::NotMapped { level: RTT_PAGE_LEVEL };
    let walk = walk(rmm, stage2, ipa, RTT_PAGE_LEVEL).map_err(|_| gone)?;
    match walk.entry {
        Rtte::Assigned { ripas: Ripas::RAM, pa } => {
            let offset = ipa.saturating_sub(walk.base()) & !GRANULE_SIZE.saturating_sub(1);
            // The table stays locked until the granule is: nobody can take it in between.
            rmm.granules.lock(pa.saturating_add(offset), GranuleState::Data).map_err(|_| gone)
        }
        entry if entry.ripas() == Some(Ripas::EMPTY) => Err(Translate::Empty),
        _ => Err(Translate::NotMapped { level: walk.level() }),
    }
}
