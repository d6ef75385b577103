//! Granules: who owns each, and the two commands that move them between worlds (RMM 1.0, RMI_GRANULE_*).

use crate::outcome::{Conditions, Outcome};
use crate::{Model, Realm};
use realm_abi::GRANULE_SIZE;
use zerocopy::{FromBytes, IntoBytes};

/// `RmmGranuleState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GranuleState {
    /// Not the RMM's.
    Undelegated,
    /// The RMM's, without a use.
    Delegated,
    /// A realm's descriptor.
    Rd,
    /// A REC.
    Rec,
    /// An auxiliary granule of a REC.
    RecAux,
    /// Memory of a realm.
    Data,
    /// A translation table.
    Rtt,
}

/// The Host's memory as the RMM finds it.
pub trait NsMemory {
    /// Whether the granule's GPT entry says Non-secure. Asked for granules that are not the RMM's: other agents may
    /// have taken them.
    fn is_ns(&self, pa: u64) -> bool;
    /// Reads; the range is in one granule that [`Self::is_ns`].
    fn read(&self, pa: u64, out: &mut [u8]);
}

pub(crate) fn aligned(addr: u64) -> bool {
    addr.is_multiple_of(GRANULE_SIZE)
}

impl Model {
    /// The state of the granule at an aligned address, `None` if it is not delegable.
    #[must_use]
    pub fn granule_state(&self, pa: u64) -> Option<GranuleState> {
        if !self.config.delegable.iter().any(|range| range.contains(&pa)) {
            return None;
        }
        Some(self.granules.get(&pa).copied().unwrap_or(GranuleState::Undelegated))
    }

    pub(crate) fn set_granule(&mut self, pa: u64, state: GranuleState) {
        self.granules.insert(pa, state);
    }

    /// The three conditions on a granule that must be in one state; ids are (align, bound, state). True if it is fine.
    pub(crate) fn granule_group(
        &self,
        c: &mut Conditions,
        ids: [&'static str; 3],
        pa: u64,
        state: GranuleState,
    ) -> bool {
        let [align, bound, wrong_state] = ids;
        let is = self.granule_state(pa & !(GRANULE_SIZE - 1));
        c.input_if(align, !aligned(pa));
        c.input_if(bound, is.is_none());
        c.input_if(wrong_state, is.is_some_and(|is| is != state));
        aligned(pa) && is == Some(state)
    }

    /// The RD group; the realm if the group holds.
    pub(crate) fn rd_group(&self, c: &mut Conditions, rd: u64) -> Option<&Realm> {
        let fine = self.granule_group(c, ["rd_align", "rd_bound", "rd_state"], rd, GranuleState::Rd);
        if fine { self.realms.get(&rd) } else { None }
    }

    /// The PARAMS group: an aligned delegable granule that can be read as Non-secure. A copy of it if so.
    pub(crate) fn ns_group<T: FromBytes + IntoBytes>(
        &self,
        c: &mut Conditions,
        ids: [&'static str; 3],
        pa: u64,
        ns: &dyn NsMemory,
    ) -> Option<T> {
        let [align, bound, pas] = ids;
        let granule = pa & !(GRANULE_SIZE - 1);
        let state = self.granule_state(granule);
        let accessible = state == Some(GranuleState::Undelegated) && ns.is_ns(granule);
        c.input_if(align, !aligned(pa));
        c.input_if(bound, state.is_none());
        c.input_if(pas, state.is_some() && !accessible);
        (aligned(pa) && accessible).then(|| {
            let mut value = T::new_zeroed();
            ns.read(pa, value.as_mut_bytes());
            value
        })
    }

    pub(crate) fn granule_delegate(&mut self, addr: u64, ns: &dyn NsMemory) -> Outcome {
        let mut c = Conditions::default();
        let ids = ["gran_align", "gran_bound", "gran_state"];
        if self.granule_group(&mut c, ids, addr, GranuleState::Undelegated) {
            c.input_if("gran_gpt", !ns.is_ns(addr));
        }
        if let Some(failure) = c.outcome(None) {
            return failure;
        }
        self.set_granule(addr, GranuleState::Delegated);
        Outcome::success(&[])
    }

    pub(crate) fn granule_undelegate(&mut self, addr: u64) -> Outcome {
        let mut c = Conditions::default();
        self.granule_group(&mut c, ["gran_align", "gran_bound", "gran_state"], addr, GranuleState::Delegated);
        if let Some(failure) = c.outcome(None) {
            return failure;
        }
        self.granules.remove(&addr);
        Outcome::success(&[])
    }
}
