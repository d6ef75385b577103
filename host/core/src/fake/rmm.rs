//! A miniature RMM: enough states for the Host core to be right or wrong about.

use crate::realm::ipa::{IpaSpace, align_down, entry_size};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::{
    FeatureRegister0, RTT_ENTRIES, RTT_PAGE_LEVEL, RealmParams, RecParams, ReturnCode, Ripas, RmiCommand,
    RmiReply, RttEntryState, UnprotectedDesc, Version,
};
use zerocopy::FromBytes;

pub(crate) type Contents = BTreeMap<u64, Box<crate::host::GranuleBytes>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Granule {
    Delegated,
    Rd,
    Rtt,
    Data,
    Rec,
    RecAux,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Unassigned(Ripas),
    Assigned(u64, Ripas),
    UnassignedNs,
    AssignedNs(UnprotectedDesc),
    Table(u64),
}

impl Entry {
    /// The entry a table's child gets when this one becomes a table.
    fn child(self, offset: u64) -> Self {
        match self {
            Self::Assigned(pa, ripas) => Self::Assigned(pa + offset, ripas),
            Self::AssignedNs(desc) => Self::AssignedNs(UnprotectedDesc(desc.0 + offset)),
            other => other,
        }
    }

    fn live(self) -> bool {
        !matches!(self, Self::Unassigned(_) | Self::UnassignedNs)
    }
}

pub(crate) struct MiniRealm {
    pub(crate) space: IpaSpace,
    pub(crate) params: RealmParams,
    pub(crate) active: bool,
    /// By level and first address. The starting level is one table of all concatenated ones.
    pub(crate) tables: BTreeMap<(i64, u64), Vec<Entry>>,
    /// RIPAS change a REC asked for: base, top, value.
    pub(crate) request: Option<(u64, u64, Ripas)>,
    /// How often the RIM was extended.
    pub(crate) measured: u64,
}

pub(crate) struct MiniRmm {
    pub(crate) versions: Option<(Version, Version)>,
    pub(crate) features: FeatureRegister0,
    pub(crate) granules: BTreeMap<u64, Granule>,
    pub(crate) realms: BTreeMap<u64, MiniRealm>,
    pub(crate) data: BTreeMap<u64, u8>,
    pub(crate) aux_count: u64,
    /// By REC its realm and its auxiliary granules.
    recs: BTreeMap<u64, (u64, Vec<u64>)>,
    /// Memory that cannot be delegated, nor read by the RMM.
    pub(crate) refused: Vec<Range<u64>>,
}

impl Default for MiniRmm {
    fn default() -> Self {
        let features = FeatureRegister0(0).with_s2sz(48).with_num_bps(1).with_num_wps(1).with_hash_sha_256(1);
        Self {
            versions: Some((Version::V1_0, Version::V1_0)),
            features: features.with_max_recs_order(4),
            granules: BTreeMap::new(),
            realms: BTreeMap::new(),
            data: BTreeMap::new(),
            aux_count: 2,
            recs: BTreeMap::new(),
            refused: Vec::new(),
        }
    }
}

/// Where a walk ended.
struct Walk {
    level: i64,
    key: (i64, u64),
    index: usize,
}

impl MiniRealm {
    fn walk(&self, ipa: u64, target: i64) -> Walk {
        let mut key = (self.space.start_level(), 0);
        loop {
            let index = usize::try_from((ipa - key.1) / entry_size(key.0)).unwrap();
            match self.tables[&key][index] {
                Entry::Table(_) if key.0 < target => key = (key.0 + 1, align_down(ipa, key.0)),
                _ => return Walk { level: key.0, key, index },
            }
        }
    }

    pub(crate) fn entry(&self, ipa: u64, level: i64) -> (i64, Entry) {
        let walk = self.walk(ipa, level);
        (walk.level, self.at(&walk))
    }

    fn at(&self, walk: &Walk) -> Entry {
        self.tables[&walk.key][walk.index]
    }

