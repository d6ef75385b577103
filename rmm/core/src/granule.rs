//! The granule table: who owns each granule of delegable memory, and the lock on it (RMM 1.0, RmmGranule).
//!
//! # Lock order
//!
//! 1. Granules the Host names (UNDELEGATED, DELEGATED, RD, REC), in ascending address order:
//!    [`GranuleTable::lock_pair`].
//! 2. Then those found from them, in the order RD, RTT (root to leaf, hand over hand), DATA, REC_AUX; and REC, REC_AUX.
//!
//! A granule that turns out to be in another state than the one asked for is released at once, before anything else is
//! waited for: what the Host names wrongly takes no part in the order.
//!
//! A running REC is not locked: the CPU that runs it works on a copy, and [`GranuleGuard::refcount`] of the granule says
//! that it is *running*, which keeps others from changing it.

pub(crate) mod content;

pub(crate) use content::granule_content;
pub use content::{Content, Exclusive, Granule};

use crate::Platform;
use crate::platform::Broken;
use core::sync::atomic::{AtomicU32, Ordering};
use realm_abi::rmi::ReturnCode;
use realm_abi::{GRANULE_SHIFT, GRANULE_SIZE};

/// Granule states (RMM 1.0, RmmGranuleState).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum GranuleState {
    /// Not the Realm world's.
    Undelegated = 0,
    /// The Realm world's, in no use, wiped.
    Delegated = 1,
    /// A Realm Descriptor.
    Rd = 2,
    /// A Realm Execution Context.
    Rec = 3,
    /// An auxiliary granule of a REC.
    RecAux = 4,
    /// Memory of a realm.
    Data = 5,
    /// A stage 2 translation table.
    Rtt = 6,
}

impl GranuleState {
    const fn from_bits(bits: u32) -> Self {
        match bits & 0x7 {
            1 => Self::Delegated,
            2 => Self::Rd,
            3 => Self::Rec,
            4 => Self::RecAux,
            5 => Self::Data,
            6 => Self::Rtt,
            _ => Self::Undelegated,
        }
    }
}

const LOCKED: u32 = 1 << 31;
const STATE_MASK: u32 = 0x7;
const COUNT_SHIFT: u32 = 8;
const COUNT_MASK: u32 = 0xffff;
const REACH_SHIFT: u32 = 24;
const REACH_MASK: u32 = 0x7f;

/// The word behind a granule's lock: an [`AtomicU32`] on a machine, an instrumented one under a model checker.
pub trait LockWord {
    /// Swaps `from` for `to` with acquire ordering; the value found on failure.
    ///
    /// # Errors
    /// The value found, if it was not `from`.
    fn acquire(&self, from: u32, to: u32) -> Result<(), u32>;
    /// Stores with release ordering.
    fn release(&self, value: u32);
    /// Reads with relaxed ordering.
    fn peek(&self) -> u32;
}

impl LockWord for AtomicU32 {
    fn acquire(&self, from: u32, to: u32) -> Result<(), u32> {
        self.compare_exchange_weak(from, to, Ordering::Acquire, Ordering::Relaxed).map(|_| ())
    }
    fn release(&self, value: u32) {
        self.store(value, Ordering::Release);
    }
    fn peek(&self) -> u32 {
        self.load(Ordering::Relaxed)
    }
}

/// State, reference count and lock of one granule. All zeros is an UNDELEGATED, unlocked granule.
#[derive(Debug, Default)]
pub struct GranuleEntry<W = AtomicU32>(pub W);

/// A range of delegable memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bank {
    /// Physical address of the first granule.
    pub base: u64,
    /// Bytes, a multiple of the granule size.
    pub size: u64,
}

/// Most banks a table holds: more than a boot manifest has room for.
pub const MAX_BANKS: usize = 256;

/// The table of all delegable granules.
#[derive(Debug)]
pub struct GranuleTable<'a, W = AtomicU32> {
    entries: &'a [GranuleEntry<W>],
    /// Those that are there, and behind them empty ones.
    banks: [Bank; MAX_BANKS],
    wait: fn(),
}

/// Why a granule could not be locked. All of them are `RMI_ERROR_INPUT` to the Host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockError {
    /// The address is not granule aligned.
    Alignment,
    /// The address is not delegable memory.
    Bound,
    /// The granule is in another state; this one.
    State(GranuleState),
    /// Two addresses that must differ are the same.
    Alias,
}

