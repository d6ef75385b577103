//! Realm measurements computed ahead of time, and Arm CCA attestation tokens read, checked and explained.
//!
//! * [`rim`] predicts the Realm Initial Measurement from the steps a Host takes, without a machine.
//! * [`layout`] reads such steps from JSON, for VMMs other than ours.
//! * [`token`] decodes a CCA token, explains it to a person and verifies it against what is expected.
//!
//! Everything read here comes from outside and is not trusted; nothing in it can make this crate panic.
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
        reason = "a failing test panics"
    )
)]

extern crate alloc;

pub mod layout;
pub mod measurement;
pub mod rim;
pub mod token;

pub use measurement::Measurement;
