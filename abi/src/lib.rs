//! The wires between the worlds of an Arm CCA machine, and nothing else: function identifiers, registers, memory
//! structures and their encodings.
//!
//! | module | between | specification |
//! |---|---|---|
//! | [`smccc`] | everyone | SMC Calling Convention (DEN0028) |
//! | [`rmi`] | Host and RMM | RMM 1.0 (DEN0137 1.0-rel0), RMI |
//! | [`rsi`] | Realm and RMM | RMM 1.0, RSI |
//! | [`psci`] | Realm and RMM, Non-secure world and EL3 | PSCI 1.1 (DEN0022) |
//! | [`rmm_el3`] | RMM and EL3 | RMM-EL3 communication 0.3 to 0.8 |
//! | [`kvm`] | VMM and Host | Linux KVM on arm64, with the realm series |
//!
//! [`errno`] holds the error numbers of the ioctls.
//!
//! Every call is an enum variant with named fields (`from_regs`, `to_regs`); every enumeration keeps values it does
//! not know; every memory structure has its offsets checked when it is compiled.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(not(target_endian = "little"))]
compile_error!("all structures of these interfaces are little-endian and are read in place");

mod layout;
mod macros;
mod regs;

pub mod errno;
pub mod kvm;
pub mod psci;
pub mod rmi;
pub mod rmm_el3;
pub mod rsi;
pub mod smccc;

pub use errno::Errno;
pub use regs::{RegReader, RegValue, RegWriter};

/// Bytes in a granule, the unit of every RMM interface (RMM 1.0, granules).
pub const GRANULE_SIZE: u64 = 4096;
/// log2 of [`GRANULE_SIZE`].
pub const GRANULE_SHIFT: u32 = 12;
