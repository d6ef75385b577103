//! What went wrong on the machine: nothing, in a test that passes.

use crate::pas::GranuleFault;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex whose data is valid between any two statements, so that one thread's panic does not hide in another's.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Something that must not happen on a machine whose software is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A world touched memory that is not its own.
    GranuleFault(GranuleFault),
    /// The MMU found a stage 2 table that cannot be one; in words.
    MachineCheck(String),
    /// A REC ran on two CPUs at once, or a run used another REC's state.
    RecMixup(String),
    /// A realm's program failed one of its own checks.
    GuestPanic(String),
    /// The Host core said something to the administrator.
    HostWarning(String),
    /// The Host gave back what it does not own, or memory the Realm world still has.
    HostMisuse(String),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GranuleFault(fault) => write!(f, "granule protection fault: {fault}"),
            Self::MachineCheck(text) => write!(f, "machine check: {text}"),
            Self::RecMixup(text) => write!(f, "REC mix-up: {text}"),
            Self::GuestPanic(text) => write!(f, "realm program failed: {text}"),
            Self::HostWarning(text) => write!(f, "host warning: {text}"),
            Self::HostMisuse(text) => write!(f, "host misuse: {text}"),
        }
    }
}

/// The events of one machine, in order.
#[derive(Debug, Default)]
pub struct EventLog(Mutex<Vec<Event>>);

impl EventLog {
    /// Adds an event.
    pub fn push(&self, event: Event) {
        lock(&self.0).push(event);
    }
    /// The events so far.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        lock(&self.0).clone()
    }
    /// Takes the events so far, leaving none.
    #[must_use]
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *lock(&self.0))
    }
    /// Whether nothing went wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        lock(&self.0).is_empty()
    }
    /// Fails with all events in words unless there are none.
    ///
    /// # Panics
    /// If there is an event.
    pub fn assert_clean(&self) {
        let events = self.events();
        let text: Vec<String> = events.iter().map(ToString::to_string).collect();
        assert!(events.is_empty(), "the machine reports:\n{}", text.join("\n"));
    }
}
