//! DATA granules (RMM 1.0, RMI_DATA_*).

use crate::granule::{GranuleState, NsMemory, aligned};
use crate::measurement::{DATA, extend_rim, hash};
use crate::outcome::{Conditions, Expect, Outcome};
use crate::rtt::Entry;
use crate::{Model, RealmState};
use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::{ReturnCode, Ripas};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Page([u8; 4096]);

const WALK: &[&str] = &["rtt_walk", "rtte_state"];

impl Model {
    /// DATA_CREATE with `source` (address and flags), DATA_CREATE_UNKNOWN without.
    pub(crate) fn data_create(
        &mut self,
        rd: u64,
        data: u64,
        ipa: u64,
        source: Option<(u64, u64)>,
        ns: &dyn NsMemory,
    ) -> Outcome {
        let mut c = Conditions::default();
        let mut found = None;
        let mut content: Option<Page> = None;
        if let Some((src, flags)) = source {
            content = self.ns_group(&mut c, ["src_align", "src_bound", "src_pas"], src, ns);
            // Reserved encodings of the flags fail, as in reference firmware.
            c.input_if("flags_valid", flags > 1);
        }
        self.granule_group(&mut c, ["data_align", "data_bound", "data_state"], data, GranuleState::Delegated);
        if let Some(realm) = self.rd_group(&mut c, rd) {
            c.input_if("data_bound2", !realm.lpa2 && data >= 1 << 48);
            c.input_if("ipa_align", !aligned(ipa));
            c.input_if("ipa_bound", !realm.protected(ipa));
            let wrong_state = source.is_some() && realm.state != RealmState::New;
            c.fail_if("realm_state", wrong_state, ReturnCode::ERROR_REALM);
            found = Self::realm_walk(realm, ipa, 3);
            if let Some(walk) = found {
                let code = ReturnCode::error_rtt(walk.level);
                c.fail_if("rtt_walk", walk.level < 3, code);
                c.fail_if("rtte_state", !matches!(walk.entry, Entry::Unassigned(_)), code);
            }
        }
        c.order(&["rd_bound", "rd_state"], &["realm_state", "rtt_walk", "rtte_state"]);
        c.order(&["ipa_bound"], WALK);
        if let Some(failure) = c.outcome(None) {
            return failure;
        }
        let (Some(walk), Some(realm)) = (found, self.realms.get_mut(&rd)) else {
            return Outcome::success(&[]);
        };
        let mut ripas = walk.entry.ripas().unwrap_or(Ripas::EMPTY);
        if let (Some((_, flags)), Some(page)) = (source, &content) {
            ripas = Ripas::RAM;
            let digest = if flags == 1 { hash(realm.hash_algo, &page.0) } else { [0; 64] };
            let parts: [&[u8]; 3] = [&ipa.to_le_bytes(), &flags.to_le_bytes(), &digest];
            realm.measurements[0] = extend_rim(realm.hash_algo, &realm.measurements[0], DATA, &parts);
        }
        if let Some(entry) = realm.rtts.entry_mut(&walk) {
            *entry = Entry::Assigned { pa: data, ripas };
        }
        self.set_granule(data, GranuleState::Data);
        // Without a source the content is not specified, but none of what was there before: zeros in this RMM.
        let content = content.map_or_else(|| vec![0; 4096], |page| page.0.to_vec());
        self.data.insert(data, Some(content));
        Outcome::success(&[])
    }

    pub(crate) fn data_destroy(&mut self, rd: u64, ipa: u64) -> Outcome {
        let mut c = Conditions::default();
        let mut found = None;
        if let Some(realm) = self.rd_group(&mut c, rd) {
            c.input_if("ipa_align", !aligned(ipa));
            c.input_if("ipa_bound", !realm.protected(ipa));
            found = Self::realm_walk(realm, ipa, 3);
            if let Some(walk) = found {
                let code = ReturnCode::error_rtt(walk.level);
                let top = Expect::Is(realm.rtts.skip_not_live(&walk, ipa));
                let out = [Expect::Any, top, Expect::Any, Expect::Any];
                c.fail_with("rtt_walk", walk.level < 3, code, out);
                c.fail_with("rtte_state", !matches!(walk.entry, Entry::Assigned { .. }), code, out);
            }
        }
        c.order(&["rd_bound", "rd_state"], WALK);
        c.order(&["ipa_bound"], WALK);
        if let Some(failure) = c.outcome(Some(2)) {
            return failure;
        }
        let Some(Entry::Assigned { pa, ripas }) = found.map(|walk| walk.entry) else {
            return Outcome::success(&[]);
        };
        let ripas = if ripas == Ripas::EMPTY { Ripas::EMPTY } else { Ripas::DESTROYED };
        let top = self.set_entry(rd, found, Entry::Unassigned(ripas));
        self.data.remove(&pa);
        self.set_granule(pa, GranuleState::Delegated);
        Outcome::success(&[pa, top])
    }

    /// Whether all of `[offset, offset + bytes)` of a DATA granule is specified, and what it is.
    #[must_use]
    pub fn read_data(&self, pa: u64, offset: usize, bytes: usize) -> Option<&[u8]> {
        self.data.get(&pa)?.as_ref()?.get(offset..offset + bytes)
    }

    /// A write to a DATA granule; does nothing if what the rest of it holds is not specified, unless it is a whole granule.
    pub fn write_data(&mut self, pa: u64, offset: usize, bytes: &[u8]) {
        let Some(page) = self.data.get_mut(&pa) else { return };
        if bytes.len() as u64 == GRANULE_SIZE {
            *page = Some(bytes.to_vec());
        } else if let Some(part) = page.as_mut().and_then(|page| page.get_mut(offset..offset + bytes.len())) {
            part.copy_from_slice(bytes);
        }
    }

    /// What a DATA granule holds is no longer specified.
    pub(crate) fn forget_data(&mut self, pa: u64) {
        if let Some(page) = self.data.get_mut(&pa) {
            *page = None;
        }
    }
}
