//! A virtio device as a PCI function (virtio 1.2 section 4.1): its capabilities, and what is behind its registers.

use super::common::{self, Common, Effect, NO_VECTOR};
use super::{Broken, Device, Io};
use crate::Env;
use crate::pci::config::{ConfigSpace, Identity};
use crate::pci::host::Function;
use crate::pci::msix::Msix;
use crate::pci::read_image;
use std::ops::Range;

const VENDOR: u16 = 0x1af4;
/// The first device of virtio 1.0 and later.
const FIRST_DEVICE: u16 = 0x1040;
/// Identifier of a vendor's capability, and the kinds of virtio's.
const VENDOR_CAPABILITY: u8 = 0x09;
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const ISR: u8 = 3;
const DEVICE: u8 = 4;
const PCI: u8 = 5;

/// The base address registers: virtio's structures, and MSI-X.
const STRUCTURES_BAR: u8 = 0;
const STRUCTURES_SIZE: u32 = 0x4000;
const MSIX_BAR: u8 = 1;
const MSIX_SIZE: u32 = 0x1000;
/// Offsets of the structures, each on a page of its own.
const COMMON_AT: u64 = 0x0000;
const ISR_AT: u64 = 0x1000;
const DEVICE_AT: u64 = 0x2000;
const NOTIFY_AT: u64 = 0x3000;
const PAGE: u64 = 0x1000;
/// Bytes between the places that notify queues.
const NOTIFY_STEP: u32 = 4;
const PENDING_AT: u32 = 0x800;

/// ISR status: a queue, the configuration.
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// Chains a device takes in one go.
const BUDGET: u32 = 256;

/// What the driver sees of a change on the host's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// The configuration.
    Config,
}

/// A device behind a PCI function.
pub struct VirtioPci<D> {
    config: ConfigSpace,
    msix: Msix,
    /// Where in the configuration space the capabilities of MSI-X and of the window into the structures are.
    msix_at: usize,
    window_at: usize,
    common: Common,
    isr: u8,
    /// A device stopped with work left.
    more: bool,
    device: D,
}

