//! A realm's memory as its devices reach it.

/// There is no memory the realm can share at this address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory;

/// The shared side of a realm's RAM, at addresses of the protected half.
///
/// Aligned accesses of 2, 4 and 8 bytes are single-copy atomic: a ring's index is written by the realm while it is read here.
pub trait GuestMemory: Sync {
    /// Reads.
    ///
    /// # Errors
    /// If not all of it is RAM.
    fn read(&self, ipa: u64, out: &mut [u8]) -> Result<(), NoMemory>;

    /// Writes.
    ///
    /// # Errors
    /// If not all of it is RAM.
    fn write(&self, ipa: u64, bytes: &[u8]) -> Result<(), NoMemory>;
}

/// Where a realm's RAM is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ram {
    /// First address, in the protected half.
    pub base: u64,
    /// Bytes.
    pub size: u64,
    /// The address bit that selects the unprotected half.
    pub alias_bit: u64,
}

impl Ram {
    /// The address in the protected half. A realm names what it shares by addresses with the bit set.
    #[must_use]
    pub const fn without_alias(&self, address: u64) -> u64 {
        address & !self.alias_bit
    }

    /// The address in the protected half, if `size` bytes there are RAM.
    fn find(&self, address: u64, size: u64) -> Result<u64, NoMemory> {
        let ipa = self.without_alias(address);
        let offset = ipa.checked_sub(self.base).ok_or(NoMemory)?;
        let room = self.size.checked_sub(offset).ok_or(NoMemory)?;
        if size <= room { Ok(ipa) } else { Err(NoMemory) }
    }
}

/// Memory at addresses that came from the realm.
#[derive(Clone, Copy)]
pub struct Dma<'a> {
    /// The memory.
    pub memory: &'a dyn GuestMemory,
    /// Where it is.
    pub ram: Ram,
}

impl Dma<'_> {
    /// Whether `size` bytes at `address` are RAM.
    ///
    /// # Errors
    /// If not.
    pub fn check(&self, address: u64, size: u64) -> Result<(), NoMemory> {
        self.ram.find(address, size).map(drop)
    }

    /// Reads.
    ///
    /// # Errors
    /// If not all of it is RAM.
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), NoMemory> {
        self.memory.read(self.ram.find(address, out.len() as u64)?, out)
    }

    /// Writes.
    ///
    /// # Errors
    /// If not all of it is RAM.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), NoMemory> {
        self.memory.write(self.ram.find(address, bytes.len() as u64)?, bytes)
    }

    /// Reads some bytes.
    pub(crate) fn get<const N: usize>(&self, address: Option<u64>) -> Result<[u8; N], NoMemory> {
        let mut bytes = [0; N];
        self.read(address.ok_or(NoMemory)?, &mut bytes)?;
        Ok(bytes)
    }

    /// Writes some bytes.
    pub(crate) fn put(&self, address: Option<u64>, bytes: &[u8]) -> Result<(), NoMemory> {
        self.write(address.ok_or(NoMemory)?, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_ram_with_and_without_the_shared_bit() {
        let ram = Ram { base: 0x8000_0000, size: 0x1000, alias_bit: 1 << 32 };
        assert_eq!(ram.find(0x1_8000_0ff0, 0x10), Ok(0x8000_0ff0));
        assert_eq!(ram.find(0x8000_0000, 0x1000), Ok(0x8000_0000));
        for (address, size) in [
            (0x1_8000_0ff0, 0x11),
            (0x1_7fff_ffff, 1),
            (0x1_8000_1000, 1),
            (0x2_8000_0000, 1),
            (0x8000_0001, u64::MAX),
            (u64::MAX, 1),
        ] {
            assert_eq!(ram.find(address, size), Err(NoMemory), "{address:#x}");
        }
    }
}
