//! The Host core as an object that a kernel module links: `realm-host` over functions which the module's C code has to provide
//! (`shim`), and the functions it calls (`entries`). For the machine itself only: elsewhere this crate is empty.
//!
//! `cargo xtask object` builds it for arm64 and proves of it what a kernel demands: nothing in it can panic or abort because
//! memory is out, and its stack frames are small.
#![cfg_attr(target_os = "none", no_std)]

#[cfg(target_os = "none")]
mod entries;
#[cfg(target_os = "none")]
mod heap;
#[cfg(target_os = "none")]
mod kernel;
#[cfg(target_os = "none")]
mod lock;
#[cfg(target_os = "none")]
mod log;
#[cfg(target_os = "none")]
mod process;
#[cfg(target_os = "none")]
mod shim;
#[cfg(all(target_os = "none", feature = "spoilt"))]
mod spoilt;
