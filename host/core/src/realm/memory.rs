//! A realm's memory: RIPAS, population, faults, mappings and their removal.

use super::{Pins, Realm};
use crate::Host;
use crate::error::{Operation, RealmError};
use crate::host::Pinned;
use crate::memory::guest_memfd::PrivateRange;
use crate::realm::ipa::{BLOCK_SIZE, IpaSpace};
use crate::realm::stage2::{Spare, Supply, Tidy};
use core::ops::Range;
use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::{DataFlags, Ripas};

/// One POPULATE request, from its first page to its last. Every granule it creates extends the RIM, so a request that
/// fails after the first one leaves a realm nobody can attest: such a realm is condemned.
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
    /// Memory is mapped there now.
    Mapped,
    /// Another vCPU served it first.
    AlreadyMapped,
    /// There is memory, but the Host took away what was there before and the realm has not agreed to that yet: until it
    /// does every access faults.
    Destroyed,
    /// What was looked up before is no longer so: look again.
    Changed,
}

/// How a fault on a shared address was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedFault {
    /// The memory is mapped now, and stays in place until it is unmapped.
    Mapped,
    /// Another vCPU served it first.
    AlreadyMapped,
    /// What was looked up before is no longer so: look again.
    Changed,
    /// Single pages are mapped in that block, so another one has to be.
    NotAsBlock,
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

    /// What to do next: up to the next multiple of `step` (a power of two), or all that is left.
    #[must_use]
    pub fn next(&self, step: u64) -> Range<u64> {
        let end = (self.reached | step.saturating_sub(1)).saturating_add(1);
        self.freed..end.min(self.top)
    }

    /// What became empty and still has its memory.
    #[must_use]
    pub const fn to_free(&self) -> Range<u64> {
        self.freed..self.reached
    }

    /// The memory of [`Self::to_free`] is taken away, or need not be.
    pub const fn freed(&mut self) {
        self.freed = self.reached;
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

impl<H: Host> Realm<H> {
    /// Makes a range RAM before activation (docs/kvm-realm-abi.md section 3.11). Long; ends when `stop` says so. An empty range
    /// is a success.
    ///
    /// # Errors
    /// [`RealmError::BadRange`], [`RealmError::WrongState`] unless the realm is new, [`RealmError::NoMemory`],
    /// [`RealmError::Killed`], or a command failed. If part of the range was measured already the realm is condemned: its RIM
    /// is one nobody asked for.
    #[inline(never)]
    pub fn init_ripas(&self, base: u64, size: u64, stop: &impl Fn() -> bool) -> Result<(), RealmError> {
        let wrapped = RealmError::BadRange { base, size, rule: "base plus size must not wrap" };
        base.checked_add(size).ok_or(wrapped)?;
        self.require_new(Operation::InitRipas)?;
        let end = check_range(self.ipa, base, size)?;
        let mut at = base;
        while at < end {
            let piece = if stop() { Err(RealmError::Killed) } else { self.init_ripas_piece(at, end) };
            match piece {
                Ok(reached) => at = reached,
                Err(error) => {
                    if at > base {
                        self.condemn();
                    }
                    return Err(error);
                }
            }
            self.rmm.host().yield_now();
        }
        Ok(())
    }

    fn init_ripas_piece(&self, base: u64, end: u64) -> Result<u64, RealmError> {
        self.new_only(Operation::InitRipas)?.init_ripas_piece(base, end)
    }

    /// Populates one host page of a request: the granules at `ipa` (page aligned) get the content of the host page at
    /// physical address `src`, if it is still `valid` to; whether it was. Call [`Host::yield_now`] between some of them.
    ///
    /// # Errors
    /// [`RealmError::BadRange`] if the page is not in `range`, [`RealmError::WrongState`] unless the realm is new,
    /// [`RealmError::NoMemory`], [`RealmError::AlreadyPopulated`], or a command failed. Nothing of this page stays; if the
    /// request had created anything the realm is condemned.
    #[inline(never)]
    pub fn populate_page(
        &self,
        run: &mut PopulateRun,
        range: &PrivateRange<'_, H>,
        ipa: u64,
        src: u64,
        flags: DataFlags,
        valid: &impl Fn() -> bool,
    ) -> Result<bool, RealmError> {
        let page = 1_u64.checked_shl(self.rmm.host().page_shift()).unwrap_or(GRANULE_SIZE);
        check_range(self.ipa, ipa, page)?;
        let mut done = 0;
        let result = loop {
            if done >= page {
                return Ok(true);
            }
            let tables = match self.new_only(Operation::Populate) {
                Ok(tables) => tables,
                Err(error) => break Err(error),
            };
            let (to, from) = (ipa.saturating_add(done), src.saturating_add(done));
            match tables.populate(run, range, to, from, flags, valid) {
                Ok(true) => done = done.saturating_add(GRANULE_SIZE),
                // Nothing is done for a page that changed before its first granule.
                Ok(false) if done == 0 => return Ok(false),
                Ok(false) => break Err(RealmError::NoMemory),
                Err(error) => break Err(error),
            }
        };
        if done > 0
            && let Some((tables, _)) = self.known()
        {
            tables.unpopulate(range, ipa, done, valid);
        }
        self.abandon_populate(run);
        result
    }

    /// Ends a request that failed outside [`Self::populate_page`]: if it had created anything the realm is condemned.
    pub fn abandon_populate(&self, run: &PopulateRun) {
        if run.created > 0 {
            self.condemn();
        }
    }

    /// Does a RIPAS change for the REC `rec` up to `until`, the end of what [`RipasChange::next`] named; the memory of what
    /// became empty is then the caller's to take away ([`RipasChange::to_free`]). Long; ends when `stop` says so. The REC must
    /// not run.
    ///
    /// # Errors
    /// [`RealmError::BadRange`], [`RealmError::WrongState`], [`RealmError::NoMemory`] or [`RealmError::Killed`] after which it
    /// can be called again, or the RMM refused to go on; the realm learns how far it got when the REC is entered.
    #[inline(never)]
    pub fn set_ripas(
        &self,
        rec: u64,
        change: &mut RipasChange,
        until: u64,
        stop: &impl Fn() -> bool,
    ) -> Result<(), RealmError> {
        let RipasChange { top, reached, .. } = *change;
        let backwards = RealmError::BadRange { base: reached, size: 0, rule: "top must not be below base" };
        check_range(self.ipa, reached, top.checked_sub(reached).ok_or(backwards)?)?;
        let until = until.min(top);
        while change.reached < until {
            if stop() {
                return Err(RealmError::Killed);
            }
            let (tables, _) = self.usable(Operation::Run)?;
            change.reached = tables.set_ripas_piece(rec, change.reached, until)?;
            self.rmm.host().yield_now();
        }
        Ok(())
    }

    /// Serves a fault on a protected address with memory of `range`, if it is still `valid` to; and where it can the whole
    /// 2 MiB block around it, when the realm is active. Long; it need not finish the block and ends when `go_on` says no.
    ///
    /// # Errors
    /// [`RealmError::WrongState`], [`RealmError::BadRange`] if `range` does not hold `ipa`, [`RealmError::NoMemory`],
    /// [`RealmError::MemoryLost`], or a command failed; nothing changed for `ipa` then.
    #[inline(never)]
    pub fn fault_private(
        &self,
        range: &PrivateRange<'_, H>,
        ipa: u64,
        valid: &impl Fn() -> bool,
        go_on: &impl Fn() -> bool,
    ) -> Result<Fault, RealmError> {
        let ipa = ipa & !GRANULE_SIZE.saturating_sub(1);
        check_range(self.ipa, ipa, GRANULE_SIZE)?;
        let (tables, active) = self.usable(Operation::Run)?;
        let fault = tables.fault_granule(range, ipa, valid)?;
        if active && fault == Fault::Mapped {
            tables.fault_around(range, ipa, valid, go_on);
        }
        Ok(fault)
    }

    /// Maps memory of the VMM at the unprotected alias of an address, if it is still `valid` to: its page or, where the memory
    /// is a block, its block as one entry. The memory is held until it is unmapped; what is not mapped is released.
    ///
    /// # Errors
    /// [`RealmError::WrongState`], [`RealmError::BadRange`], [`RealmError::NoMemory`], [`RealmError::TooMuchPinned`],
    /// [`RealmError::TooMuchPinnedByUser`], or a command failed; nothing is mapped then.
    #[inline(never)]
    pub fn map_shared(
        &self,
        ipa: u64,
        pinned: Pinned,
        valid: &impl Fn() -> bool,
    ) -> Result<SharedFault, RealmError> {
        let (pa, size) = (pinned.pa, pinned.size);
        let checked = check_range(self.ipa, ipa & !size.wrapping_sub(1), size).and_then(|_| {
            let page = 1_u64.checked_shl(self.rmm.host().page_shift()).unwrap_or(GRANULE_SIZE);
            let rule = "shared memory is a host page or a block, aligned to its size";
            let good = (size == page || size == BLOCK_SIZE) && pa.is_multiple_of(size);
            if good { Ok(()) } else { Err(RealmError::BadRange { base: pa, size, rule }) }
        });
        match checked.and_then(|()| self.usable(Operation::Run)) {
            Ok((tables, _)) => tables.map_shared(ipa, pinned, valid),
            Err(error) => {
                self.rmm.host().unpin(pinned);
                Err(error)
            }
        }
    }

    /// Whether nothing is shared yet in the 2 MiB block around a protected address.
    #[must_use]
    pub fn shares_nothing_around(&self, ipa: u64) -> bool {
        self.known().is_some_and(|(tables, _)| tables.shares_nothing_around(ipa))
    }

    /// Bytes of the VMM's memory that are held because the realm can reach them.
    #[must_use]
    pub fn pinned(&self) -> u64 {
        self.tables.pins().bytes()
    }

    /// What counts them.
    #[must_use]
    pub fn pins(&self) -> &Pins {
        self.tables.pins()
    }

    /// Gathers what it takes to take `[base, base + size)` away where blocks have to be split, with no lock held; as much of it
    /// as there is memory for.
    #[inline(never)]
    pub(crate) fn stock(&self, base: u64, size: u64) -> Spare {
        let mut spare = Spare::new();
        if let Some((tables, _)) = self.known() {
            tables.fill_reserve();
            let shortage = tables.shortage_of_split(base, base.saturating_add(size));
            // Where there is not enough the work tells.
            let _: Result<(), RealmError> = tables.top_up(&mut spare, shortage);
        }
        spare
    }

    /// Makes sure that whole blocks can be taken away, if the Host has memory. With no lock held.
    pub(crate) fn fill_reserve(&self) {
        if let Some((tables, _)) = self.known() {
            tables.fill_reserve();
        }
    }

    /// Gives back what is left of [`Self::stock`].
    pub(crate) fn put_away(&self, spare: &mut Spare) {
        self.tables.of(&self.rmm, 0).put_away(spare);
    }

    /// Removes what is mapped at the unprotected aliases of `[base, base + size)` and releases it; the range is cut at the end
    /// of the protected half. A block of which only a part is to go is split, or goes as a whole where there is no memory for
    /// that: what else it held can be mapped again. Long; ends when `stop` says so. Nothing happens before creation and after
    /// destruction.
    ///
    /// # Errors
    /// A command failed, or [`RealmError::Killed`]. What was not reached is still mapped, and held. It can be called again. Of a
    /// realm that goes every block is tried; what stays goes with its table, or with the realm.
    #[inline(never)]
    pub(crate) fn unmap_shared(
        &self,
        base: u64,
        size: u64,
        supply: &mut Supply<'_>,
        stop: &impl Fn() -> bool,
    ) -> Result<(), RealmError> {
        let end = base.saturating_add(size).min(self.ipa.protected_end());
        if base >= end {
            return Ok(());
        }
        let (mut at, end) = (self.ipa.alias(base), self.ipa.alias(end));
        let mut first_error = None;
        while let Some((tables, tidy)) = self.known() {
            let Some(from) = tables.next_shared(at).filter(|from| *from < end) else { break };
            if stop() {
                return Err(RealmError::Killed);
            }
            match tables.unmap_shared_piece(from, end, tidy, supply) {
                Ok(reached) => at = reached,
                Err(error) if tidy == Tidy::Destroy => {
                    first_error.get_or_insert(error);
                    at = (from | BLOCK_SIZE.saturating_sub(1)).saturating_add(1);
                }
                Err(error) => return Err(error),
            }
            self.rmm.host().yield_now();
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Takes private memory away: destroys what is populated in `range` and gives it back to the
    /// [`GuestMemfd`](crate::guest_memfd::GuestMemfd). Long; ends when `stop` says so. Every granule is tried; what does not
    /// come back is in the ledger. Nothing happens before creation and after destruction, and to memory of a range that is not
    /// `valid` any more, which is asked with the block locked: the slot it came from may go.
    ///
    /// # Errors
    /// The first failure, or [`RealmError::Killed`]. What failed for another reason than undelegation is still mapped; it can
    /// be called again.
    #[inline(never)]
    pub(crate) fn unmap_private(
        &self,
        range: &PrivateRange<'_, H>,
        supply: &mut Supply<'_>,
        stop: &impl Fn() -> bool,
        valid: &impl Fn() -> bool,
    ) -> Result<(), RealmError> {
        let end = range.end();
        let mut at = range.ipa;
        let mut first_error = None;
        while let Some((tables, tidy)) = self.known() {
            let Some(from) = tables.next_private(range, at) else { break };
            if stop() {
                return Err(RealmError::Killed);
            }
            let block_end = (from | BLOCK_SIZE.saturating_sub(1)).saturating_add(1).min(end);
            let (reached, result) = tables.unmap_private_piece(range, from, block_end, tidy, supply, valid);
            if let Err(error) = result {
                first_error.get_or_insert(error);
            }
            self.rmm.host().yield_now();
            at = reached;
        }
        first_error.map_or(Ok(()), Err)
    }
}
