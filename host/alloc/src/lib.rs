//! Boxes, vectors, shared pointers and a sparse index whose allocation can fail.
//!
//! A kernel module must not die because memory is out. Stable Rust's containers abort then; these return [`NoMemory`]. Nothing
//! here panics, and nothing links the code by which `core` and `alloc` panic or abort. Removing and giving back need no memory.
//!
//! | | |
//! |---|---|
//! | [`Box`] | `alloc`'s own, made by [`try_box`], [`try_zeroed_box`], [`try_box_array`] |
//! | [`Vec`] | grows by `try_push`, or never: `push_within` |
//! | [`Arc`] | shared ownership without weak references; by [`Unshared`] also of a trait object |
//! | [`Sparse`] | a map from `u64`; insertion takes its memory from a [`Spare`] that was filled before a lock was taken |
//!
//! The memory is the global allocator's.
#![no_std]
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

extern crate alloc;
#[cfg(test)]
extern crate std;

mod arc;
mod boxed;
mod sparse;
mod vec;

pub use alloc::boxed::Box;
pub use arc::{Arc, Unshared};
pub use boxed::{try_box, try_box_array, try_uninit_box, try_zeroed_box, try_zeroed_slice};
pub use sparse::{Iter, Spare, Sparse};
pub use vec::{IntoIter, Vec};

use realm_abi::Errno;

/// The allocator had no memory, or what was asked for is larger than an address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoMemory;

impl core::fmt::Display for NoMemory {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("out of memory")
    }
}

impl core::error::Error for NoMemory {}

impl From<NoMemory> for Errno {
    fn from(_: NoMemory) -> Self {
        Self::ENOMEM
    }
}

#[cfg(test)]
mod tests;
