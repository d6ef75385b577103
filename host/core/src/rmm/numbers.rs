//! Numbers of which a machine has only so many: VMIDs, and the numbers by which a Host knows vCPUs. Both are reserved
//! before they are used and released when nobody can use them any more.

use crate::host::LockClass;
use crate::{Errno, Host, Lock};
use realm_alloc::Vec;

/// log2 of the bits of a word.
const WORD_SHIFT: u32 = 6;

/// A number that belongs to whoever holds this. Give it back with [`Numbers::release`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a number that is dropped stays reserved for ever"]
pub struct Number(u16);

impl Number {
    /// The number.
    #[must_use]
    pub const fn get(&self) -> u16 {
        self.0
    }
}

/// A stock of numbers from 0 on.
pub struct Numbers<H: Host> {
    /// One bit each, set while reserved.
    used: H::Lock<Vec<u64>>,
}

impl<H: Host> Numbers<H> {
    /// All numbers of `bits` bits: 6 to 16, others are taken for the nearest of these.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(bits: u32) -> Result<Self, Errno> {
        let words = 1_usize << bits.clamp(WORD_SHIFT, u16::BITS).saturating_sub(WORD_SHIFT);
        let used = Vec::try_from_iter(core::iter::repeat_n(0, words))?;
        Ok(Self { used: H::Lock::new(LockClass::Numbers, used)? })
    }

    /// Reserves the lowest free number, `None` when there is none.
    pub fn reserve(&self) -> Option<Number> {
        let mut used = self.used.lock();
        let (index, word) = (0..usize::MAX).zip(used.iter_mut()).find(|(_, word)| **word != u64::MAX)?;
        let bit = word.trailing_ones();
        *word |= 1_u64.checked_shl(bit)?;
        let number = (index << WORD_SHIFT) | usize::try_from(bit).ok()?;
        Some(Number(u16::try_from(number).ok()?))
    }

    /// Makes a number free.
    pub fn release(&self, number: Number) {
        if let Some(word) = self.used.lock().get_mut(usize::from(number.0 >> WORD_SHIFT)) {
            *word &= !(1 << (number.0 & 0x3f));
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.used.lock().len().saturating_mul(u64::BITS as usize)
    }

    /// How many are reserved now.
    #[must_use]
    pub fn reserved(&self) -> usize {
        self.used.lock().iter().fold(0, |sum, word| sum.saturating_add(word.count_ones() as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeHost;
    use std::collections::BTreeSet;

    #[test]
    #[cfg_attr(miri, ignore = "too many steps for an interpreter")]
    fn every_number_is_given_once_until_it_is_released() {
        for (bits, count) in [(8, 256), (16, 65536), (0, 64), (32, 65536)] {
            let numbers = Numbers::<FakeHost>::new(bits).unwrap();
            assert_eq!(numbers.count(), count);
            let mut given: std::vec::Vec<Number> = (0..count).map(|_| numbers.reserve().unwrap()).collect();
            let all: BTreeSet<u16> = given.iter().map(Number::get).collect();
            assert_eq!((all.len(), numbers.reserve()), (count, None));
            let one = given.swap_remove(7);
            let number = one.get();
            numbers.release(one);
            assert_eq!(numbers.reserve().map(|number| number.get()), Some(number));
        }
    }

    #[test]
    fn a_number_that_is_not_released_stays_reserved() {
        let numbers = Numbers::<FakeHost>::new(8).unwrap();
        let kept = numbers.reserve().unwrap().get();
        assert_ne!(numbers.reserve().unwrap().get(), kept);
        assert_eq!(numbers.reserved(), 2);
    }
}
