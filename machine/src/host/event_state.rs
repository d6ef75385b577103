//! What an event of the Host core and the system call that waits on it have in common.

use crate::probe::log::lock;
use std::sync::{Condvar, Mutex};

/// What [`StdEvent`](super::locks::StdEvent) shares with the call that waits on it.
#[derive(Debug, Default)]
pub(crate) struct EventState {
    pub signalled: Mutex<bool>,
    pub wake: Condvar,
}

impl EventState {
    /// Makes a waiter look at its conditions again.
    pub fn poke(&self) {
        // Under the lock: a waiter is then either before its look or asleep, never between.
        let _state = lock(&self.signalled);
        self.wake.notify_all();
    }
}
