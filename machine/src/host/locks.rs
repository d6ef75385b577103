//! The locks and events of the Host core and of its interrupt controllers.

use super::event_state::EventState;
use super::{process, rules};
use crate::probe::log::lock;
use realm_abi::Errno;
use realm_host::host::{self, LockClass};
use realm_vgic::{Locks, Order, SpinLock};
use std::sync::{Arc, Mutex, MutexGuard};

/// [`host::Lock`] over std's, with its rules checked (`rules.rs`).
pub struct StdLock<T> {
    class: LockClass,
    lock: Mutex<T>,
}

/// A held lock.
pub struct StdGuard<'a, T> {
    guard: MutexGuard<'a, T>,
    _held: rules::Held,
}

impl<T> std::ops::Deref for StdGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> std::ops::DerefMut for StdGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

impl<T: Send> host::Lock<T> for StdLock<T> {
    type Guard<'a>
        = StdGuard<'a, T>
    where
        T: 'a;
    fn new(class: LockClass, value: T) -> Result<Self, Errno> {
        Ok(Self { class, lock: Mutex::new(value) })
    }
    fn lock(&self) -> StdGuard<'_, T> {
        let held = rules::Held::of(self.class);
        StdGuard { guard: lock(&self.lock), _held: held }
    }
    fn lock_killable(&self) -> Result<StdGuard<'_, T>, Errno> {
        if process::current_call().is_some_and(|call| call.is_dying()) {
            return Err(Errno::EINTR);
        }
        Ok(self.lock())
    }
}

/// A lock of the interrupt controller. No interrupt comes to a thread; another one can come in its place while it holds the
/// lock, so waiting is std's.
pub struct Spin<T>(Mutex<T>);

impl<T: Send> SpinLock<T> for Spin<T> {
    type Guard<'a>
        = MutexGuard<'a, T>
    where
        T: 'a;
    fn new(_order: Order, value: T) -> Result<Self, Errno> {
        Ok(Self(Mutex::new(value)))
    }
    fn lock(&self) -> MutexGuard<'_, T> {
        lock(&self.0)
    }
}

/// The locks of the interrupt controller.
pub struct SpinLocks;

impl Locks for SpinLocks {
    type Lock<T: Send> = Spin<T>;
}

/// [`host::Event`] over std's condition variable.
#[derive(Default)]
pub struct StdEvent(Arc<EventState>);

impl host::Event for StdEvent {
    fn new() -> Result<Self, Errno> {
        Ok(Self::default())
    }
    fn wait(&self, deadline: Option<u64>) {
        rules::may_sleep("an event");
        let call = process::current_call();
        let _waiting = call.as_ref().map(|call| call.wait_on(&self.0));
        let mut signalled = lock(&self.0.signalled);
        loop {
            if std::mem::take(&mut *signalled) || call.as_ref().is_some_and(|call| call.is_interrupted()) {
                return;
            }
            let timeout = match (deadline, call.as_ref()) {
                (Some(deadline), Some(call)) => match call.machine().clock().until(deadline) {
                    Some(timeout) => Some(timeout),
                    None => return,
                },
                _ => None,
            };
            signalled = match timeout {
                Some(timeout) => match self.0.wake.wait_timeout(signalled, timeout) {
                    Ok((guard, _)) => guard,
                    Err(poisoned) => poisoned.into_inner().0,
                },
                None => self.0.wake.wait(signalled).unwrap_or_else(std::sync::PoisonError::into_inner),
            };
        }
    }
    fn signal(&self) {
        *lock(&self.0.signalled) = true;
        self.0.wake.notify_one();
    }
}
