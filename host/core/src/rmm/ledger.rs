//! The record of what was asked of the RMM and what became of the granules given to it.

use crate::host::LockClass;
use crate::rmm::rmi::error::RmiError;
use crate::{Errno, Host, Lock};
use core::sync::atomic::{AtomicU64, Ordering};
use realm_abi::rmi::RmiCommand;
use realm_alloc::Vec;

/// Function identifier of the first RMI command.
const FIRST_FID: u64 = 0xC400_0150;
/// Counters of calls: one per function number of RMI 1.0 (0x150 to 0x169), the last one for all others.
pub const CALL_SLOTS: usize = 27;
/// How many losses are kept with their details; later ones are only counted.
pub const MAX_LOSSES: usize = 64;

/// A granule the RMM did not give back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Physical address.
    pub pa: u64,
    /// The command that failed and how.
    pub error: RmiError,
}

impl core::fmt::Display for Loss {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "granule {:#x}: {}", self.pa, self.error)
    }
}

/// What one CPU counts, in cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct CpuCounters {
    delegated: AtomicU64,
    undelegated: AtomicU64,
    calls: [AtomicU64; CALL_SLOTS],
}

/// Counters since start-up. `delegated = undelegated + leaked + granules the RMM holds now`.
pub struct Ledger<H: Host> {
    /// Summed when they are read.
    cpus: Vec<CpuCounters>,
    leaked: AtomicU64,
    /// Losses the administrator was not told of yet, and the one that was told last.
    unreported: AtomicU64,
    /// The first ones, with their details.
    losses: H::Lock<Vec<Loss>>,
}

/// The counters of a [`Ledger`] at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LedgerSnapshot {
    /// Granules given to the RMM.
    pub delegated: u64,
    /// Granules that came back.
    pub undelegated: u64,
    /// Granules that are lost.
    pub leaked: u64,
    /// Calls by function number; use [`Self::calls`].
    counts: [u64; CALL_SLOTS],
}

impl LedgerSnapshot {
    /// Calls made, by the specification's name of the command; commands that were never called are left out.
    pub fn calls(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let known = RmiCommand::TABLE
            .iter()
            .map(|&(fid, name)| (name, self.counts.get(slot(fid)).copied().unwrap_or(0)));
        known.filter(|&(_, count)| count > 0)
    }

    /// All calls.
    #[must_use]
    pub fn total_calls(&self) -> u64 {
        self.counts.iter().fold(0, |sum, &count| sum.saturating_add(count))
    }

    /// Granules the RMM holds now.
    #[must_use]
    pub const fn held(&self) -> u64 {
        self.delegated.saturating_sub(self.undelegated).saturating_sub(self.leaked)
    }

    /// What happened between `earlier` and this.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut counts = self.counts;
        for (count, before) in counts.iter_mut().zip(earlier.counts) {
            *count = count.saturating_sub(before);
        }
        Self {
            delegated: self.delegated.saturating_sub(earlier.delegated),
            undelegated: self.undelegated.saturating_sub(earlier.undelegated),
            leaked: self.leaked.saturating_sub(earlier.leaked),
            counts,
        }
    }
}

/// The counter for a function identifier.
fn slot(fid: u64) -> usize {
    let last = CALL_SLOTS.saturating_sub(1);
    fid.checked_sub(FIRST_FID)
        .and_then(|number| usize::try_from(number).ok())
        .map_or(last, |number| number.min(last))
}

impl<H: Host> Ledger<H> {
    /// An empty record for a machine with so many CPUs.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(cpus: usize) -> Result<Self, Errno> {
        let kept = Vec::with_capacity(MAX_LOSSES)?;
        Ok(Self {
            cpus: Vec::try_from_iter(core::iter::repeat_with(CpuCounters::default).take(cpus.max(1)))?,
            leaked: AtomicU64::new(0),
            unreported: AtomicU64::new(0),
            losses: H::Lock::new(LockClass::Losses, kept)?,
        })
    }

    /// The counters now.
    #[must_use]
    pub fn snapshot(&self) -> LedgerSnapshot {
        let mut sum = LedgerSnapshot { leaked: self.leaked.load(Ordering::Relaxed), ..Default::default() };
        for cpu in &self.cpus {
            sum.delegated = sum.delegated.wrapping_add(cpu.delegated.load(Ordering::Relaxed));
            sum.undelegated = sum.undelegated.wrapping_add(cpu.undelegated.load(Ordering::Relaxed));
            for (count, now) in sum.counts.iter_mut().zip(&cpu.calls) {
                *count = count.wrapping_add(now.load(Ordering::Relaxed));
            }
        }
        sum
    }

    /// How many losses were only counted since this was asked last; the next one is told again.
    pub fn unreported(&self) -> u64 {
        self.unreported.swap(0, Ordering::Relaxed).saturating_sub(1)
    }

    /// The first [`MAX_LOSSES`] lost granules.
    pub fn losses(&self) -> impl Iterator<Item = Loss> {
        (0..usize::MAX).map_while(|index| self.losses.lock().get(index).copied())
    }

    fn counters(&self, cpu: usize) -> Option<&CpuCounters> {
        self.cpus.get(cpu.checked_rem(self.cpus.len())?)
    }

    pub(crate) fn count_call(&self, cpu: usize, fid: u64) {
        if let Some(count) = self.counters(cpu).and_then(|counters| counters.calls.get(slot(fid))) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn count_delegated(&self, cpu: usize) {
        if let Some(counters) = self.counters(cpu) {
            counters.delegated.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn count_undelegated(&self, cpu: usize) {
        if let Some(counters) = self.counters(cpu) {
            counters.undelegated.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a loss; whether it is to be told.
    pub(super) fn count_lost(&self, loss: Loss) -> bool {
        self.leaked.fetch_add(1, Ordering::Relaxed);
        // Once the list is full a loss is only counted.
        let _full = self.losses.lock().push_within(loss);
        self.unreported.fetch_add(1, Ordering::Relaxed) == 0
    }
}
