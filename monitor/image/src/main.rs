//! The EL3 monitor as an image: what touches the machine. What it decides is in `realm-monitor`.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod el3;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("The monitor runs at EL3 of an RME machine; `cargo xtask boot` builds and starts it there.");
    std::process::exit(2);
}
