//! A machine with the devices, and a driver of virtio over PCI that was written from the specification alone.
#![allow(dead_code, reason = "each test uses a part of it")]

mod ring;

use realm_devices::{
    Console, Dma, Entropy, Env, GuestMemory, Interrupts, MsiFrame, NoMemory, PciHost, PciWindows, Ram, Rng,
    Sink, VirtioPci,
};
pub use ring::Ring;
use std::sync::{Arc, Mutex};

pub const RAM: Ram = Ram { base: 0x8000_0000, size: 0x10_0000, alias_bit: 1 << 32 };
pub const FRAME: MsiFrame = MsiFrame { base: 0x4000_0000, first_spi: 64, count: 64 };
pub const WINDOWS: PciWindows =
    PciWindows { config_base: 0x4010_0000, memory_base: 0x5000_0000, memory_size: 0x1000_0000 };
pub const CONSOLE: u64 = 0;
pub const RNG: u64 = 1;
pub const VERDICT: &str = "org.realmkit.verdict";

/// Features.
pub const INDIRECT: u64 = 1 << 28;
pub const EVENT_IDX: u64 = 1 << 29;
pub const VERSION_1: u64 = 1 << 32;
pub const ACCESS_PLATFORM: u64 = 1 << 33;
pub const RING_RESET: u64 = 1 << 40;
pub const MULTIPORT: u64 = 1 << 1;
pub const SIZE: u64 = 1;
pub const BASIC: u64 = VERSION_1 | ACCESS_PLATFORM;

#[derive(Default)]
pub struct Memory {
    bytes: Mutex<Vec<u8>>,
    /// After a write to the first address the half word at the second one counts up.
    refill: Mutex<(u64, u64)>,
    /// Where something was read.
    reads: Mutex<Vec<u64>>,
}

impl Memory {
    /// Addresses of the protected half that were read since the last time.
    pub fn take_reads(&self) -> Vec<u64> {
        std::mem::take(&mut self.reads.lock().unwrap())
    }

    /// Another vCPU makes a chain available for each one that is given back.
    pub fn refill(&self, used_index: u64, avail_index: u64) {
        *self.refill.lock().unwrap() = (used_index & !RAM.alias_bit, avail_index & !RAM.alias_bit);
    }
}

impl GuestMemory for Memory {
    fn read(&self, ipa: u64, out: &mut [u8]) -> Result<(), NoMemory> {
        self.reads.lock().unwrap().extend(ipa..ipa + out.len() as u64);
        let start = (ipa - RAM.base) as usize;
        out.copy_from_slice(self.bytes.lock().unwrap().get(start..start + out.len()).ok_or(NoMemory)?);
        Ok(())
    }
    fn write(&self, ipa: u64, bytes: &[u8]) -> Result<(), NoMemory> {
        let mut memory = self.bytes.lock().unwrap();
        let mut at = |ipa: u64, bytes: &[u8]| {
            let start = (ipa - RAM.base) as usize;
            let place = memory.get_mut(start..start + bytes.len()).ok_or(NoMemory)?;
            let before = place.to_vec();
            place.copy_from_slice(bytes);
            Ok(before)
        };
        at(ipa, bytes)?;
        let (used, avail) = *self.refill.lock().unwrap();
        if ipa == used {
            let before = at(avail, &[0, 0])?;
            let next = u16::from_le_bytes([before[0], before[1]]).wrapping_add(1);
            at(avail, &next.to_le_bytes())?;
        }
        Ok(())
    }
}

#[derive(Default)]
pub struct Spis(Mutex<Vec<u32>>);

impl Interrupts for Spis {
    fn pulse(&self, spi: u32) {
        self.0.lock().unwrap().push(spi);
    }
}

/// A sink that takes as many bytes as it was allowed to.
#[derive(Clone)]
pub struct Screen {
    pub shown: Arc<Mutex<Vec<u8>>>,
    pub room: Arc<Mutex<usize>>,
}

impl Default for Screen {
    fn default() -> Self {
        Self { shown: Arc::default(), room: Arc::new(Mutex::new(usize::MAX)) }
    }
}

impl Screen {
    pub fn text(&self) -> Vec<u8> {
        self.shown.lock().unwrap().clone()
    }
    pub fn set_room(&self, room: usize) {
        *self.room.lock().unwrap() = room;
    }
}

impl Sink for Screen {
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut room = self.room.lock().unwrap();
        let taken = bytes.len().min(*room);
        *room -= taken;
        self.shown.lock().unwrap().extend(&bytes[..taken]);
        taken
    }
}

/// Numbers that count up.
pub struct Counting(u8);

impl Entropy for Counting {
    fn fill(&mut self, out: &mut [u8]) -> bool {
        for byte in out {
            self.0 = self.0.wrapping_add(1);
            *byte = self.0;
        }
        true
    }
}

