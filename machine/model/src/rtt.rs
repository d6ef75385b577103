//! Translation tables (RMM 1.0, realm memory): entries with HIPAS and RIPAS, walks, liveness, homogeneity.

use crate::{Model, Realm};
use realm_abi::rmi::{Ripas, UnprotectedDesc};
use std::collections::BTreeMap;

/// A translation table entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Protected, no memory behind it.
    Unassigned(Ripas),
    /// Protected, with a DATA granule or, above level 3, a run of them from `pa`.
    Assigned {
        /// First address.
        pa: u64,
        /// What the realm can trust.
        ripas: Ripas,
    },
    /// Unprotected, nothing mapped.
    UnassignedNs,
    /// Unprotected, Host memory: the Host's descriptor (address, MemAttr, S2AP).
    AssignedNs(u64),
    /// Another table.
    Table,
}

/// Address bits of an unprotected descriptor: 47:12, with LPA2 also 49:48 and, in bits 9:8, 51:50.
pub(crate) const fn desc_address_mask(lpa2: bool) -> u64 {
    if lpa2 { 0x0003_ffff_ffff_f300 } else { 0x0000_ffff_ffff_f000 }
}

impl Entry {
    pub(crate) const EMPTY: Self = Self::Unassigned(Ripas::EMPTY);

    /// Stores an address: what the scan for progress stops at.
    #[must_use]
    pub fn live(self) -> bool {
        !matches!(self, Self::Unassigned(_) | Self::UnassignedNs)
    }

    /// The RIPAS of a protected entry.
    #[must_use]
    pub fn ripas(self) -> Option<Ripas> {
        match self {
            Self::Unassigned(ripas) | Self::Assigned { ripas, .. } => Some(ripas),
            _ => None,
        }
    }

    pub(crate) fn with_ripas(self, ripas: Ripas) -> Self {
        match self {
            Self::Unassigned(_) => Self::Unassigned(ripas),
            Self::Assigned { pa, .. } => Self::Assigned { pa, ripas },
            other => other,
        }
    }

    /// The entry `offset` bytes into what this one maps.
    pub(crate) fn offset(self, offset: u64) -> Self {
        match self {
            Self::Assigned { pa, ripas } => Self::Assigned { pa: pa + offset, ripas },
            Self::AssignedNs(desc) => Self::AssignedNs(desc + offset),
            other => other,
        }
    }
}

/// A table.
#[derive(Clone, Debug)]
pub struct Table {
    /// The granule it is in.
    pub pa: u64,
    /// 512 entries.
    pub entries: Vec<Entry>,
}

impl Table {
    /// `RttIsLive`: mappings of Host memory do not count.
    #[must_use]
    pub fn live(&self) -> bool {
        self.entries.iter().any(|e| matches!(e, Entry::Assigned { .. } | Entry::Table))
    }
}

/// Bytes an entry of `level` (-1 to 3) maps.
pub(crate) fn entry_size(level: i64) -> u64 {
    1 << (12 + 9 * (3 - level))
}

pub(crate) fn level_aligned(addr: u64, level: i64) -> bool {
    addr.is_multiple_of(entry_size(level))
}

/// Where a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// Level of the table reached.
    pub level: i64,
    /// First IPA of that table.
    pub table: u64,
    /// Index of the entry in it.
    pub index: usize,
    /// The entry.
    pub entry: Entry,
}

impl Walk {
    /// First IPA of the entry.
    #[must_use]
    pub fn entry_base(&self) -> u64 {
        self.table + self.index as u64 * entry_size(self.level)
    }
    /// First IPA behind the table.
    #[must_use]
    pub fn table_end(&self) -> u64 {
        self.table + 512 * entry_size(self.level)
    }
}

/// All tables of a realm, by level and first IPA.
#[derive(Clone, Debug)]
pub struct Rtts {
    start: i64,
    pub(crate) tables: BTreeMap<(i64, u64), Table>,
}

impl Rtts {
    pub(crate) fn new(start: i64) -> Self {
        Self { start, tables: BTreeMap::new() }
    }

    /// The tables.
    #[must_use]
    pub fn tables(&self) -> &BTreeMap<(i64, u64), Table> {
        &self.tables
    }

    pub(crate) fn table(&self, level: i64, ipa: u64) -> Option<&Table> {
        self.tables.get(&(level, table_base(level, ipa)))
    }

    /// Descends towards `target` while there are tables. `ipa` is in the IPA space.
    #[must_use]
    pub fn walk(&self, ipa: u64, target: i64) -> Option<Walk> {
        let mut level = self.start;
        loop {
            let base = table_base(level, ipa);
            let index = usize::try_from((ipa - base) / entry_size(level)).ok()?;
            let entry = *self.tables.get(&(level, base))?.entries.get(index)?;
            if entry != Entry::Table || level >= target {
                return Some(Walk { level, table: base, index, entry });
            }
            level += 1;
        }
    }

