//! Spin locks that let others go ahead while they wait.

use spin::relax::RelaxStrategy;

/// Waits with YIELD: an emulator that runs all CPUs in turns goes on with the next one at once.
pub struct Yield;

impl RelaxStrategy for Yield {
    fn relax() {
        relax();
    }
}

/// A lock.
pub type Mutex<T> = spin::mutex::SpinMutex<T, Yield>;
/// What holds it.
pub type MutexGuard<'a, T> = spin::mutex::SpinMutexGuard<'a, T>;

/// A moment in which nothing is done.
#[inline]
pub fn relax() {
    // SAFETY: a hint.
    unsafe { core::arch::asm!("yield", options(nomem, nostack, preserves_flags)) };
}
