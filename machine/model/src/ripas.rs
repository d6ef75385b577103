//! RTT_INIT_RIPAS and RTT_SET_RIPAS (as RMM 1.0 defines them).

use crate::measurement::{RIPAS, extend_rim};
use crate::outcome::{Conditions, Outcome};
use crate::rec::LastExit;
use crate::rtt::{Entry, Rtts, entry_size, level_aligned};
use crate::{Model, RealmState, Walk};
use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::{ReturnCode, Ripas};

const RD: &[&str] = &["rd_bound", "rd_state"];

impl Rtts {
    /// How far one command goes in the table where `walk` ended: to the first entry that `stops` it, the end of the table
    /// or `top`, rounded down to whole entries.
    fn ripas_top(&self, walk: &Walk, top: u64, stops: impl Fn(Entry) -> bool) -> u64 {
        let size = entry_size(walk.level);
        let entries = self.tables.get(&(walk.level, walk.table)).map_or(&[][..], |table| &table.entries);
        let stop = entries.iter().skip(walk.index).position(|e| stops(*e));
        let end = stop.map_or(walk.table_end(), |n| walk.entry_base() + n as u64 * size);
        end.min(top) / size * size
    }

    /// The entries of the table where `walk` ended from there to `end`, with their IPAs.
    fn range_mut(&mut self, walk: &Walk, end: u64) -> impl Iterator<Item = (u64, &mut Entry)> {
        let (first, size) = (walk.entry_base(), entry_size(walk.level));
        let table = self.tables.get_mut(&(walk.level, walk.table));
        let entries = table.into_iter().flat_map(move |table| table.entries.iter_mut().skip(walk.index));
        (0u64..).map(move |i| first + i * size).zip(entries).take_while(move |(ipa, _)| ipa + size <= end)
    }
}

impl Model {
    pub(crate) fn rtt_init_ripas(&mut self, rd: u64, base: u64, top: u64) -> Outcome {
        let mut c = Conditions::default();
        let mut found = None;
        if let Some(realm) = self.rd_group(&mut c, rd) {
            c.input_if("size_valid", top <= base);
            c.input_if("top_bound", top < GRANULE_SIZE || !realm.protected(top - GRANULE_SIZE));
            c.input_if("top_gran_align", !top.is_multiple_of(GRANULE_SIZE));
            c.fail_if("realm_state", realm.state != RealmState::New, ReturnCode::ERROR_REALM);
            if let Some(walk) = Self::realm_walk(realm, base, 3) {
                let code = ReturnCode::error_rtt(walk.level);
                // The scan stops at tables alone (the text); entries that are not UNASSIGNED matter at `base` only.
                let walk_top = realm.rtts.ripas_top(&walk, top, |e| e == Entry::Table);
                c.fail_if("base_align", !level_aligned(base, walk.level), code);
                c.fail_if("rtte_state", !matches!(walk.entry, Entry::Unassigned(_)), code);
                c.fail_if("no_progress", walk_top == base, code);
                found = Some((walk, walk_top));
            }
        }
        c.order(RD, &["realm_state", "base_align", "rtte_state", "no_progress"]);
        c.order(&["top_gran_align"], &["no_progress"]);
        if let Some(failure) = c.outcome(None) {
            return failure;
        }
        let (Some((walk, walk_top)), Some(realm)) = (found, self.realms.get_mut(&rd)) else {
            return Outcome::success(&[]);
        };
        let size = entry_size(walk.level);
        for (ipa, entry) in realm.rtts.range_mut(&walk, walk_top) {
            *entry = entry.with_ripas(Ripas::RAM);
            let parts: [&[u8]; 2] = [&ipa.to_le_bytes(), &(ipa + size).min(top).to_le_bytes()];
            realm.measurements[0] = extend_rim(realm.hash_algo, &realm.measurements[0], RIPAS, &parts);
        }
        Outcome::success(&[walk_top])
    }

    pub(crate) fn rtt_set_ripas(&mut self, rd: u64, rec: u64, base: u64, top: u64) -> Outcome {
        let mut c = Conditions::default();
        let mut found = None;
        let realm = self.rd_group(&mut c, rd);
        if let Some(rec) = self.rec_group(&mut c, rec) {
            // Without a request its range is empty at 0, so that `top` is always past it.
            let (addr, limit, value, destroyed) = match rec.last_exit {
                LastExit::Ripas { addr, top, value, destroyed } => (addr, top, value, destroyed),
                _ => (0, 0, Ripas::EMPTY, false),
            };
            c.fail_if("rec_owner", rec.owner != rd, ReturnCode::ERROR_REC);
            c.input_if("size_valid", top <= base);
            c.input_if("base_bound", base != addr);
            c.input_if("top_bound", top > limit);
            c.input_if("top_gran_align", !top.is_multiple_of(GRANULE_SIZE));
            if let Some(realm) = realm
                && let Some(walk) = Self::realm_walk(realm, base, 3)
            {
                let code = ReturnCode::error_rtt(walk.level);
                let blocked = |e: Entry| !destroyed && e.ripas() == Some(Ripas::DESTROYED);
                let mut walk_top = realm.rtts.ripas_top(&walk, top, |e| e == Entry::Table || blocked(e));
                let as_requested = walk.entry.ripas() == Some(value);
                let aligned = level_aligned(base, walk.level);
                c.fail_if("base_align", !aligned && !as_requested, code);
                c.fail_if("no_progress", base == walk_top && !as_requested, code);
                // Where the entry already is as requested the text lets the command succeed but its scan, which counts
                // whole entries, would not move: the range is done as far as that entry goes.
                if as_requested && walk_top <= base {
                    walk_top = top.min(walk.entry_base() + entry_size(walk.level));
                }
                found = Some((walk, walk_top, value));
            }
        }
        c.order(RD, &["base_align", "no_progress"]);
        c.order(&["rec_bound", "rec_gran_state"], &["rec_state", "rec_owner"]);
        c.order(&["base_bound"], &["base_align"]);
        c.order(&["top_gran_align"], &["no_progress"]);
        if let Some(failure) = c.outcome(None) {
            return failure;
        }
        let (Some((walk, walk_top, value)), Some(realm)) = (found, self.realms.get_mut(&rd)) else {
            return Outcome::success(&[]);
        };
        for (_, entry) in realm.rtts.range_mut(&walk, walk_top) {
            *entry = entry.with_ripas(value);
        }
        if let Some(LastExit::Ripas { addr, .. }) = self.recs.get_mut(&rec).map(|rec| &mut rec.last_exit) {
            *addr = walk_top;
        }
        Outcome::success(&[walk_top])
    }
}
