//! A Non-secure program that measures every RMI command on the emulated machine, started by
//! `cargo xtask bench --machine qemu`.
//!
//! It builds realms by hand, calls as a Host would, and reports for each call how many ticks of the counter it took:
//! instructions, where QEMU counts them. What is between `hint #120` and `hint #121` is what the plugin `qemu-counter` counts
//! too, so its n-th sample is the n-th value of this program's report.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod bench;
#[cfg(target_os = "none")]
mod call;
#[cfg(target_os = "none")]
mod cpu;
#[cfg(target_os = "none")]
mod entry;
#[cfg(target_os = "none")]
mod guest;
#[cfg(target_os = "none")]
mod life;
#[cfg(target_os = "none")]
mod memory;

#[cfg(not(target_os = "none"))]
fn main() -> std::process::ExitCode {
    eprintln!(
        "ns-bench runs at Non-secure EL2; `cargo xtask bench --machine qemu` builds and starts it there."
    );
    std::process::ExitCode::from(2)
}
