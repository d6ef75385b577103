//! Reads and checks a manifest. EL3 is trusted; the checks find an EL3 of another version or a broken build before it
//! harms.

use super::{
    BdfMapping, ConsoleInfo, Entries, Head, List, ListName, ManifestError, MemoryBank, RootComplexInfo,
    RootPortInfo, SmmuInfo,
};
use crate::rmi::Version;
use crate::{GRANULE_SHIFT, GRANULE_SIZE};
use core::mem::offset_of;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// How much an RMM can handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory banks, and device regions of either kind.
    pub banks: usize,
    /// Granules in all memory banks.
    pub granules: u64,
    /// Bits of a physical address, at most 63.
    pub pa_bits: u32,
}

/// A manifest that passed every check. It borrows the shared buffer, which is used for other things once the RMM runs.
#[derive(Clone, Copy, Debug)]
pub struct Manifest<'a> {
    buffer: Buffer<'a>,
    /// Its version.
    pub version: Version,
    /// Platform data, or 0; opaque here.
    pub plat_data: u64,
    /// Memory, ascending; empty only in version 0.1, which does not tell.
    pub dram: Entries<'a, MemoryBank>,
    /// Consoles (from 0.3 on).
    pub consoles: Entries<'a, ConsoleInfo>,
    /// Device regions that are not coherent, ascending (from 0.4 on).
    pub ncoh_regions: Entries<'a, MemoryBank>,
    /// Device regions that are coherent, ascending (from 0.4 on).
    pub coh_regions: Entries<'a, MemoryBank>,
    /// SMMUs (from 0.5 on).
    pub smmus: Entries<'a, SmmuInfo>,
    /// PCIe root complexes (from 0.5 on).
    pub root_complexes: Entries<'a, RootComplexInfo>,
}

/// The shared buffer and its physical address.
#[derive(Clone, Copy, Debug)]
struct Buffer<'a> {
    bytes: &'a [u8],
    pa: u64,
}

impl<'a> Buffer<'a> {
    /// `count` entries at `pointer`. An empty list may have any pointer.
    fn entries<T: FromBytes>(
        &self,
        list: ListName,
        pointer: u64,
        count: u64,
    ) -> Result<Entries<'a, T>, ManifestError> {
        if count == 0 {
            return Ok(Entries::new(&[]));
        }
        let find = || {
            let start = usize::try_from(pointer.checked_sub(self.pa)?).ok()?;
            let size = usize::try_from(count).ok()?.checked_mul(size_of::<T>())?;
            self.bytes.get(start..start.checked_add(size)?)
        };
        let bytes = find().filter(|_| pointer.is_multiple_of(8));
        bytes.map(Entries::new).ok_or(ManifestError::Pointer { list, pointer })
    }

    fn list<T: FromBytes>(&self, list: ListName, at: &List) -> Result<Entries<'a, T>, ManifestError> {
        self.entries(list, at.pointer, at.count)
    }
}

/// Bytes of the head in a version.
pub(super) const fn head_size(version: Version) -> usize {
    match version.minor() {
        0 | 1 => offset_of!(Head, dram),
        2 => offset_of!(Head, consoles),
        3 => offset_of!(Head, ncoh_regions),
        4 => offset_of!(Head, smmus),
        _ => size_of::<Head>(),
    }
}

/// The sum over a list's head, to which the sum of its words is added.
const fn head_sum(list: &List) -> u64 {
    list.count.wrapping_add(list.pointer).wrapping_add(list.checksum)
}

impl<'a> Manifest<'a> {
    /// Reads the manifest at the start of `buffer`, which lies at physical address `pa`.
    ///
    /// # Errors
    /// See [`ManifestError`].
    pub fn parse(buffer: &'a [u8], pa: u64, limits: &Limits) -> Result<Self, ManifestError> {
        let len = buffer.len();
        let (version, _) = u32::read_from_prefix(buffer)
            .map_err(|_| ManifestError::TooShort { needed: head_size(Version::new(0, 1)), len })?;
        let version = Version(u64::from(version));
        // Minor versions only add at the end.
        if version.0 >> 31 != 0 || version.major() != 0 || version.minor() == 0 {
            return Err(ManifestError::Version(version));
        }
        let needed = head_size(version);
        let mut head = Head::new_zeroed();
        let bytes = buffer.get(..needed).ok_or(ManifestError::TooShort { needed, len })?;
        if let Some(known) = head.as_mut_bytes().get_mut(..needed) {
            known.copy_from_slice(bytes);
        }
        let buffer = Buffer { bytes: buffer, pa };
        let dram = banks(&buffer, ListName::Dram, &head.dram, limits)?;
        if version.minor() >= 2 {
            check_granules(&dram, limits)?;
        }
        Ok(Self {
            buffer,
            version,
            plat_data: head.plat_data,
            dram,
            consoles: consoles(&buffer, &head.consoles)?,
            ncoh_regions: banks(&buffer, ListName::NcohRegions, &head.ncoh_regions, limits)?,
            coh_regions: banks(&buffer, ListName::CohRegions, &head.coh_regions, limits)?,
            smmus: checked(&buffer, ListName::Smmus, &head.smmus)?,
            root_complexes: root_complexes(&buffer, &head)?,
        })
    }

