//! The Realm Management Monitor as pure logic: RMM 1.0 (DEN0137 1.0-rel0), complete, for any machine that implements
//! [`Platform`].
//!
//! The RMM trusts neither the Host nor a realm: an address from outside is an allegation until
//! [`granule::GranuleTable::lock`] has turned it into a [`granule::GranuleGuard`]. There is no heap; everything about a
//! realm lives in the granules the Host delegated for it, and the granule table is memory the platform provides.
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
        reason = "a test that goes wrong shall panic"
    )
)]

pub mod cpu;
#[cfg(any(test, feature = "fakes"))]
#[allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a machine for tests"
)]
pub mod fakes;
pub mod granule;
pub mod measurement;
pub mod platform;
pub mod realm;
pub mod rtt;

mod attest;
mod esr;
mod exit;
mod gic;
mod inject;
mod psci;
mod rec;
mod rmi;
mod rmm;
mod rsi;
mod sysreg;
mod timer;
mod vmid;

pub use attest::{AttestError, PLATFORM_TOKEN_MAX};
pub use platform::Platform;
pub use rmm::{MAX_RECS_ORDER, Rmm};
