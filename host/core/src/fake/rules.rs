//! The rules of [`crate::host`], enforced: what a thread holds, and what it may do meanwhile.

use super::heap::{self, Pause};
use crate::Errno;
use crate::host::{Event, Lock, LockClass};
use alloc::boxed::Box;
use std::cell::Cell;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::LocalKey;

/// What somebody else does at some point of a thread.
pub(crate) type Hook = Cell<Option<Box<dyn FnMut()>>>;

std::thread_local! {
    /// The classes of the locks this thread holds, one bit each.
    static HELD: Cell<u32> = const { Cell::new(0) };
    /// It is between `vcpu_load` and `vcpu_put`.
    static ATOMIC: Cell<bool> = const { Cell::new(false) };
    /// It is about to die.
    pub(crate) static KILLED: Cell<bool> = const { Cell::new(false) };
    /// What another thread does whenever this one lets go of a lock.
    pub(crate) static ON_UNLOCK: Hook = const { Cell::new(None) };
    /// What is reclaimed whenever this thread allocates pages.
    pub(crate) static ON_ALLOC: Hook = const { Cell::new(None) };
}

fn bits(allowed: fn(LockClass) -> bool) -> u32 {
    LockClass::ALL.into_iter().filter(|class| allowed(*class)).map(|class| 1 << class as u32).sum()
}

/// Those that are held over long work: nobody but who makes the same kind of ioctl waits for them.
fn over_long_work(class: LockClass) -> bool {
    matches!(class, LockClass::Vcpu | LockClass::Layout)
}

pub(crate) fn is_atomic() -> bool {
    ATOMIC.try_with(Cell::get).unwrap_or(false)
}

fn holds_only(allowed: fn(LockClass) -> bool) -> bool {
    HELD.try_with(Cell::get).unwrap_or(0) & !bits(allowed) == 0
}

/// Whether the thread may ask for memory now.
pub(crate) fn may_allocate() -> bool {
    !is_atomic() && holds_only(LockClass::allows_sleep)
}

pub(crate) fn check_allocation(what: &str) {
    assert!(may_allocate(), "{what} {}", context());
}

pub(crate) fn check_user_access(what: &str) {
    assert!(!is_atomic() && holds_only(LockClass::allows_sleep), "{what} {}", context());
}

pub(crate) fn check_yield() {
    assert!(!is_atomic() && holds_only(over_long_work), "a yield {}", context());
}

/// What may be done in process context only, whatever is held.
pub(crate) fn check_process(what: &str) {
    assert!(!is_atomic(), "{what} {}", context());
}

fn context() -> std::string::String {
    let held: std::vec::Vec<_> =
        LockClass::ALL.into_iter().filter(|class| HELD.get() & 1 << *class as u32 != 0).collect();
    std::format!("{}with {held:?} held", if is_atomic() { "between load and put, " } else { "" })
}

pub(crate) fn load() {
    assert!(!ATOMIC.replace(true), "a second vcpu_load");
    assert!(holds_only(LockClass::allows_sleep), "vcpu_load {}", context());
}

pub(crate) fn put() {
    assert!(ATOMIC.replace(false), "vcpu_put without vcpu_load");
    heap::check();
}

/// Lets somebody else act, who holds nothing.
pub(crate) fn interrupt(hook: &'static LocalKey<Hook>) {
    if std::thread::panicking() {
        return;
    }
    if let Ok(Some(mut act)) = hook.try_with(Cell::take) {
        let pause = Pause::new();
        let held = HELD.replace(0);
        act();
        HELD.set(held);
        drop(pause);
        hook.set(Some(act));
    }
}

pub(crate) struct FakeLock<T> {
    class: LockClass,
    value: Mutex<T>,
}

/// It holds the lock, except while it is dropped.
pub(crate) struct FakeGuard<'a, T> {
    class: LockClass,
    guard: Option<MutexGuard<'a, T>>,
}

impl<T> core::ops::Deref for FakeGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.guard.as_ref().expect("the lock is held")
    }
}

impl<T> core::ops::DerefMut for FakeGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_mut().expect("the lock is held")
    }
}

impl<T> Drop for FakeGuard<'_, T> {
    fn drop(&mut self) {
        HELD.set(HELD.get() & !(1 << self.class as u32));
        self.guard = None;
        heap::check();
        if holds_only(over_long_work) {
            interrupt(&ON_UNLOCK);
        }
    }
}

impl<T: Send> Lock<T> for FakeLock<T> {
    type Guard<'a>
        = FakeGuard<'a, T>
    where
        T: 'a;
    fn new(class: LockClass, value: T) -> Result<Self, Errno> {
        Ok(Self { class, value: Mutex::new(value) })
    }
    fn lock(&self) -> FakeGuard<'_, T> {
        check_process("a lock");
        let later = HELD.get() >> self.class as u32;
        assert!(later == 0, "a lock of class {:?} is taken {}", self.class, context());
        let guard = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        HELD.set(HELD.get() | 1 << self.class as u32);
        FakeGuard { class: self.class, guard: Some(guard) }
    }
    fn lock_killable(&self) -> Result<FakeGuard<'_, T>, Errno> {
        if KILLED.get() { Err(Errno::EINTR) } else { Ok(self.lock()) }
    }
}

#[derive(Default)]
pub(crate) struct FakeEvent(Mutex<bool>, Condvar);

impl Event for FakeEvent {
    fn new() -> Result<Self, Errno> {
        Ok(Self::default())
    }
    fn wait(&self, _deadline: Option<u64>) {
        check_user_access("sleep");
        let mut signalled = self
            .1
            .wait_while(self.0.lock().unwrap_or_else(PoisonError::into_inner), |signalled| !*signalled)
            .unwrap();
        *signalled = false;
    }
    fn signal(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.1.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// Whether the rules let a thread do it.
    fn is_allowed(act: impl FnOnce() + Send) -> bool {
        std::thread::scope(|threads| {
            threads.spawn(|| catch_unwind(AssertUnwindSafe(act)).is_ok()).join().unwrap()
        })
    }

    fn lock(class: LockClass) -> FakeLock<()> {
        FakeLock::new(class, ()).unwrap()
    }

    #[test]
    fn locks_are_taken_in_the_order_of_their_classes_and_once() {
        for (first, first_class) in LockClass::ALL.into_iter().enumerate() {
            for (second, second_class) in LockClass::ALL.into_iter().enumerate() {
                let (one, other) = (lock(first_class), lock(second_class));
                let allowed = is_allowed(|| {
                    let _one = one.lock();
                    let _other = other.lock();
                });
                assert_eq!(allowed, first < second, "{first_class:?}, then {second_class:?}");
            }
        }
    }

    #[test]
    fn memory_and_sleep_need_what_the_class_allows() {
        for class in LockClass::ALL {
            let held = lock(class);
            let in_lock = |act: fn()| {
                is_allowed(|| {
                    let _held = held.lock();
                    act();
                })
            };
            assert_eq!(in_lock(|| check_allocation("an allocation")), class.allows_sleep(), "{class:?}");
            assert_eq!(in_lock(|| drop(Box::new(7))), class.allows_sleep(), "{class:?}");
            assert_eq!(in_lock(|| check_user_access("a read")), class == LockClass::Vcpu, "{class:?}");
        }
        for act in [|| drop(lock(LockClass::Losses).lock()), || drop(Box::new(7)), check_yield] {
            assert!(is_allowed(act));
            assert!(!is_allowed(|| {
                load();
                act();
                put();
            }));
        }
    }
}
