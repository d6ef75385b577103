//! Choices that follow from a number, so that a step means the same each time.

use std::collections::VecDeque;

/// SplitMix64, after the numbers it was given are used up.
#[derive(Clone, Debug)]
pub struct Choice {
    state: u64,
    given: VecDeque<u64>,
}

impl Choice {
    pub fn new(seed: u64) -> Self {
        Self { state: seed, given: VecDeque::new() }
    }

    /// Gives the numbers to come: a fuzzer's.
    pub fn give(&mut self, numbers: impl Iterator<Item = u64>) {
        self.given.extend(numbers);
    }

    pub fn next(&mut self) -> u64 {
        if let Some(number) = self.given.pop_front() {
            return number;
        }
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize]
    }

    pub fn maybe<T: Copy>(&mut self, items: &[T]) -> Option<T> {
        if items.is_empty() { None } else { Some(self.of(items)) }
    }
}
