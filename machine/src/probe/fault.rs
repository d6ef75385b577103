//! Faults made on purpose: the n-th call of a kind fails. Counting how often each kind is called tells a test how many
//! places there are to fail at.

use crate::probe::log::lock;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// A kind of call that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// The Host core allocates pages: `None`.
    Alloc,
    /// The Host core pins a user page: the value is the errno.
    Pin,
    /// The Host core gives the process a file descriptor: the value is the errno.
    InstallFile,
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
enum When {
    Nth(u64),
    From(u64),
    /// One in so many, irregularly.
    OneIn(u64),
}

/// A number that `count` decides, but not in any order.
pub(crate) const fn mix(count: u64) -> u64 {
    let mixed = (count + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

impl When {
    const fn is_now(self, count: u64) -> bool {
        match self {
            Self::Nth(nth) => count == nth,
            Self::From(nth) => count >= nth,
            Self::OneIn(n) => mix(count) >> 32 < (1 << 32) / n,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    counts: BTreeMap<Point, u64>,
    armed: BTreeMap<Point, (When, u64)>,
    fired: u64,
}

/// Which calls fail.
#[derive(Debug, Default)]
pub struct FaultPlan(Mutex<State>);

impl FaultPlan {
    /// Makes the `nth` call (from 0, counted from the last [`Self::reset`]) at `point` fail with `value`.
    pub fn fail_nth(&self, point: Point, nth: u64, value: u64) {
        lock(&self.0).armed.insert(point, (When::Nth(nth), value));
    }
    /// Makes the `nth` call and all later ones at `point` fail with `value`.
    pub fn fail_from(&self, point: Point, nth: u64, value: u64) {
        lock(&self.0).armed.insert(point, (When::From(nth), value));
    }
    /// Makes about one in `n` calls (at least 1) at `point` fail with `value`, at places that only the count decides.
    pub fn fail_one_in(&self, point: Point, n: u64, value: u64) {
        lock(&self.0).armed.insert(point, (When::OneIn(n.max(1)), value));
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
        let (when, value) = *state.armed.get(&point)?;
        let fails = when.is_now(now);
        state.fired += u64::from(fails);
        fails.then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_so_many_is_about_that_many() {
        let fired = |n| (0..10_000).filter(|count| When::OneIn(n).is_now(*count)).count();
        assert_eq!(fired(1), 10_000);
        assert!((900..1100).contains(&fired(10)), "{}", fired(10));
        assert!((50..150).contains(&fired(100)), "{}", fired(100));
    }

    #[test]
    fn only_the_call_that_was_named_fails() {
        let plan = FaultPlan::default();
        plan.fail_nth(Point::Pin, 1, 12);
        let seen: Vec<_> = (0..3).map(|_| plan.hit(Point::Pin)).collect();
        assert_eq!(seen, [None, Some(12), None]);
        assert_eq!((plan.count(Point::Pin), plan.count(Point::Alloc), plan.fired()), (3, 0, 1));
    }
}
