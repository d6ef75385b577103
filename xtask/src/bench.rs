//! Instruction counts: this field's currency, since emulated machines have no honest clock.

mod budget;
mod hosted;
mod profile;
mod qemu;
mod report;
mod samples;

use crate::shell::{Error, Result};
use std::path::PathBuf;

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Options {
    /// Which machine: all in one process under callgrind, or the emulated one with monitor and RMM on it.
    #[arg(long, value_enum, default_value_t = Machine::Hosted)]
    machine: Machine,
    /// Write the results as JSON to FILE, `-` for standard output instead of the tables.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// With --machine qemu: fail if a budget is missed. They are only shown otherwise.
    #[arg(long)]
    check: bool,
    /// With --machine qemu: show which functions the instructions of a measured call are in, instead of the tables.
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Machine {
    Hosted,
    Qemu,
}

/// Measures and reports.
pub fn bench(options: &Options) -> Result {
    let json = options.json.as_deref();
    match (options.machine, &options.profile) {
        (Machine::Hosted, None) if !options.check => hosted::bench(json),
        (Machine::Hosted, _) => Err(Error::Other("--check and --profile are for --machine qemu".into())),
        (Machine::Qemu, Some(name)) => qemu::profile(name),
        (Machine::Qemu, None) => qemu::bench(json, options.check),
    }
}