impl From<LockError> for ReturnCode {
    fn from(_: LockError) -> Self {
        Self::ERROR_INPUT
    }
}

/// A reference count would leave 0 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Miscounted;

/// Why a table could not be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableError {
    /// A bank is empty, unaligned, overlapping or out of ascending order, or there are too many.
    Banks,
    /// There are fewer entries than granules; this many are needed.
    Entries(usize),
}

impl<'a, W: LockWord> GranuleTable<'a, W> {
    /// A table over `banks` (ascending, apart), with one entry a granule. `wait` is called between two tries for a lock
    /// ([`Platform::wait_for_lock`]).
    ///
    /// # Errors
    /// See [`TableError`].
    pub fn new(banks: &[Bank], entries: &'a [GranuleEntry<W>], wait: fn()) -> Result<Self, TableError> {
        let mut table = Self { entries, banks: [Bank { base: 0, size: 0 }; MAX_BANKS], wait };
        let mut end = 0;
        let mut granules = 0_u64;
        if banks.is_empty() || banks.len() > MAX_BANKS {
            return Err(TableError::Banks);
        }
        for (slot, bank) in table.banks.iter_mut().zip(banks) {
            let aligned = bank.base.is_multiple_of(GRANULE_SIZE) && bank.size.is_multiple_of(GRANULE_SIZE);
            let Some(bank_end) = bank.base.checked_add(bank.size) else { return Err(TableError::Banks) };
            if !aligned || bank.size == 0 || bank.base < end {
                return Err(TableError::Banks);
            }
            end = bank_end;
            granules = granules.checked_add(bank.size >> GRANULE_SHIFT).ok_or(TableError::Banks)?;
            *slot = *bank;
        }
        let granules = usize::try_from(granules).map_err(|_| TableError::Banks)?;
        if entries.len() < granules {
            return Err(TableError::Entries(granules));
        }
        Ok(table)
    }

    /// The entry of the granule at `pa`, if it is delegable.
    fn entry(&self, pa: u64) -> Option<&'a GranuleEntry<W>> {
        let mut first = 0_u64;
        for bank in &self.banks {
            let offset = pa.wrapping_sub(bank.base);
            if offset < bank.size {
                let index = first.checked_add(offset >> GRANULE_SHIFT)?;
                return self.entries.get(usize::try_from(index).ok()?);
            }
            if bank.size == 0 {
                return None;
            }
            first = first.checked_add(bank.size >> GRANULE_SHIFT)?;
        }
        None
    }

    /// Whether `pa` lies in delegable memory.
    #[must_use]
    pub fn is_delegable(&self, pa: u64) -> bool {
        self.entry(pa).is_some()
    }

    /// The state of a granule at this moment, without locking it.
    #[must_use]
    pub fn peek(&self, pa: u64) -> Option<GranuleState> {
        self.entry(pa).map(|entry| GranuleState::from_bits(entry.0.peek()))
    }

    /// Locks the granule at `pa`, which must be in `state`.
    ///
    /// # Errors
    /// See [`LockError`]; the granule is then not locked.
    pub fn lock(&self, pa: u64, state: GranuleState) -> Result<GranuleGuard<'a, W>, LockError> {
        if !pa.is_multiple_of(GRANULE_SIZE) {
            return Err(LockError::Alignment);
        }
        let entry = self.entry(pa).ok_or(LockError::Bound)?;
        let word = loop {
            let seen = entry.0.peek() & !LOCKED;
            if entry.0.acquire(seen, seen | LOCKED).is_ok() {
                break seen;
            }
            (self.wait)();
        };
        let guard = GranuleGuard { entry, pa, word };
        // The bits are those of a state: only `set_state` writes them.
        if word & STATE_MASK == state as u32 { Ok(guard) } else { Err(LockError::State(guard.state())) }
    }

    /// Locks two granules the Host named, in ascending address order whatever the order of the arguments.
    ///
    /// # Errors
    /// See [`LockError`]; nothing is then locked.
    pub fn lock_pair(
        &self,
        first: (u64, GranuleState),
        second: (u64, GranuleState),
    ) -> Result<(GranuleGuard<'a, W>, GranuleGuard<'a, W>), LockError> {
        if first.0 == second.0 {
            return Err(LockError::Alias);
        }
        if first.0 < second.0 {
            let low = self.lock(first.0, first.1)?;
            Ok((low, self.lock(second.0, second.1)?))
        } else {
            let low = self.lock(second.0, second.1)?;
            Ok((self.lock(first.0, first.1)?, low))
        }
    }
}

