//! State divided among several locks, so that threads which work in different places do not wait for each other.

use crate::host::LockClass;
use crate::{Errno, Host, Lock};
use realm_alloc::Vec;

/// Locks of one kind, each with a share of the state.
pub(crate) struct Shares<H: Host, T: Send> {
    first: H::Lock<T>,
    others: Vec<H::Lock<T>>,
}

/// How many locks there are.
const COUNT: u8 = 16;

/// The index of `number` in its share: those of a share lie side by side.
pub(crate) const fn index(number: u64) -> u64 {
    number >> COUNT.ilog2()
}

impl<H: Host, T: Send> Shares<H, T> {
    /// As many shares as there are locks.
    pub(crate) fn new(class: LockClass, share: impl Fn() -> T) -> Result<Self, Errno> {
        let first = H::Lock::new(class, share())?;
        let mut others = Vec::with_capacity(usize::from(COUNT.saturating_sub(1)))?;
        for _ in 1..COUNT {
            others.try_push(H::Lock::new(class, share())?)?;
        }
        Ok(Self { first, others })
    }

    /// The lock that has the share of `number`; neighbours have different ones.
    pub(crate) fn of(&self, number: u64) -> &H::Lock<T> {
        let index = usize::from(number.to_le_bytes()[0] % COUNT);
        index.checked_sub(1).and_then(|index| self.others.get(index)).unwrap_or(&self.first)
    }

    /// The lowest number from `from` on that `look` finds: in each share, from an index on, by its index.
    pub(crate) fn first(&self, from: u64, look: impl Fn(&T, u64) -> Option<u64>) -> Option<u64> {
        let numbers = (0..u64::MAX).zip(self.iter()).filter_map(|(share, lock)| {
            let found = look(&lock.lock(), from.saturating_sub(share).div_ceil(COUNT as u64))?;
            Some(found.saturating_mul(COUNT as u64).saturating_add(share))
        });
        numbers.min()
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &H::Lock<T>> {
        core::iter::once(&self.first).chain(self.others.iter())
    }
}
