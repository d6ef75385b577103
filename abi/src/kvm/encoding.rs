//! How the number of an ioctl is made of its structure's size and the direction it goes.

/// The type byte of every KVM ioctl.
pub const KVM_MAGIC: u32 = 0xAE;

const DIR_WRITE: u32 = 1 << 30;
const DIR_READ: u32 = 2 << 30;
/// Bits of the size field, 29:16.
const SIZE_MAX: usize = 0x3fff;

const fn number(direction: u32, nr: u8, size: usize) -> u32 {
    assert!(size <= SIZE_MAX, "an ioctl structure has at most 16383 bytes");
    direction | (size as u32) << 16 | KVM_MAGIC << 8 | nr as u32
}

/// The number of a KVM ioctl without structure.
#[must_use]
pub const fn io(nr: u8) -> u32 {
    number(0, nr, 0)
}
/// The number of a KVM ioctl whose structure the kernel writes.
#[must_use]
pub const fn ior<T>(nr: u8) -> u32 {
    number(DIR_READ, nr, size_of::<T>())
}
/// The number of a KVM ioctl whose structure the kernel reads.
#[must_use]
pub const fn iow<T>(nr: u8) -> u32 {
    number(DIR_WRITE, nr, size_of::<T>())
}
/// The number of a KVM ioctl whose structure the kernel reads and writes.
#[must_use]
pub const fn iowr<T>(nr: u8) -> u32 {
    number(DIR_READ | DIR_WRITE, nr, size_of::<T>())
}
