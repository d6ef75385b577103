//! Creating, folding and destroying tables.

use super::Stage2;
use crate::Host;
use crate::error::RealmError;
use crate::realm::ipa::{align_down, entry_size};
use crate::rmm::Rmm;
use crate::rmm::rmi::{Failure, Removal, RmiError, implausible};
use realm_abi::rmi::{RTT_PAGE_LEVEL, ReturnCode, RmiCommand};

/// Tables destroyed in one piece of work.
const TABLES_PER_PIECE: usize = 64;

impl Stage2 {
    /// Whether the Host made a table at `level` for `ipa`.
    pub(super) fn has_table(&self, ipa: u64, level: i64) -> bool {
        self.tables.contains_key(&(level, align_down(ipa, level.saturating_sub(1))))
    }

    /// The first address from `ipa` on for which the Host made a table of the last level.
    pub(super) fn next_page_table(&self, ipa: u64) -> Option<u64> {
        let first = (RTT_PAGE_LEVEL, align_down(ipa, RTT_PAGE_LEVEL.saturating_sub(1)));
        self.tables.range(first..).next().map(|(&(_, base), _)| base.max(ipa))
    }

    /// Creates the tables on the way to `ipa` below level `from` (where a walk ended) down to level `to`.
    ///
    /// A table that exists already is ERROR_RTT with the level of its parent entry (RMM 1.0, RMI_RTT_CREATE),
    /// which is one less than the level asked for; the spare granule goes back then.
    pub(super) fn create_tables<H: Host>(
        &mut self,
        rmm: &Rmm<H>,
        ipa: u64,
        from: i64,
        to: i64,
    ) -> Result<(), RealmError> {
        let first = from.max(self.space.start_level()).saturating_add(1);
        for level in first..=to.min(RTT_PAGE_LEVEL) {
            self.create_table(rmm, align_down(ipa, level.saturating_sub(1)), level)?;
        }
        Ok(())
    }

    fn create_table<H: Host>(&mut self, rmm: &Rmm<H>, base: u64, level: i64) -> Result<(), RealmError> {
        let granule = rmm.take_delegated()?;
        match rmm.rmi().rtt_create(self.rd, granule.pa(), base, level) {
            Ok(()) => {
                let command = RmiCommand::RttCreate { rd: self.rd, rtt: granule.pa(), ipa: base, level };
                if let Some(old) = self.tables.insert((level, base), granule) {
                    old.lose(rmm.rmi(), implausible(command, "it created a table where it already held one"));
                }
                Ok(())
            }
            Err(error) if error.rtt_level() == Some(level.saturating_sub(1)) => {
                rmm.give_back(granule);
                Ok(())
            }
            Err(error) => {
                rmm.give_back(granule);
                Err(error.into())
            }
        }
    }

    /// Runs a command that needs the tables for `ipa` down to `level`, and once more after creating those the walk
    /// missed.
    pub(super) fn with_tables<H: Host>(
        &mut self,
        rmm: &Rmm<H>,
        ipa: u64,
        level: i64,
        command: impl Fn() -> Result<(), RmiError>,
    ) -> Result<(), RealmError> {
        match command() {
            Err(error) => match error.rtt_level() {
                Some(reached) if reached < level => {
                    self.create_tables(rmm, ipa, reached, level)?;
                    Ok(command()?)
                }
                _ => Err(error.into()),
            },
            Ok(()) => Ok(()),
        }
    }

    /// Folds the table at `level` that covers `ipa` into its parent entry, if the Host made one and the RMM finds it
    /// homogeneous; tells whether it did. Not folding is no error: the table just stays.
    pub(super) fn fold<H: Host>(&mut self, rmm: &Rmm<H>, ipa: u64, level: i64) -> bool {
        let base = align_down(ipa, level.saturating_sub(1));
        if !self.tables.contains_key(&(level, base)) {
            return false;
        }
        let Ok(pa) = rmm.rmi().rtt_fold(self.rd, base, level) else { return false };
        let command = RmiCommand::RttFold { rd: self.rd, ipa: base, level };
        self.reclaim(rmm, base, level, pa, command).is_ok()
    }

    /// Takes the granule of a table back that the RMM says it removed.
    fn reclaim<H: Host>(
        &mut self,
        rmm: &Rmm<H>,
        base: u64,
        level: i64,
        pa: u64,
        command: RmiCommand,
    ) -> Result<(), RealmError> {
        let Some(granule) = self.tables.remove(&(level, base)) else {
            return Err(implausible(command, "it removed a table the Host did not make").into());
        };
        if granule.pa() != pa {
            let error = implausible(command, "it returned another granule than the table was made of");
            granule.lose(rmm.rmi(), error);
            return Err(error.into());
        }
        rmm.give_back(granule);
        Ok(())
    }

    /// Destroys some tables, the deepest first; `true` when none is left.
    ///
    /// The Host knows every table it paid for, so it need not search the address space for them as the series does
    /// (docs/kvm-realm-abi.md section 3.8); the commands and their order are the same, and no answer of the RMM can
    /// prolong it.
    pub(crate) fn destroy_tables_piece<H: Host>(&mut self, rmm: &Rmm<H>) -> Result<bool, RealmError> {
        for _ in 0..TABLES_PER_PIECE {
            let Some((&(level, base), _)) = self.tables.last_key_value() else { return Ok(true) };
            let command = RmiCommand::RttDestroy { rd: self.rd, ipa: base, level };
            match rmm.rmi().rtt_destroy(self.rd, base, level)? {
                Removal::Removed { pa, .. } => self.reclaim(rmm, base, level, pa, command)?,
                // The RMM has no such table. If it is right the granule comes back, otherwise it is counted lost.
                Removal::Hole { .. } => {
                    if let Some(granule) = self.tables.remove(&(level, base)) {
                        rmm.give_back(granule);
                    }
                }
                Removal::Blocked { level: at } => {
                    let failure = Failure::Code(ReturnCode::error_rtt(at));
                    return Err(RmiError { command, failure }.into());
                }
            }
        }
        Ok(self.tables.is_empty())
    }

    /// Folds level 3 tables of `[base, end)` that are wholly inside.
    pub(super) fn fold_range<H: Host>(&mut self, rmm: &Rmm<H>, base: u64, end: u64) {
        let size = entry_size(RTT_PAGE_LEVEL.saturating_sub(1));
        let mut at =
            align_down(base.saturating_add(size.saturating_sub(1)), RTT_PAGE_LEVEL.saturating_sub(1));
        while at.saturating_add(size) <= end {
            self.fold(rmm, at, RTT_PAGE_LEVEL);
            at = at.saturating_add(size);
        }
    }
}
