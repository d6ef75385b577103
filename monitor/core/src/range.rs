//! Ranges of physical addresses.

/// A range of physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub base: u64,
    /// Bytes.
    pub size: u64,
}

impl Range {
    /// From its parts.
    #[must_use]
    pub const fn new(base: u64, size: u64) -> Self {
        Self { base, size }
    }
    /// The address behind the last byte; saturates.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.base.saturating_add(self.size)
    }
    /// Whether the one begins where the other ends.
    #[must_use]
    pub const fn touches(self, other: Self) -> bool {
        self.end() == other.base || other.end() == self.base
    }
    /// Both and what is between them.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        let base = self.base.min(other.base);
        Self::new(base, self.end().max(other.end()).saturating_sub(base))
    }
    /// Whether all of `other` lies inside.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        other.base >= self.base && other.end() <= self.end() && other.end() >= other.base
    }
}
