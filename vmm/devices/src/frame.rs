//! A GICv2m frame (Arm SBSA, appendix E): a write of a device to it is an edge of the shared interrupt it names.

/// Offsets of its registers.
const MSI_TYPER: u64 = 0x008;
const MSI_SETSPI_NS: u64 = 0x040;
const MSI_IIDR: u64 = 0xfcc;
/// An interrupt's number in MSI_SETSPI_NS.
const SPI_MASK: u32 = 0x3ff;

/// A frame: it has no state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiFrame {
    /// Address.
    pub base: u64,
    /// The first of its interrupts, as the GIC counts.
    pub first_spi: u32,
    /// How many it has.
    pub count: u32,
}

impl MsiFrame {
    /// Bytes of the frame.
    pub const SIZE: u64 = 0x1000;

    /// A read at an offset. The registers have 32 bits; other accesses read as zero.
    #[must_use]
    pub const fn read(&self, offset: u64, len: usize) -> u32 {
        match (offset, len) {
            (MSI_TYPER, 4) => self.first_spi << 16 | self.count & SPI_MASK,
            // No known implementer: the values of some have Linux work around their defects.
            (MSI_IIDR, 4) => 0,
            _ => 0,
        }
    }

    /// A write at an offset: the interrupt that gets an edge.
    #[must_use]
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Option<u32> {
        let data = match *bytes {
            [a, b] => u32::from(u16::from_le_bytes([a, b])),
            [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
            _ => return None,
        };
        let spi = data & SPI_MASK;
        let mine = spi.checked_sub(self.first_spi).is_some_and(|index| index < self.count);
        (offset == MSI_SETSPI_NS && mine).then_some(spi)
    }

    /// A device's write of `data` to an address of the protected half: the interrupt that gets an edge.
    #[must_use]
    pub fn message(&self, address: u64, data: u32) -> Option<u32> {
        self.write(address.checked_sub(self.base)?, &data.to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: MsiFrame = MsiFrame { base: 0x4000_0000, first_spi: 64, count: 32 };

    #[test]
    fn the_frame_names_its_interrupts() {
        assert_eq!(FRAME.read(MSI_TYPER, 4), 0x0040_0020);
        assert_eq!(FRAME.read(MSI_IIDR, 4), 0);
        assert_eq!(FRAME.read(MSI_SETSPI_NS, 4), 0, "write-only");
        assert_eq!((FRAME.read(MSI_TYPER, 2), FRAME.read(MSI_TYPER, 8)), (0, 0));
    }

    #[test]
    fn only_its_own_interrupts_can_be_set() {
        assert_eq!(FRAME.write(MSI_SETSPI_NS, &64_u32.to_le_bytes()), Some(64));
        assert_eq!(FRAME.write(MSI_SETSPI_NS, &95_u16.to_le_bytes()), Some(95));
        assert_eq!(FRAME.write(MSI_SETSPI_NS, &0xffff_fc40_u32.to_le_bytes()), Some(64), "10 bits count");
        for spi in [0, 27, 63, 96, 1023] {
            assert_eq!(FRAME.write(MSI_SETSPI_NS, &u32::to_le_bytes(spi)), None, "{spi}");
        }
        assert_eq!(FRAME.write(MSI_SETSPI_NS, &[64]), None);
        assert_eq!(FRAME.write(MSI_TYPER, &64_u32.to_le_bytes()), None);
        assert_eq!(FRAME.message(0x4000_0040, 70), Some(70));
        assert_eq!(FRAME.message(0x4000_0044, 70), None);
        assert_eq!(FRAME.message(0, 70), None);
    }
}
