//! A GICv3 that an unmodified guest lives with, as pure state: a distributor and a redistributor for each vCPU (Arm IHI 0069,
//! one Security state, affinity routing always on). The CPU interface is the machine's own, through the list registers that
//! enter and leave with a REC (RMM 1.0, RmiRecEnter and RmiRecExit).
//!
//! | file | what it is |
//! |---|---|
//! | `bank` | 32 interrupts: enabled, pending, active, priority, group, configuration |
//! | `dist`, `cpu` | the shared interrupts; what belongs to a vCPU |
//! | `lists`, `lr` | which interrupts go into list registers, and what comes back |
//! | `registers` | the memory-mapped registers, a table row for each |
//! | `sgi` | software generated interrupts |
//! | `lock` | what it needs of its surroundings |
//!
//! # Locks
//! There is one for the shared interrupts and one for each vCPU; they are taken in this order, and never two of vCPUs at once.
//! An entry, an exit and an SGI of a VM that has no shared interrupt in work take only the vCPU's. Work under a lock is
//! bounded: a look at each interrupt, and a wake of each vCPU. Nothing allocates after [`Vgic::new`].
//!
//! # Between flush and sync
//! What is in a list register is marked (`listed`) and stays in the model as it was. A change by others meanwhile is made in
//! the model, the vCPU is woken, and when its list registers come back only what the guest did counts: an acknowledgement, an
//! end. So an interrupt that is cleared, disabled, or whose line goes low is withdrawn; at rest nothing is in list registers,
//! and a vCPU can go on on any CPU.
//!
//! LPIs are not there yet. They have INTIDs from 8192, and neither an active state nor a line: a table of them becomes one
//! more source of `lists`.
#![no_std]
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

#[cfg(test)]
extern crate std;

mod bank;
mod cpu;
mod dist;
mod lists;
mod lock;
mod lr;
mod registers;
mod sgi;
#[cfg(test)]
mod tests;
mod vgic;

pub use lock::{Locks, Order, SpinLock};
pub use vgic::Vgic;

/// SGIs have the INTIDs below this.
const SGIS: u32 = 16;
/// Shared interrupts have the INTIDs from this on.
const SPI: u32 = 32;
/// INTIDs from this on are special (IHI 0069, INTIDs).
const SPECIAL: u32 = 1020;
