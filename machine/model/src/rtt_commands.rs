//! The commands on translation tables and unprotected mappings (RMM 1.0, RMI_RTT_*).

use crate::granule::GranuleState;
use crate::outcome::{Conditions, Expect, Outcome};
use crate::rtt::{Entry, desc_address_mask, entry_size, level_aligned};
use crate::{Model, Realm, Table, Walk};
use realm_abi::rmi::{ReturnCode, Ripas};

const RD: &[&str] = &["rd_bound", "rd_state"];
const BOUNDS: &[&str] = &["level_bound", "ipa_bound"];
const WALK: &[&str] = &["rtt_walk", "rtte_state"];

/// The conditions on `ipa` and `level` that commands on a table or an entry share. Levels are `levels`, `ipa` is
/// aligned to an entry of `align` levels up. True if a walk is possible.
fn ipa_group(
    c: &mut Conditions,
    realm: &Realm,
    ipa: u64,
    level: i64,
    levels: std::ops::RangeInclusive<i64>,
    up: i64,
) -> bool {
    let level_fine = levels.contains(&level);
    let bound_fine = ipa < realm.ipa_end();
    c.input_if("level_bound", !level_fine);
    c.input_if("ipa_bound", !bound_fine);
    c.input_if("ipa_align", level_fine && !level_aligned(ipa, level - up));
    level_fine && bound_fine
}

fn top(register: usize, value: u64) -> [Expect; 4] {
    std::array::from_fn(|i| if i + 1 == register { Expect::Is(value) } else { Expect::Any })
}

impl Model {
    pub(crate) fn rtt_create(&mut self, rd: u64, rtt: u64, ipa: u64, level: i64) -> Outcome {
        let mut c = Conditions::default();
        let mut found = None;
        self.granule_group(&mut c, ["rtt_align", "rtt_bound", "rtt_state"], rtt, GranuleState::Delegated);
        if let Some(realm) = self.rd_group(&mut c, rd) {
            c.input_if("rtt_bound2", !realm.lpa2 && rtt >= 1 << 48);
            if ipa_group(&mut c, realm, ipa, level, realm.rtt_level_start + 1..=3, 1)
                && let Some(walk) = realm.rtts.walk(ipa, level - 1)
            {
                let code = ReturnCode::error_rtt(walk.level);
                c.fail_if("rtt_walk", walk.level < level - 1, code);
                c.fail_if("rtte_state", walk.level == level - 1 && walk.entry == Entry::Table, code);
                found = Some(walk);
            }
        }
        c.order(RD, WALK);
        c.order(BOUNDS, WALK);
        if let Some(failure) = c.outcome(None) {
            return failure;
        }
        if let (Some(walk), Some(realm)) = (found, self.realms.get_mut(&rd)) {
            let size = entry_size(level);
            let entries = (0..512u64).map(|i| walk.entry.offset(i * size)).collect();
            realm.rtts.tables.insert((level, walk.entry_base()), Table { pa: rtt, entries });
            if let Some(entry) = realm.rtts.entry_mut(&walk) {
                *entry = Entry::Table;
            }
            self.set_granule(rtt, GranuleState::Rtt);
        }
        Outcome::success(&[])
    }

    /// The conditions RTT_DESTROY and RTT_FOLD share; `report_top` is for the former. The walk to the parent entry if
    /// there is a table below it.
    fn table_group(
        &self,
        c: &mut Conditions,
        realm: &Realm,
        ipa: u64,
        level: i64,
        report_top: bool,
    ) -> Option<Walk> {
        if !ipa_group(c, realm, ipa, level, realm.rtt_level_start + 1..=3, 1) {
            return None;
        }
        let walk = realm.rtts.walk(ipa, level - 1)?;
        let code = ReturnCode::error_rtt(walk.level);
        let out = if report_top { top(2, realm.rtts.skip_not_live(&walk, ipa)) } else { [Expect::Any; 4] };
        c.fail_with("rtt_walk", walk.level < level - 1, code, out);
        c.fail_with("rtte_state", walk.level == level - 1 && walk.entry != Entry::Table, code, out);
        (walk.entry == Entry::Table).then_some(walk)
    }

