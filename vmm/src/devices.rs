//! A realm's devices: the UART, the clock, and what is behind PCI.

use crate::layout::Layout;
use crate::output::Output;
use crate::uart::Uart;
use crate::{dtb, lock};
use realm_devices::{Console, Entropy, Env, MsiFrame, PciHost, PciWindows, Ram, Rng, Sink, VirtioPci};
use std::sync::{Arc, Mutex};
use vm_superio::Rtc;

/// The port of the console device that the realm's init writes its verdict to.
pub(crate) const VERDICT_PORT: &str = "org.realmkit.verdict";
/// Bytes of a verdict that are kept.
const MAX_VERDICT: usize = 4096;

/// The devices, each behind its own lock.
pub(crate) struct Devices {
    pub(crate) uart: Mutex<Uart>,
    rtc: Mutex<Rtc<vm_superio::rtc_pl031::NoEvents>>,
    pub(crate) pci: PciHost,
    pub(crate) frame: MsiFrame,
    pub(crate) ram: Ram,
    pub(crate) console: Arc<Mutex<VirtioPci<Console>>>,
    hvc: Arc<Mutex<Output>>,
    verdict: Arc<Mutex<Vec<u8>>>,
    layout: Layout,
}

/// What hvc0 writes.
struct Hvc(Arc<Mutex<Output>>);

impl Sink for Hvc {
    fn write(&mut self, bytes: &[u8]) -> usize {
        lock(&self.0).take(bytes)
    }
}

/// What the verdict's port writes: the start is kept, all is taken.
struct Verdict(Arc<Mutex<Vec<u8>>>);

impl Sink for Verdict {
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut kept = lock(&self.0);
        let room = MAX_VERDICT - kept.len();
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        bytes.len()
    }
}

/// The operating system's random numbers.
struct Getrandom;

impl Entropy for Getrandom {
    fn fill(&mut self, out: &mut [u8]) -> bool {
        getrandom::fill(out).is_ok()
    }
}

/// What came of an access.
pub(crate) enum Access {
    Done,
    /// It was PCI's.
    Pci,
    /// A message: this shared interrupt gets an edge.
    Pulse(u32),
    /// The UART may want its interrupt.
    Uart,
    /// Nothing is there.
    Nobody,
}

impl Devices {
    pub(crate) fn new(layout: &Layout) -> Self {
        let (hvc, verdict) = (Arc::<Mutex<Output>>::default(), Arc::<Mutex<Vec<u8>>>::default());
        let named: Vec<(&str, Box<dyn Sink>)> = vec![(VERDICT_PORT, Box::new(Verdict(Arc::clone(&verdict))))];
        let memory = layout.pci_memory;
        let base = memory.base as u32;
        let console = Console::new(Box::new(Hvc(Arc::clone(&hvc))), named);
        let console = Arc::new(Mutex::new(VirtioPci::new(console, base)));
        let rng = VirtioPci::new(Rng::new(Getrandom), base + VirtioPci::<Console>::WINDOW);
        let mut pci = PciHost::new(PciWindows {
            config_base: layout.pci_config.base,
            memory_base: memory.base,
            memory_size: memory.size,
        });
        pci.add(Arc::<Mutex<VirtioPci<Console>>>::clone(&console));
        pci.add(Arc::new(Mutex::new(rng)));
        Self {
            uart: Mutex::default(),
            rtc: Mutex::new(Rtc::new()),
            pci,
            frame: MsiFrame {
                base: layout.msi_frame.base,
                first_spi: dtb::MSI_FIRST_SPI,
                count: dtb::MSI_COUNT,
            },
            ram: Ram { base: layout.ram.base, size: layout.ram.size, alias_bit: layout.alias_bit() },
            console,
            hvc,
            verdict,
            layout: layout.clone(),
        }
    }

