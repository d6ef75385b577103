//! What happened so far, for people and programs.

use crate::rmm::ledger::LedgerSnapshot;
use core::sync::atomic::{AtomicU64, Ordering};
use realm_abi::rmi::ExitReason;

/// Exit reasons by value, then one for all others.
const REASONS: [&str; 8] = ["SYNC", "IRQ", "FIQ", "PSCI", "RIPAS_CHANGE", "HOST_CALL", "SERROR", "unknown"];

/// Counters of REC exits.
#[derive(Debug, Default)]
pub struct ExitCounters([AtomicU64; REASONS.len()]);

impl ExitCounters {
    pub(crate) fn count(&self, reason: ExitReason) {
        let last = REASONS.len().wrapping_sub(1);
        if let Some(count) = self.0.get(usize::from(reason.0).min(last)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Adds what others counted.
    pub(crate) fn add(&self, exits: &Exits) {
        for (count, more) in self.0.iter().zip(exits.0) {
            count.fetch_add(more, Ordering::Relaxed);
        }
    }

    /// The counters now.
    #[must_use]
    pub fn snapshot(&self) -> Exits {
        let mut exits = Exits::default();
        for (copy, count) in exits.0.iter_mut().zip(&self.0) {
            *copy = count.load(Ordering::Relaxed);
        }
        exits
    }
}

/// REC exits at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exits([u64; REASONS.len()]);

impl Exits {
    /// Exits by the specification's name of the reason; reasons that never occurred are left out.
    pub fn by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        REASONS.into_iter().zip(self.0).filter(|&(_, count)| count > 0)
    }

    /// With those of another vCPU or VM.
    #[must_use]
    pub fn plus(mut self, other: Self) -> Self {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count = count.saturating_add(more);
        }
        self
    }

    /// All exits.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, &count| sum.saturating_add(count))
    }
}

/// What a device did since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// REC exits of all VMs.
    pub exits: Exits,
    /// RMI calls and granules.
    pub ledger: LedgerSnapshot,
    /// VMs whose last file is closed and that the RMM has not let go of; [`Device::reclaim`](crate::Device::reclaim)
    /// tries again.
    pub unfinished_vms: usize,
}
