//! A Non-secure host on bare metal at EL2: it runs the Host core unchanged, drives it by its ioctls as a VMM would, and
//! attacks the firmware beneath as a hostile host would. What it finds it reports over the console (`realm-report`).
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod attacks;
#[cfg(target_os = "none")]
mod checks;
#[cfg(target_os = "none")]
mod cpus;
#[cfg(target_os = "none")]
mod device;
#[cfg(target_os = "none")]
mod guest;
#[cfg(target_os = "none")]
mod host;
#[cfg(target_os = "none")]
mod lives;
#[cfg(target_os = "none")]
mod machine;
#[cfg(target_os = "none")]
mod memory;
#[cfg(target_os = "none")]
mod programs;
#[cfg(target_os = "none")]
mod realm;
#[cfg(target_os = "none")]
mod registers;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("ns-host runs at EL2 of an RME machine; `cargo xtask boot` builds and starts it there.");
    std::process::exit(2);
}
