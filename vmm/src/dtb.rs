//! The device tree a realm finds its machine in. It is measured: the same plan and command line always make the same
//! bytes, so there is no random seed in it.

use crate::layout::{DTB_SIZE, Layout, Region};
use realm_abi::kvm::vcpu_mpidr;
use thiserror::Error;
use vm_fdt::{FdtWriter, FdtWriterResult};

const GIC_PHANDLE: u32 = 1;
const CLOCK_PHANDLE: u32 = 2;
const MSI_PHANDLE: u32 = 3;
/// Interrupt kinds and flags of the GIC binding.
const SPI: u32 = 0;
const PPI: u32 = 1;
const EDGE_RISING: u32 = 1;
const LEVEL_LOW: u32 = 8;
/// The UART's shared interrupt, as the binding counts: 32 less than the GIC.
pub const UART_SPI: u32 = 0;
/// The interrupts that messages become, as the GIC counts.
pub const MSI_FIRST_SPI: u32 = 64;
/// How many.
pub const MSI_COUNT: u32 = 64;
/// Interrupts of the GIC the VMM asks for, private ones included.
pub const GIC_IRQS: u32 = MSI_FIRST_SPI + MSI_COUNT;
/// The first cell of a PCI address: memory, 32 bits, not prefetchable (IEEE 1275's binding to PCI, section 2.2.1.1).
const PCI_MEMORY_32: u32 = 0x0200_0000;
/// PPIs of the timers as the binding counts (16 less than the GIC): secure physical, physical, virtual, hypervisor.
const TIMER_PPIS: [u32; 4] = [13, 14, 11, 10];
const UART_CLOCK_HZ: u32 = 1_843_200;

/// Why there is no device tree.
#[derive(Debug, PartialEq, Error)]
pub enum DtbError {
    /// The command line cannot be a string of the device tree.
    #[error("the kernel command line has a zero byte at position {0}; a device tree string cannot hold it")]
    ZeroInBootargs(usize),
    /// It is larger than its slot.
    #[error(
        "the device tree takes {0:#x} bytes, more than the {DTB_SIZE:#x} of its slot; shorten the kernel command line"
    )]
    TooLarge(usize),
    /// The writer refused.
    #[error("the device tree cannot be written: {0}")]
    Writer(#[from] vm_fdt::Error),
}

/// Makes the device tree.
///
/// Devices are given by their addresses in the protected half: Linux adds the alias bit when it maps a device, and asks
/// the RMM about the address as it stands here (docs/kvm-realm-abi.md section 5.2).
///
/// # Errors
/// See [`DtbError`].
pub fn build(layout: &Layout, bootargs: &str) -> Result<Vec<u8>, DtbError> {
    if let Some(position) = bootargs.bytes().position(|byte| byte == 0) {
        return Err(DtbError::ZeroInBootargs(position));
    }
    let dtb = write(layout, bootargs)?;
    if dtb.len() as u64 > DTB_SIZE {
        return Err(DtbError::TooLarge(dtb.len()));
    }
    Ok(dtb)
}

fn reg(regions: &[Region]) -> Vec<u64> {
    regions.iter().flat_map(|region| [region.base, region.size]).collect()
}

fn write(layout: &Layout, bootargs: &str) -> FdtWriterResult<Vec<u8>> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("compatible", "linux,dummy-virt")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", GIC_PHANDLE)?;
    write_chosen(&mut fdt, layout, bootargs)?;

    let memory = fdt.begin_node(&format!("memory@{:x}", layout.ram.base))?;
    fdt.property_string("device_type", "memory")?;
    fdt.property_array_u64("reg", &reg(&[layout.ram]))?;
    fdt.end_node(memory)?;

    write_cpus(&mut fdt, layout.cpus)?;
    write_platform(&mut fdt, layout)?;
    write_slow_devices(&mut fdt, layout)?;
    write_pci(&mut fdt, layout)?;
    fdt.end_node(root)?;
    fdt.finish()
}

