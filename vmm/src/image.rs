//! The arm64 kernel image: a 64-byte header in front of the code (Linux, Documentation/arch/arm64/booting.rst).

use thiserror::Error;

/// Bytes of the header.
pub const HEADER_SIZE: usize = 64;
/// The magic number, "ARM\x64", at offset 56.
const MAGIC: [u8; 4] = *b"ARM\x64";
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const XZ_MAGIC: [u8; 4] = [0xfd, b'7', b'z', b'X'];
const ELF_MAGIC: [u8; 4] = *b"\x7fELF";
/// First bytes of every PE file, and of an arm64 Image that is also one.
const PE_MAGIC: [u8; 2] = *b"MZ";
/// At offset 4 of a compressed EFI image.
const ZBOOT_MAGIC: [u8; 4] = *b"zimg";

/// Why a file is not a kernel that can be started.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ImageError {
    /// Shorter than the header.
    #[error("the kernel is {0} bytes long, shorter than the {HEADER_SIZE} bytes of an arm64 Image header")]
    NoHeader(usize),
    /// A compressed file.
    #[error("the kernel is compressed ({0}); unpack it and pass the arm64 Image inside")]
    Compressed(&'static str),
    /// A PE file that is not an arm64 Image: a kernel of another architecture or a boot loader.
    #[error("the kernel is an EFI program (PE) without the arm64 Image magic ARM\\x64 at offset 56")]
    Pe,
    /// An ELF file.
    #[error(
        "the kernel is an ELF file; pass the arm64 Image made from it (objcopy -O binary, or arch/arm64/boot/Image)"
    )]
    Elf,
    /// Nothing known.
    #[error("the kernel has {0:#010x} at offset 56 where an arm64 Image has 0x644d5241 (ARM\\x64)")]
    UnknownMagic(u32),
    /// A kernel from before Linux 3.17.
    #[error("the kernel's header has image_size 0 (Linux before 3.17); a size is needed to place it")]
    NoSize,
    /// The size in the header is impossible.
    #[error(
        "the kernel's header has image_size {image_size:#x}, less than the {section_end:#x} bytes its sections need"
    )]
    SizeTooSmall {
        /// From the header.
        image_size: u64,
        /// From the PE section table or the file.
        section_end: u64,
    },
    /// Big-endian kernels.
    #[error("the kernel is big-endian (flags {0:#x}, bit 0); realms start little-endian")]
    BigEndian(u64),
    /// The file ends before its sections do.
    #[error("the kernel is truncated: {len} bytes of the {needed} bytes its section table names")]
    Truncated {
        /// Bytes there are.
        len: usize,
        /// Bytes there should be.
        needed: u64,
    },
    /// The offset does not fit below 2 MiB.
    #[error(
        "the kernel's header has text_offset {0:#x}; it must be below 2 MiB (0x200000) and a multiple of 4 KiB (0x1000)"
    )]
    TextOffset(u64),
}

/// What the header of a kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelImage {
    /// Where it is loaded, from a 2 MiB boundary on, in bytes. 0 since Linux 5.10.
    pub text_offset: u64,
    /// Memory it needs from there on, its zeroed data included, in bytes.
    pub image_size: u64,
    /// Bytes of the file.
    pub file_size: u64,
    /// Flags word.
    pub flags: u64,
}

fn bytes<const N: usize>(file: &[u8], offset: usize) -> Option<[u8; N]> {
    file.get(offset..)?.first_chunk::<N>().copied()
}

fn u16_at(file: &[u8], offset: usize) -> Option<u16> {
    bytes(file, offset).map(u16::from_le_bytes)
}

fn u32_at(file: &[u8], offset: usize) -> Option<u32> {
    bytes(file, offset).map(u32::from_le_bytes)
}

