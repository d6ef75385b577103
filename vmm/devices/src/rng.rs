//! The entropy device (virtio 1.2 section 5.4).

use crate::virtio::{Broken, Device, Io, Kind};

/// Bytes one request gets at most; a driver that wants more asks again.
const MAX_REQUEST: usize = 4096;

/// Where randomness comes from.
pub trait Entropy: Send + 'static {
    /// Fills all of it; whether that was possible.
    fn fill(&mut self, out: &mut [u8]) -> bool;
}

/// The device.
pub struct Rng<E>(E);

impl<E: Entropy> Rng<E> {
    /// With this source.
    pub const fn new(source: E) -> Self {
        Self(source)
    }
}

impl<E: Entropy> Device for Rng<E> {
    fn kind(&self) -> Kind {
        Kind { id: 4, class: [0xff, 0, 0] }
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[16]
    }

    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    fn negotiated(&mut self, _features: u64) {}

    fn process(&mut self, io: &mut Io<'_>) -> Result<(), Broken> {
        while let Some(chain) = io.pop(0)? {
            let mut bytes = [0; MAX_REQUEST];
            let len = chain.room().min(MAX_REQUEST as u64) as usize;
            let bytes = bytes.get_mut(..len).unwrap_or_default();
            if !self.0.fill(bytes) {
                return Err(Broken("no entropy"));
            }
            let written = chain.write(io.dma(), bytes)?;
            io.push(0, &chain, written)?;
        }
        Ok(())
    }

    fn queue_reset(&mut self, _index: usize) {}

    fn reset(&mut self) {}
}