    /// Takes the table at (`level`, `ipa`) out; its parent becomes `parent`. Returns its address.
    fn remove_table(&mut self, rd: u64, walk: &Walk, parent: Entry) -> u64 {
        let Some(realm) = self.realms.get_mut(&rd) else { return 0 };
        let Some(table) = realm.rtts.tables.remove(&(walk.level + 1, walk.entry_base())) else { return 0 };
        if let Some(entry) = realm.rtts.entry_mut(walk) {
            *entry = parent;
        }
        self.set_granule(table.pa, GranuleState::Delegated);
        table.pa
    }

    pub(crate) fn rtt_destroy(&mut self, rd: u64, ipa: u64, level: i64) -> Outcome {
        let mut c = Conditions::default();
        let mut found = None;
        let mut parent = Entry::UnassignedNs;
        if let Some(realm) = self.rd_group(&mut c, rd) {
            found = self.table_group(&mut c, realm, ipa, level, true);
            if found.is_some() {
                let live = realm.rtts.table(level, ipa).is_some_and(Table::live);
                c.fail_with("rtt_live", live, ReturnCode::error_rtt(level), top(2, ipa));
            }
            if realm.protected(ipa) {
                parent = Entry::Unassigned(Ripas::DESTROYED);
            }
        }
        c.order(RD, &["rtt_walk", "rtte_state", "rtt_live"]);
        c.order(BOUNDS, WALK);
        if let Some(failure) = c.outcome(Some(2)) {
            return failure;
        }
        let Some(walk) = found else { return Outcome::success(&[]) };
        let rtt = self.remove_table(rd, &walk, parent);
        let top = self.realms.get(&rd).map_or(0, |realm| realm.rtts.skip_not_live(&walk, ipa));
        Outcome::success(&[rtt, top])
    }

    pub(crate) fn rtt_fold(&mut self, rd: u64, ipa: u64, level: i64) -> Outcome {
        let mut c = Conditions::default();
        let mut found = None;
        if let Some(realm) = self.rd_group(&mut c, rd)
            && let Some(walk) = self.table_group(&mut c, realm, ipa, level, false)
        {
            let parent = realm.rtts.fold(level, ipa, realm.lpa2);
            c.fail_if("rtt_homo", parent.is_none(), ReturnCode::error_rtt(level));
            found = parent.map(|parent| (walk, parent));
        }
        c.order(RD, &["rtt_walk", "rtte_state", "rtt_homo"]);
        c.order(BOUNDS, WALK);
        if let Some(failure) = c.outcome(None) {
            return failure;
        }
        let Some((walk, parent)) = found else { return Outcome::success(&[]) };
        Outcome::success(&[self.remove_table(rd, &walk, parent)])
    }

    /// The conditions MAP_UNPROTECTED and UNMAP_UNPROTECTED share. The walk to `level` if one is possible.
    fn unprotected_group(&self, c: &mut Conditions, realm: &Realm, ipa: u64, level: i64) -> Option<Walk> {
        let fine = ipa_group(c, realm, ipa, level, realm.rtt_level_start.max(1)..=3, 0);
        c.input_if("ipa_bound", realm.protected(ipa));
        if !fine || realm.protected(ipa) { None } else { realm.rtts.walk(ipa, level) }
    }

