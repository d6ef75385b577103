//! The memory plan of a realm: where RAM, kernel, initial file system, device tree and devices are.
//!
//! The plan is kvmtool's: RAM from 2 GiB on, the device tree in a 64 KiB slot on a 2 MiB boundary near the end of the
//! first 256 MiB, the initial file system right below it (docs/kvm-realm-abi.md section 5.2). Everything in it is
//! measured directly or through the device tree, so nothing depends on chance.

use crate::KernelImage;
use realm_devices::{MsiFrame, PciWindows};
use thiserror::Error;

/// First address of RAM.
pub const RAM_BASE: u64 = 0x8000_0000;
/// Bytes of the slot for the device tree.
pub const DTB_SIZE: u64 = 0x1_0000;
/// The UART, 8 registers of one byte.
pub const UART_BASE: u64 = 0x100_0000;
/// Bytes of the UART's window.
pub const UART_SIZE: u64 = 8;
/// The clock.
pub const RTC_BASE: u64 = 0x101_0000;
/// Bytes of the clock's window.
pub const RTC_SIZE: u64 = 0x1000;
/// The GIC's distributor.
pub const GIC_DIST_BASE: u64 = 0x3fff_0000;
/// Bytes of the distributor.
pub const GIC_DIST_SIZE: u64 = 0x1_0000;
/// Bytes of one vCPU's redistributor.
pub const GIC_REDIST_SIZE: u64 = 0x2_0000;
/// The frame that makes interrupts of messages, right behind the distributor.
pub const MSI_FRAME_BASE: u64 = 0x4000_0000;
/// Configuration space of PCI's only bus.
pub const PCI_CONFIG_BASE: u64 = 0x4010_0000;
/// Memory of PCI functions.
pub const PCI_MEMORY_BASE: u64 = 0x5000_0000;
/// Bytes of that.
pub const PCI_MEMORY_SIZE: u64 = 0x1000_0000;
/// Most vCPUs the plan has room for.
pub const MAX_CPUS: u32 = 512;
/// Smallest IPA width: 4 GiB and the bit that selects the unprotected half.
pub const MIN_IPA_BITS: u8 = 33;
/// Largest IPA width of RMM 1.0 with LPA2.
pub const MAX_IPA_BITS: u8 = 52;
/// RAM sizes are multiples of the largest page a host may have.
pub const RAM_ALIGN: u64 = 0x1_0000;

/// Bytes of a bounce buffer's slot, and how many make a segment: what Linux counts in (kernel/dma/swiotlb.c).
const SWIOTLB_SLOT: u64 = 2048;
const SWIOTLB_SEGMENT: u64 = 128;
/// What Linux takes for bounce buffers where it does not look at the size of RAM.
const SWIOTLB_MAX: u64 = 64 << 20;

const BLOCK: u64 = 0x20_0000;
/// The device tree lies within this much RAM, where any kernel configuration can map it.
const LOW_RAM: u64 = 0x1000_0000;

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LayoutError {
    /// No vCPU.
    #[error("0 CPUs asked for; a realm has at least 1")]
    NoCpus,
    /// Too many vCPUs.
    #[error("{cpus} CPUs asked for; at most {max} are possible here")]
    TooManyCpus {
        /// Asked for.
        cpus: u32,
        /// Possible.
        max: u32,
    },
    /// RAM is empty or not aligned.
    #[error("memory size {0:#x} is not a positive multiple of 64 KiB (0x10000)")]
    RamSize(u64),
    /// The IPA width is outside of what a realm can have.
    #[error("IPA width of {0} bits asked for; it must be {MIN_IPA_BITS} to {MAX_IPA_BITS}")]
    IpaBits(u8),
    /// RAM does not fit the IPA width.
    #[error(
        "memory of {size:#x} bytes from {RAM_BASE:#x} on ends beyond {limit:#x}, the protected half of {ipa_bits} IPA bits"
    )]
    RamBeyondIpa {
        /// Bytes of RAM.
        size: u64,
        /// IPA width.
        ipa_bits: u8,
        /// End of the protected half.
        limit: u64,
    },
    /// Two things would overlap or one would end beyond RAM.
    #[error("{what} needs {size:#x} bytes, and {room:#x} bytes are free for it in {ram:#x} bytes of memory")]
    DoesNotFit {
        /// Kernel, initrd or device tree.
        what: &'static str,
        /// Bytes it needs.
        size: u64,
        /// Bytes there are.
        room: u64,
        /// Bytes of RAM.
        ram: u64,
    },
    /// The page size is not one a host can have.
    #[error("page size {0:#x} is not 4, 16 or 64 KiB")]
    PageSize(u64),
}

/// A piece of the address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First address.
    pub base: u64,
    /// Bytes.
    pub size: u64,
}

