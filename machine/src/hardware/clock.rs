//! The system counter.

use crate::config::ClockKind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Ticks per second.
pub const COUNTER_FREQUENCY: u64 = 62_500_000;
/// Ticks between two interrupts of the Host's scheduler, which end a run: 250 a second, as Debian's kernel has them.
pub const HOST_TICK: u64 = COUNTER_FREQUENCY / 250;
const NANOSECONDS_PER_TICK: u64 = 1_000_000_000 / COUNTER_FREQUENCY;
/// The counter does not start at zero, so that a timer left at zero is in the past.
const START: u64 = 1 << 20;

/// CNTPCT_EL0 of every CPU.
#[derive(Debug)]
pub struct Clock {
    kind: ClockKind,
    start: Instant,
    manual: AtomicU64,
}

impl Clock {
    pub(crate) fn new(kind: ClockKind) -> Self {
        Self { kind, start: Instant::now(), manual: AtomicU64::new(START) }
    }
    /// The counter now.
    #[must_use]
    pub fn now(&self) -> u64 {
        match self.kind {
            ClockKind::Real => {
                let elapsed = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
                START + elapsed / NANOSECONDS_PER_TICK
            }
            ClockKind::Manual => self.manual.load(Ordering::Acquire),
        }
    }
    /// Moves a manual clock forward to `deadline`, if it is not past it; nothing on a real one.
    pub fn advance_to(&self, deadline: u64) {
        self.manual.fetch_max(deadline, Ordering::AcqRel);
    }
    /// How long to wait for the counter to reach `deadline`; `None` when it has. A manual clock jumps there.
    pub(crate) fn until(&self, deadline: u64) -> Option<Duration> {
        if self.kind == ClockKind::Manual {
            self.advance_to(deadline);
        }
        let ticks = deadline.checked_sub(self.now()).filter(|ticks| *ticks > 0)?;
        Some(Duration::from_nanos(ticks.saturating_mul(NANOSECONDS_PER_TICK).min(u64::from(u32::MAX))))
    }
}
