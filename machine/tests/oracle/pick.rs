//! What a step names: granules, realms, RECs and IPAs that mostly fit.

use crate::oracle::addresses::{BAD_PAS, interesting_ipas};
use crate::oracle::driver::Driver;
use crate::oracle::random::Choice;
use realm_abi::rmi::RmiCommand;
use realm_model::{Entry, GranuleState};

impl Driver {
    /// A pool granule in `state`, mostly.
    pub(crate) fn granule(&mut self, c: &mut Choice, state: GranuleState) -> u64 {
        match c.below(24) {
            0 => return c.of(&BAD_PAS),
            1 => return c.of(&self.pool),
            2 if c.one_in(2) => return c.of(&self.host_pages),
            _ => {}
        }
        let shared = self.shared();
        let fitting: Vec<u64> =
            self.pool.iter().copied().filter(|pa| shared.model.granule_state(*pa) == Some(state)).collect();
        drop(shared);
        c.maybe(&fitting).unwrap_or_else(|| c.of(&self.pool))
    }

    /// A granule that is DELEGATED, by a call if none is.
    pub(crate) fn delegated(&mut self, c: &mut Choice) -> Result<u64, String> {
        let pa = self.granule(c, GranuleState::Delegated);
        if self.shared().model.granule_state(pa) != Some(GranuleState::Undelegated) {
            return Ok(pa);
        }
        self.call(RmiCommand::GranuleDelegate { addr: pa })?;
        Ok(pa)
    }

    /// A granule that was UNDELEGATED until now.
    pub(crate) fn fresh(&mut self, c: &mut Choice) -> Result<u64, String> {
        let pa = self.granule(c, GranuleState::Undelegated);
        self.call(RmiCommand::GranuleDelegate { addr: pa })?;
        Ok(pa)
    }

    /// A page of the Host that is filled with `content` if possible.
    pub(crate) fn host_page(&mut self, c: &mut Choice, content: &[u8]) -> u64 {
        let pa = match c.below(40) {
            0 => c.of(&BAD_PAS),
            1 => c.of(&self.pool),
            _ => c.of(&self.host_pages),
        };
        self.host_write(pa & !0xfff, content);
        pa
    }

    pub(crate) fn rd(&mut self, c: &mut Choice) -> u64 {
        if c.one_in(24) {
            return self.granule(c, GranuleState::Data);
        }
        let realms: Vec<u64> = self.shared().model.realms().keys().copied().collect();
        c.maybe(&realms).unwrap_or_else(|| c.of(&self.pool))
    }

    pub(crate) fn rec(&mut self, c: &mut Choice) -> u64 {
        if c.one_in(24) {
            return self.granule(c, GranuleState::RecAux);
        }
        let recs: Vec<u64> = self.shared().model.recs().keys().copied().collect();
        c.maybe(&recs).unwrap_or_else(|| c.of(&self.pool))
    }

    /// An IPA whose entry, as deep as there are tables, is as `wanted` says; mostly.
    pub(crate) fn ipa(&mut self, c: &mut Choice, rd: u64, wanted: impl Fn(i64, Entry) -> bool) -> u64 {
        let shared = self.shared();
        let ipas = interesting_ipas(&shared.model, rd);
        if c.one_in(10) {
            return c.of(&ipas) | if c.one_in(3) { c.of(&[1, 0x800]) } else { 0 };
        }
        let fitting: Vec<u64> = ipas
            .iter()
            .copied()
            .filter(|ipa| shared.model.walk(rd, *ipa, 3).is_some_and(|walk| wanted(walk.level, walk.entry)))
            .collect();
        c.maybe(&fitting).unwrap_or_else(|| c.of(&ipas))
    }
}

/// `ipa` rounded down to an entry of `level`, as far as there is such a level.
pub(crate) fn align(ipa: u64, level: i64) -> u64 {
    realm_abi::rmi::rtt_entry_size(level).map_or(ipa, |size| ipa / size * size)
}