impl Region {
    /// The first address behind it.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.base + self.size
    }

    /// Whether `size` bytes from `base` on lie in it.
    #[must_use]
    pub fn contains(&self, base: u64, size: u64) -> bool {
        base >= self.base && base.checked_add(size).is_some_and(|end| end <= self.end())
    }

    /// The region widened to whole pages.
    #[must_use]
    pub const fn rounded_out(&self, page_size: u64) -> Self {
        let base = self.base & !(page_size - 1);
        Self { base, size: self.end().next_multiple_of(page_size) - base }
    }
}

/// What a plan is made for.
#[derive(Clone, Copy, Debug)]
pub struct LayoutConfig<'a> {
    /// Bytes of RAM, a multiple of [`RAM_ALIGN`].
    pub ram_size: u64,
    /// Number of vCPUs.
    pub cpus: u32,
    /// The kernel.
    pub kernel: &'a KernelImage,
    /// Bytes of the initial file system; 0 for none.
    pub initrd_size: u64,
    /// IPA width; `None` for the smallest that holds RAM.
    pub ipa_bits: Option<u8>,
    /// Page size of the host: 4, 16 or 64 KiB. What is populated is rounded to it, so it is visible in the measurement.
    pub page_size: u64,
}

/// A memory plan. All addresses are in the protected half.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// IPA width in bits.
    pub ipa_bits: u8,
    /// Number of vCPUs.
    pub cpus: u32,
    /// RAM.
    pub ram: Region,
    /// The bytes of the kernel's file; it enters at the first of them.
    pub kernel: Region,
    /// The initial file system.
    pub initrd: Option<Region>,
    /// The slot of the device tree.
    pub dtb: Region,
    /// The UART's registers.
    pub uart: Region,
    /// The clock's registers.
    pub rtc: Region,
    /// The GIC's distributor.
    pub gic_dist: Region,
    /// The GIC's redistributors.
    pub gic_redist: Region,
    /// The frame that makes interrupts of messages.
    pub msi_frame: Region,
    /// PCI's configuration space.
    pub pci_config: Region,
    /// Memory of PCI functions.
    pub pci_memory: Region,
    /// Page size of the host.
    pub page_size: u64,
}

impl Layout {
    /// Makes the plan.
    ///
    /// # Errors
    /// See [`LayoutError`].
    pub fn new(config: &LayoutConfig<'_>) -> Result<Self, LayoutError> {
        let LayoutConfig { ram_size, cpus, kernel, initrd_size, ipa_bits, page_size } = *config;
        if !matches!(page_size, 0x1000 | 0x4000 | 0x1_0000) {
            return Err(LayoutError::PageSize(page_size));
        }
        match cpus {
            0 => return Err(LayoutError::NoCpus),
            cpus if cpus > MAX_CPUS => return Err(LayoutError::TooManyCpus { cpus, max: MAX_CPUS }),
            _ => {}
        }
        if ram_size == 0 || !ram_size.is_multiple_of(RAM_ALIGN) {
            return Err(LayoutError::RamSize(ram_size));
        }
        let ipa_bits = Self::ipa_bits(ram_size, ipa_bits)?;
        let ram = Region { base: RAM_BASE, size: ram_size };

        let does_not_fit = |what, size, room| LayoutError::DoesNotFit { what, size, room, ram: ram_size };
        let low_end = RAM_BASE + ram_size.min(LOW_RAM);
        let dtb_base = (low_end & !(BLOCK - 1)).checked_sub(BLOCK).filter(|base| *base >= RAM_BASE);
        let dtb_base = dtb_base.ok_or(does_not_fit("the device tree", BLOCK, ram_size))?;
        let dtb = Region { base: dtb_base, size: DTB_SIZE };

        let kernel_base = RAM_BASE + kernel.text_offset;
        let kernel_room = dtb_base.saturating_sub(kernel_base);
        if kernel.image_size > kernel_room {
            return Err(does_not_fit("the kernel", kernel.image_size, kernel_room));
        }
        let kernel_end = (kernel_base + kernel.image_size).next_multiple_of(page_size);
        let initrd_room = dtb_base.saturating_sub(kernel_end);
        if initrd_size > initrd_room {
            return Err(does_not_fit("the initrd", initrd_size, initrd_room));
        }
        let initrd = (initrd_size > 0)
            .then(|| Region { base: (dtb_base - initrd_size) & !(page_size - 1), size: initrd_size });

        let redist_size = u64::from(cpus) * GIC_REDIST_SIZE;
        Ok(Self {
            ipa_bits,
            cpus,
            ram,
            kernel: Region { base: kernel_base, size: kernel.file_size },
            initrd,
            dtb,
            uart: Region { base: UART_BASE, size: UART_SIZE },
            rtc: Region { base: RTC_BASE, size: RTC_SIZE },
            gic_dist: Region { base: GIC_DIST_BASE, size: GIC_DIST_SIZE },
            gic_redist: Region { base: GIC_DIST_BASE - redist_size, size: redist_size },
            msi_frame: Region { base: MSI_FRAME_BASE, size: MsiFrame::SIZE },
            pci_config: Region { base: PCI_CONFIG_BASE, size: PciWindows::CONFIG_SIZE },
            pci_memory: Region { base: PCI_MEMORY_BASE, size: PCI_MEMORY_SIZE },
            page_size,
        })
    }