impl KernelImage {
    /// Reads the header of `file`, a whole kernel.
    ///
    /// # Errors
    /// See [`ImageError`].
    pub fn parse(file: &[u8]) -> Result<Self, ImageError> {
        for (magic, name) in [(&GZIP_MAGIC[..], "gzip"), (&ZSTD_MAGIC[..], "zstd"), (&XZ_MAGIC[..], "xz")] {
            if file.starts_with(magic) {
                return Err(ImageError::Compressed(name));
            }
        }
        if file.starts_with(&ELF_MAGIC) {
            return Err(ImageError::Elf);
        }
        let header: &[u8; HEADER_SIZE] = file.first_chunk().ok_or(ImageError::NoHeader(file.len()))?;
        if header[56..60] != MAGIC {
            return Err(match header.starts_with(&PE_MAGIC) {
                true if header[4..8] == ZBOOT_MAGIC => ImageError::Compressed("EFI zboot"),
                true => ImageError::Pe,
                false => ImageError::UnknownMagic(u32::from_le_bytes([
                    header[56], header[57], header[58], header[59],
                ])),
            });
        }
        let word = |offset| bytes(header, offset).map_or(0, u64::from_le_bytes);
        let (text_offset, image_size, flags) = (word(8), word(16), word(24));
        if flags & 1 != 0 {
            return Err(ImageError::BigEndian(flags));
        }
        if text_offset >= 0x20_0000 || text_offset & 0xfff != 0 {
            return Err(ImageError::TextOffset(text_offset));
        }
        if image_size == 0 {
            return Err(ImageError::NoSize);
        }
        let needed = if header.starts_with(&PE_MAGIC) { pe_file_size(file) } else { None };
        if let Some(needed) = needed.filter(|&needed| needed > file.len() as u64) {
            return Err(ImageError::Truncated { len: file.len(), needed });
        }
        // A signature may follow the sections; it does not belong to the image.
        let file_size = needed.unwrap_or(file.len() as u64);
        if image_size < file_size {
            return Err(ImageError::SizeTooSmall { image_size, section_end: file_size });
        }
        Ok(Self { text_offset, image_size, file_size, flags })
    }
}