    /// What hvc0 showed.
    pub(crate) fn hvc(&self) -> std::sync::MutexGuard<'_, Output> {
        lock(&self.hvc)
    }

    /// What came through the verdict's port.
    pub(crate) fn verdict(&self) -> Vec<u8> {
        lock(&self.verdict).clone()
    }

    /// A read of the realm.
    pub(crate) fn read(&self, address: u64, out: &mut [u8]) -> Access {
        let Layout { uart, rtc, msi_frame, .. } = self.layout;
        let len = out.len();
        if self.pci.read(address, out) {
            return Access::Pci;
        }
        out.fill(0);
        if uart.contains(address, 1) {
            out[0] = lock(&self.uart).read(address - uart.base);
            return Access::Uart;
        }
        if msi_frame.contains(address, len as u64) {
            let value = self.frame.read(address - msi_frame.base, len);
            out.iter_mut().zip(value.to_le_bytes()).for_each(|(out, byte)| *out = byte);
            return Access::Done;
        }
        if rtc.contains(address, len as u64) {
            // Its registers have 32 bits; a part of one is the front of it.
            let mut word = [0; 4];
            lock(&self.rtc).read((address - rtc.base) as u16, &mut word);
            out.iter_mut().zip(word).for_each(|(out, byte)| *out = byte);
            return Access::Done;
        }
        Access::Nobody
    }

    /// A write of the realm.
    pub(crate) fn write(&self, env: &Env<'_>, address: u64, bytes: &[u8]) -> Access {
        let Layout { uart, rtc, msi_frame, .. } = self.layout;
        if self.pci.write(env, address, bytes) {
            return Access::Pci;
        }
        if uart.contains(address, 1) {
            lock(&self.uart).write(address - uart.base, bytes[0]);
            return Access::Uart;
        }
        if msi_frame.contains(address, bytes.len() as u64) {
            return self.frame.write(address - msi_frame.base, bytes).map_or(Access::Done, Access::Pulse);
        }
        if rtc.contains(address, bytes.len() as u64) {
            if let Ok(word) = bytes.try_into() {
                lock(&self.rtc).write((address - rtc.base) as u16, word);
            }
            return Access::Done;
        }
        Access::Nobody
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KernelImage, LayoutConfig};

    fn devices() -> Devices {
        let kernel = KernelImage { text_offset: 0, image_size: 0x20_0000, file_size: 0x10_0000, flags: 0xa };
        let layout = Layout::new(&LayoutConfig {
            ram_size: 0x1000_0000,
            cpus: 1,
            kernel: &kernel,
            initrd_size: 0,
            ipa_bits: None,
            page_size: 0x1000,
        });
        Devices::new(&layout.unwrap())
    }

    fn read(devices: &Devices, address: u64, len: usize) -> Option<u64> {
        let mut bytes = [0xaa; 8];
        let access = devices.read(address, &mut bytes[..len]);
        bytes[len..].fill(0);
        (!matches!(access, Access::Nobody)).then_some(u64::from_le_bytes(bytes))
    }

    #[test]
    fn every_window_of_the_plan_is_answered_in_every_size() {
        let devices = devices();
        assert_eq!(read(&devices, 0x4010_0000, 4), Some(0x1043_1af4));
        assert_eq!(read(&devices, 0x4010_8000, 8), Some(0x10_0000_1044_1af4));
        assert_eq!(read(&devices, 0x5fff_fff8, 8), Some(u64::MAX));
        assert_eq!(read(&devices, 0x4000_0008, 4), Some(64 << 16 | 64));
        assert_eq!(read(&devices, 0x101_0fe0, 4), Some(0x31));
        assert_eq!(read(&devices, 0x101_0fe4, 1), Some(0x10));
        assert_eq!(read(&devices, 0x100_0005, 4), Some(0x60));
        for (address, len) in
            [(0x100_0008, 1), (0x101_0ffe, 4), (0x4000_0ffc, 8), (0x4fff_ffff, 1), (0x6000_0000, 1)]
        {
            assert_eq!(read(&devices, address, len), None, "{address:#x}");
        }
    }

    #[test]
    fn the_clock_tells_the_time() {
        let now = || std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let (before, time, after) = (now(), read(&devices(), 0x101_0000, 4).unwrap(), now());
        assert!((before..=after).contains(&time));
    }

    #[test]
    fn a_verdict_has_a_limit() {
        let devices = devices();
        let mut sink = Verdict(Arc::clone(&devices.verdict));
        assert_eq!((sink.write(&[b'0'; 4000]), sink.write(&[b'1'; 4000])), (4000, 4000));
        assert_eq!((devices.verdict().len(), devices.verdict()[4095]), (4096, b'1'));
    }

    #[test]
    fn random_numbers_differ() {
        let (mut one, mut two) = ([0; 32], [0; 32]);
        assert!(Getrandom.fill(&mut one) && Getrandom.fill(&mut two));
        assert!(one != two && one != [0; 32]);
    }
}
