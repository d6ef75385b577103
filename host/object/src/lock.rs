//! Mutexes, spin locks and events. The C code boxes them: a kernel's must not move.

use crate::shim;
use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use realm_abi::Errno;
use realm_host::host::{Event, Lock, LockClass};
use realm_vgic::{Locks, Order, SpinLock};

/// A value behind a mutex.
pub struct Mutex<T> {
    raw: NonNull<c_void>,
    value: UnsafeCell<T>,
}

// SAFETY: a mutex of the kernel may be used by all threads, and lets one of them have the value at a time.
unsafe impl<T: Send> Send for Mutex<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Mutex<T> {}

/// The mutex while it is held.
pub struct Guard<'a, T>(&'a Mutex<T>);

impl<T: Send> Lock<T> for Mutex<T> {
    type Guard<'a>
        = Guard<'a, T>
    where
        T: 'a;

    fn new(class: LockClass, value: T) -> Result<Self, Errno> {
        let name = class.name();
        let raw = shim::k_lock_new(class as u32, name.as_ptr(), name.len());
        Ok(Self { raw: NonNull::new(raw).ok_or(Errno::ENOMEM)?, value: UnsafeCell::new(value) })
    }

    fn lock(&self) -> Guard<'_, T> {
        // SAFETY: it is a mutex until `self` is dropped.
        unsafe { shim::k_lock(self.raw.as_ptr()) };
        Guard(self)
    }

    fn lock_killable(&self) -> Result<Guard<'_, T>, Errno> {
        // SAFETY: it is a mutex until `self` is dropped.
        match unsafe { shim::k_lock_killable(self.raw.as_ptr()) } {
            0 => Ok(Guard(self)),
            _ => Err(Errno::EINTR),
        }
    }
}

impl<T> Drop for Mutex<T> {
    fn drop(&mut self) {
        // SAFETY: it is a mutex, and nobody holds it or comes to it any more.
        unsafe { shim::k_lock_free(self.raw.as_ptr()) }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this thread holds the mutex.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this thread holds the mutex, and this is its only guard.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: this thread holds the mutex, and nothing borrows the value any more.
        unsafe { shim::k_unlock(self.0.raw.as_ptr()) }
    }
}

/// A value behind a spin lock.
pub struct Spin<T> {
    raw: NonNull<c_void>,
    value: UnsafeCell<T>,
}

// SAFETY: a spin lock of the kernel may be used by all threads, and lets one of them have the value at a time.
unsafe impl<T: Send> Send for Spin<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Spin<T> {}

/// The spin lock while it is held.
pub struct SpinGuard<'a, T> {
    lock: &'a Spin<T>,
    flags: u64,
}

impl<T: Send> SpinLock<T> for Spin<T> {
    type Guard<'a>
        = SpinGuard<'a, T>
    where
        T: 'a;

    fn new(order: Order, value: T) -> Result<Self, Errno> {
        let raw = NonNull::new(shim::k_spin_new(order as u32)).ok_or(Errno::ENOMEM)?;
        Ok(Self { raw, value: UnsafeCell::new(value) })
    }

    fn lock(&self) -> SpinGuard<'_, T> {
        // SAFETY: it is a spin lock until `self` is dropped.
        let flags = unsafe { shim::k_spin_lock(self.raw.as_ptr()) };
        SpinGuard { lock: self, flags }
    }
}

impl<T> Drop for Spin<T> {
    fn drop(&mut self) {
        // SAFETY: it is a spin lock, and nobody holds it or comes to it any more.
        unsafe { shim::k_spin_free(self.raw.as_ptr()) }
    }
}

impl<T> Deref for SpinGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this CPU holds the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for SpinGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this CPU holds the lock, and this is its only guard.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for SpinGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: this CPU holds the lock, and nothing borrows the value any more.
        unsafe { shim::k_spin_unlock(self.lock.raw.as_ptr(), self.flags) }
    }
}

/// The locks of an interrupt controller.
pub struct Spins;

impl Locks for Spins {
    type Lock<T: Send> = Spin<T>;
}

/// What a vCPU's thread sleeps on.
pub struct WaitQueue(NonNull<c_void>);

// SAFETY: a wait queue of the kernel may be used by all threads.
unsafe impl Send for WaitQueue {}
// SAFETY: as above.
unsafe impl Sync for WaitQueue {}

impl Event for WaitQueue {
    fn new() -> Result<Self, Errno> {
        NonNull::new(shim::k_event_new()).map(Self).ok_or(Errno::ENOMEM)
    }

    fn wait(&self, deadline: Option<u64>) {
        // SAFETY: it is an event until `self` is dropped.
        unsafe { shim::k_event_wait(self.0.as_ptr(), deadline.unwrap_or(u64::MAX)) }
    }

    fn signal(&self) {
        // SAFETY: it is an event until `self` is dropped.
        unsafe { shim::k_event_signal(self.0.as_ptr()) }
    }
}

impl Drop for WaitQueue {
    fn drop(&mut self) {
        // SAFETY: it is an event, and nobody comes to it any more.
        unsafe { shim::k_event_free(self.0.as_ptr()) }
    }
}