    fn set(&mut self, walk: &Walk, entry: Entry) {
        self.tables.get_mut(&walk.key).unwrap()[walk.index] = entry;
    }

    /// The first live entry from where the walk ended, in that table.
    fn top(&self, walk: &Walk, ipa: u64) -> u64 {
        let table = &self.tables[&walk.key];
        let end = (walk.index / RTT_ENTRIES + 1) * RTT_ENTRIES;
        let next = (walk.index..end).find(|&index| table[index].live()).unwrap_or(end);
        if next == walk.index { ipa } else { walk.key.1 + next as u64 * entry_size(walk.level) }
    }

    fn table_live(&self, key: (i64, u64)) -> bool {
        self.tables[&key].iter().any(|entry| matches!(entry, Entry::Assigned(..) | Entry::Table(_)))
    }

    /// The parent entry a homogeneous table folds into.
    fn folded(&self, key: (i64, u64)) -> Option<Entry> {
        let table = &self.tables[&key];
        let first = table[0];
        if matches!(first, Entry::Table(_)) || first.live() && key.0 < 2 {
            return None;
        }
        let aligned = match first {
            Entry::Assigned(pa, _) => pa.is_multiple_of(entry_size(key.0 - 1)),
            Entry::AssignedNs(desc) => (desc.0 & !0xfff).is_multiple_of(entry_size(key.0 - 1)),
            _ => true,
        };
        let same = |(index, entry): (usize, &Entry)| *entry == first.child(index as u64 * entry_size(key.0));
        (aligned && table.iter().enumerate().all(same)).then_some(first)
    }
}

type Answer = Result<[u64; 4], (ReturnCode, [u64; 4])>;

fn refuse<T>(code: ReturnCode) -> Result<T, (ReturnCode, [u64; 4])> {
    Err((code, [0; 4]))
}

fn check(condition: bool) -> Result<(), (ReturnCode, [u64; 4])> {
    if condition { Ok(()) } else { refuse(ReturnCode::ERROR_INPUT) }
}

impl MiniRmm {
    pub(crate) fn handle(&mut self, command: RmiCommand, contents: &Contents) -> RmiReply {
        match self.try_handle(command, contents) {
            Ok(out) => RmiReply::success(out),
            Err((code, out)) => RmiReply { code, out },
        }
    }

    /// Whether the RMM finds that memory is not what it takes for such (RMM 1.0, PaIsDelegable).
    pub(crate) fn is_refused(&self, pa: u64) -> bool {
        self.refused.iter().any(|range| range.contains(&pa))
    }

    /// The Non-secure memory that realms can reach.
    pub(crate) fn shared(&self) -> Vec<Range<u64>> {
        let reached = |level: i64, entry: &Entry| match entry {
            Entry::AssignedNs(desc) => {
                let base = desc.0 & !0xfff;
                Some(base..base + entry_size(level))
            }
            _ => None,
        };
        let shared_tables = |realm: &MiniRealm, table: &[Entry], level: i64, base: u64| -> Vec<Range<u64>> {
            let half = realm.space.protected_end();
            let first = usize::try_from(half.saturating_sub(base) / entry_size(level)).unwrap();
            table.iter().skip(first).filter_map(|entry| reached(level, entry)).collect()
        };
        let of_realm = |realm: &MiniRealm| -> Vec<Range<u64>> {
            let tables = realm.tables.iter();
            tables.flat_map(|(&(level, base), table)| shared_tables(realm, table, level, base)).collect()
        };
        self.realms.values().flat_map(of_realm).collect()
    }

    fn is(&self, pa: u64, state: Granule) -> Result<(), (ReturnCode, [u64; 4])> {
        check(self.granules.get(&pa) == Some(&state))
    }

    fn realm(&mut self, rd: u64) -> Result<&mut MiniRealm, (ReturnCode, [u64; 4])> {
        self.realms.get_mut(&rd).ok_or((ReturnCode::ERROR_INPUT, [0; 4]))
    }

