//! What the other commands need, installed when it is missing.

use crate::apt;
use crate::kernel;
use crate::shell::{self, Result};
use crate::steps::step;
use std::path::Path;

/// The target all firmware is built for: no floating point in registers the lower worlds own.
pub const TARGET: &str = "aarch64-unknown-none-softfloat";

/// Options of `cargo xtask setup`.
#[derive(clap::Args)]
pub struct Options {
    /// Also what nightly-only commands need: Miri and cargo-fuzz.
    #[arg(long)]
    nightly: bool,
}

/// Installs everything.
pub fn setup(options: &Options) -> Result {
    stable_components()?;
    apt::install(&["valgrind"])?;
    firmware_target()?;
    qemu()?;
    kernel::guest_files()?;
    if options.nightly {
        nightly()?;
        cargo_fuzz()?;
    }
    Ok(())
}

/// rustfmt and clippy of the pinned toolchain.
pub fn stable_components() -> Result {
    for (component, probe) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        if !shell::succeeds(shell::cargo().args([probe, "--version"])) {
            step(&format!("install {component}"), || {
                shell::run(shell::command("rustup").args(["component", "add", component]))
            })?;
        }
    }
    Ok(())
}

/// The Rust target of firmware.
pub fn firmware_target() -> Result {
    rust_target(TARGET)
}

/// The standard library for a target.
pub fn rust_target(target: &str) -> Result {
    let mut probe = shell::command("rustc");
    let libraries = shell::output(probe.args(["--print", "target-libdir", "--target", target]))?;
    if Path::new(libraries.trim()).exists() {
        return Ok(());
    }
    step(&format!("install the target {target}"), || {
        shell::run(shell::command("rustup").args(["target", "add", target]))
    })
}

/// The oldest QEMU whose RME emulation does what the firmware needs.
const QEMU_MAJOR: u32 = 10;

/// QEMU for Arm. Debian 12 has one that is new enough among its backports, later releases in their main part.
pub fn qemu() -> Result {
    let version = shell::output_if_there("qemu-system-aarch64", &["--version"]);
    if version.is_some_and(|text| major(&text).is_some_and(|major| major >= QEMU_MAJOR)) {
        return Ok(());
    }
    apt::install_from("bookworm", "bookworm-backports", &["qemu-system-arm"])
}

/// The major version in "QEMU emulator version 10.0.2 (...)".
fn major(text: &str) -> Option<u32> {
    text.split_once("version ")?.1.split('.').next()?.parse().ok()
}

/// The nightly toolchain with Miri.
pub fn nightly() -> Result {
    if shell::succeeds(shell::nightly_cargo().args(["miri", "--version"])) {
        return Ok(());
    }
    step("install a nightly toolchain with Miri", || {
        if !shell::succeeds(shell::nightly_cargo().arg("--version")) {
            shell::run(shell::command("rustup").args([
                "toolchain",
                "install",
                "nightly",
                "--profile",
                "minimal",
            ]))?;
        }
        shell::run(shell::command("rustup").args([
            "component",
            "add",
            "--toolchain",
            "nightly",
            "miri",
            "rust-src",
        ]))
    })
}

/// cargo-fuzz, and the compiler for the fuzzer's own part.
pub fn cargo_fuzz() -> Result {
    if !shell::succeeds(shell::command("c++").arg("--version")) {
        apt::install(&["g++"])?;
    }
    if shell::succeeds(shell::cargo().args(["fuzz", "--version"])) {
        return Ok(());
    }
    step("install cargo-fuzz", || {
        shell::run(shell::cargo().args(["install", "--quiet", "--locked", "cargo-fuzz"]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_qemu_is_read_from_what_it_says() {
        assert_eq!(major("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright"), Some(10));
        assert_eq!(major("something else"), None);
    }
}