    pub(crate) fn entry_mut(&mut self, walk: &Walk) -> Option<&mut Entry> {
        self.tables.get_mut(&(walk.level, walk.table))?.entries.get_mut(walk.index)
    }

    /// The scan behind every `top` output: the IPA of the first live entry from `ipa` on in the table where `walk`
    /// ended, or the end of that table. It is `ipa` itself if its own entry is live.
    pub(crate) fn skip_not_live(&self, walk: &Walk, ipa: u64) -> u64 {
        let Some(table) = self.tables.get(&(walk.level, walk.table)) else { return ipa };
        match table.entries.iter().skip(walk.index).position(|e| e.live()) {
            Some(0) => ipa,
            Some(n) => walk.entry_base() + n as u64 * entry_size(walk.level),
            None => walk.table_end(),
        }
    }

    /// What the parent of a homogeneous table at (`level`, `ipa`) becomes, `None` if it is not homogeneous.
    pub(crate) fn fold(&self, level: i64, ipa: u64, lpa2: bool) -> Option<Entry> {
        let table = self.table(level, ipa)?;
        let first = *table.entries.first()?;
        let size = entry_size(level);
        let same = (0u64..).zip(&table.entries).all(|(i, e)| *e == first.offset(i * size));
        let address = match first {
            Entry::Table => return None,
            Entry::Unassigned(_) | Entry::UnassignedNs => return same.then_some(first),
            Entry::Assigned { pa, .. } => pa,
            Entry::AssignedNs(desc) => desc & desc_address_mask(lpa2) & !0xfff,
        };
        (same && level >= 2 && level_aligned(address, level - 1)).then_some(first)
    }
}

fn table_base(level: i64, ipa: u64) -> u64 {
    let covers = u128::from(entry_size(level)) * 512;
    (u128::from(ipa) / covers * covers) as u64
}

/// What a realm does at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessKind {
    /// Data read.
    Read,
    /// Data write.
    Write,
    /// Instruction fetch.
    Fetch,
}

/// What happens then (RMM 1.0, what an access to an IPA gives the realm).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It reaches a DATA granule at this address.
    Data(u64),
    /// It reaches the Host's memory at this address, if that is Non-secure.
    Ns(u64),
    /// A synchronous external abort to the realm.
    External,
    /// An address size fault to the realm.
    AddressSize,
    /// A REC exit: translation (or permission) fault at a level.
    Exit {
        /// Level of the entry.
        level: i64,
        /// A permission fault.
        permission: bool,
    },
}

impl Realm {
    /// What an access by this realm does.
    #[must_use]
    pub fn access(&self, ipa: u64, kind: AccessKind) -> Access {
        if ipa >= self.ipa_end() {
            return Access::AddressSize;
        }
        let Some(walk) = self.rtts.walk(ipa, 3) else { return Access::AddressSize };
        let offset = ipa & (entry_size(walk.level) - 1);
        let level = walk.level;
        match walk.entry {
            Entry::Unassigned(Ripas::EMPTY) | Entry::Assigned { ripas: Ripas::EMPTY, .. } => Access::External,
            Entry::Assigned { pa, ripas: Ripas::RAM } => Access::Data(pa + offset),
            Entry::Unassigned(_) | Entry::Assigned { .. } | Entry::Table => {
                Access::Exit { level, permission: false }
            }
            _ if kind == AccessKind::Fetch => Access::External,
            Entry::UnassignedNs => Access::Exit { level, permission: false },
            Entry::AssignedNs(desc) => {
                let need =
                    if kind == AccessKind::Read { UnprotectedDesc::READ } else { UnprotectedDesc::WRITE };
                if desc & need == 0 {
                    return Access::Exit { level, permission: true };
                }
                let high = if self.lpa2 { (desc & 0x300) << 42 } else { 0 };
                Access::Ns((desc & desc_address_mask(self.lpa2) & !0xfff | high) + offset)
            }
        }
    }
}

impl Model {
    /// The entry a walk towards `level` ends at.
    #[must_use]
    pub fn walk(&self, rd: u64, ipa: u64, level: i64) -> Option<Walk> {
        let realm = self.realms.get(&rd)?;
        if ipa >= realm.ipa_end() {
            return None;
        }
        realm.rtts.walk(ipa, level)
    }

    pub(crate) fn realm_walk(realm: &Realm, ipa: u64, level: i64) -> Option<Walk> {
        if ipa >= realm.ipa_end() { None } else { realm.rtts.walk(ipa, level) }
    }
}
