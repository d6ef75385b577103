//! The package behind the monitor in the flash: the RMM and the Non-secure payload.
//!
//! Little-endian: magic, then offset and size of the RMM, offset and size of the payload (both offsets from the start of
//! the package), then what the RMM is told of its interface.

use realm_abi::rmi::Version;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// How a package begins.
pub const MAGIC: [u8; 8] = *b"RKPKG\0\0\x01";

/// The head of a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// Where the RMM is, from the start of the package.
    pub rmm_offset: u64,
    /// Its bytes.
    pub rmm_size: u64,
    /// Where the payload is, from the start of the package.
    pub payload_offset: u64,
    /// Its bytes.
    pub payload_size: u64,
    /// Version of the RMM-EL3 interface to offer, as X1 at the RMM's entry has it.
    pub interface: u32,
    /// Version of the boot manifest.
    pub manifest: u32,
}

/// Why a package is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackageError {
    /// It does not begin with [`MAGIC`].
    Magic,
    /// The RMM does not lie inside, or is larger than its memory.
    Rmm,
    /// The payload does not lie inside, or is larger than its memory.
    Payload,
}

/// What a package holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Package<'a> {
    /// The RMM's image.
    pub rmm: &'a [u8],
    /// The payload's image.
    pub payload: &'a [u8],
    /// Version of the RMM-EL3 interface to offer.
    pub interface: Version,
    /// Version of the boot manifest.
    pub manifest: Version,
}

impl<'a> Package<'a> {
    /// Reads a package whose RMM may have `rmm_max` bytes and whose payload `payload_max`.
    ///
    /// # Errors
    /// See [`PackageError`].
    pub fn parse(bytes: &'a [u8], rmm_max: u64, payload_max: u64) -> Result<Self, PackageError> {
        let (header, _) = Header::read_from_prefix(bytes).map_err(|_| PackageError::Magic)?;
        if header.magic != MAGIC {
            return Err(PackageError::Magic);
        }
        let part = |offset: u64, size: u64, max: u64| {
            let start = usize::try_from(offset).ok()?;
            let end = start.checked_add(usize::try_from(size).ok()?)?;
            if size == 0 || size > max { None } else { bytes.get(start..end) }
        };
        Ok(Self {
            rmm: part(header.rmm_offset, header.rmm_size, rmm_max).ok_or(PackageError::Rmm)?,
            payload: part(header.payload_offset, header.payload_size, payload_max)
                .ok_or(PackageError::Payload)?,
            interface: Version(header.interface.into()),
            manifest: Version(header.manifest.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(change: impl Fn(&mut Header)) -> Vec<u8> {
        let mut header = Header {
            magic: MAGIC,
            rmm_offset: 64,
            rmm_size: 3,
            payload_offset: 67,
            payload_size: 2,
            interface: 8,
            manifest: 5,
        };
        change(&mut header);
        let mut bytes = header.as_bytes().to_vec();
        bytes.resize(64, 0);
        bytes.extend(b"RMMpl");
        bytes
    }

    #[test]
    fn a_package_yields_its_parts() {
        let bytes = package(|_| ());
        let found = Package::parse(&bytes, 3, 2).expect("a whole package");
        assert_eq!((found.rmm, found.payload), (&b"RMM"[..], &b"pl"[..]));
        assert_eq!((found.interface, found.manifest), (Version::new(0, 8), Version::new(0, 5)));
    }

    #[test]
    fn a_part_outside_the_package_or_too_large_is_refused() {
        let parse = |bytes: &[u8], rmm, payload| Package::parse(bytes, rmm, payload).map(|_| ());
        assert_eq!(parse(&package(|_| ()), 2, 2), Err(PackageError::Rmm));
        assert_eq!(parse(&package(|_| ()), 3, 1), Err(PackageError::Payload));
        assert_eq!(parse(&package(|h| h.payload_size = 3), 3, 9), Err(PackageError::Payload));
        assert_eq!(parse(&package(|h| h.rmm_offset = u64::MAX), 3, 9), Err(PackageError::Rmm));
        assert_eq!(parse(&package(|h| h.rmm_size = 0), 3, 9), Err(PackageError::Rmm));
        assert_eq!(parse(&package(|h| h.magic[7] = 2), 3, 2), Err(PackageError::Magic));
        assert_eq!(parse(&[0; 20], 3, 2), Err(PackageError::Magic));
    }
}