impl<D: Device> VirtioPci<D> {
    /// The function of a device. Its base address registers start at `base`, where [`Self::WINDOW`] bytes are its own.
    #[must_use]
    pub fn new(device: D, base: u32) -> Self {
        let kind = device.kind();
        let mut config = ConfigSpace::new(&Identity {
            vendor: VENDOR,
            device: FIRST_DEVICE.saturating_add(kind.id),
            revision: 1,
            class: kind.class,
            subsystem_vendor: VENDOR,
            subsystem: FIRST_DEVICE.saturating_add(kind.id),
        });
        config.add_bar(STRUCTURES_BAR.into(), STRUCTURES_SIZE, base);
        config.add_bar(MSIX_BAR.into(), MSIX_SIZE, base.saturating_add(STRUCTURES_SIZE));
        let queues = device.queue_sizes().len() as u16;
        let msix = Msix::new(queues.saturating_add(1));
        let msix_at = config.add_capability(
            Msix::CAPABILITY,
            &msix.capability(MSIX_BAR, 0, PENDING_AT),
            &Msix::WRITABLE,
        );
        let notify = u32::from(queues).saturating_mul(NOTIFY_STEP);
        for (kind, at, size, more) in [
            (COMMON, COMMON_AT, common::SIZE, &[][..]),
            (ISR, ISR_AT, 1, &[]),
            (DEVICE, DEVICE_AT, PAGE as u32, &[]),
            (NOTIFY, NOTIFY_AT, notify, &NOTIFY_STEP.to_le_bytes()),
        ] {
            config.add_capability(VENDOR_CAPABILITY, &structure(kind, at as u32, size, more), &[]);
        }
        // Which register, offset, length and the data can be written.
        let writable =
            [0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        let window_at = config.add_capability(VENDOR_CAPABILITY, &structure(PCI, 0, 0, &[0; 4]), &writable);
        let common = Common::new(device.features(), device.queue_sizes(), msix.vectors());
        Self { config, msix, msix_at, window_at, common, isr: 0, more: false, device }
    }

    /// Bytes a function takes of the window for memory.
    pub const WINDOW: u32 = 0x8000;

    /// The device.
    pub const fn device(&self) -> &D {
        &self.device
    }

    /// Something happens on the host's side; then the device does what it can.
    pub fn with<T>(&mut self, env: &Env<'_>, work: impl FnOnce(&mut D) -> (T, Change)) -> T {
        let (result, change) = work(&mut self.device);
        if change == Change::Config {
            self.common.generation = self.common.generation.wrapping_add(1);
            if self.common.is_live() {
                self.config_interrupt(env);
            }
        }
        self.process(env);
        result
    }

    /// Lets the device work.
    fn process(&mut self, env: &Env<'_>) {
        self.more = false;
        // Reaching memory takes bus mastering.
        if !self.common.is_live() || !self.config.is_master() {
            return;
        }
        let mut io = Io { queues: &mut self.common.queues, dma: env.dma, budget: BUDGET, more: false };
        let worked = self.device.process(&mut io);
        self.more = io.more;
        let mut result = worked;
        for index in 0..self.common.queues.len() {
            let Some(queue) = self.common.queues.get_mut(index) else { break };
            match queue.take_interrupt(&env.dma) {
                Ok(true) => self.queue_interrupt(env, index),
                Ok(false) => {}
                Err(broken) => result = result.and(Err(broken)),
            }
        }
        self.note(env, result);
    }

    /// If the driver broke a rule the device stops.
    fn note(&mut self, env: &Env<'_>, result: Result<(), Broken>) {
        if result.is_err() {
            self.more = false;
            if self.common.break_down() {
                self.config_interrupt(env);
            }
        }
    }

    fn queue_interrupt(&mut self, env: &Env<'_>, index: usize) {
        if !self.msix.is_enabled() {
            self.set_isr(self.isr | ISR_QUEUE);
        }
        let vector = self.common.vectors.get(index).copied().unwrap_or(NO_VECTOR);
        self.raise(env, vector);
    }

    fn config_interrupt(&mut self, env: &Env<'_>) {
        self.set_isr(self.isr | ISR_CONFIG);
        self.raise(env, self.common.config_vector);
    }

    fn set_isr(&mut self, isr: u8) {
        self.isr = isr;
        self.config.set_interrupt_status(isr != 0 && !self.msix.is_enabled());
    }

    fn raise(&mut self, env: &Env<'_>, vector: u16) {
        if let Some(message) = self.msix.raise(vector) {
            env.message(message.address, message.data);
        }
    }

    fn send_waiting(&mut self, env: &Env<'_>) {
        while let Some(message) = self.msix.take_waiting() {
            env.message(message.address, message.data);
        }
    }

    fn reset(&mut self) {
        self.device.reset();
        self.common.reset();
        self.msix.forget();
        self.more = false;
        self.set_isr(0);
    }

    fn write_common(&mut self, env: &Env<'_>, offset: usize, bytes: &[u8]) {
        match self.common.write(offset, bytes, &env.dma) {
            Ok(Effect::None) => {}
            Ok(Effect::Reset) => self.reset(),
            Ok(Effect::Negotiated(features)) => self.device.negotiated(features),
            Ok(Effect::Ready) => self.process(env),
            Ok(Effect::QueueReset(index)) => self.device.queue_reset(index),
            Err(broken) => self.note(env, Err(broken)),
        }
    }

    fn read_bar(&mut self, bar: u8, offset: u64, out: &mut [u8]) {
        out.fill(0);
        let within = (offset % PAGE) as usize;
        match (bar, offset & !PAGE.wrapping_sub(1)) {
            (STRUCTURES_BAR, COMMON_AT) => self.common.read(within, out),
            (STRUCTURES_BAR, ISR_AT) if within == 0 => {
                if let Some(first) = out.first_mut() {
                    *first = self.isr;
                    self.set_isr(0);
                }
            }
            (STRUCTURES_BAR, DEVICE_AT) => read_image(&self.device.config(), within, out),
            (MSIX_BAR, 0) => match within.checked_sub(PENDING_AT as usize) {
                Some(within) => self.msix.read_pending(within, out),
                None => self.msix.read_table(within, out),
            },
            _ => {}
        }
    }

    fn write_bar(&mut self, env: &Env<'_>, bar: u8, offset: u64, bytes: &[u8]) {
        let within = (offset % PAGE) as usize;
        match (bar, offset & !PAGE.wrapping_sub(1)) {
            (STRUCTURES_BAR, COMMON_AT) => self.write_common(env, within, bytes),
            // Which queue does not matter: a device looks at all that can have work.
            (STRUCTURES_BAR, NOTIFY_AT) => self.process(env),
            (MSIX_BAR, 0) if within < PENDING_AT as usize => {
                self.msix.write_table(within, bytes);
                self.send_waiting(env);
            }
            _ => {}
        }
    }

    /// What the window in configuration space means: register, offset, length (section 4.1.4.9).
    fn window(&self) -> Option<(u8, u64, usize)> {
        let mut fields = [0; 16];
        self.config.read(self.window_at, &mut fields);
        let [_, _, _, _, bar, _, _, _, a, b, c, d, e, f, g, h] = fields;
        let offset = u32::from_le_bytes([a, b, c, d]);
        let len = u32::from_le_bytes([e, f, g, h]);
        let size = if bar == STRUCTURES_BAR { STRUCTURES_SIZE } else { MSIX_SIZE };
        let fits = offset.checked_add(len).is_some_and(|end| end <= size) && bar <= MSIX_BAR;
        (matches!(len, 1 | 2 | 4) && fits && offset.is_multiple_of(len)).then_some((
            bar,
            offset.into(),
            len as usize,
        ))
    }

    /// The bytes of the configuration space that are the window's data.
    fn window_data(&self) -> Range<usize> {
        let start = self.window_at.saturating_add(16);
        start..start.saturating_add(4)
    }

    /// Which register an address is in, and where.
    fn decode(&self, address: u64, len: usize) -> Option<(u8, u64)> {
        [(STRUCTURES_BAR, STRUCTURES_SIZE), (MSIX_BAR, MSIX_SIZE)].into_iter().find_map(|(bar, size)| {
            let offset = address.checked_sub(self.config.bar(bar.into())?)?;
            let room = u64::from(size).checked_sub(offset)?;
            (len as u64 <= room).then_some((bar, offset))
        })
    }
}

/// What follows identifier and link of a capability that says where a structure is.
fn structure(kind: u8, offset: u32, len: u32, more: &[u8]) -> Vec<u8> {
    let all = more.len().saturating_add(16) as u8;
    let mut body = vec![all, kind, STRUCTURES_BAR, 0, 0, 0];
    body.extend(offset.to_le_bytes());
    body.extend(len.to_le_bytes());
    body.extend(more);
    body
}

impl<D: Device> Function for VirtioPci<D> {
    fn read_config(&mut self, offset: usize, out: &mut [u8]) {
        let data = self.window_data();
        if offset < data.end
            && offset.saturating_add(out.len()) > data.start
            && let Some((bar, at, len)) = self.window()
        {
            let mut bytes = [0; 4];
            self.read_bar(bar, at, bytes.get_mut(..len).unwrap_or_default());
            self.config.write(data.start, &bytes);
        }
        self.config.read(offset, out);
    }

