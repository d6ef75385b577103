//! The common configuration (virtio 1.2 section 4.1.4.3): status, features, queues.

use super::queue::Queue;
use super::{Broken, OFFERED, REQUIRED};
use crate::memory::Dma;
use crate::pci::read_image;
use virtio_bindings::bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_RING_RESET,
};
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

/// Bytes of the structure.
pub const SIZE: u32 = 0x40;
/// No vector.
pub const NO_VECTOR: u16 = 0xffff;

/// Offsets of what can be written, and of what is read-only.
const FEATURE_SELECT: usize = 0x00;
const FEATURES: usize = 0x04;
const DRIVER_FEATURE_SELECT: usize = 0x08;
const DRIVER_FEATURES: usize = 0x0c;
const CONFIG_VECTOR: usize = 0x10;
const NUM_QUEUES: usize = 0x12;
const STATUS: usize = 0x14;
const GENERATION: usize = 0x15;
const QUEUE_SELECT: usize = 0x16;
const QUEUE_SIZE: usize = 0x18;
const QUEUE_VECTOR: usize = 0x1a;
const QUEUE_ENABLE: usize = 0x1c;
const QUEUE_NOTIFY_OFFSET: usize = 0x1e;
const QUEUE_DESCRIPTORS: usize = 0x20;
const QUEUE_DRIVER: usize = 0x28;
const QUEUE_DEVICE: usize = 0x30;
const QUEUE_RESET: usize = 0x3a;

const ACKNOWLEDGE: u8 = VIRTIO_CONFIG_S_ACKNOWLEDGE as u8;
const DRIVER: u8 = VIRTIO_CONFIG_S_DRIVER as u8;
const DRIVER_OK: u8 = VIRTIO_CONFIG_S_DRIVER_OK as u8;
const FEATURES_OK: u8 = VIRTIO_CONFIG_S_FEATURES_OK as u8;
const NEEDS_RESET: u8 = VIRTIO_CONFIG_S_NEEDS_RESET as u8;
const FAILED: u8 = VIRTIO_CONFIG_S_FAILED as u8;

/// What the device has to do after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// Start anew.
    Reset,
    /// The features are settled.
    Negotiated(u64),
    /// The driver is ready, or one more queue is.
    Ready,
    /// One queue started anew.
    QueueReset(usize),
}

/// The structure.
pub struct Common {
    /// What is offered.
    features: u64,
    feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    pub config_vector: u16,
    status: u8,
    pub generation: u8,
    queue_select: u16,
    pub queues: Vec<Queue>,
    pub vectors: Vec<u16>,
    /// Vectors there are.
    vector_count: u16,
}

impl Common {
    pub fn new(device_features: u64, queue_sizes: &[u16], vector_count: u16) -> Self {
        Self {
            features: device_features | OFFERED,
            feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            config_vector: NO_VECTOR,
            status: 0,
            generation: 0,
            queue_select: 0,
            queues: queue_sizes.iter().map(|size| Queue::new(*size)).collect(),
            vectors: vec![NO_VECTOR; queue_sizes.len()],
            vector_count,
        }
    }

    /// Starts anew. The generation goes on, or a driver could miss a change.
    pub fn reset(&mut self) {
        (self.feature_select, self.driver_feature_select, self.driver_features) = (0, 0, 0);
        (self.config_vector, self.status, self.queue_select) = (NO_VECTOR, 0, 0);
        self.queues.iter_mut().for_each(Queue::reset);
        self.vectors.fill(NO_VECTOR);
    }

    /// Whether queues are worked on.
    pub const fn is_live(&self) -> bool {
        self.status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK
    }

    /// The driver broke a rule. Whether it has to be told by an interrupt (section 2.1.2).
    pub const fn break_down(&mut self) -> bool {
        let told = self.status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK;
        self.status |= NEEDS_RESET;
        told
    }

    const fn has(&self, feature: u32) -> bool {
        self.status & FEATURES_OK != 0 && self.driver_features >> feature & 1 != 0
    }

    fn image(&self) -> [u8; SIZE as usize] {
        let mut image = [0; SIZE as usize];
        let mut put = |offset: usize, bytes: &[u8]| {
            for (place, byte) in image.iter_mut().skip(offset).zip(bytes) {
                *place = *byte;
            }
        };
        let half = |features: u64, select: u32| match select {
            0 => features as u32,
            1 => (features >> 32) as u32,
            _ => 0,
        };
        put(FEATURE_SELECT, &self.feature_select.to_le_bytes());
        put(FEATURES, &half(self.features, self.feature_select).to_le_bytes());
        put(DRIVER_FEATURE_SELECT, &self.driver_feature_select.to_le_bytes());
        put(DRIVER_FEATURES, &half(self.driver_features, self.driver_feature_select).to_le_bytes());
        put(CONFIG_VECTOR, &self.config_vector.to_le_bytes());
        put(NUM_QUEUES, &(self.queues.len() as u16).to_le_bytes());
        put(STATUS, &[self.status]);
        put(GENERATION, &[self.generation]);
        put(QUEUE_SELECT, &self.queue_select.to_le_bytes());
        let index = usize::from(self.queue_select);
        if let (Some(queue), Some(vector)) = (self.queues.get(index), self.vectors.get(index)) {
            put(QUEUE_SIZE, &queue.size.to_le_bytes());
            put(QUEUE_VECTOR, &vector.to_le_bytes());
            put(QUEUE_ENABLE, &u16::from(queue.enabled).to_le_bytes());
            put(QUEUE_NOTIFY_OFFSET, &self.queue_select.to_le_bytes());
            put(QUEUE_DESCRIPTORS, &queue.descriptors.to_le_bytes());
            put(QUEUE_DRIVER, &queue.driver.to_le_bytes());
            put(QUEUE_DEVICE, &queue.device.to_le_bytes());
        }
        image
    }