/// Sole access to a granule: the lock on it. Dropping it releases the lock.
#[derive(Debug)]
pub struct GranuleGuard<'a, W: LockWord = AtomicU32> {
    entry: &'a GranuleEntry<W>,
    pa: u64,
    word: u32,
}

impl<W: LockWord> GranuleGuard<'_, W> {
    /// The granule's state.
    #[must_use]
    pub const fn state(&self) -> GranuleState {
        GranuleState::from_bits(self.word)
    }
    /// Moves the granule to another state, seen by others when the lock is released.
    pub const fn set_state(&mut self, state: GranuleState) {
        self.word = (self.word & !STATE_MASK) | state as u32;
    }
    /// References to the granule: RECs of an RD, live entries of an RTT, 1 for a running REC.
    #[must_use]
    pub const fn refcount(&self) -> u32 {
        (self.word >> COUNT_SHIFT) & COUNT_MASK
    }
    /// Adds to the reference count, which the specification keeps far below what fits.
    ///
    /// # Errors
    /// [`Miscounted`], with the count as it was: what is counted is not what is there. Nobody may go on then.
    pub const fn count(&mut self, change: i32) -> Result<(), Miscounted> {
        match self.refcount().checked_add_signed(change) {
            Some(count) if count <= COUNT_MASK => {
                self.word = (self.word & !(COUNT_MASK << COUNT_SHIFT)) | (count << COUNT_SHIFT);
                Ok(())
            }
            _ => Err(Miscounted),
        }
    }
    /// How far the live entries of a table reach, as [`set_reach`](Self::set_reach) left it.
    #[must_use]
    pub const fn reach(&self) -> u32 {
        (self.word >> REACH_SHIFT) & REACH_MASK
    }
    /// Notes how far the live entries of a table reach, at most 127: further than they do is only slower.
    pub const fn set_reach(&mut self, reach: u32) {
        let reach = if reach > REACH_MASK { REACH_MASK } else { reach };
        self.word = (self.word & !(REACH_MASK << REACH_SHIFT)) | (reach << REACH_SHIFT);
    }
    /// Runs `f` on the structure the granule holds.
    pub fn with<P: Platform, T: Content, R>(&mut self, platform: &P, f: impl FnOnce(&mut T) -> R) -> R {
        platform.with_granule(self, |granule| f(T::of(granule)))
    }
    /// Wipes the granule, to which there must be no reference, and makes it DELEGATED: what every granule becomes when it leaves a
    /// realm (RMM 1.0, granule wiping: nothing of what it held is seen again).
    pub fn release<P: Platform>(mut self, platform: &P) {
        if self.refcount() != 0 {
            platform.stop(Broken::Count);
        }
        platform.wipe(&mut self);
        self.set_reach(0);
        self.set_state(GranuleState::Delegated);
    }
}

impl<W: LockWord> Drop for GranuleGuard<'_, W> {
    fn drop(&mut self) {
        self.entry.0.release(self.word & !LOCKED);
    }
}