    /// The ports of one of its root complexes.
    #[must_use]
    pub fn root_ports(&self, complex: &RootComplexInfo) -> Option<Entries<'a, RootPortInfo>> {
        ports(&self.buffer, complex).ok()
    }

    /// The mappings of one of its root ports.
    #[must_use]
    pub fn bdf_mappings(&self, port: &RootPortInfo) -> Option<Entries<'a, BdfMapping>> {
        mappings(&self.buffer, port).ok()
    }
}

fn checked<'a, T: FromBytes>(
    buffer: &Buffer<'a>,
    name: ListName,
    list: &List,
) -> Result<Entries<'a, T>, ManifestError> {
    let entries: Entries<'a, T> = buffer.list(name, list)?;
    if head_sum(list).wrapping_add(entries.sum()) != 0 {
        return Err(ManifestError::Checksum(name));
    }
    Ok(entries)
}

/// Consoles. Firmware of the time of manifest 0.3 left name and flags out of the checksum; either is accepted, because
/// the version does not tell which firmware it is.
fn consoles<'a>(buffer: &Buffer<'a>, list: &List) -> Result<Entries<'a, ConsoleInfo>, ManifestError> {
    let entries: Entries<'a, ConsoleInfo> = buffer.list(ListName::Consoles, list)?;
    let sum = head_sum(list);
    let old = entries.iter().fold(sum, |sum, console| {
        let counted = [console.base, console.map_pages, console.clk_in_hz, console.baud_rate];
        counted.into_iter().fold(sum, u64::wrapping_add)
    });
    if sum.wrapping_add(entries.sum()) != 0 && old != 0 {
        return Err(ManifestError::Checksum(ListName::Consoles));
    }
    Ok(entries)
}

fn banks<'a>(
    buffer: &Buffer<'a>,
    name: ListName,
    list: &List,
    limits: &Limits,
) -> Result<Entries<'a, MemoryBank>, ManifestError> {
    if list.count > limits.banks as u64 {
        return Err(ManifestError::TooManyBanks { list: name, count: list.count });
    }
    let entries: Entries<'a, MemoryBank> = checked(buffer, name, list)?;
    let pa_top = 1 << limits.pa_bits.min(63);
    let mut free_from = 0;
    for bank in entries.iter() {
        let whole = |value: u64| value != 0 && value.is_multiple_of(GRANULE_SIZE);
        let end = bank.base.checked_add(bank.size).filter(|end| *end <= pa_top);
        match end {
            Some(end) if whole(bank.base) && whole(bank.size) && bank.base >= free_from => free_from = end,
            _ => return Err(ManifestError::Bank { list: name, bank }),
        }
    }
    Ok(entries)
}

fn check_granules(dram: &Entries<'_, MemoryBank>, limits: &Limits) -> Result<(), ManifestError> {
    if dram.is_empty() {
        return Err(ManifestError::NoBanks);
    }
    // Ascending banks below 2^63 cannot overflow the sum.
    let granules = dram.iter().map(|bank| bank.size >> GRANULE_SHIFT).fold(0, u64::wrapping_add);
    if granules > limits.granules {
        return Err(ManifestError::TooManyGranules(granules));
    }
    Ok(())
}

fn ports<'a>(
    buffer: &Buffer<'a>,
    complex: &RootComplexInfo,
) -> Result<Entries<'a, RootPortInfo>, ManifestError> {
    buffer.entries(ListName::RootComplexes, complex.root_ports, u64::from(complex.num_root_ports))
}

fn mappings<'a>(buffer: &Buffer<'a>, port: &RootPortInfo) -> Result<Entries<'a, BdfMapping>, ManifestError> {
    buffer.entries(ListName::RootComplexes, port.bdf_mappings, u64::from(port.num_bdf_mappings))
}

fn root_complexes<'a>(
    buffer: &Buffer<'a>,
    head: &Head,
) -> Result<Entries<'a, RootComplexInfo>, ManifestError> {
    let list = &head.root_complexes;
    let complexes: Entries<'a, RootComplexInfo> =
        buffer.entries(ListName::RootComplexes, list.pointer, list.count)?;
    let mut sum = [list.count, u64::from(list.info_version), list.pointer, list.checksum, complexes.sum()]
        .into_iter()
        .fold(0, u64::wrapping_add);
    for complex in complexes.iter() {
        let ports = ports(buffer, &complex)?;
        sum = sum.wrapping_add(ports.sum());
        for port in ports.iter() {
            sum = sum.wrapping_add(mappings(buffer, &port)?.sum());
        }
    }
    if sum != 0 {
        return Err(ManifestError::Checksum(ListName::RootComplexes));
    }
    Ok(complexes)
}