    fn write_config(&mut self, env: &Env<'_>, offset: usize, bytes: &[u8]) {
        let was_master = self.config.is_master();
        self.config.write(offset, bytes);
        let mut control = [0; 4];
        self.config.read(self.msix_at, &mut control);
        let [_, _, _, control] = control;
        let is_master = self.config.is_master();
        self.msix.set_control(control, is_master);
        self.set_isr(self.isr);
        self.send_waiting(env);
        if is_master && !was_master {
            self.process(env);
        }
        let data = self.window_data();
        if offset < data.end
            && offset.saturating_add(bytes.len()) > data.start
            && let Some((bar, at, len)) = self.window()
        {
            let mut value = [0; 4];
            self.config.read(data.start, &mut value);
            self.write_bar(env, bar, at, value.get(..len).unwrap_or_default());
        }
    }

    fn read(&mut self, address: u64, out: &mut [u8]) -> bool {
        let Some((bar, offset)) = self.decode(address, out.len()) else { return false };
        self.read_bar(bar, offset, out);
        true
    }

    fn write(&mut self, env: &Env<'_>, address: u64, bytes: &[u8]) -> bool {
        let Some((bar, offset)) = self.decode(address, bytes.len()) else { return false };
        self.write_bar(env, bar, offset, bytes);
        true
    }

    fn resume(&mut self, env: &Env<'_>) -> bool {
        if self.more {
            self.process(env);
        }
        self.more
    }
}
