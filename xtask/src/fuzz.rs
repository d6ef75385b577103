//! Fuzz targets for a bounded time.

use crate::setup;
use crate::shell::{self, Result};
use crate::steps::{self, Job, step};

/// Options of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub struct Options {
    /// Targets to run; all of them if none is named.
    targets: Vec<String>,
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// `cargo xtask fuzz`.
pub fn fuzz(options: &Options) -> Result {
    build()?;
    let targets = if options.targets.is_empty() { targets()? } else { options.targets.clone() };
    steps::together(jobs(targets, options.seconds))
}

/// All targets.
pub fn targets() -> Result<Vec<String>> {
    let listed = shell::output(shell::nightly_cargo().args(["fuzz", "list"]))?;
    Ok(listed.lines().map(str::to_owned).collect())
}

/// Builds all targets at once.
pub fn build() -> Result {
    setup::nightly()?;
    setup::cargo_fuzz()?;
    step("build the fuzz targets", || shell::run(shell::nightly_cargo().args(["fuzz", "build"])))
}

/// A job for each target, when [`build`] has been.
pub fn jobs<'a>(targets: Vec<String>, seconds: u32) -> Vec<Job<'a>> {
    targets.into_iter().map(|target| -> Job<'a> { Box::new(move || run(&target, seconds)) }).collect()
}

fn run(target: &str, seconds: u32) -> Result {
    step(&format!("fuzz {target}"), || {
        let limit = format!("-max_total_time={seconds}");
        let mut command = shell::nightly_cargo();
        command.args(["fuzz", "run", target, "--", &limit, "-verbosity=0"]);
        shell::run_quietly(&mut command).map(|_| ())
    })
}
