//! What the other commands need, installed when it is missing.

use crate::apt;
use crate::kernel;
use crate::shell::{self, Result};

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
            shell::step(&format!("install {component}"), || {
                shell::run(shell::command("rustup").args(["component", "add", component]))
            })?;
        }
    }
    Ok(())
}

/// The nightly toolchain with Miri.
pub fn nightly() -> Result {
    if shell::succeeds(shell::nightly_cargo().args(["miri", "--version"])) {
        return Ok(());
    }
    shell::step("install a nightly toolchain with Miri", || {
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

/// cargo-fuzz.
pub fn cargo_fuzz() -> Result {
    if shell::succeeds(shell::cargo().args(["fuzz", "--version"])) {
        return Ok(());
    }
    shell::step("install cargo-fuzz", || {
        shell::run(shell::cargo().args(["install", "--quiet", "--locked", "cargo-fuzz"]))
    })
}