impl<W: LockWord> content::sealed::Sealed for GranuleGuard<'_, W> {}
impl<W: LockWord> Exclusive for GranuleGuard<'_, W> {
    fn pa(&self) -> u64 {
        self.pa
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::hint::spin_loop;

    const LOW: Bank = Bank { base: 0x8000_0000, size: 2 * GRANULE_SIZE };
    const HIGH: Bank = Bank { base: 0x8_8000_0000, size: GRANULE_SIZE };

    fn entries() -> [GranuleEntry; 3] {
        Default::default()
    }

    fn stopped() {
        panic!("the machine has stopped");
    }

    #[test]
    #[should_panic(expected = "the machine has stopped")]
    fn who_waits_for_a_granule_leaves_it_to_the_machine_whether_to_go_on() {
        let entries = entries();
        let table = GranuleTable::new(&[LOW, HIGH], &entries, stopped).unwrap();
        let _guard = table.lock(LOW.base, GranuleState::Undelegated).unwrap();
        let _never = table.lock(LOW.base, GranuleState::Undelegated);
    }

    #[test]
    fn a_table_needs_sound_banks_and_enough_entries() {
        let entries = entries();
        let refused = |banks: &[Bank]| GranuleTable::new(banks, &entries, spin_loop).err();
        assert_eq!(refused(&[LOW, HIGH]), None);
        let unaligned = Bank { base: LOW.base + 8, ..LOW };
        let ragged = Bank { size: LOW.size + 8, ..LOW };
        let empty = Bank { size: 0, ..LOW };
        let endless = Bank { base: !0xfff, size: 0x2000 };
        for banks in [
            &[][..],
            &[HIGH, LOW],
            &[LOW, LOW],
            &[unaligned],
            &[ragged],
            &[empty],
            &[endless],
            &[LOW; MAX_BANKS + 1],
        ] {
            assert_eq!(refused(banks), Some(TableError::Banks), "{banks:x?}");
        }
        assert_eq!(refused(&[Bank { size: 2 * LOW.size, ..LOW }]), Some(TableError::Entries(4)));
    }

    #[test]
    fn every_granule_of_every_bank_has_an_entry_of_its_own() {
        let entries = entries();
        let table = GranuleTable::new(&[LOW, HIGH], &entries, spin_loop).unwrap();
        let granules = [LOW.base, LOW.base + GRANULE_SIZE, HIGH.base];
        for (pa, state) in
            granules.into_iter().zip([GranuleState::Rd, GranuleState::Rtt, GranuleState::RecAux])
        {
            table.lock(pa, GranuleState::Undelegated).unwrap().set_state(state);
        }
        assert_eq!(
            granules.map(|pa| table.peek(pa).unwrap()),
            [GranuleState::Rd, GranuleState::Rtt, GranuleState::RecAux]
        );
        for outside in [0, LOW.base - 1, LOW.base + LOW.size, HIGH.base - 1, HIGH.base + HIGH.size, u64::MAX]
        {
            assert!(!table.is_delegable(outside), "{outside:#x}");
        }
    }

    #[test]
    fn what_cannot_be_locked_says_why_and_stays_free() {
        let entries = entries();
        let table = GranuleTable::new(&[LOW, HIGH], &entries, spin_loop).unwrap();
        let pair = |a, b| table.lock_pair((a, GranuleState::Undelegated), (b, GranuleState::Rd)).err();
        assert_eq!(pair(LOW.base, LOW.base), Some(LockError::Alias));
        assert_eq!(pair(LOW.base, HIGH.base + 8), Some(LockError::Alignment));
        assert_eq!(pair(LOW.base, 0), Some(LockError::Bound));
        assert_eq!(pair(LOW.base, HIGH.base), Some(LockError::State(GranuleState::Undelegated)));
        // Were one still locked this would not return.
        table
            .lock_pair((HIGH.base, GranuleState::Undelegated), (LOW.base, GranuleState::Undelegated))
            .unwrap();
    }

    #[test]
    fn a_count_that_does_not_fit_stays_what_it_was() {
        let entries = entries();
        let table = GranuleTable::new(&[LOW, HIGH], &entries, spin_loop).unwrap();
        let mut guard = table.lock(LOW.base, GranuleState::Undelegated).unwrap();
        assert_eq!(guard.count(-1), Err(Miscounted));
        assert_eq!(guard.count(0xffff), Ok(()));
        for too_much in [1, 0x10000, i32::MAX, i32::MIN, -0x10000] {
            assert_eq!(guard.count(too_much), Err(Miscounted));
            assert_eq!(guard.refcount(), 0xffff);
        }
        assert_eq!(guard.count(-0xffff), Ok(()));
        assert_eq!(guard.refcount(), 0);
    }

    #[test]
    fn state_count_and_reach_do_not_touch_each_other() {
        let entries = entries();
        let table = GranuleTable::new(&[LOW, HIGH], &entries, spin_loop).unwrap();
        let mut guard = table.lock(LOW.base, GranuleState::Undelegated).unwrap();
        guard.set_state(GranuleState::Rtt);
        guard.set_reach(REACH_MASK);
        guard.count(COUNT_MASK as i32).unwrap();
        assert_eq!(
            (guard.state(), guard.refcount(), guard.reach()),
            (GranuleState::Rtt, COUNT_MASK, REACH_MASK)
        );
        guard.set_reach(1000);
        assert_eq!(guard.reach(), REACH_MASK);
        guard.set_reach(32);
        guard.count(512 - COUNT_MASK as i32).unwrap();
        guard.set_state(GranuleState::Data);
        drop(guard);
        let guard = table.lock(LOW.base, GranuleState::Data).unwrap();
        assert_eq!((guard.refcount(), guard.reach()), (512, 32));
    }
}