    /// Reads, in any size.
    pub fn read(&self, offset: usize, out: &mut [u8]) {
        read_image(&self.image(), offset, out);
    }

    /// Writes one field in its own size; fields of 64 bits also by halves. Other writes do nothing.
    ///
    /// # Errors
    /// If the driver broke a rule.
    pub fn write(&mut self, offset: usize, bytes: &[u8], dma: &Dma<'_>) -> Result<Effect, Broken> {
        match *bytes {
            [value] if offset == STATUS => Ok(self.write_status(value)),
            [a, b] => self.write_half(offset, u16::from_le_bytes([a, b]), dma),
            [a, b, c, d] => {
                self.write_word(offset, u32::from_le_bytes([a, b, c, d]));
                Ok(Effect::None)
            }
            [a, b, c, d, e, f, g, h] if (QUEUE_DESCRIPTORS..QUEUE_RESET).contains(&offset) => {
                self.write_word(offset, u32::from_le_bytes([a, b, c, d]));
                self.write_word(offset.saturating_add(4), u32::from_le_bytes([e, f, g, h]));
                Ok(Effect::None)
            }
            _ => Ok(Effect::None),
        }
    }

    /// Bits are only added, in their order; a write of zero is a reset.
    fn write_status(&mut self, value: u8) -> Effect {
        if value == 0 {
            return Effect::Reset;
        }
        let before = self.status;
        self.status |= value & (ACKNOWLEDGE | DRIVER | FAILED);
        let accepts =
            self.driver_features & REQUIRED == REQUIRED && self.driver_features & !self.features == 0;
        let greeted = self.status & (ACKNOWLEDGE | DRIVER) == ACKNOWLEDGE | DRIVER;
        if value & FEATURES_OK != 0 && before & FEATURES_OK == 0 && accepts && greeted {
            self.status |= FEATURES_OK;
            // A driver that sets both at once has not looked whether the features are fine.
            return Effect::Negotiated(self.driver_features);
        }
        if value & DRIVER_OK != 0 && self.status & (FEATURES_OK | DRIVER_OK) == FEATURES_OK {
            self.status |= DRIVER_OK;
            return Effect::Ready;
        }
        Effect::None
    }

    const fn checked_vector(&self, vector: u16) -> u16 {
        if vector < self.vector_count { vector } else { NO_VECTOR }
    }

    fn write_half(&mut self, offset: usize, value: u16, dma: &Dma<'_>) -> Result<Effect, Broken> {
        let index = usize::from(self.queue_select);
        match offset {
            CONFIG_VECTOR => self.config_vector = self.checked_vector(value),
            QUEUE_SELECT => self.queue_select = value,
            QUEUE_VECTOR => {
                let vector = self.checked_vector(value);
                if let Some(place) = self.vectors.get_mut(index) {
                    *place = vector;
                }
            }
            QUEUE_SIZE => {
                if let Some(queue) = self.idle_queue() {
                    queue.set_size(value);
                }
            }
            QUEUE_ENABLE if value == 1 && self.status & FEATURES_OK != 0 => {
                let features = (self.has(VIRTIO_RING_F_EVENT_IDX), self.has(VIRTIO_RING_F_INDIRECT_DESC));
                if let Some(queue) = self.idle_queue() {
                    queue.enable(dma, features.0, features.1)?;
                    return Ok(Effect::Ready);
                }
            }
            QUEUE_RESET if value == 1 && self.has(VIRTIO_F_RING_RESET) => {
                if let Some(queue) = self.queues.get_mut(index) {
                    queue.reset();
                    return Ok(Effect::QueueReset(index));
                }
            }
            _ => {}
        }
        Ok(Effect::None)
    }

    /// The selected queue, if it is not in use.
    fn idle_queue(&mut self) -> Option<&mut Queue> {
        self.queues.get_mut(usize::from(self.queue_select)).filter(|queue| !queue.enabled)
    }

    fn write_word(&mut self, offset: usize, value: u32) {
        let set = |place: &mut u64, high: bool| {
            let shift = if high { 32 } else { 0 };
            *place = *place & !(0xffff_ffff << shift) | u64::from(value) << shift;
        };
        match offset {
            FEATURE_SELECT => self.feature_select = value,
            DRIVER_FEATURE_SELECT => self.driver_feature_select = value,
            // Once they are accepted they stay.
            DRIVER_FEATURES if self.status & FEATURES_OK == 0 && self.driver_feature_select < 2 => {
                set(&mut self.driver_features, self.driver_feature_select == 1);
            }
            QUEUE_DESCRIPTORS..QUEUE_RESET => {
                let Some(queue) = self.idle_queue() else { return };
                let place = match offset & !7 {
                    QUEUE_DESCRIPTORS => &mut queue.descriptors,
                    QUEUE_DRIVER => &mut queue.driver,
                    QUEUE_DEVICE => &mut queue.device,
                    _ => return,
                };
                match offset & 7 {
                    0 => set(place, false),
                    4 => set(place, true),
                    _ => {}
                }
            }
            _ => {}
        }
    }
}
