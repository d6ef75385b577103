//! Faults made on purpose: the n-th call of a kind fails. Counting how often each kind is called tells a test how many
//! places there are to fail at.

use crate::log::lock;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// A kind of call that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// The Host core allocates pages: `None`.
    Alloc,
    /// The Host core pins a user page: the value is the errno.
    Pin,
    /// The Host core reads user memory: the value is the errno.
    UserRead,
    /// The Host core writes user memory: the value is the errno.
    UserWrite,
    /// The RMM delegates a granule: the value is the RMM-EL3 code as 64 bits.
    GtsiDelegate,
    /// The RMM undelegates a granule: the value is the RMM-EL3 code as 64 bits.
    GtsiUndelegate,
    /// The Host core makes any RMI call, which the RMM does not see: the value is X0.
    RmiBefore,
    /// The Host core makes any RMI call, which the RMM carries out: the value is X0 instead of the RMM's.
    RmiAfter,
    /// As [`Self::RmiBefore`], for one command (its function identifier).
    RmiCommandBefore(u64),
    /// As [`Self::RmiAfter`], for one command (its function identifier).
    RmiCommandAfter(u64),
}

#[derive(Clone, Copy, Debug)]
struct Armed {
    nth: u64,
    value: u64,
    /// Whether every call from the n-th on fails.
    from_then_on: bool,
}

#[derive(Debug, Default)]
struct State {
    counts: BTreeMap<Point, u64>,
    armed: BTreeMap<Point, Armed>,
    fired: u64,
}

/// Which calls fail.
#[derive(Debug, Default)]
pub struct FaultPlan(Mutex<State>);

impl FaultPlan {
    /// Makes the `nth` call (from 0, counted from the last [`Self::reset`]) at `point` fail with `value`.
    pub fn fail_nth(&self, point: Point, nth: u64, value: u64) {
        lock(&self.0).armed.insert(point, Armed { nth, value, from_then_on: false });
    }
    /// Makes the `nth` call and all later ones at `point` fail with `value`.
    pub fn fail_from(&self, point: Point, nth: u64, value: u64) {
        lock(&self.0).armed.insert(point, Armed { nth, value, from_then_on: true });
    }
    /// Disarms everything and counts from 0 again.
    pub fn reset(&self) {
        *lock(&self.0) = State::default();
    }
    /// Disarms everything; counts go on.
    pub fn disarm(&self) {
        lock(&self.0).armed.clear();
    }
    /// Calls at `point` so far.
    #[must_use]
    pub fn count(&self, point: Point) -> u64 {
        lock(&self.0).counts.get(&point).copied().unwrap_or(0)
    }
    /// Faults made so far.
    #[must_use]
    pub fn fired(&self) -> u64 {
        lock(&self.0).fired
    }
    /// Counts a call at `point`; the value to fail with, if it is to fail.
    pub(crate) fn hit(&self, point: Point) -> Option<u64> {
        let mut state = lock(&self.0);
        let count = state.counts.entry(point).or_insert(0);
        let now = *count;
        *count += 1;
        let armed = *state.armed.get(&point)?;
        let fails = now == armed.nth || (armed.from_then_on && now > armed.nth);
        state.fired += u64::from(fails);
        fails.then_some(armed.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_call_that_was_named_fails() {
        let plan = FaultPlan::default();
        plan.fail_nth(Point::Pin, 1, 12);
        let seen: Vec<_> = (0..3).map(|_| plan.hit(Point::Pin)).collect();
        assert_eq!(seen, [None, Some(12), None]);
        assert_eq!((plan.count(Point::Pin), plan.count(Point::Alloc), plan.fired()), (3, 0, 1));
    }
}