    pub(crate) fn rtt_map_unprotected(&mut self, rd: u64, ipa: u64, level: i64, desc: u64) -> Outcome {
        let mut c = Conditions::default();
        let mut found = None;
        if let Some(realm) = self.rd_group(&mut c, rd) {
            let mask = desc_address_mask(realm.lpa2);
            // MemAttr[2:0] (4:2) and S2AP (7:6); MemAttr 0b100 is reserved.
            c.input_if("attr_valid", desc & !(mask | 0xdc) != 0 || desc >> 2 & 7 == 4);
            if (1..=3).contains(&level) {
                c.input_if("addr_align", !level_aligned(desc & mask & !0xfff, level));
            }
            found = self.unprotected_group(&mut c, realm, ipa, level);
            if let Some(walk) = found {
                let code = ReturnCode::error_rtt(walk.level);
                c.fail_if("rtt_walk", walk.level < level, code);
                c.fail_if("rtte_state", walk.entry != Entry::UnassignedNs, code);
            }
        }
        c.order(RD, WALK);
        c.order(BOUNDS, WALK);
        if let Some(failure) = c.outcome(None) {
            return failure;
        }
        self.set_entry(rd, found, Entry::AssignedNs(desc));
        Outcome::success(&[])
    }

    pub(crate) fn rtt_unmap_unprotected(&mut self, rd: u64, ipa: u64, level: i64) -> Outcome {
        let mut c = Conditions::default();
        let mut found = None;
        if let Some(realm) = self.rd_group(&mut c, rd) {
            found = self.unprotected_group(&mut c, realm, ipa, level);
            if let Some(walk) = found {
                let code = ReturnCode::error_rtt(walk.level);
                let out = top(1, realm.rtts.skip_not_live(&walk, ipa));
                c.fail_with("rtt_walk", walk.level < level, code, out);
                let mapped = matches!(walk.entry, Entry::AssignedNs(_));
                c.fail_with("rtte_state", !mapped, code, out);
            }
        }
        c.order(RD, WALK);
        c.order(BOUNDS, WALK);
        if let Some(failure) = c.outcome(Some(1)) {
            return failure;
        }
        let top = self.set_entry(rd, found, Entry::UnassignedNs);
        Outcome::success(&[top])
    }

    /// Writes the entry where a walk ended; returns the scan for progress from there.
    pub(crate) fn set_entry(&mut self, rd: u64, walk: Option<Walk>, new: Entry) -> u64 {
        let (Some(walk), Some(realm)) = (walk, self.realms.get_mut(&rd)) else { return 0 };
        if let Some(entry) = realm.rtts.entry_mut(&walk) {
            *entry = new;
        }
        realm.rtts.skip_not_live(&walk, walk.entry_base())
    }

    /// RTT_READ_ENTRY, which changes nothing.
    #[must_use]
    pub fn rtt_read_entry(&self, rd: u64, ipa: u64, level: i64) -> Outcome {
        let mut c = Conditions::default();
        let mut found = None;
        if let Some(realm) = self.rd_group(&mut c, rd)
            && ipa_group(&mut c, realm, ipa, level, realm.rtt_level_start..=3, 0)
        {
            found = realm.rtts.walk(ipa, level).map(|walk| (walk, realm.rtts.table(walk.level + 1, ipa)));
        }
        if let Some(failure) = c.outcome(None) {
            return failure;
        }
        let Some((walk, below)) = found else { return Outcome::success(&[]) };
        let (state, desc, ripas) = match walk.entry {
            Entry::Unassigned(ripas) => (0, 0, Expect::Is(ripas.0.into())),
            // The address is reported whatever the RIPAS (the text; reference firmware hides it for DESTROYED).
            Entry::Assigned { pa, ripas } => (1, pa, Expect::Is(ripas.0.into())),
            Entry::UnassignedNs => (0, 0, Expect::Is(0)),
            Entry::AssignedNs(desc) => (1, desc, Expect::Is(0)),
            Entry::Table => (2, below.map_or(0, |table| table.pa), Expect::Any),
        };
        Outcome::Success([Expect::Is(walk.level.cast_unsigned()), Expect::Is(state), Expect::Is(desc), ripas])
    }
}
