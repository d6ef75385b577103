//! Structures in the memory of the calling process.

use crate::{Errno, UserMemory};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Reads a structure.
///
/// # Errors
/// `EFAULT`.
pub fn read<T: FromBytes + IntoBytes>(user: &impl UserMemory, addr: u64) -> Result<T, Errno> {
    let mut value = T::new_zeroed();
    user.read(addr, value.as_mut_bytes())?;
    Ok(value)
}

/// Writes a structure.
///
/// # Errors
/// `EFAULT`.
pub fn write<T: IntoBytes + Immutable>(user: &impl UserMemory, addr: u64, value: &T) -> Result<(), Errno> {
    user.write(addr, value.as_bytes())
}
