//! A realm's memory: RIPAS, population, faults, mappings and their removal.

use super::{Realm, State};
use crate::error::{Operation, RealmError};
use crate::memory::guest_memfd::PrivateRange;
use crate::realm::ipa::{BLOCK_SIZE, IpaSpace};
use crate::{Host, Lock};
use core::ops::Range;
use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::{DataFlags, Ripas};

/// One POPULATE request, from its first page to its last. Every granule it creates extends the RIM, so a request that
/// fails after the first one leaves a realm nobody can attest: such a realm is doomed.
#[derive(Debug, Default)]
pub struct PopulateRun {
    created: u64,
}

impl PopulateRun {
    /// A request of which nothing is done.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Granules created so far.
    #[must_use]
    pub const fn created(&self) -> u64 {
        self.created
    }

    pub(crate) fn count(&mut self) {
        self.created = self.created.saturating_add(1);
    }
}

/// How a fault on a private address was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Memory is mapped at `base` now, `size` bytes: a granule, or a block when the fault was served for its whole
    /// surroundings.
    Mapped {
        /// First IPA.
        base: u64,
        /// Bytes.
        size: u64,
    },
    /// Another vCPU served it first.
    AlreadyMapped,
    /// There is memory, but the Host took away what was there before and the realm has not agreed to that yet: until it
    /// does every access faults.
    Destroyed,
}

/// A RIPAS change a REC asked for and how much of it is done. Keep it while [`Realm::set_ripas`] fails with
/// [`RealmError::NoMemory`]: it goes on where it stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RipasChange {
    top: u64,
    ripas: Ripas,
    /// The RMM changed everything below.
    reached: u64,
    /// The memory of what became empty is taken away below.
    freed: u64,
}

impl RipasChange {
    /// The request of a REC exit: `[base, top)` shall have `ripas`.
    #[must_use]
    pub const fn new(base: u64, top: u64, ripas: Ripas) -> Self {
        Self { top, ripas, reached: base, freed: base }
    }

    /// Whether nothing is left to do.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.freed >= self.top
    }

    /// What to do next: up to the next multiple of `step` (a power of two), or all that is left. The private memory behind
    /// these addresses is what [`Realm::set_ripas`] needs.
    #[must_use]
    pub fn next(&self, step: u64) -> Range<u64> {
        let end = (self.reached | step.saturating_sub(1)).saturating_add(1);
        self.freed..end.min(self.top)
    }

    /// First address that does not have the RIPAS yet; the end of the request when all have.
    #[must_use]
    pub const fn reached(&self) -> u64 {
        self.reached
    }

    /// What the realm asked for.
    #[must_use]
    pub const fn ripas(&self) -> Ripas {
        self.ripas
    }
}

/// Host memory to be shared with a realm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedPage {
    /// Where the realm sees it: the address in the protected half, whose alias gets mapped.
    pub ipa: u64,
    /// Physical address of the first granule.
    pub pa: u64,
    /// Bytes of contiguous memory: a multiple of the granule, 2 MiB at most.
    pub size: u64,
    /// Whether the whole 2 MiB block of addresses around it may be mapped to the 2 MiB block of memory around `pa`.
    pub with_block: bool,
    /// Whether the realm may write. Reading is always allowed.
    pub writable: bool,
}

/// Checks a range of protected IPAs before anything is touched.
fn check_range(ipa: IpaSpace, base: u64, size: u64) -> Result<u64, RealmError> {
    let bad = |rule| RealmError::BadRange { base, size, rule };
    let end = base.checked_add(size).ok_or_else(|| bad("base plus size must not wrap"))?;
    if !base.is_multiple_of(GRANULE_SIZE) || !size.is_multiple_of(GRANULE_SIZE) {
        return Err(bad("base and size must be multiples of 4 KiB"));
    }
    if end > ipa.protected_end() {
        return Err(bad("it must lie below the shared half of the IPA space"));
    }
    Ok(end)
}

/// End of the piece of work that starts at `base`: the next 2 MiB boundary or `end`.
fn piece_end(base: u64, end: u64) -> u64 {
    (base | BLOCK_SIZE.saturating_sub(1)).saturating_add(1).min(end)
}