    fn try_handle(&mut self, command: RmiCommand, contents: &Contents) -> Answer {
        match command {
            RmiCommand::Version { req } => {
                let Some((lower, higher)) = self.versions else { return refuse(ReturnCode::NOT_SUPPORTED) };
                let out = [lower.0, higher.0, 0, 0];
                if (lower..=higher).contains(&req) { Ok(out) } else { Err((ReturnCode::ERROR_INPUT, out)) }
            }
            RmiCommand::Features { index } => Ok([if index == 0 { self.features.0 } else { 0 }, 0, 0, 0]),
            RmiCommand::GranuleDelegate { addr } => {
                check(!self.granules.contains_key(&addr) && !self.is_refused(addr))?;
                self.granules.insert(addr, Granule::Delegated);
                Ok([0; 4])
            }
            RmiCommand::GranuleUndelegate { addr } => {
                self.is(addr, Granule::Delegated)?;
                self.granules.remove(&addr);
                Ok([0; 4])
            }
            RmiCommand::RealmCreate { rd, params_ptr } => self.realm_create(rd, params_ptr, contents),
            RmiCommand::RealmActivate { rd } => {
                let realm = self.realm(rd)?;
                if realm.active {
                    return refuse(ReturnCode::ERROR_REALM);
                }
                realm.active = true;
                Ok([0; 4])
            }
            RmiCommand::RealmDestroy { rd } => self.realm_destroy(rd),
            RmiCommand::RecAuxCount { rd } => {
                self.realm(rd)?;
                Ok([self.aux_count, 0, 0, 0])
            }
            RmiCommand::RecCreate { rd, rec, params_ptr } => self.rec_create(rd, rec, params_ptr, contents),
            RmiCommand::RecDestroy { rec } => {
                self.is(rec, Granule::Rec)?;
                let (_, aux) = self.recs.remove(&rec).unwrap_or_default();
                for pa in aux.into_iter().chain([rec]) {
                    self.granules.insert(pa, Granule::Delegated);
                }
                Ok([0; 4])
            }
            RmiCommand::RecEnter { rec, run_ptr } => {
                self.is(rec, Granule::Rec)?;
                check(!self.granules.contains_key(&run_ptr) && !self.is_refused(run_ptr))?;
                Ok([0; 4])
            }
            RmiCommand::RttCreate { rd, rtt, ipa, level } => self.rtt_create(rd, rtt, ipa, level),
            RmiCommand::RttDestroy { rd, ipa, level } => self.rtt_remove(rd, ipa, level, false),
            RmiCommand::RttFold { rd, ipa, level } => self.rtt_remove(rd, ipa, level, true),
            RmiCommand::DataCreate { rd, data, ipa, src, .. } => {
                check(!self.granules.contains_key(&src) && !self.is_refused(src))?;
                if self.realm(rd)?.active {
                    return refuse(ReturnCode::ERROR_REALM);
                }
                self.data_create(rd, data, ipa, Some(Ripas::RAM))?;
                self.realm(rd)?.measured += 1;
                self.data.insert(data, contents.get(&src).map_or(0, |content| content.0[0]));
                Ok([0; 4])
            }
            RmiCommand::DataCreateUnknown { rd, data, ipa } => self.data_create(rd, data, ipa, None),
            RmiCommand::DataDestroy { rd, ipa } => self.data_destroy(rd, ipa),
            RmiCommand::RttMapUnprotected { rd, ipa, level, desc } => {
                let realm = self.realm(rd)?;
                check(!realm.space.is_protected(ipa) && ipa < realm.space.end() && level >= 1)?;
                check((ipa | (desc.0 & !0xfff)).is_multiple_of(entry_size(level)))?;
                let walk = realm.walk(ipa, level);
                if walk.level < level || realm.at(&walk) != Entry::UnassignedNs {
                    return refuse(ReturnCode::error_rtt(walk.level));
                }
                realm.set(&walk, Entry::AssignedNs(desc));
                Ok([0; 4])
            }
            RmiCommand::RttUnmapUnprotected { rd, ipa, level } => {
                let realm = self.realm(rd)?;
                check(
                    !realm.space.is_protected(ipa)
                        && ipa < realm.space.end()
                        && ipa.is_multiple_of(entry_size(level)),
                )?;
                let walk = realm.walk(ipa, level);
                if walk.level < level || !matches!(realm.at(&walk), Entry::AssignedNs(_)) {
                    return Err((ReturnCode::error_rtt(walk.level), [realm.top(&walk, ipa), 0, 0, 0]));
                }
                realm.set(&walk, Entry::UnassignedNs);
                Ok([realm.top(&walk, ipa), 0, 0, 0])
            }
            RmiCommand::RttInitRipas { rd, base, top } => {
                let realm = self.realm(rd)?;
                check(top > base && top <= realm.space.protected_end() && top.is_multiple_of(GRANULE_SIZE))?;
                if realm.active {
                    return refuse(ReturnCode::ERROR_REALM);
                }
                let changed = realm
                    .change_ripas(base, top, Ripas::RAM, |entry| matches!(entry, Entry::Unassigned(_)))?;
                realm.measured += (changed - base) / entry_size(realm.walk(base, RTT_PAGE_LEVEL).level);
                Ok([changed, 0, 0, 0])
            }
            RmiCommand::RttSetRipas { rd, base, top, .. } => {
                let realm = self.realm(rd)?;
                let Some((from, to, ripas)) = realm.request else { return refuse(ReturnCode::ERROR_INPUT) };
                check(base == from && top > base && top <= to)?;
                let reached = realm.change_ripas(base, top, ripas, |_| true)?;
                realm.request = (reached < to).then_some((reached, to, ripas));
                Ok([reached, 0, 0, 0])
            }
            RmiCommand::RttReadEntry { rd, ipa, level } => {
                let (level, entry) = self.realm(rd)?.entry(ipa, level);
                let (state, desc, ripas) = match entry {
                    Entry::Unassigned(ripas) => (RttEntryState::UNASSIGNED, 0, ripas),
                    Entry::Assigned(pa, ripas) => (RttEntryState::ASSIGNED, pa, ripas),
                    Entry::UnassignedNs => (RttEntryState::UNASSIGNED, 0, Ripas::EMPTY),
                    Entry::AssignedNs(desc) => (RttEntryState::ASSIGNED, desc.0, Ripas::EMPTY),
                    Entry::Table(pa) => (RttEntryState::TABLE, pa, Ripas::EMPTY),
                };
                Ok([level.cast_unsigned(), state.0.into(), desc, ripas.0.into()])
            }
            other => unreachable!("the tests of these modules do not use {other:?}"),
        }
    }