pub struct Machine {
    pub host: PciHost,
    pub console: Arc<Mutex<VirtioPci<Console>>>,
    pub memory: Memory,
    pub spis: Spis,
    pub screen: Screen,
    pub verdict: Screen,
    /// Where memory is free.
    free: Mutex<u64>,
}

impl Machine {
    pub fn new() -> Self {
        let (screen, verdict) = (Screen::default(), Screen::default());
        let named: Vec<(&str, Box<dyn Sink>)> = vec![(VERDICT, Box::new(verdict.clone()))];
        let console = Console::new(Box::new(screen.clone()), named);
        let base = WINDOWS.memory_base as u32;
        let console = Arc::new(Mutex::new(VirtioPci::new(console, base)));
        let rng = VirtioPci::new(Rng::new(Counting(0)), base + VirtioPci::<Console>::WINDOW);
        let mut host = PciHost::new(WINDOWS);
        host.add(console.clone());
        host.add(Arc::new(Mutex::new(rng)));
        Self {
            host,
            console,
            memory: Memory { bytes: Mutex::new(vec![0; RAM.size as usize]), ..Memory::default() },
            spis: Spis::default(),
            screen,
            verdict,
            free: Mutex::new(RAM.base),
        }
    }

    pub fn env(&self) -> Env<'_> {
        Env { dma: Dma { memory: &self.memory, ram: RAM }, frame: FRAME, interrupts: &self.spis }
    }

    pub fn read(&self, address: u64, len: usize) -> u64 {
        let mut bytes = [0; 8];
        assert!(self.host.read(address, &mut bytes[..len]), "{address:#x} is PCI's");
        u64::from_le_bytes(bytes)
    }

    pub fn write(&self, address: u64, len: usize, value: u64) {
        assert!(self.host.write(&self.env(), address, &value.to_le_bytes()[..len]), "{address:#x} is PCI's");
    }

    /// The address of a register of a device's configuration space.
    pub fn config(device: u64, register: u64) -> u64 {
        WINDOWS.config_base + (device << 15) + register
    }

    /// Interrupts since the last time.
    pub fn take_spis(&self) -> Vec<u32> {
        std::mem::take(&mut self.spis.0.lock().unwrap())
    }

    /// Whether an interrupt has come that was not forgotten.
    pub fn has_spi(&self, spi: u32) -> bool {
        self.spis.0.lock().unwrap().contains(&spi)
    }

    pub fn forget_spi(&self, spi: u32) {
        self.spis.0.lock().unwrap().retain(|other| *other != spi);
    }

    /// Zeroed memory the driver shares: its address with the shared bit.
    pub fn allocate(&self, size: u64) -> u64 {
        let mut free = self.free.lock().unwrap();
        let place = *free;
        *free = (place + size).next_multiple_of(64);
        assert!(*free <= RAM.base + RAM.size);
        place | RAM.alias_bit
    }

    pub fn peek(&self, address: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.memory.read(address & !RAM.alias_bit, &mut out).unwrap();
        out
    }

    pub fn poke(&self, address: u64, bytes: &[u8]) {
        self.memory.write(address & !RAM.alias_bit, bytes).unwrap();
    }

    pub fn peek16(&self, address: u64) -> u16 {
        u16::from_le_bytes(self.peek(address, 2).try_into().unwrap())
    }
}

/// A virtio structure's place.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    pub address: u64,
    pub len: u64,
}

/// A device as its driver found it.
pub struct Driver<'a> {
    pub machine: &'a Machine,
    pub device: u64,
    pub common: u64,
    pub isr: u64,
    pub own: Place,
    pub notify: Place,
    pub step: u64,
    pub msix_table: u64,
    pub pending: u64,
    pub msix_control: u64,
    pub window: u64,
    pub features: u64,
}

impl<'a> Driver<'a> {
    /// Finds the device's structures, gives it memory and bus mastering.
    pub fn probe(machine: &'a Machine, device: u64) -> Self {
        let at = |register| Machine::config(device, register);
        machine.write(at(4), 2, 6);
        let bar = |index: u64| machine.read(at(0x10 + 4 * index), 4) & !0xf;
        let (mut common, mut isr, mut own, mut notify) = (0, 0, Place::default(), Place::default());
        let (mut step, mut msix_table, mut pending, mut msix_control, mut window) = (0, 0, 0, 0, 0);
        let mut link = machine.read(at(0x34), 1);
        while link != 0 {
            match machine.read(at(link), 1) {
                0x11 => {
                    let place = |word: u64| bar(word & 7) + (word & !7);
                    msix_control = at(link + 2);
                    msix_table = place(machine.read(at(link + 4), 4));
                    pending = place(machine.read(at(link + 8), 4));
                }
                9 => {
                    let base = bar(machine.read(at(link + 4), 1));
                    let address = base + machine.read(at(link + 8), 4);
                    let place = Place { address, len: machine.read(at(link + 12), 4) };
                    match machine.read(at(link + 3), 1) {
                        1 => common = place.address,
                        2 => (notify, step) = (place, machine.read(at(link + 16), 4)),
                        3 => isr = place.address,
                        4 => own = place,
                        5 => window = link,
                        other => panic!("structure {other}"),
                    }
                }
                other => panic!("capability {other:#x}"),
            }
            link = machine.read(at(link + 1), 1);
        }
        assert!(common != 0 && isr != 0 && own.len != 0 && notify.len != 0 && msix_table != 0 && window != 0);
        Self {
            machine,
            device,
            common,
            isr,
            own,
            notify,
            step,
            msix_table,
            pending,
            msix_control,
            window,
            features: 0,
        }
    }

