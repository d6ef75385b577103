//! Virtio 1.2 over PCI, without what is older: one device behind one function.

mod common;
pub(crate) mod function;
pub(crate) mod queue;

use crate::memory::{Dma, NoMemory};
pub use function::VirtioPci;
use queue::{Chain, Queue};
use virtio_bindings::bindings::virtio_config::{
    VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_RING_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

/// What a driver has to accept: without ACCESS_PLATFORM it would hand over addresses of private memory.
const REQUIRED: u64 = 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_F_ACCESS_PLATFORM;
/// What every device offers.
const OFFERED: u64 =
    REQUIRED | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_F_RING_RESET;

/// The driver has broken a rule: nothing more happens until it resets the device. Which rule, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken(pub &'static str);

impl From<NoMemory> for Broken {
    fn from(NoMemory: NoMemory) -> Self {
        Self("an address that is not RAM")
    }
}

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The number of its type (virtio 1.2 chapter 5).
    pub id: u16,
    /// PCI class, subclass and programming interface.
    pub class: [u8; 3],
}

/// A device behind the transport.
pub trait Device: Send + 'static {
    /// What it is.
    fn kind(&self) -> Kind;

    /// The features of its type.
    fn features(&self) -> u64;

    /// How many descriptors each of its queues has at most: powers of two.
    fn queue_sizes(&self) -> &[u16];

    /// Its configuration as the driver reads it.
    fn config(&self) -> Vec<u8>;

    /// The driver has accepted these features.
    fn negotiated(&mut self, features: u64);

    /// Does what can be done now: a queue was notified, or something happened on the host's side.
    ///
    /// # Errors
    /// If the driver broke a rule.
    fn process(&mut self, io: &mut Io<'_>) -> Result<(), Broken>;

    /// One queue starts anew.
    fn queue_reset(&mut self, index: usize);

    /// All starts anew.
    fn reset(&mut self);
}

/// The queues of a device while it works.
pub struct Io<'a> {
    queues: &'a mut [Queue],
    dma: Dma<'a>,
    /// How many chains may still be taken, so that a realm that adds them without end does not keep a thread of its VMM.
    budget: u32,
    /// More was there than the budget allowed.
    more: bool,
}

impl Io<'_> {
    /// The next chain of a queue, if there is one.
    ///
    /// # Errors
    /// If the ring or the chain is broken.
    pub fn pop(&mut self, index: usize) -> Result<Option<Chain>, Broken> {
        let Some(queue) = self.queues.get_mut(index) else { return Ok(None) };
        if self.budget == 0 {
            self.more = true;
            return Ok(None);
        }
        let chain = queue.pop(&self.dma)?;
        if chain.is_some() {
            self.budget = self.budget.saturating_sub(1);
        }
        Ok(chain)
    }

    /// Gives a chain back; `written` bytes of it are new.
    ///
    /// # Errors
    /// If the ring is broken.
    pub fn push(&mut self, index: usize, chain: &Chain, written: u32) -> Result<(), Broken> {
        match self.queues.get_mut(index) {
            Some(queue) => queue.push(&self.dma, chain.head, written),
            None => Ok(()),
        }
    }

    /// The realm's memory.
    #[must_use]
    pub const fn dma(&self) -> &Dma<'_> {
        &self.dma
    }
}