    fn realm_create(&mut self, rd: u64, params_ptr: u64, contents: &Contents) -> Answer {
        self.is(rd, Granule::Delegated)?;
        check(!self.granules.contains_key(&params_ptr))?;
        let page: &[u8] = contents.get(&params_ptr).map_or(&[][..], |content| &content.0[..]);
        let Ok(params) = RealmParams::read_from_bytes(page) else { return refuse(ReturnCode::ERROR_INPUT) };
        let Some(space) = IpaSpace::new(u32::from(params.s2sz)) else {
            return refuse(ReturnCode::ERROR_INPUT);
        };
        let count = u64::from(params.rtt_num_start);
        check(params.rtt_level_start == space.start_level() && count == space.root_tables() as u64)?;
        check(params.rtt_base.is_multiple_of(count * GRANULE_SIZE))?;
        check(!self.realms.values().any(|realm| realm.params.vmid == params.vmid))?;
        check(self.features.supports_hash(params.hash_algo))?;
        let root: Vec<u64> = (0..count).map(|n| params.rtt_base + n * GRANULE_SIZE).collect();
        for &table in &root {
            check(table != rd)?;
            self.is(table, Granule::Delegated)?;
        }
        for table in root {
            self.granules.insert(table, Granule::Rtt);
        }
        self.granules.insert(rd, Granule::Rd);
        let entries = usize::try_from(space.end() / entry_size(space.start_level())).unwrap();
        let mut table = vec![Entry::UnassignedNs; entries.max(RTT_ENTRIES)];
        table[..entries / 2].fill(Entry::Unassigned(Ripas::EMPTY));
        let tables = BTreeMap::from([((space.start_level(), 0), table)]);
        let realm = MiniRealm { space, params, active: false, tables, request: None, measured: 1 };
        self.realms.insert(rd, realm);
        Ok([0; 4])
    }

