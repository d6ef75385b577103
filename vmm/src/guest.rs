//! What a realm starts with: its memory plan and the pieces of memory that are filled before it runs.

use crate::{DtbError, ImageError, KernelImage, Layout, LayoutConfig, LayoutError, Region, dtb};
use std::borrow::Cow;
use thiserror::Error;

/// What a person chooses about a realm's machine.
#[derive(Clone, Copy, Debug)]
pub struct GuestConfig<'a> {
    /// The kernel's file.
    pub kernel: &'a [u8],
    /// The initial file system's file.
    pub initrd: Option<&'a [u8]>,
    /// The kernel's command line; `None` for [`Layout::default_bootargs`].
    pub bootargs: Option<&'a str>,
    /// Bytes of RAM.
    pub ram_size: u64,
    /// Number of vCPUs.
    pub cpus: u32,
    /// IPA width; `None` for the smallest that holds RAM.
    pub ipa_bits: Option<u8>,
    /// Page size of the host: 4, 16 or 64 KiB.
    pub page_size: u64,
}

/// Why a realm cannot be made of these files and numbers. All are bad input.
#[derive(Debug, PartialEq, Error)]
pub enum GuestError {
    /// The kernel.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The plan.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The device tree.
    #[error(transparent)]
    Dtb(#[from] DtbError),
    /// The initial file system.
    #[error("the initrd is empty; leave it out instead")]
    EmptyInitrd,
}

/// Memory filled before the realm runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// "kernel", "initrd" or "dtb".
    pub name: &'static str,
    /// Whole pages.
    pub region: Region,
    /// The content, zeros around it up to whole pages.
    pub content: Vec<u8>,
}

/// A realm's machine and initial memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// The plan.
    pub layout: Layout,
    /// The filled memory in ascending order, no two parts on one page.
    pub parts: Vec<Part>,
}

impl Guest {
    /// Reads the kernel, plans the memory and writes the device tree.
    ///
    /// # Errors
    /// See [`GuestError`].
    pub fn new(config: &GuestConfig<'_>) -> Result<Self, GuestError> {
        let kernel = KernelImage::parse(config.kernel)?;
        if config.initrd.is_some_and(<[u8]>::is_empty) {
            return Err(GuestError::EmptyInitrd);
        }
        let layout = Layout::new(&LayoutConfig {
            ram_size: config.ram_size,
            cpus: config.cpus,
            kernel: &kernel,
            initrd_size: config.initrd.map_or(0, |initrd| initrd.len() as u64),
            ipa_bits: config.ipa_bits,
            page_size: config.page_size,
        })?;
        let bootargs = config.bootargs.map_or_else(|| Cow::Owned(layout.default_bootargs()), Cow::Borrowed);
        let dtb = dtb::build(&layout, &bootargs)?;
        let page_size = layout.page_size;
        let mut parts = vec![Part::new("kernel", layout.kernel, config.kernel, page_size)];
        if let (Some(region), Some(initrd)) = (layout.initrd, config.initrd) {
            parts.push(Part::new("initrd", region, initrd, page_size));
        }
        parts.push(Part::new("dtb", Region { size: dtb.len() as u64, ..layout.dtb }, &dtb, page_size));
        Ok(Self { layout, parts })
    }

    /// Where the boot vCPU starts.
    #[must_use]
    pub const fn entry(&self) -> u64 {
        self.layout.kernel.base
    }

    /// X0 of the boot vCPU: the device tree.
    #[must_use]
    pub const fn boot_argument(&self) -> u64 {
        self.layout.dtb.base
    }
}

impl Part {
    /// The first bytes of `file` at `region`, which is as long as what is used of the file.
    fn new(name: &'static str, region: Region, file: &[u8], page_size: u64) -> Self {
        let pages = region.rounded_out(page_size);
        let mut content = vec![0; pages.size as usize];
        let start = (region.base - pages.base) as usize;
        let used = region.size as usize;
        content[start..start + used].copy_from_slice(&file[..used]);
        Self { name, region: pages, content }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::tests::image;

    #[test]
    fn the_parts_are_whole_pages_in_ascending_order() {
        let kernel = image(0x2800, 0x9000);
        let initrd = vec![7; 0x1001];
        let config = GuestConfig {
            kernel: &kernel,
            initrd: Some(&initrd),
            bootargs: Some("quiet"),
            ram_size: 0x400_0000,
            cpus: 1,
            ipa_bits: None,
            page_size: 0x1000,
        };
        let guest = Guest::new(&config).unwrap();
        let parts: Vec<_> =
            guest.parts.iter().map(|part| (part.name, part.region.base, part.region.size)).collect();
        assert_eq!(
            parts,
            [("kernel", 0x8000_0000, 0x3000), ("initrd", 0x83df_e000, 0x2000), ("dtb", 0x83e0_0000, 0x1000)]
        );
        assert_eq!(guest.parts[0].content[..0x2800], kernel);
        assert!(guest.parts[0].content[0x2800..].iter().all(|byte| *byte == 0));
        assert_eq!(guest.parts[1].content[..0x1001], initrd);
        assert_eq!((guest.entry(), guest.boot_argument()), (0x8000_0000, 0x83e0_0000));
        assert_eq!(Guest::new(&GuestConfig { initrd: Some(&[]), ..config }), Err(GuestError::EmptyInitrd));
    }
}