impl<H: Host> Realm<H> {
    /// Makes a range RAM before activation (docs/kvm-realm-abi.md section 3.11). Long. An empty range is a success.
    ///
    /// # Errors
    /// [`RealmError::BadRange`], [`RealmError::WrongState`] unless the realm is new, [`RealmError::NoMemory`], or a
    /// command failed. If part of the range was measured already the realm is doomed: its RIM is one nobody asked for.
    pub fn init_ripas(&self, base: u64, size: u64) -> Result<(), RealmError> {
        let wrapped = RealmError::BadRange { base, size, rule: "base plus size must not wrap" };
        base.checked_add(size).ok_or(wrapped)?;
        self.state.lock().new_only(Operation::InitRipas)?;
        let end = check_range(self.ipa, base, size)?;
        let mut at = base;
        while at < end {
            let mut state = self.state.lock();
            match state.new_only(Operation::InitRipas)?.stage2.init_ripas_piece(&self.rmm, at, end) {
                Ok(reached) => at = reached,
                Err(error) => {
                    if at > base {
                        state.doom();
                    }
                    return Err(error);
                }
            }
            drop(state);
            self.rmm.host().yield_now();
        }
        Ok(())
    }

    /// Populates one host page of a request: the granules at `ipa` (page aligned) get the content of the host page at
    /// physical address `src`. Call [`Host::yield_now`] between some of them.
    ///
    /// # Errors
    /// [`RealmError::BadRange`] if the page is not in `range`, [`RealmError::WrongState`] unless the realm is new,
    /// [`RealmError::NoMemory`], [`RealmError::AlreadyPopulated`], or a command failed. Nothing of this page stays; if the
    /// request had created anything the realm is doomed.
    pub fn populate_page(
        &self,
        run: &mut PopulateRun,
        range: &PrivateRange<'_, H>,
        ipa: u64,
        src: u64,
        flags: DataFlags,
    ) -> Result<(), RealmError> {
        let page = 1_u64.checked_shl(self.rmm.host().page_shift()).unwrap_or(GRANULE_SIZE);
        let mut state = self.state.lock();
        let live = state.new_only(Operation::Populate)?;
        check_range(self.ipa, ipa, page)?;
        let result = live.stage2.populate(&self.rmm, run, range, ipa, page, src, flags);
        if result.is_err() && run.created > 0 {
            state.doom();
        }
        result
    }

    /// Ends a request that failed outside [`Self::populate_page`]: if it had created anything the realm is doomed.
    pub fn abandon_populate(&self, run: &PopulateRun) {
        if run.created > 0 {
            self.doom();
        }
    }