    fn realm_destroy(&mut self, rd: u64) -> Answer {
        let has_recs = self.recs.values().any(|(of, _)| *of == rd);
        let realm = self.realm(rd)?;
        if has_recs || realm.tables.len() > 1 || realm.table_live((realm.space.start_level(), 0)) {
            return refuse(ReturnCode::ERROR_REALM);
        }
        let (base, count) = (realm.params.rtt_base, u64::from(realm.params.rtt_num_start));
        self.realms.remove(&rd);
        for pa in (0..count).map(|n| base + n * GRANULE_SIZE).chain([rd]) {
            self.granules.insert(pa, Granule::Delegated);
        }
        Ok([0; 4])
    }

    fn rec_create(&mut self, rd: u64, rec: u64, params_ptr: u64, contents: &Contents) -> Answer {
        self.is(rec, Granule::Delegated)?;
        check(!self.granules.contains_key(&params_ptr) && !self.is_refused(params_ptr))?;
        if self.realm(rd)?.active {
            return refuse(ReturnCode::ERROR_REALM);
        }
        let page: &[u8] = contents.get(&params_ptr).map_or(&[][..], |content| &content.0[..]);
        let Ok(params) = RecParams::read_from_bytes(page) else { return refuse(ReturnCode::ERROR_INPUT) };
        check(params.num_aux == self.aux_count)?;
        let aux: Vec<u64> = params.aux.into_iter().take(usize::try_from(params.num_aux).unwrap()).collect();
        for &pa in &aux {
            self.is(pa, Granule::Delegated)?;
        }
        for &pa in &aux {
            self.granules.insert(pa, Granule::RecAux);
        }
        self.granules.insert(rec, Granule::Rec);
        self.recs.insert(rec, (rd, aux));
        Ok([0; 4])
    }

    fn rtt_create(&mut self, rd: u64, rtt: u64, ipa: u64, level: i64) -> Answer {
        self.is(rtt, Granule::Delegated)?;
        let realm = self.realm(rd)?;
        check(level > realm.space.start_level() && level <= RTT_PAGE_LEVEL)?;
        check(ipa.is_multiple_of(entry_size(level - 1)) && ipa < realm.space.end())?;
        let walk = realm.walk(ipa, level - 1);
        let parent = realm.at(&walk);
        if walk.level < level - 1 || matches!(parent, Entry::Table(_)) {
            return refuse(ReturnCode::error_rtt(walk.level));
        }
        let table = (0..RTT_ENTRIES as u64).map(|index| parent.child(index * entry_size(level))).collect();
        realm.tables.insert((level, ipa), table);
        realm.set(&walk, Entry::Table(rtt));
        self.granules.insert(rtt, Granule::Rtt);
        Ok([0; 4])
    }