    pub fn get(&self, offset: u64, len: usize) -> u64 {
        self.machine.read(self.common + offset, len)
    }

    pub fn set(&self, offset: u64, len: usize, value: u64) {
        self.machine.write(self.common + offset, len, value);
    }

    pub fn status(&self) -> u64 {
        self.get(0x14, 1)
    }

    pub fn add_status(&self, bits: u64) {
        self.set(0x14, 1, self.status() | bits);
    }

    /// Whether the device says that it needs a reset.
    pub fn is_broken(&self) -> bool {
        self.status() & 0x40 != 0
    }

    pub fn offered(&self) -> u64 {
        (0..2).fold(0, |features, half| {
            self.set(0, 4, half);
            features | self.get(4, 4) << (32 * half)
        })
    }

    pub fn accept(&mut self, features: u64) -> bool {
        for half in 0..2 {
            self.set(8, 4, half);
            self.set(12, 4, features >> (32 * half) & 0xffff_ffff);
        }
        self.features = features;
        self.add_status(8);
        self.status() & 8 != 0
    }

    /// Up to settled features.
    pub fn negotiate(&mut self, features: u64) {
        self.set(0x14, 1, 0);
        self.add_status(1);
        self.add_status(2);
        assert!(self.accept(features));
    }

    /// Vector `n` is interrupt 64 + 16 * device + `n`.
    pub fn enable_msix(&self) {
        self.machine.write(self.msix_control, 2, 0xc000);
        let count = (self.machine.read(self.msix_control, 2) & 0x7ff) + 1;
        for vector in 0..count {
            let entry = self.msix_table + 16 * vector;
            self.machine.write(entry, 4, FRAME.base + 0x40);
            self.machine.write(entry + 4, 4, 0);
            self.machine.write(entry + 8, 4, 64 + 16 * self.device + vector);
            self.machine.write(entry + 12, 4, 0);
        }
        self.machine.write(self.msix_control, 2, 0x8000);
    }

    /// The interrupt of a queue, and that of the configuration, after [`Self::start`].
    pub fn spi(&self, queue: u16) -> u32 {
        64 + 16 * self.device as u32 + 1 + u32::from(queue)
    }
    pub fn config_spi(&self) -> u32 {
        64 + 16 * self.device as u32
    }

    /// Makes a queue of the size the device has.
    pub fn queue(&self, index: u16) -> Ring<'a> {
        self.set(0x16, 2, index.into());
        let size = self.get(0x18, 2) as u16;
        let ring = Ring::new(self.machine, index, size, self.features);
        for (offset, part) in [(0x20, ring.descriptors), (0x28, ring.avail), (0x30, ring.used)] {
            self.set(offset, 4, part & 0xffff_ffff);
            self.set(offset + 4, 4, part >> 32);
        }
        self.set(0x1a, 2, u64::from(index) + 1);
        self.set(0x1c, 2, 1);
        ring
    }

    pub fn notify(&self, queue: u16) {
        self.machine.write(self.notify.address + self.step * u64::from(queue), 2, queue.into());
    }

    /// Brings the device up with these features and all its queues.
    pub fn start(machine: &'a Machine, device: u64, features: u64) -> (Self, Vec<Ring<'a>>) {
        let mut driver = Self::probe(machine, device);
        driver.negotiate(features);
        driver.enable_msix();
        driver.set(0x10, 2, 0);
        let rings = (0..driver.get(0x12, 2) as u16).map(|index| driver.queue(index)).collect();
        driver.add_status(4);
        (driver, rings)
    }

    /// Hands a chain over and notifies if the device wants that. Whether it did.
    pub fn send(&self, ring: &mut Ring<'_>, buffers: &[(u64, u32, bool)]) -> bool {
        ring.add(buffers);
        let kick = ring.wants_kick();
        if kick {
            self.notify(ring.index);
        }
        kick
    }
}
