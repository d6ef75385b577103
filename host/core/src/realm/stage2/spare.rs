//! Memory for a change of tables, allocated before their locks are taken.

use super::pages::PageTable;
use super::{Block, Stage2};
use crate::error::RealmError;
use crate::rmm::granule::DelegatedGranule;
use crate::rmm::rmi::RmiError;
use crate::{Host, Lock, room};
use realm_alloc::{Box, Vec, try_zeroed_box};

/// How often work may ask for more: once for each kind of memory it may need. Whoever asks more often was lied to.
const MAX_ROUNDS: usize = 8;

/// Why a piece of work ended early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It needs more memory. Nothing is changed.
    Short(Shortage),
    /// It failed.
    Failed(RealmError),
}

/// What a piece of work needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shortage {
    /// Granules for tables.
    pub(crate) tables: usize,
    /// Records of blocks and tables.
    pub(crate) records: usize,
    /// Lists of the pages mapped in a block.
    pub(crate) pages: usize,
}

/// Tables on the way to an address below the starting level: levels 0 to 3 at most.
const MAX_TABLES: usize = 4;

/// Memory for a piece of work.
pub(crate) struct Spare {
    tables: [Option<DelegatedGranule>; MAX_TABLES],
    pub(super) blocks: realm_alloc::Spare<Block>,
    pub(super) upper: realm_alloc::Spare<DelegatedGranule>,
    pub(super) pages: Vec<Box<PageTable>>,
}

/// Where the memory of work comes from.
pub(crate) enum Supply<'a> {
    /// The Host: the caller holds no lock but its vCPU's.
    Host,
    /// The Host, and the realm's reserve where the Host has none: memory is taken away from the realm.
    HostOrReserve,
    /// The realm's reserve, and the Host where that is not enough: the realm goes, and its tables come back one after the
    /// other.
    ReserveOrHost,
    /// What was gathered before a lock was taken, and the reserve.
    Stock(&'a mut Spare),
}

impl Spare {
    /// Nothing.
    pub(crate) const fn new() -> Self {
        Self {
            tables: [const { None }; MAX_TABLES],
            blocks: realm_alloc::Spare::new(),
            upper: realm_alloc::Spare::new(),
            pages: Vec::new(),
        }
    }

    /// How many tables can be made of it.
    pub(super) fn tables(&self) -> usize {
        room::count(self.tables.iter().flatten())
    }

    /// A granule for a table.
    pub(super) fn take_table(&mut self) -> Option<DelegatedGranule> {
        self.tables.iter_mut().find_map(Option::take)
    }

    /// Puts a granule in that no table was made of.
    pub(super) fn put_table(&mut self, granule: DelegatedGranule) -> Result<(), DelegatedGranule> {
        match self.tables.iter_mut().find(|place| place.is_none()) {
            Some(place) => {
                *place = Some(granule);
                Ok(())
            }
            None => Err(granule),
        }
    }
}

impl From<RealmError> for Stop {
    fn from(error: RealmError) -> Self {
        Self::Failed(error)
    }
}

impl From<RmiError> for Stop {
    fn from(error: RmiError) -> Self {
        Self::Failed(error.into())
    }
}

impl<H: Host> Stage2<'_, H> {
    /// Does `work` with the memory it needs.
    pub(super) fn with_spare<R>(
        &self,
        supply: &mut Supply<'_>,
        mut work: impl FnMut(&mut Spare) -> Result<R, Stop>,
    ) -> Result<R, RealmError> {
        let mut own = Spare::new();
        let mut rounds = 0_usize;
        let result = loop {
            let spare = match supply {
                Supply::Stock(stock) => &mut **stock,
                Supply::Host | Supply::HostOrReserve | Supply::ReserveOrHost => &mut own,
            };
            let shortage = match work(spare) {
                Ok(done) => break Ok(done),
                Err(Stop::Failed(error)) => break Err(error),
                Err(Stop::Short(_)) if rounds >= MAX_ROUNDS => break Err(RealmError::NoMemory),
                Err(Stop::Short(shortage)) => shortage,
            };
            let supplied = match supply {
                Supply::Stock(stock) => self.add_reserve(stock, shortage),
                Supply::Host => self.top_up(&mut own, shortage),
                Supply::HostOrReserve => self
                    .top_up(&mut own, shortage)
                    .or_else(|error| self.add_reserve(&mut own, shortage).map_err(|_| error)),
                Supply::ReserveOrHost => {
                    self.add_reserve(&mut own, shortage).or_else(|_| self.top_up(&mut own, shortage))
                }
            };
            if let Err(error) = supplied {
                break Err(error);
            }
            rounds = rounds.saturating_add(1);
        };
        self.put_away(&mut own);
        result
    }

    /// Allocates, with no lock held.
    #[inline(never)]
    pub(crate) fn top_up(&self, spare: &mut Spare, shortage: Shortage) -> Result<(), RealmError> {
        spare.blocks.fill(shortage.records)?;
        spare.upper.fill(shortage.records)?;
        spare.pages.try_reserve(shortage.pages)?;
        while spare.pages.len() < shortage.pages {
            spare.pages.try_push(try_zeroed_box()?)?;
        }
        while spare.tables() < shortage.tables {
            let granule = self.rmm.take_delegated()?;
            if let Err(granule) = spare.put_table(granule) {
                self.give_back_table(granule);
                break;
            }
        }
        Ok(())
    }

    /// Adds the reserve to `spare`, if that is all it lacks.
    #[inline(never)]
    fn add_reserve(&self, spare: &mut Spare, shortage: Shortage) -> Result<(), RealmError> {
        let short = shortage.tables.saturating_sub(spare.tables());
        if short > 1 || spare.pages.len() < shortage.pages {
            return Err(RealmError::NoMemory);
        }
        let reserve = self.tables.reserve.lock().take().ok_or(RealmError::NoMemory)?;
        if let Err(granule) = spare.put_table(reserve) {
            self.give_back_table(granule);
        }
        Ok(())
    }

    /// Gives back what was not used.
    #[inline(never)]
    pub(crate) fn put_away(&self, spare: &mut Spare) {
        while let Some(granule) = spare.take_table() {
            self.give_back_table(granule);
        }
    }

    /// Takes the granule of a table back: the reserve is filled first.
    pub(crate) fn give_back_table(&self, granule: DelegatedGranule) {
        let granule = {
            let mut reserve = self.tables.reserve.lock();
            match *reserve {
                Some(_) => granule,
                None => {
                    *reserve = Some(granule);
                    return;
                }
            }
        };
        self.rmm.give_back(granule);
    }

    /// Fills the reserve if it is in use and the Host has memory, with no lock held.
    pub(crate) fn fill_reserve(&self) {
        let is_full = self.tables.reserve.lock().is_some();
        if !is_full && let Ok(granule) = self.rmm.take_delegated() {
            self.give_back_table(granule);
        }
    }

    /// Gives the reserve up.
    pub(crate) fn empty_reserve(&self) {
        let granule = self.tables.reserve.lock().take();
        if let Some(granule) = granule {
            self.rmm.give_back(granule);
        }
    }
}
