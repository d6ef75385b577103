//! The locks a GIC needs of its surroundings.

use core::ops::DerefMut;
use realm_abi::Errno;

/// The kinds of locks, in the order in which they may be taken; of each a CPU has one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// A distributor's.
    Distributor,
    /// A vCPU's.
    Vcpu,
}

/// A lock that can be taken in any context. Interrupts are raised by interrupt handlers as well, so where there are any, taking
/// it keeps them away from this CPU until it is let go (in Linux `raw_spin_lock_irqsave`).
pub trait SpinLock<T>: Send + Sync + Sized {
    /// Access to the value while the lock is held.
    type Guard<'a>: DerefMut<Target = T>
    where
        Self: 'a,
        T: 'a;
    /// A free lock around `value`. Process context. A kernel makes a class of its lock checker of each `order`.
    ///
    /// # Errors
    /// `ENOMEM`.
    fn new(order: Order, value: T) -> Result<Self, Errno>;
    /// Takes it. Any context.
    fn lock(&self) -> Self::Guard<'_>;
}

/// Surroundings that have such a lock.
pub trait Locks: Send + Sync + 'static {
    /// The lock.
    type Lock<T: Send>: SpinLock<T>;
}
