//! The rules of [`realm_host::host`], checked: which locks may be taken in which order, and what a thread that holds one, or is
//! in atomic context, may not do. Whoever breaks one panics, so every test of the machine is a test of them.

use realm_host::host::LockClass;
use std::cell::{Cell, RefCell};

thread_local! {
    /// The locks of the Host core that this thread holds.
    static HELD: RefCell<Vec<LockClass>> = const { RefCell::new(Vec::new()) };
    /// Whether this thread is between `vcpu_load` and `vcpu_put`.
    static ATOMIC: Cell<bool> = const { Cell::new(false) };
}

/// A lock of this class, held by this thread until it is dropped.
pub(crate) struct Held(LockClass);

impl Held {
    /// This thread is about to take a lock.
    pub fn of(class: LockClass) -> Self {
        not_atomic(class.name());
        let _ended = HELD.try_with(|held| {
            let mut held = held.borrow_mut();
            if let Some(later) = held.iter().find(|other| **other >= class) {
                panic!("{} is taken while {} is held", class.name(), later.name());
            }
            held.push(class);
        });
        Self(class)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // A thread that ends has no locks, and perhaps no list of them any more.
        let _ended = HELD.try_with(|held| held.borrow_mut().retain(|class| *class != self.0));
    }
}

/// Fails in atomic context.
pub(crate) fn not_atomic(what: &str) {
    // A thread that ends is in no context, and may have no flag any more.
    assert!(!ATOMIC.try_with(Cell::get).unwrap_or(false), "{what} in atomic context");
}

/// Fails where a thread may not sleep.
pub(crate) fn may_sleep(what: &str) {
    holds_only(LockClass::allows_sleep, what);
}

/// Fails where a thread may not let others run.
pub(crate) fn may_yield() {
    holds_only(LockClass::allows_yield, "a pause");
}

fn holds_only(allows: fn(LockClass) -> bool, what: &str) {
    not_atomic(what);
    let _ended = HELD.try_with(|held| {
        if let Some(lock) = held.borrow().iter().find(|class| !allows(**class)) {
            panic!("{what} while {} is held", lock.name());
        }
    });
}

/// Fails where a thread may neither allocate nor touch user memory.
pub(crate) fn may_allocate(what: &str) {
    may_sleep(what);
}

/// Atomic context begins.
pub(crate) fn begin_atomic() {
    may_sleep("entering a realm");
    ATOMIC.set(true);
}

/// Atomic context ends.
pub(crate) fn end_atomic() {
    ATOMIC.set(false);
}