/// Bytes of the file that the headers and the section table of a PE file name, which may be more than there are; `None` if
/// there is no PE header where it should be.
fn pe_file_size(file: &[u8]) -> Option<u64> {
    const COFF_SIZE: usize = 24;
    const SECTION_SIZE: usize = 40;
    let pe = u32_at(file, 60)? as usize;
    let coff: [u8; COFF_SIZE] = match bytes(file, pe) {
        Some(coff) => coff,
        None => return Some((pe + COFF_SIZE) as u64),
    };
    if !coff.starts_with(b"PE\0\0") {
        return None;
    }
    let sections = usize::from(u16_at(&coff, 6)?);
    let optional_size = usize::from(u16_at(&coff, 20)?);
    let table = pe + COFF_SIZE + optional_size;
    let mut end = (table + sections * SECTION_SIZE) as u64;
    for section in (0..sections).map(|index| table + index * SECTION_SIZE) {
        // A table that is cut off needs at least itself.
        let (Some(size), Some(start)) = (u32_at(file, section + 16), u32_at(file, section + 20)) else {
            break;
        };
        end = end.max(u64::from(start) + u64::from(size));
    }
    Some(end)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An Image of `len` bytes that needs `image_size` bytes of memory.
    pub(crate) fn image(len: usize, image_size: u64) -> Vec<u8> {
        let mut file = vec![0xaa; len];
        file[..HEADER_SIZE].fill(0);
        file[16..24].copy_from_slice(&image_size.to_le_bytes());
        file[24..32].copy_from_slice(&0xa_u64.to_le_bytes());
        file[56..60].copy_from_slice(&MAGIC);
        file
    }

    /// The same with a PE header and one section that starts at 0x1000 and takes the rest.
    fn efi_image(len: usize, image_size: u64) -> Vec<u8> {
        let mut file = image(len, image_size);
        file[..2].copy_from_slice(&PE_MAGIC);
        file[60..64].copy_from_slice(&64_u32.to_le_bytes());
        file[64..68].copy_from_slice(b"PE\0\0");
        file[64 + 6..64 + 8].copy_from_slice(&1_u16.to_le_bytes());
        file[64 + 20..64 + 22].copy_from_slice(&0_u16.to_le_bytes());
        let section = 64 + 24;
        file[section + 16..section + 20].copy_from_slice(&(len as u32 - 0x1000).to_le_bytes());
        file[section + 20..section + 24].copy_from_slice(&0x1000_u32.to_le_bytes());
        file
    }

    #[test]
    fn a_plain_image_is_read() {
        let image = KernelImage::parse(&image(0x3000, 0x5000));
        assert_eq!(
            image,
            Ok(KernelImage { text_offset: 0, image_size: 0x5000, file_size: 0x3000, flags: 0xa })
        );
    }

    #[test]
    fn an_image_that_is_also_an_efi_program_is_read_without_what_follows_its_sections() {
        let mut file = efi_image(0x3000, 0x5000);
        file.extend_from_slice(&[1; 100]);
        assert_eq!(KernelImage::parse(&file).map(|image| image.file_size), Ok(0x3000));
    }

    #[test]
    fn a_truncated_image_is_refused() {
        let mut file = efi_image(0x3000, 0x5000);
        file.truncate(0x2fff);
        assert_eq!(KernelImage::parse(&file), Err(ImageError::Truncated { len: 0x2fff, needed: 0x3000 }));
        for len in HEADER_SIZE..0x2fff {
            let parsed = KernelImage::parse(&file[..len]);
            assert!(matches!(parsed, Err(ImageError::Truncated { .. })), "{len} bytes: {parsed:?}");
        }
        assert_eq!(KernelImage::parse(&file[..63]), Err(ImageError::NoHeader(63)));
        assert_eq!(KernelImage::parse(&[]), Err(ImageError::NoHeader(0)));
    }

    #[test]
    fn other_files_are_refused_by_what_they_are() {
        let mut pe = vec![0; 100];
        pe[..2].copy_from_slice(&PE_MAGIC);
        assert_eq!(KernelImage::parse(&pe), Err(ImageError::Pe));
        pe[4..8].copy_from_slice(&ZBOOT_MAGIC);
        assert_eq!(KernelImage::parse(&pe), Err(ImageError::Compressed("EFI zboot")));
        assert_eq!(KernelImage::parse(&[0x1f, 0x8b, 8, 0]), Err(ImageError::Compressed("gzip")));
        assert_eq!(KernelImage::parse(b"\x7fELF\x02"), Err(ImageError::Elf));
        assert_eq!(KernelImage::parse(&[0x11; 64]), Err(ImageError::UnknownMagic(0x1111_1111)));
    }

    #[test]
    fn headers_that_cannot_be_are_refused() {
        assert_eq!(KernelImage::parse(&image(0x1000, 0)), Err(ImageError::NoSize));
        let refused = ImageError::SizeTooSmall { image_size: 0xfff, section_end: 0x1000 };
        assert_eq!(KernelImage::parse(&image(0x1000, 0xfff)), Err(refused));
        let mut file = image(0x1000, 0x1000);
        file[24] = 1;
        assert_eq!(KernelImage::parse(&file), Err(ImageError::BigEndian(1)));
        let mut file = image(0x1000, 0x1000);
        file[8..16].copy_from_slice(&0x20_0000_u64.to_le_bytes());
        assert_eq!(KernelImage::parse(&file), Err(ImageError::TextOffset(0x20_0000)));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(mut file in proptest::collection::vec(proptest::num::u8::ANY, 0..300), known: bool) {
            if known && file.len() >= HEADER_SIZE {
                file[..2].copy_from_slice(&PE_MAGIC);
                file[56..60].copy_from_slice(&MAGIC);
                file[61..64].fill(0);
            }
            if let Ok(image) = KernelImage::parse(&file) {
                proptest::prop_assert!(image.file_size <= file.len() as u64);
                proptest::prop_assert!(image.file_size <= image.image_size);
            }
        }
    }
}
