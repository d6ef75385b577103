//! `cargo xtask`: the single door to this repository. It sets up what is missing, builds, runs, tests and measures.

mod apt;
mod bench;
mod boot;
mod debian;
mod firmware_tests;
mod fuzz;
mod host_kernel;
mod host_object;
mod host_tests;
mod image;
mod initrd;
mod kernel;
mod linux;
mod machine;
mod miri;
mod module;
mod parts;
mod resets;
mod run;
mod setup;
mod shell;
mod steps;
mod test;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Sets up, runs, tests and measures Realmkit.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what the other commands need (apt as root, rustup, cargo) and fetch the guest kernel.
    Setup(setup::Options),
    /// The main job: a realm from a real Debian kernel, through its whole life, in one process.
    Run(run::Options),
    /// Start the emulated machine: monitor, RMM and a Non-secure program in QEMU.
    Boot(boot::Options),
    /// Build the machine's images: target/images/{monitor,rmm,ns-host}.bin.
    Images,
    /// Everything that has to hold before a change lands.
    Test(test::Options),
    /// The README's two commands on Debian 12 and 13, each in a chroot that is new (as root).
    Debian(debian::Options),
    /// Check the Host core as an object for a kernel: no panic, no abort, small stack frames.
    Object,
    /// Build kvm-realm.ko for a stock Debian kernel: target/module/RELEASE/kvm-realm/kvm-realm.ko.
    Module,
    /// Count instructions: every RMI command, and whole realm lives.
    Bench(bench::Options),
    /// Run the unit tests of the cores under Miri (nightly).
    Miri,
    /// Run fuzz targets for a bounded time (nightly, cargo-fuzz).
    Fuzz(fuzz::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup(options) => setup::setup(&options),
        Command::Run(options) => run::run(&options),
        Command::Boot(options) => boot::boot(&options),
        Command::Images => image::images_command(),
        Command::Test(options) => test::test(&options),
        Command::Debian(options) => debian::debian(&options),
        Command::Object => host_object::check(),
        Command::Module => module::command(),
        Command::Bench(options) => bench::bench(&options),
        Command::Miri => miri::miri(),
        Command::Fuzz(options) => fuzz::fuzz(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
