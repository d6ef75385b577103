//! Unit tests under Miri, which sees undefined behaviour and leaks.
//!
//! The cores forbid unsafe code, so in them Miri can only find what the crates below them do: `cargo xtask test` runs the tests of
//! structures that are read from bytes and of words that are shared, and of every crate of ours that has unsafe code. The rest,
//! which takes a thousand times its native time, is for `cargo xtask test --nightly`.

use crate::setup;
use crate::shell::{self, Error, Result};
use crate::steps::{self, Job, step};
use std::process::Command;

/// A crate whose unit tests Miri runs.
struct Suite {
    package: &'static str,
    /// What `cargo xtask test` runs of it: a process for each filter, "" for all tests.
    quick: &'static [&'static str],
    /// What it leaves out even so.
    skip: &'static [&'static str],
}

const SUITES: &[Suite] = &[
    // Whole commands take ten minutes and touch no other structures than their parts.
    Suite { package: "realm-rmm", quick: &[""], skip: &["rmi::tests"] },
    // Who owns whom among VMs, vCPUs and pages: a circle would be a leak.
    Suite { package: "realm-host", quick: &["vm::tests::a_slot_that_goes", "granule::pool"], skip: &[] },
    Suite { package: "realm-abi", quick: &[""], skip: &[] },
    // Boxes, arcs and vectors out of raw memory.
    Suite { package: "realm-alloc", quick: &[""], skip: &[] },
];

/// How much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// What belongs to every change.
    Quick,
    /// Every test.
    All,
}

/// `cargo xtask miri`: all of it.
pub fn miri() -> Result {
    build()?;
    steps::together(jobs(Amount::All))
}

/// Builds the tests, so that no two processes do.
pub fn build() -> Result {
    setup::nightly()?;
    step("build the tests for Miri", || {
        let mut command = tests();
        for suite in SUITES {
            command.args(["--package", suite.package]);
        }
        shell::run(command.arg("--no-run"))
    })
}

/// A job for each process, when [`build`] has been.
pub fn jobs<'a>(amount: Amount) -> Vec<Job<'a>> {
    let mut jobs: Vec<Job<'a>> = Vec::new();
    for Suite { package, quick, skip } in SUITES {
        match amount {
            Amount::Quick => {
                for filter in *quick {
                    jobs.push(Box::new(move || run(package, filter, skip)));
                }
            }
            Amount::All => jobs.push(Box::new(move || run(package, "", &[]))),
        }
    }
    jobs
}

/// Property tests run fewer cases than elsewhere.
fn tests() -> Command {
    let mut command = shell::nightly_cargo();
    command
        .args(["miri", "test", "--quiet", "--locked", "--lib", "--target-dir"])
        .arg(shell::target().join("miri"))
        .env("MIRIFLAGS", "-Zmiri-disable-isolation")
        .env("PROPTEST_CASES", "4");
    command
}

fn run(package: &str, filter: &str, skip: &[&str]) -> Result {
    let mut name = package.to_owned();
    if !filter.is_empty() {
        name += &format!(", {filter}");
    }
    for skipped in skip {
        name += &format!(", not {skipped}");
    }
    step(&format!("Miri: {name}"), || {
        let mut command = tests();
        command.args(["--package", package, "--", filter]);
        let said = shell::run_quietly(command.args(skip.iter().flat_map(|name| ["--skip", name])))?;
        if has_passed(&said) {
            return Ok(());
        }
        Err(Error::Other(format!("no test of {package} is called `{filter}`:\n{said}")))
    })
}

/// Whether a test has passed, by what the harness says. It is content with none.
fn has_passed(said: &str) -> bool {
    said.lines()
        .filter_map(|line| line.strip_prefix("test result: ok. ")?.split_once(" passed"))
        .any(|(count, _)| count != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_nobody_ran_have_not_passed() {
        let line = |count| format!("\nrunning {count} tests\n\ntest result: ok. {count} passed; 0 failed;\n");
        assert!(has_passed(&line(10)));
        assert!(!has_passed(&line(0)) && !has_passed(""));
    }
}