    /// Does a RIPAS change for the REC `rec` up to `until`, the end of what [`RipasChange::next`] named, and when the realm
    /// wants it empty takes away the memory that changed; `ranges` is all private memory behind what was named. Long; the
    /// REC must not run.
    ///
    /// # Errors
    /// [`RealmError::BadRange`], [`RealmError::WrongState`], [`RealmError::NoMemory`] after which it can be called again,
    /// or the RMM refused to go on; the realm learns how far it got when the REC is entered.
    pub fn set_ripas(
        &self,
        rec: u64,
        change: &mut RipasChange,
        until: u64,
        ranges: &[PrivateRange<'_, H>],
    ) -> Result<(), RealmError> {
        let RipasChange { top, reached, .. } = *change;
        let backwards = RealmError::BadRange { base: reached, size: 0, rule: "top must not be below base" };
        check_range(self.ipa, reached, top.checked_sub(reached).ok_or(backwards)?)?;
        let until = until.min(top);
        loop {
            if change.ripas == Ripas::EMPTY {
                for range in ranges.iter().filter_map(|range| range.within(change.freed, change.reached)) {
                    self.unmap_private(&range)?;
                }
            }
            change.freed = change.reached;
            if change.reached >= until {
                return Ok(());
            }
            let mut state = self.state.lock();
            let stage2 = &mut state.usable(Operation::Run)?.stage2;
            change.reached = stage2.set_ripas_piece(&self.rmm, rec, change.reached, until)?;
            drop(state);
            self.rmm.host().yield_now();
        }
    }

    /// Serves a fault on a protected address with memory of `range`, and where it can a whole 2 MiB block of it: when the
    /// realm is active and nothing of that block was touched yet. Bounded by the work for one block.
    ///
    /// # Errors
    /// [`RealmError::WrongState`], [`RealmError::BadRange`] if `range` does not hold `ipa`, [`RealmError::NoMemory`],
    /// [`RealmError::MemoryLost`], or a command failed; nothing changed for `ipa` then.
    pub fn fault_private(&self, range: &PrivateRange<'_, H>, ipa: u64) -> Result<Fault, RealmError> {
        let ipa = ipa & !GRANULE_SIZE.saturating_sub(1);
        check_range(self.ipa, ipa, GRANULE_SIZE)?;
        let mut state = self.state.lock();
        let active = matches!(&*state, State::Active(_));
        let live = state.usable(Operation::Run)?;
        if active && let Some(fault) = live.stage2.fault_block(&self.rmm, range, ipa) {
            return Ok(fault);
        }
        live.stage2.fault_granule(&self.rmm, range, ipa, active)
    }

    /// Maps Host memory at the unprotected alias of an address, replacing what is mapped there; the whole block around it
    /// where that is allowed, as one entry. The memory must stay where it is until [`Self::unmap_shared`]. Bounded by the
    /// work for one block.
    ///
    /// # Errors
    /// [`RealmError::WrongState`], [`RealmError::BadRange`], [`RealmError::NoMemory`], or a command failed; part of a
    /// page larger than a granule may be mapped then.
    pub fn map_shared(&self, page: &SharedPage) -> Result<(), RealmError> {
        check_range(self.ipa, page.ipa, page.size)?;
        if !page.pa.is_multiple_of(GRANULE_SIZE) || page.size > BLOCK_SIZE {
            let rule = "shared memory is mapped granule by granule, 2 MiB at most at once";
            return Err(RealmError::BadRange { base: page.pa, size: page.size, rule });
        }
        if page.with_block && !(page.ipa ^ page.pa).is_multiple_of(BLOCK_SIZE) {
            let rule = "a block is mapped where address and memory are aligned alike";
            return Err(RealmError::BadRange { base: page.pa, size: BLOCK_SIZE, rule });
        }
        self.state.lock().usable(Operation::Run)?.stage2.map_shared(&self.rmm, page)
    }

    /// Removes what is mapped at the unprotected aliases of `[base, base + size)`; the range is cut at the end of the
    /// protected half. A block of which only a part is to go is split, or goes as a whole where there is no memory for
    /// that: what else it held can be mapped again. Long. Nothing happens before creation and after destruction.
    ///
    /// # Errors
    /// A command failed. What was not reached is still mapped: its memory must not be freed. It can be called again.
    pub fn unmap_shared(&self, base: u64, size: u64) -> Result<(), RealmError> {
        let end = base.saturating_add(size).min(self.ipa.protected_end());
        if base >= end {
            return Ok(());
        }
        let (mut at, end) = (self.ipa.alias(base), self.ipa.alias(end));
        while at < end {
            let mut state = self.state.lock();
            let fold = matches!(&*state, State::Active(_));
            let Some(live) = state.live() else { return Ok(()) };
            at = live.stage2.unmap_shared_piece(&self.rmm, at, end, fold)?;
            drop(state);
            self.rmm.host().yield_now();
        }
        Ok(())
    }

    /// Takes private memory away: destroys what is populated in `range` and gives it back to the
    /// [`GuestMemfd`](crate::memory::guest_memfd::GuestMemfd). Long. Every granule is tried; what does not come back is in the
    /// ledger. Nothing happens before creation and after destruction.
    ///
    /// # Errors
    /// The first failure. What failed for another reason than undelegation is still mapped; it can be called again.
    pub fn unmap_private(&self, range: &PrivateRange<'_, H>) -> Result<(), RealmError> {
        let end = range.end();
        let mut at = range.ipa;
        let mut first_error = None;
        loop {
            let mut state = self.state.lock();
            let fold = matches!(&*state, State::Active(_));
            let Some(live) = state.live() else { return Ok(()) };
            let Some(from) = live.stage2.next_private(range, at) else { break };
            let to = piece_end(from, end);
            if let Err(error) = live.stage2.unmap_private_piece(&self.rmm, range, from, to, fold) {
                first_error.get_or_insert(error);
            }
            drop(state);
            self.rmm.host().yield_now();
            at = to;
        }
        first_error.map_or(Ok(()), Err)
    }
}
