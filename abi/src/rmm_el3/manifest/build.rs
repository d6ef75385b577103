//! Writes a manifest, as EL3 does.

use super::parse::head_size;
use super::{ConsoleInfo, Head, List, MemoryBank, SmmuInfo};
use crate::rmi::Version;
use core::fmt;
use zerocopy::{FromZeros, Immutable, IntoBytes};

/// What a manifest is to say. Lists its version does not have are left out; root complexes are always left out.
#[derive(Clone, Copy, Debug)]
pub struct ManifestBuilder<'a> {
    /// 0.1 to 0.5.
    pub version: Version,
    /// Platform data, or 0.
    pub plat_data: u64,
    /// Memory.
    pub dram: &'a [MemoryBank],
    /// Consoles.
    pub consoles: &'a [ConsoleInfo],
    /// Device regions that are not coherent.
    pub ncoh_regions: &'a [MemoryBank],
    /// Device regions that are coherent.
    pub coh_regions: &'a [MemoryBank],
    /// SMMUs.
    pub smmus: &'a [SmmuInfo],
}

/// The buffer is too small for the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the boot manifest does not fit the shared buffer")
    }
}

impl core::error::Error for NoRoom {}

impl ManifestBuilder<'_> {
    /// Writes the manifest to the start of `buffer`, which lies at physical address `pa`, and returns its bytes.
    ///
    /// # Errors
    /// [`NoRoom`]; the buffer holds a part of it then.
    pub fn write(&self, buffer: &mut [u8], pa: u64) -> Result<usize, NoRoom> {
        let mut head = Head::new_zeroed();
        head.version = (self.version.0 & 0xffff_ffff) as u32;
        head.plat_data = self.plat_data;
        let size = head_size(self.version);
        let mut lists = Lists { buffer, pa, used: size };
        let minor = self.version.minor();
        if minor >= 2 {
            head.dram = lists.add(self.dram)?;
        }
        if minor >= 3 {
            head.consoles = lists.add(self.consoles)?;
        }
        if minor >= 4 {
            head.ncoh_regions = lists.add(self.ncoh_regions)?;
            head.coh_regions = lists.add(self.coh_regions)?;
        }
        if minor >= 5 {
            head.smmus = lists.add(self.smmus)?;
        }
        let Lists { buffer, used, .. } = lists;
        let head = head.as_bytes().get(..size).ok_or(NoRoom)?;
        buffer.get_mut(..size).ok_or(NoRoom)?.copy_from_slice(head);
        Ok(used)
    }
}

struct Lists<'a> {
    buffer: &'a mut [u8],
    pa: u64,
    used: usize,
}

impl Lists<'_> {
    fn add<T: IntoBytes + Immutable>(&mut self, entries: &[T]) -> Result<List, NoRoom> {
        if entries.is_empty() {
            return Ok(List::default());
        }
        let bytes = entries.as_bytes();
        let end = self.used.checked_add(bytes.len()).ok_or(NoRoom)?;
        self.buffer.get_mut(self.used..end).ok_or(NoRoom)?.copy_from_slice(bytes);
        let count = entries.len() as u64;
        let pointer = self.pa.wrapping_add(self.used as u64);
        self.used = end;
        let words = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(core::array::from_fn(|i| word[i])));
        let sum = words.fold(count.wrapping_add(pointer), u64::wrapping_add);
        Ok(List { count, pointer, checksum: sum.wrapping_neg() })
    }
}