fn write_chosen(fdt: &mut FdtWriter, layout: &Layout, bootargs: &str) -> FdtWriterResult<()> {
    let chosen = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", bootargs)?;
    fdt.property_string("stdout-path", &format!("/serial@{:x}", layout.uart.base))?;
    if let Some(initrd) = layout.initrd {
        fdt.property_u64("linux,initrd-start", initrd.base)?;
        fdt.property_u64("linux,initrd-end", initrd.end())?;
    }
    fdt.end_node(chosen)
}

fn write_cpus(fdt: &mut FdtWriter, count: u32) -> FdtWriterResult<()> {
    let cpus = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    for mpidr in (0..count).map(vcpu_mpidr) {
        let cpu = fdt.begin_node(&format!("cpu@{mpidr:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,armv8")?;
        fdt.property_string("enable-method", "psci")?;
        fdt.property_u32("reg", mpidr as u32)?;
        fdt.end_node(cpu)?;
    }
    fdt.end_node(cpus)
}

fn write_platform(fdt: &mut FdtWriter, layout: &Layout) -> FdtWriterResult<()> {
    let psci = fdt.begin_node("psci")?;
    fdt.property_string_list("compatible", vec!["arm,psci-1.0".into(), "arm,psci-0.2".into()])?;
    fdt.property_string("method", "smc")?;
    fdt.end_node(psci)?;

    let gic = fdt.begin_node(&format!("interrupt-controller@{:x}", layout.gic_dist.base))?;
    fdt.property_string("compatible", "arm,gic-v3")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_array_u64("reg", &reg(&[layout.gic_dist, layout.gic_redist]))?;
    fdt.property_phandle(GIC_PHANDLE)?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_null("ranges")?;
    let frame = fdt.begin_node(&format!("v2m@{:x}", layout.msi_frame.base))?;
    fdt.property_string("compatible", "arm,gic-v2m-frame")?;
    fdt.property_null("msi-controller")?;
    fdt.property_array_u64("reg", &reg(&[layout.msi_frame]))?;
    fdt.property_phandle(MSI_PHANDLE)?;
    fdt.end_node(frame)?;
    fdt.end_node(gic)?;

    let timer = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    let interrupts: Vec<u32> = TIMER_PPIS.iter().flat_map(|&ppi| [PPI, ppi, LEVEL_LOW]).collect();
    fdt.property_array_u32("interrupts", &interrupts)?;
    fdt.property_null("always-on")?;
    fdt.end_node(timer)
}

/// The UART and the clock, and the clock signal both are said to have.
fn write_slow_devices(fdt: &mut FdtWriter, layout: &Layout) -> FdtWriterResult<()> {
    let clock = fdt.begin_node("clock")?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", UART_CLOCK_HZ)?;
    fdt.property_phandle(CLOCK_PHANDLE)?;
    fdt.end_node(clock)?;

    let uart = fdt.begin_node(&format!("serial@{:x}", layout.uart.base))?;
    fdt.property_string("compatible", "ns16550a")?;
    fdt.property_array_u64("reg", &reg(&[layout.uart]))?;
    fdt.property_u32("clocks", CLOCK_PHANDLE)?;
    fdt.property_array_u32("interrupts", &[SPI, UART_SPI, EDGE_RISING])?;
    fdt.end_node(uart)?;

    // It has no interrupt: it wakes nobody.
    let rtc = fdt.begin_node(&format!("rtc@{:x}", layout.rtc.base))?;
    fdt.property_string_list("compatible", vec!["arm,pl031".into(), "arm,primecell".into()])?;
    fdt.property_array_u64("reg", &reg(&[layout.rtc]))?;
    fdt.property_u32("clocks", CLOCK_PHANDLE)?;
    fdt.property_string("clock-names", "apb_pclk")?;
    fdt.end_node(rtc)
}

/// The host bridge: one bus, memory at the same addresses on both sides, messages as the only interrupts.
fn write_pci(fdt: &mut FdtWriter, layout: &Layout) -> FdtWriterResult<()> {
    let pci = fdt.begin_node(&format!("pcie@{:x}", layout.pci_config.base))?;
    fdt.property_string("compatible", "pci-host-ecam-generic")?;
    fdt.property_string("device_type", "pci")?;
    fdt.property_u32("#address-cells", 3)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_array_u32("bus-range", &[0, 0])?;
    fdt.property_array_u64("reg", &reg(&[layout.pci_config]))?;
    let halves = |value: u64| [(value >> 32) as u32, value as u32];
    let Region { base, size } = layout.pci_memory;
    let ranges = [&[PCI_MEMORY_32][..], &halves(base), &halves(base), &halves(size)].concat();
    fdt.property_array_u32("ranges", &ranges)?;
    fdt.property_u32("msi-parent", MSI_PHANDLE)?;
    fdt.property_null("dma-coherent")?;
    fdt.end_node(pci)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KernelImage, LayoutConfig};
    use std::collections::BTreeMap;

    const KERNEL: KernelImage =
        KernelImage { text_offset: 0, image_size: 0x20_0000, file_size: 0x10_0000, flags: 0xa };

    fn layout(cpus: u32, initrd_size: u64) -> Layout {
        let config = LayoutConfig {
            ram_size: 0x1000_0000,
            cpus,
            kernel: &KERNEL,
            initrd_size,
            ipa_bits: None,
            page_size: 0x1000,
        };
        Layout::new(&config).unwrap()
    }

    fn be32(dtb: &[u8], offset: usize) -> usize {
        u32::from_be_bytes(dtb[offset..offset + 4].try_into().unwrap()) as usize
    }

    fn c_string(dtb: &[u8], offset: usize) -> String {
        String::from_utf8(dtb[offset..].iter().copied().take_while(|byte| *byte != 0).collect()).unwrap()
    }

    /// Every property of a flattened tree (Devicetree Specification 0.4, chapter 5) by its path.
    fn read(dtb: &[u8]) -> BTreeMap<String, Vec<u8>> {
        assert_eq!((be32(dtb, 0), be32(dtb, 4)), (0xd00d_feed, dtb.len()));
        let (mut at, strings) = (be32(dtb, 8), be32(dtb, 12));
        let (mut path, mut properties) = (Vec::new(), BTreeMap::new());
        loop {
            let token = be32(dtb, at);
            at += 4;
            match token {
                1 => {
                    let name = c_string(dtb, at);
                    at += (name.len() + 1).next_multiple_of(4);
                    path.push(name);
                }
                2 => {
                    path.pop();
                }
                3 => {
                    let (size, name) = (be32(dtb, at), c_string(dtb, strings + be32(dtb, at + 4)));
                    properties
                        .insert(format!("{}/{name}", path.join("/")), dtb[at + 8..at + 8 + size].to_vec());
                    at += 8 + size.next_multiple_of(4);
                }
                4 => {}
                9 => return properties,
                other => panic!("token {other}"),
            }
        }
    }

    fn cells64(values: &[u64]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_be_bytes()).collect()
    }

    #[test]
    fn the_tree_says_what_the_plan_says() {
        let layout = layout(18, 0x1234);
        let tree = read(&build(&layout, "console=ttyS0 quiet").unwrap());
        assert_eq!(tree["/chosen/bootargs"], b"console=ttyS0 quiet\0");
        assert_eq!(tree["/chosen/linux,initrd-start"], cells64(&[layout.initrd.unwrap().base]));
        assert_eq!(tree["/chosen/linux,initrd-end"], cells64(&[layout.initrd.unwrap().base + 0x1234]));
        assert_eq!(tree["/chosen/stdout-path"], b"/serial@1000000\0");
        assert_eq!(tree["/memory@80000000/reg"], cells64(&[0x8000_0000, 0x1000_0000]));
        assert_eq!(tree["/psci/method"], b"smc\0");
        assert_eq!(tree["/cpus/cpu@0/enable-method"], b"psci\0");
        assert_eq!(tree["/cpus/cpu@101/reg"], 0x101_u32.to_be_bytes());
        assert!(!tree.contains_key("/cpus/cpu@102/reg"));
        assert_eq!(tree["/serial@1000000/reg"], cells64(&[0x100_0000, 8]));
        assert_eq!(
            tree["/interrupt-controller@3fff0000/reg"],
            cells64(&[0x3fff_0000, 0x1_0000, layout.gic_redist.base, 18 * 0x2_0000])
        );
    }

    fn cells32(values: &[u32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_be_bytes()).collect()
    }

    #[test]
    fn messages_of_pci_functions_go_to_the_frame_in_the_interrupt_controller() {
        let tree = read(&build(&layout(1, 0), "").unwrap());
        let gic = "/interrupt-controller@3fff0000";
        let frame = format!("{gic}/v2m@40000000");
        assert_eq!(tree[&format!("{frame}/compatible")], b"arm,gic-v2m-frame\0");
        assert_eq!(tree[&format!("{frame}/reg")], cells64(&[0x4000_0000, 0x1000]));
        assert_eq!(tree[&format!("{frame}/msi-controller")], b"");
        assert_eq!(tree[&format!("{gic}/ranges")], b"");
        assert_eq!(
            (&tree[&format!("{gic}/#address-cells")], &tree[&format!("{gic}/#size-cells")]),
            (&cells32(&[2]), &cells32(&[2]))
        );
        let pci = "/pcie@40100000";
        assert_eq!(tree[&format!("{pci}/compatible")], b"pci-host-ecam-generic\0");
        assert_eq!(tree[&format!("{pci}/device_type")], b"pci\0");
        assert_eq!(tree[&format!("{pci}/reg")], cells64(&[0x4010_0000, 0x10_0000]));
        assert_eq!(
            tree[&format!("{pci}/bus-range")],
            cells32(&[0, 0]),
            "a MiB of configuration space is one bus"
        );
        assert_eq!(tree[&format!("{pci}/msi-parent")], tree[&format!("{frame}/phandle")]);
        assert_eq!(
            tree[&format!("{pci}/ranges")],
            cells32(&[0x0200_0000, 0, 0x5000_0000, 0, 0x5000_0000, 0, 0x1000_0000])
        );
        assert_eq!(tree[&format!("{pci}/dma-coherent")], b"");
        assert!(!tree.contains_key(&format!("{pci}/interrupt-map")), "there are no others");
    }

    #[test]
    fn the_clock_is_a_primecell() {
        let tree = read(&build(&layout(1, 0), "").unwrap());
        assert_eq!(tree["/rtc@1010000/compatible"], b"arm,pl031\0arm,primecell\0");
        assert_eq!(tree["/rtc@1010000/reg"], cells64(&[0x101_0000, 0x1000]));
        assert_eq!(tree["/rtc@1010000/clocks"], tree["/clock/phandle"]);
        assert_eq!(tree["/rtc@1010000/clock-names"], b"apb_pclk\0");
    }

    #[test]
    fn without_an_initrd_the_tree_names_none() {
        let tree = read(&build(&layout(1, 0), "").unwrap());
        assert!(!tree.keys().any(|key| key.contains("initrd")));
    }

    #[test]
    fn the_same_plan_makes_the_same_bytes_and_no_seed() {
        let first = build(&layout(2, 0x1000), "x").unwrap();
        assert_eq!(build(&layout(2, 0x1000), "x").unwrap(), first);
        assert!(!read(&first).keys().any(|key| key.contains("seed")));
    }

    #[test]
    fn a_command_line_that_cannot_be_stored_is_refused() {
        assert_eq!(build(&layout(1, 0), "a\0b"), Err(DtbError::ZeroInBootargs(1)));
        assert!(matches!(build(&layout(1, 0), &"x".repeat(0x1_0000)), Err(DtbError::TooLarge(_))));
    }

    #[test]
    fn the_largest_machine_fits_the_slot() {
        assert!(build(&layout(crate::layout::MAX_CPUS, 0), &"x".repeat(2048)).is_ok());
    }
}