    /// The IPA width for RAM of `ram_size` bytes: kvmtool's max(32, bits of the last address) + 1, or what was asked for.
    fn ipa_bits(ram_size: u64, asked: Option<u8>) -> Result<u8, LayoutError> {
        if let Some(bits) = asked.filter(|bits| !(MIN_IPA_BITS..=MAX_IPA_BITS).contains(bits)) {
            return Err(LayoutError::IpaBits(bits));
        }
        let last = RAM_BASE.checked_add(ram_size - 1);
        // At most 64 and one, which is beyond every width.
        let needed = last.map_or(u64::BITS, |last| u64::BITS - last.leading_zeros()) as u8 + 1;
        let ipa_bits = asked.unwrap_or(needed.clamp(MIN_IPA_BITS, MAX_IPA_BITS));
        if needed > ipa_bits {
            return Err(LayoutError::RamBeyondIpa { size: ram_size, ipa_bits, limit: 1 << (ipa_bits - 1) });
        }
        Ok(ipa_bits)
    }

    /// The address bit that selects the unprotected half; a realm reaches devices at their address plus this.
    #[must_use]
    pub const fn alias_bit(&self) -> u64 {
        1 << (self.ipa_bits - 1)
    }

    /// The kernel's command line where the user gives none: virtio's console, and bounce buffers of a sixteenth of RAM, at
    /// most what Linux would take by itself. Everything a device reaches is bounced, and Linux shrinks the buffers to a
    /// thousandth where all RAM is below 4 GiB.
    ///
    /// There is no early console: it needs the alias by hand ([`Self::alias_bit`]), since the kernel adds the bit only where
    /// it maps devices in the ordinary way, and every character of it leaves the realm.
    #[must_use]
    pub fn default_bootargs(&self) -> String {
        let slots = (self.ram.size / 16).min(SWIOTLB_MAX) / SWIOTLB_SLOT;
        format!("console=hvc0 swiotlb={} panic=-1 quiet", slots.next_multiple_of(SWIOTLB_SEGMENT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 0x10_0000;
    const KERNEL: KernelImage =
        KernelImage { text_offset: 0, image_size: 44 * MIB, file_size: 42 * MIB, flags: 0xa };
    const CONFIG: LayoutConfig<'static> = LayoutConfig {
        ram_size: 256 * MIB,
        cpus: 2,
        kernel: &KERNEL,
        initrd_size: 5 * MIB + 1,
        ipa_bits: None,
        page_size: 0x1000,
    };

    #[test]
    fn the_plan_of_256_mib_is_that_of_kvmtool() {
        let layout = Layout::new(&CONFIG).unwrap();
        assert_eq!(layout.ipa_bits, 33);
        assert_eq!(layout.dtb, Region { base: 0x8fe0_0000, size: 0x1_0000 });
        assert_eq!(layout.kernel, Region { base: 0x8000_0000, size: 42 * MIB });
        assert_eq!(layout.initrd, Some(Region { base: 0x8f8f_f000, size: 5 * MIB + 1 }));
        assert_eq!(layout.gic_redist, Region { base: 0x3ffb_0000, size: 0x4_0000 });
        assert_eq!(layout.alias_bit(), 0x1_0000_0000);
    }

    #[test]
    fn bounce_buffers_are_a_sixteenth_of_ram_in_whole_segments() {
        let bootargs =
            |ram_size| Layout::new(&LayoutConfig { ram_size, ..CONFIG }).unwrap().default_bootargs();
        assert_eq!(bootargs(256 * MIB), "console=hvc0 swiotlb=8192 panic=-1 quiet");
        assert_eq!(bootargs(100 * MIB + 0x1_0000), "console=hvc0 swiotlb=3328 panic=-1 quiet");
        assert_eq!(bootargs(16384 * MIB), "console=hvc0 swiotlb=32768 panic=-1 quiet");
    }

    #[test]
    fn more_memory_leaves_the_device_tree_where_it_is() {
        let layout = Layout::new(&LayoutConfig { ram_size: 4096 * MIB, ..CONFIG }).unwrap();
        assert_eq!(layout.dtb.base, 0x8fe0_0000);
        assert_eq!(layout.ipa_bits, 34);
    }

    #[test]
    fn two_gib_need_33_bits_and_one_page_more_needs_34() {
        let bits = |ram_size| Layout::new(&LayoutConfig { ram_size, ..CONFIG }).map(|layout| layout.ipa_bits);
        assert_eq!(bits(2048 * MIB), Ok(33));
        assert_eq!(bits(2048 * MIB + 0x1_0000), Ok(34));
    }

    #[test]
    fn impossible_requests_are_refused() {
        let error = |config: LayoutConfig<'_>| Layout::new(&config).unwrap_err();
        assert_eq!(error(LayoutConfig { cpus: 0, ..CONFIG }), LayoutError::NoCpus);
        let refused = LayoutError::TooManyCpus { cpus: 513, max: 512 };
        assert_eq!(error(LayoutConfig { cpus: 513, ..CONFIG }), refused);
        assert_eq!(error(LayoutConfig { ram_size: 0, ..CONFIG }), LayoutError::RamSize(0));
        assert_eq!(error(LayoutConfig { ram_size: 0x1000, ..CONFIG }), LayoutError::RamSize(0x1000));
        assert_eq!(error(LayoutConfig { ipa_bits: Some(32), ..CONFIG }), LayoutError::IpaBits(32));
        assert_eq!(error(LayoutConfig { ipa_bits: Some(53), ..CONFIG }), LayoutError::IpaBits(53));
        assert_eq!(error(LayoutConfig { page_size: 0x2000, ..CONFIG }), LayoutError::PageSize(0x2000));
        let size = 4096 * MIB;
        assert_eq!(
            error(LayoutConfig { ram_size: size, ipa_bits: Some(33), ..CONFIG }),
            LayoutError::RamBeyondIpa { size, ipa_bits: 33, limit: 1 << 32 }
        );
        let size = !0xffff;
        assert_eq!(
            error(LayoutConfig { ram_size: size, ..CONFIG }),
            LayoutError::RamBeyondIpa { size, ipa_bits: 52, limit: 1 << 51 }
        );
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let error = |config: LayoutConfig<'_>| Layout::new(&config).unwrap_err();
        let ram = 32 * MIB;
        assert_eq!(
            error(LayoutConfig { ram_size: ram, ..CONFIG }),
            LayoutError::DoesNotFit { what: "the kernel", size: 44 * MIB, room: 30 * MIB, ram }
        );
        let ram = 48 * MIB;
        assert_eq!(
            error(LayoutConfig { ram_size: ram, ..CONFIG }),
            LayoutError::DoesNotFit { what: "the initrd", size: 5 * MIB + 1, room: 2 * MIB, ram }
        );
        let ram = 0x1_0000;
        assert_eq!(
            error(LayoutConfig { ram_size: ram, ..CONFIG }),
            LayoutError::DoesNotFit { what: "the device tree", size: 2 * MIB, room: ram, ram }
        );
    }

    proptest! {
        #[test]
        fn nothing_overlaps_and_all_lies_in_ram(
            ram in 1_u64..0x8000, cpus in 1_u32..=MAX_CPUS, file_size in 0x1000_u64..64 * MIB, bss in 0_u64..16 * MIB,
            text_offset in 0_u64..0x200, initrd_size in 0_u64..300 * MIB, page in 0_u32..3, asked in proptest::option::of(0_u8..64),
        ) {
            let kernel = KernelImage { text_offset: text_offset * 0x1000, image_size: file_size + bss, file_size, flags: 0 };
            let page_size = 0x1000 << (2 * page);
            let config =
                LayoutConfig { ram_size: ram * 0x1_0000, cpus, kernel: &kernel, initrd_size, ipa_bits: asked, page_size };
            let Ok(layout) = Layout::new(&config) else { return Ok(()) };
            let kernel_memory = Region { base: layout.kernel.base, size: kernel.image_size };
            let mut regions = vec![kernel_memory.rounded_out(page_size)];
            regions.extend(layout.initrd.map(|initrd| initrd.rounded_out(page_size)));
            regions.push(layout.dtb);
            for region in &regions {
                prop_assert!(layout.ram.contains(region.base, region.size), "{region:x?}");
            }
            regions.splice(0..0, [
                layout.uart.rounded_out(0x1_0000), layout.rtc, layout.gic_redist, layout.gic_dist, layout.msi_frame,
                layout.pci_config, layout.pci_memory,
            ]);
            prop_assert!(regions.windows(2).all(|pair| pair[0].end() <= pair[1].base), "{regions:x?}");
            prop_assert!(layout.ram.end() <= layout.alias_bit());
            prop_assert!(asked.is_none_or(|asked| asked == layout.ipa_bits));
        }
    }
}
