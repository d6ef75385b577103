//! The Realm Management Monitor for R-EL2: entry, translation, exceptions and the world around the core crate `realm-rmm`, which
//! decides everything that is not hardware. Started by any EL3 that follows the RMM-EL3 communication interface.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod boot;
#[cfg(target_os = "none")]
mod console;
#[cfg(target_os = "none")]
mod control;
#[cfg(target_os = "none")]
mod copy;
#[cfg(target_os = "none")]
mod el3;
#[cfg(target_os = "none")]
mod features;
#[cfg(target_os = "none")]
mod hash;
#[cfg(target_os = "none")]
mod machine;
#[cfg(target_os = "none")]
mod mmu;
#[cfg(target_os = "none")]
mod run;
#[cfg(target_os = "none")]
mod simd;
#[cfg(target_os = "none")]
mod slots;
#[cfg(target_os = "none")]
mod stop;
#[cfg(target_os = "none")]
mod sysreg;
#[cfg(target_os = "none")]
mod vectors;

#[cfg(not(target_os = "none"))]
fn main() -> std::process::ExitCode {
    eprintln!("rmm is firmware for R-EL2: build it for aarch64-unknown-none-softfloat");
    std::process::ExitCode::from(2)
}
