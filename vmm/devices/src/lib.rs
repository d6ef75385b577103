//! The devices of a realm: PCI functions that speak virtio, and the frame that makes interrupts of their messages.
//!
//! Nothing here knows of KVM. Accesses of the realm come in as an address and bytes ([`PciHost`], [`MsiFrame`]); what
//! goes out is memory of the realm ([`GuestMemory`]) and interrupts ([`Interrupts`]).
//!
//! A realm is as untrusted as any guest: addresses are checked against what it can share, what it writes to memory is read
//! once, and chains and lengths have bounds. A device whose driver breaks the rules says so (DEVICE_NEEDS_RESET) and waits
//! for its reset; nobody else notices.
#![forbid(unsafe_code)]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "a test that panics has found something"
    )
)]

mod console;
mod frame;
mod memory;
mod pci;
mod rng;
mod virtio;

pub use console::{Console, PortId, Sink};
pub use frame::MsiFrame;
pub use memory::{Dma, GuestMemory, NoMemory, Ram};
pub use pci::host::Function;
pub use pci::host::{PciHost, PciWindows};
pub use rng::{Entropy, Rng};
pub use virtio::function::Change;
pub use virtio::queue::{Buffer, Chain};
pub use virtio::{Broken, Device, Io, Kind, VirtioPci};

/// The realm's interrupt controller.
pub trait Interrupts {
    /// Gives an edge to a shared interrupt; `spi` is the GIC's number, from 32 on.
    fn pulse(&self, spi: u32);
}

/// What devices reach of the rest of the machine during an access.
#[derive(Clone, Copy)]
pub struct Env<'a> {
    /// The realm's memory.
    pub dma: Dma<'a>,
    /// Where messages become interrupts.
    pub frame: MsiFrame,
    /// Interrupts.
    pub interrupts: &'a dyn Interrupts,
}

impl Env<'_> {
    /// A write of a device that is an interrupt, if it means the frame. Linux gives the frame's address as the device tree
    /// has it, without the bit that says shared.
    fn message(&self, address: u64, data: u32) {
        if let Some(spi) = self.frame.message(self.dma.ram.without_alias(address), data) {
            self.interrupts.pulse(spi);
        }
    }
}

/// A device's lock. Whoever panicked with it (nothing here does) leaves a device that can be reset.
fn lock<T: ?Sized>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
