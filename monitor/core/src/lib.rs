//! The EL3 monitor as pure logic: it owns the Granule Protection Table, switches worlds, serves the RMM over the
//! RMM-EL3 interface and the Non-secure world over PSCI.
//!
//! The monitor trusts neither side: an address from a lower world is checked against the table before anything changes.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

pub mod attest;
pub mod control;
pub mod device_tree;
pub mod features;
pub mod gpt;
pub mod layout;
pub mod package;
pub mod psci;
mod range;
pub mod services;
pub mod smc;
pub mod stage1;
pub mod undefined;
