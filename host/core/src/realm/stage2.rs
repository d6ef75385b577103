//! A realm's stage 2 translation tables, as the Host manages them.
//!
//! The RMM owns the tables; the Host decides when one is needed and pays for it with a granule. [`Tables`] remembers
//! which granule became which table, so that what the RMM gives back can be compared with what it was given, and which of
//! the VMM's memory is held because the realm can reach it.
//!
//! A 2 MiB block of addresses is the unit: one lock of several, [`LockClass::Blocks`], has it, so vCPUs that work in
//! different blocks do not wait for each other. A method named `piece` does a bounded part ([`PIECE`]) under that lock. What
//! it needs of memory is in a [`Spare`]; if that does not suffice it changes nothing, lets go of the lock and says so by
//! [`Stop::Short`], and [`Stage2::with_spare`] allocates and calls it again.

mod pages;
mod private;
#[cfg(test)]
mod random;
mod ripas;
mod shared;
mod spare;
mod tables;
#[cfg(test)]
mod tests;

pub(crate) use shared::Shared;
pub(crate) use spare::{Spare, Supply};
pub(crate) use tables::Sweep;

use crate::host::LockClass;
use crate::realm::ipa::{BLOCK_SIZE, IpaSpace};
use crate::realm::pins::Pins;
use crate::rmm::Rmm;
use crate::rmm::granule::DelegatedGranule;
use crate::shares::{self, Shares};
use crate::{Errno, Host, Lock};
use realm_alloc::Sparse;

/// Granules of a piece of work; each costs two commands.
pub(crate) const PIECE: usize = 16;

/// What the Host knows of a 2 MiB block of addresses, protected or not. Once made it stays until the realm goes: a folded
/// table can be made again without memory for this.
#[derive(Default)]
pub(crate) struct Block {
    /// Its table of the last level.
    table: Option<DelegatedGranule>,
    /// The VMM's memory that is mapped in it.
    shared: Shared,
}

/// What becomes of a table of the last level when nothing is left to take away in its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tidy {
    /// It stays: the realm is not activated yet, and the shape of its tables is part of what its VMM chose.
    Keep,
    /// It is folded into the entry above, if the RMM finds it homogeneous.
    Fold,
    /// It is destroyed: the realm goes. Its granule may be what the next block needs to be split.
    Destroy,
}

/// Blocks of a share, by their index in it.
type Blocks = Sparse<Block>;

/// The tables of one realm below those of the starting level, and what is mapped of the VMM's memory.
pub(crate) struct Tables<H: Host> {
    space: IpaSpace,
    blocks: Shares<H, Blocks>,
    /// Those above the last level, by level and number.
    upper: H::Lock<Sparse<DelegatedGranule>>,
    /// For a table without which memory could not be taken away from the realm, when the Host has none.
    reserve: H::Lock<Option<DelegatedGranule>>,
    /// The VMM's memory that is held.
    pins: Pins,
}

impl<H: Host> Tables<H> {
    /// No tables yet.
    pub(crate) fn new(space: IpaSpace, pins: Pins) -> Result<Self, Errno> {
        Ok(Self {
            space,
            blocks: Shares::new(LockClass::Blocks, Sparse::new)?,
            upper: H::Lock::new(LockClass::UpperTables, Sparse::new())?,
            reserve: H::Lock::new(LockClass::Reserve, None)?,
            pins,
        })
    }

    /// The VMM's memory that is held.
    pub(crate) const fn pins(&self) -> &Pins {
        &self.pins
    }

    /// The tables of the realm whose Realm Descriptor is `rd`, to work with.
    pub(crate) fn of<'a>(&'a self, rmm: &'a Rmm<H>, rd: u64) -> Stage2<'a, H> {
        Stage2 { rmm, rd, tables: self }
    }
}

/// The tables with what it takes to change them.
pub(crate) struct Stage2<'a, H: Host> {
    rmm: &'a Rmm<H>,
    rd: u64,
    tables: &'a Tables<H>,
}

impl<H: Host> Stage2<'_, H> {
    /// The share of the block around `ipa`.
    fn blocks(&self, ipa: u64) -> &H::Lock<Blocks> {
        self.tables.blocks.of(number(ipa))
    }
}

/// The number of the block around an address.
const fn number(ipa: u64) -> u64 {
    ipa / BLOCK_SIZE
}

/// The index of the block around an address in its share.
const fn place(ipa: u64) -> u64 {
    shares::index(number(ipa))
}
