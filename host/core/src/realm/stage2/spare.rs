//! Memory for a change of tables, allocated before their locks are taken.

use super::shared::PageTable;
use super::{Block, Stage2};
use crate::error::RealmError;
use crate::rmm::granule::DelegatedGranule;
use crate::rmm::rmi::RmiError;
use crate::{Host, Lock};
use realm_alloc::{Box, try_zeroed_box};

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
    /// A list of the pages mapped in a block.
    pub(crate) pages: bool,
}

/// Tables on the way to an address below the starting level: levels 0 to 3 at most.
const MAX_TABLES: usize = 4;

/// Memory for a piece of work.
pub(crate) struct Spare {
    tables: [Option<DelegatedGranule>; MAX_TABLES],
    pub(super) blocks: realm_alloc::Spare<Block>,
    pub(super) upper: realm_alloc::Spare<DelegatedGranule>,
    pub(super) pages: Option<Box<PageTable>>,
}

impl Spare {
    fn new() -> Self {
        let (blocks, upper) = (realm_alloc::Spare::new(), realm_alloc::Spare::new());
        Self { tables: Default::default(), blocks, upper, pages: None }
    }

    /// How many tables can be made of it.
    pub(super) fn tables(&self) -> usize {
        self.tables.iter().flatten().count()
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
    /// Does `work` with the memory it needs. Where `removes` is set it takes memory away from the realm: then the reserve
    /// stands in for a table the Host has no memory for.
    pub(super) fn with_spare<R>(
        &self,
        removes: bool,
        mut work: impl FnMut(&mut Spare) -> Result<R, Stop>,
    ) -> Result<R, RealmError> {
        let mut spare = Spare::new();
        let mut rounds = 0;
        let result = loop {
            match work(&mut spare) {
                Ok(done) => break Ok(done),
                Err(Stop::Failed(error)) => break Err(error),
                Err(Stop::Short(_)) if rounds >= MAX_ROUNDS => break Err(RealmError::NoMemory),
                Err(Stop::Short(shortage)) => {
                    if let Err(error) = self.top_up(&mut spare, shortage, removes) {
                        break Err(error);
                    }
                }
            }
            rounds = rounds.saturating_add(1);
        };
        for granule in spare.tables.into_iter().flatten() {
            self.give_back_table(granule);
        }
        result
    }

    /// Allocates, with no lock held. Who takes memory away has records of all that it finds, so it goes on without more.
    fn top_up(&self, spare: &mut Spare, shortage: Shortage, removes: bool) -> Result<(), RealmError> {
        let records = spare.blocks.fill(shortage.records).and_then(|()| spare.upper.fill(shortage.records));
        if !removes {
            records?;
        }
        if shortage.pages && spare.pages.is_none() {
            spare.pages = Some(try_zeroed_box()?);
        }
        while spare.tables() < shortage.tables {
            let granule = match self.rmm.take_delegated() {
                Ok(granule) => granule,
                Err(error) if removes => self.tables.reserve.lock().take().ok_or(error)?,
                Err(error) => return Err(error),
            };
            if let Err(granule) = spare.put_table(granule) {
                self.give_back_table(granule);
                break;
            }
        }
        Ok(())
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

    /// Gives the reserve up.
    pub(crate) fn empty_reserve(&self) {
        let granule = self.tables.reserve.lock().take();
        if let Some(granule) = granule {
            self.rmm.give_back(granule);
        }
    }
}
