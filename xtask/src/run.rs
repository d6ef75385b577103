//! The main job: a realm from a real kernel, through its whole life.

use crate::shell::{self, Result};
use crate::steps::step;
use crate::{kernel, parts};
use std::path::PathBuf;

/// Options of `cargo xtask run`.
#[derive(clap::Args)]
#[command(trailing_var_arg = true)]
pub struct Options {
    /// The machine: emulated by QEMU, or everything in one process.
    #[arg(long, value_enum, default_value_t = MachineKind::Qemu)]
    machine: MachineKind,
    /// An arm64 Linux Image of your own instead of Debian's.
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// An initrd of your own; with --kernel and without this there is none.
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// More options for `realm run`, such as `--json -` or `--cpus 4` (see `realm run --help`).
    #[arg(allow_hyphen_values = true)]
    realm_options: Vec<String>,
}

/// Where the realm is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum MachineKind {
    Hosted,
    Qemu,
}

/// Sets up, builds the `realm` command and runs it.
pub fn run(options: &Options) -> Result {
    let (kernel, initrd) = match &options.kernel {
        Some(kernel) => (kernel.clone(), options.initrd.clone()),
        None => {
            let guest = kernel::guest_files()?;
            (guest.kernel, Some(options.initrd.clone().unwrap_or(guest.initrd)))
        }
    };
    let realm = realm_binary()?;
    // The caller's directory, not the root: relative paths in the options are the caller's.
    let mut command = std::process::Command::new(realm);
    command.arg("run");
    match options.machine {
        MachineKind::Hosted => command.args(["--machine", "hosted"]),
        MachineKind::Qemu => command.args(["--machine", "qemu", "--parts"]).arg(parts::build()?),
    };
    command.arg("--kernel").arg(kernel);
    if let Some(initrd) = initrd {
        command.arg("--initrd").arg(initrd);
    }
    shell::run(command.args(&options.realm_options))
}

/// Builds the `realm` command and returns where it is.
pub fn realm_binary() -> Result<PathBuf> {
    step("build the realm command", || {
        shell::run(shell::cargo().args([
            "build",
            "--quiet",
            "--release",
            "--locked",
            "--package",
            "realm-cli",
        ]))
    })?;
    Ok(shell::target().join("release/realm"))
}