    fn rtt_remove(&mut self, rd: u64, ipa: u64, level: i64, fold: bool) -> Answer {
        let realm = self.realm(rd)?;
        check(level > realm.space.start_level() && level <= RTT_PAGE_LEVEL)?;
        check(ipa.is_multiple_of(entry_size(level - 1)) && ipa < realm.space.end())?;
        let walk = realm.walk(ipa, level - 1);
        let Entry::Table(pa) = realm.at(&walk) else {
            return Err((ReturnCode::error_rtt(walk.level), [0, realm.top(&walk, ipa), 0, 0]));
        };
        if walk.level < level - 1 {
            return Err((ReturnCode::error_rtt(walk.level), [0, realm.top(&walk, ipa), 0, 0]));
        }
        let parent = if fold {
            realm.folded((level, ipa))
        } else if realm.table_live((level, ipa)) {
            None
        } else if realm.space.is_protected(ipa) {
            Some(Entry::Unassigned(Ripas::DESTROYED))
        } else {
            Some(Entry::UnassignedNs)
        };
        let Some(parent) = parent else { return Err((ReturnCode::error_rtt(level), [0, ipa, 0, 0])) };
        realm.tables.remove(&(level, ipa));
        realm.set(&walk, parent);
        // Like every command that removes an entry it tells where the next live one is.
        let top = if parent.live() { ipa + entry_size(level - 1) } else { realm.top(&walk, ipa) };
        self.granules.insert(pa, Granule::Delegated);
        Ok([pa, top, 0, 0])
    }

    fn data_create(&mut self, rd: u64, data: u64, ipa: u64, ripas: Option<Ripas>) -> Answer {
        self.is(data, Granule::Delegated)?;
        let realm = self.realm(rd)?;
        check(realm.space.is_protected(ipa) && ipa.is_multiple_of(GRANULE_SIZE))?;
        let walk = realm.walk(ipa, RTT_PAGE_LEVEL);
        match realm.at(&walk) {
            Entry::Unassigned(old) if walk.level == RTT_PAGE_LEVEL => {
                realm.set(&walk, Entry::Assigned(data, ripas.unwrap_or(old)));
            }
            _ => return refuse(ReturnCode::error_rtt(walk.level)),
        }
        self.granules.insert(data, Granule::Data);
        Ok([0; 4])
    }

    fn data_destroy(&mut self, rd: u64, ipa: u64) -> Answer {
        let realm = self.realm(rd)?;
        check(realm.space.is_protected(ipa) && ipa.is_multiple_of(GRANULE_SIZE))?;
        let walk = realm.walk(ipa, RTT_PAGE_LEVEL);
        let (pa, ripas) = match realm.at(&walk) {
            Entry::Assigned(pa, ripas) if walk.level == RTT_PAGE_LEVEL => (pa, ripas),
            _ => return Err((ReturnCode::error_rtt(walk.level), [0, realm.top(&walk, ipa), 0, 0])),
        };
        let after = if ripas == Ripas::RAM { Ripas::DESTROYED } else { ripas };
        realm.set(&walk, Entry::Unassigned(after));
        let top = realm.top(&walk, ipa);
        self.granules.insert(pa, Granule::Delegated);
        Ok([pa, top, 0, 0])
    }
}

impl MiniRealm {
    /// Changes the RIPAS of entries from `base` on in the table where the walk ends; the address reached.
    fn change_ripas(
        &mut self,
        base: u64,
        top: u64,
        ripas: Ripas,
        allowed: fn(&Entry) -> bool,
    ) -> Result<u64, (ReturnCode, [u64; 4])> {
        let walk = self.walk(base, RTT_PAGE_LEVEL);
        let size = entry_size(walk.level);
        let error = (ReturnCode::error_rtt(walk.level), [0; 4]);
        if !base.is_multiple_of(size) || !allowed(&self.at(&walk)) {
            return Err(error);
        }
        let table = self.tables.get_mut(&walk.key).unwrap();
        let end = (walk.index / RTT_ENTRIES + 1) * RTT_ENTRIES;
        let mut at = base;
        for entry in &mut table[walk.index..end] {
            match entry {
                Entry::Table(_) => break,
                _ if at + size > top => break,
                Entry::Unassigned(old) | Entry::Assigned(_, old) => *old = ripas,
                _ => break,
            }
            at += size;
        }
        if at == base { Err(error) } else { Ok(at) }
    }
}
