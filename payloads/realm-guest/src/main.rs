//! Programs for a realm (R-EL1) that try everything a realm can do and report what they find over the UART of the VMM. Which one
//! runs is told in X0 at the entry; see `programs`.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod boot;
#[cfg(target_os = "none")]
mod device;
#[cfg(target_os = "none")]
mod exception;
#[cfg(target_os = "none")]
mod gic;
#[cfg(target_os = "none")]
mod interrupt;
#[cfg(target_os = "none")]
mod memory;
#[cfg(target_os = "none")]
mod programs;
#[cfg(target_os = "none")]
mod report;
#[cfg(target_os = "none")]
mod smc;
#[cfg(target_os = "none")]
mod state;
#[cfg(target_os = "none")]
mod sysreg;
#[cfg(target_os = "none")]
mod time;
#[cfg(target_os = "none")]
mod vcpu;

#[cfg(not(target_os = "none"))]
fn main() -> std::process::ExitCode {
    eprintln!("realm-guest runs in a realm: build it for aarch64-unknown-none-softfloat");
    std::process::ExitCode::from(2)
}
