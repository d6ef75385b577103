//! Shared ownership.

use crate::{NoMemory, try_box};
use alloc::boxed::Box;
use core::fmt::{self, Debug, Display};
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

#[cfg(not(loom))]
use core::sync::atomic::{AtomicUsize, Ordering, fence};
#[cfg(loom)]
use loom::sync::atomic::{AtomicUsize, Ordering, fence};

/// A count above this has overflowed: somebody forgot 2^63 references.
const MOST: usize = usize::MAX / 2;
/// Where a count that overflowed is held. It is so far from both ends that no number of CPUs between a count and the store that
/// mends it gets there.
const SATURATED: usize = MOST.saturating_add(MOST / 2);

/// A value with the count an [`Arc`] needs, while it still has one owner.
///
/// A box of it coerces as any box does, which an [`Arc`] cannot on stable Rust; so this is the way to an `Arc` of a trait object:
///
/// ```
/// use realm_alloc::{Arc, Box, Unshared};
/// let boxed: Box<Unshared<dyn core::fmt::Display + Send + Sync>> = Unshared::try_new(7)?;
/// let shared = Arc::from(boxed);
/// # assert_eq!(shared.to_string(), "7");
/// # Ok::<(), realm_alloc::NoMemory>(())
/// ```
pub struct Unshared<T: ?Sized> {
    /// 1 until an [`Arc`] is made of it.
    count: AtomicUsize,
    value: T,
}

impl<T> Unshared<T> {
    /// Boxes a value; without memory it is dropped.
    pub fn try_new(value: T) -> Result<Box<Self>, NoMemory> {
        try_box(Self { count: AtomicUsize::new(1), value })
    }
}

impl<T: ?Sized> Deref for Unshared<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: ?Sized> DerefMut for Unshared<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

/// A value with several owners, the last of which drops it. There are no weak references.
///
/// A count that would overflow stays where it is from then on: the value is leaked.
pub struct Arc<T: ?Sized> {
    /// What a box owned, alive as long as there is an `Arc` to it.
    shared: NonNull<Unshared<T>>,
    owns: PhantomData<Unshared<T>>,
}

// SAFETY: the count is atomic. The value can be reached from all threads that have an `Arc` (Sync) and be dropped or taken out
// by any of them (Send).
unsafe impl<T: ?Sized + Send + Sync> Send for Arc<T> {}
// SAFETY: from a shared `Arc` another can be cloned, so the same is needed.
unsafe impl<T: ?Sized + Send + Sync> Sync for Arc<T> {}

impl<T> Arc<T> {
    /// Shares a value; without memory it is dropped.
    pub fn try_new(value: T) -> Result<Self, NoMemory> {
        Unshared::try_new(value).map(Self::from)
    }

    /// The value, if this is its last owner. Of owners that all call this, one gets it.
    pub fn into_inner(this: Self) -> Option<T> {
        let this = ManuallyDrop::new(this);
        // SAFETY: `this` is not dropped, so its reference is given up once.
        let last = unsafe { this.release() }?;
        let Unshared { value, .. } = *last;
        Some(value)
    }
}

impl<T: ?Sized> Arc<T> {
    /// Whether both share one value.
    pub fn ptr_eq(this: &Self, other: &Self) -> bool {
        core::ptr::addr_eq(this.shared.as_ptr(), other.shared.as_ptr())
    }

    /// How many owners there were a moment ago.
    pub fn strong_count(this: &Self) -> usize {
        this.count().load(Ordering::Relaxed)
    }

    /// The value, if it has no other owner.
    pub fn get_mut(this: &mut Self) -> Option<&mut T> {
        // Acquire: what other owners did happened before they released theirs.
        if this.count().load(Ordering::Acquire) != 1 {
            return None;
        }
        // SAFETY: this is the only `Arc` to a value that lives, and borrowed mutably, so nobody can clone it.
        let shared = unsafe { this.shared.as_mut() };
        Some(&mut shared.value)
    }

    fn count(&self) -> &AtomicUsize {
        let shared = self.shared.as_ptr();
        // SAFETY: it lives while there is an `Arc` to it. Only the count is borrowed: another owner may free the rest while a
        // release still has this reference.
        unsafe { &(*shared).count }
    }

    /// Gives this reference up. The last one gets the box.
    ///
    /// # Safety
    ///
    /// It is called once, and the `Arc` not used after it.
    unsafe fn release(&self) -> Option<Box<Unshared<T>>> {
        // Release: what this owner did happens before the value is dropped.
        let before = self.count().fetch_sub(1, Ordering::Release);
        if before != 1 {
            if before > MOST {
                self.count().store(SATURATED, Ordering::Relaxed);
            }
            return None;
        }
        // And Acquire, for what all the others did.
        fence(Ordering::Acquire);
        // SAFETY: it came from a box, and the last reference is gone.
        Some(unsafe { Box::from_raw(self.shared.as_ptr()) })
    }
}

impl<T: ?Sized> From<Box<Unshared<T>>> for Arc<T> {
    fn from(boxed: Box<Unshared<T>>) -> Self {
        Self { shared: NonNull::from(Box::leak(boxed)), owns: PhantomData }
    }
}

impl<T: ?Sized> Clone for Arc<T> {
    fn clone(&self) -> Self {
        // Relaxed: whoever can clone has a reference already.
        if self.count().fetch_add(1, Ordering::Relaxed) > MOST {
            self.count().store(SATURATED, Ordering::Relaxed);
        }
        Self { shared: self.shared, owns: PhantomData }
    }
}

impl<T: ?Sized> Drop for Arc<T> {
    fn drop(&mut self) {
        // SAFETY: this is the end of the `Arc`.
        drop(unsafe { self.release() });
    }
}

impl<T: ?Sized> Deref for Arc<T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: it lives while there is an `Arc` to it, and changes only through `get_mut`, when there is no other.
        let shared = unsafe { self.shared.as_ref() };
        &shared.value
    }
}

impl<T: ?Sized + Debug> Debug for Arc<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        T::fmt(self, f)
    }
}

impl<T: ?Sized + Display> Display for Arc<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        T::fmt(self, f)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::tests::Counted;
    use core::cell::Cell;

    #[test]
    fn a_count_that_overflowed_leaks_and_never_frees() {
        let drops = Cell::new(0);
        let first = Arc::try_new(Counted(&drops)).unwrap();
        first.count().store(MOST, Ordering::Relaxed);
        let second = first.clone();
        assert_eq!(Arc::strong_count(&first), MOST + 1);
        let third = first.clone();
        assert_eq!(Arc::strong_count(&first), SATURATED);
        drop(second);
        assert_eq!(Arc::strong_count(&first), SATURATED);
        assert!(Arc::into_inner(third).is_none());
        assert_eq!((Arc::strong_count(&first), drops.get()), (SATURATED, 0));
        // The test alone knows how many there are.
        first.count().store(1, Ordering::Relaxed);
        drop(first);
        assert_eq!(drops.get(), 1);
    }
}
