//! A realm's stage 2 translation tables, as the Host manages them.
//!
//! The RMM owns the tables; the Host decides when one is needed and pays for it with a granule. [`Stage2`] remembers
//! which granule became which table, so that what the RMM gives back can be compared with what it was given. Methods
//! named `piece` do a bounded part (the commands of one 2 MiB block at most) and tell how far they got.

mod private;
#[cfg(test)]
mod random;
mod ripas;
mod shared;
mod tables;
#[cfg(test)]
mod tests;

use crate::realm::ipa::IpaSpace;
use crate::rmm::granule::DelegatedGranule;
use alloc::collections::BTreeMap;

/// The tables of one realm.
pub(crate) struct Stage2 {
    /// The Realm Descriptor, for the commands.
    rd: u64,
    space: IpaSpace,
    /// Tables below the starting level, by level and first address covered.
    tables: BTreeMap<(i64, u64), DelegatedGranule>,
}

impl Stage2 {
    /// The tables of a new realm: only those of the starting level, which belong to the realm.
    pub(crate) fn new(rd: u64, space: IpaSpace) -> Self {
        Self { rd, space, tables: BTreeMap::new() }
    }

    /// Every table that is left.
    pub(crate) fn into_tables(self) -> impl Iterator<Item = DelegatedGranule> {
        self.tables.into_values()
    }
}
