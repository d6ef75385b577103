//! Values that travel in registers.

/// A value that is passed in one or more consecutive 64-bit registers.
pub trait RegValue: Copy {
    /// How many registers it takes.
    const COUNT: usize;
    /// Reads it from exactly [`Self::COUNT`] registers; missing registers read as zero.
    fn from_regs(regs: &[u64]) -> Self;
    /// Writes it to exactly [`Self::COUNT`] registers; what does not fit is dropped.
    fn to_regs(self, regs: &mut [u64]);
}

impl RegValue for u64 {
    const COUNT: usize = 1;
    fn from_regs(regs: &[u64]) -> Self {
        regs.first().copied().unwrap_or(0)
    }
    fn to_regs(self, regs: &mut [u64]) {
        if let Some(reg) = regs.first_mut() {
            *reg = self;
        }
    }
}

impl RegValue for i64 {
    const COUNT: usize = 1;
    fn from_regs(regs: &[u64]) -> Self {
        u64::from_regs(regs).cast_signed()
    }
    fn to_regs(self, regs: &mut [u64]) {
        self.cast_unsigned().to_regs(regs);
    }
}

impl<const N: usize> RegValue for [u64; N] {
    const COUNT: usize = N;
    fn from_regs(regs: &[u64]) -> Self {
        core::array::from_fn(|i| regs.get(i).copied().unwrap_or(0))
    }
    fn to_regs(self, regs: &mut [u64]) {
        for (reg, value) in regs.iter_mut().zip(self) {
            *reg = value;
        }
    }
}

/// Implements [`RegValue`] for a newtype over a value of one register.
macro_rules! reg_newtype {
    ($($name:ty),*) => {$(
        impl crate::regs::RegValue for $name {
            const COUNT: usize = 1;
            fn from_regs(regs: &[u64]) -> Self {
                Self(crate::regs::RegValue::from_regs(regs))
            }
            fn to_regs(self, regs: &mut [u64]) {
                crate::regs::RegValue::to_regs(self.0, regs);
            }
        }
    )*};
}
pub(crate) use reg_newtype;

/// Takes values from consecutive registers.
pub struct RegReader<'a>(&'a [u64]);

impl<'a> RegReader<'a> {
    /// A reader that starts at the first of `regs`.
    #[must_use]
    pub const fn new(regs: &'a [u64]) -> Self {
        Self(regs)
    }
    /// The next value; registers past the end read as zero.
    pub fn read<T: RegValue>(&mut self) -> T {
        let value = T::from_regs(self.0);
        self.0 = self.0.get(T::COUNT..).unwrap_or(&[]);
        value
    }
}

/// Puts values into consecutive registers.
pub struct RegWriter<'a>(&'a mut [u64]);

impl<'a> RegWriter<'a> {
    /// A writer that starts at the first of `regs`.
    pub const fn new(regs: &'a mut [u64]) -> Self {
        Self(regs)
    }
    /// Writes the next value; what lies past the end is dropped.
    pub fn write<T: RegValue>(&mut self, value: T) {
        let regs = core::mem::take(&mut self.0);
        let (now, rest) = regs.split_at_mut(T::COUNT.min(regs.len()));
        value.to_regs(now);
        self.0 = rest;
    }
}
