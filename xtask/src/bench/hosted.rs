//! The machine in one process, counted by callgrind.
//!
//! `machine/examples/instructions.rs` makes the calls; callgrind counts what happens inside its function
//! `realmkit_measured`. Counts repeat exactly for the same binary.

use super::report::write_json;
use crate::apt;
use crate::shell::{self, Error, Result};
use crate::steps::step;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Guest memory of the realm lives, in MiB.
const LIFE_SIZES: [u64; 3] = [64, 256, 1024];
/// The RMM core's own entry, as it is called in profiles.
const RMM_ENTRY: &str = "::run_command";
/// Growth from one size to the next may differ from proportional by this much: fixed costs weigh on the smallest.
const LINEAR_WITHIN: f64 = 0.10;

#[derive(Serialize)]
struct Report {
    conditions: Conditions,
    commands: Vec<CommandCost>,
    lives: Vec<Life>,
}

#[derive(Serialize)]
struct Conditions {
    counter: &'static str,
    profile: &'static str,
    host: String,
}

#[derive(Serialize)]
struct CommandCost {
    command: String,
    calls: u64,
    /// From the Host's SMC to its return, the machine's own work included.
    instructions_per_call: u64,
    /// Of these, in the RMM core and what it calls.
    rmm_instructions_per_call: u64,
}

/// One whole realm life.
#[derive(Serialize)]
struct Life {
    memory_mib: u64,
    granules: u64,
    rmi_calls: u64,
    instructions: u64,
    instructions_per_granule: u64,
}

/// What a life prints of itself.
#[derive(serde::Deserialize)]
struct LifeOutput {
    granules: u64,
    rmi_calls: u64,
}

/// Measures and reports.
pub fn bench(json: Option<&Path>) -> Result {
    apt::install(&["valgrind"])?;
    let program = step("build the measured program", build)?;
    let names = shell::output(&mut Command::new(&program))?;
    let mut commands = Vec::new();
    for name in names.lines() {
        let (calls, profile) = step(name, || callgrind(&program, &[name]))?;
        let calls: u64 = parse(name, &calls)?;
        commands.push(CommandCost {
            command: name.to_owned(),
            calls,
            instructions_per_call: profile.total()? / calls.max(1),
            rmm_instructions_per_call: profile.inclusive(RMM_ENTRY)? / calls.max(1),
        });
    }
    let mut lives = Vec::new();
    for mib in LIFE_SIZES {
        let size = mib.to_string();
        let (output, profile) =
            step(&format!("a realm life with {mib} MiB"), || callgrind(&program, &["--life", &size]))?;
        let instructions = profile.total()?;
        let output: LifeOutput = serde_json::from_str(&output)
            .map_err(|error| Error::Other(format!("the life of {mib} MiB printed no JSON: {error}")))?;
        lives.push(Life {
            memory_mib: mib,
            granules: output.granules,
            rmi_calls: output.rmi_calls,
            instructions,
            instructions_per_granule: instructions / output.granules.max(1),
        });
    }
    let host = shell::output(Command::new("uname").args(["-srm"]))?.trim().to_owned();
    let conditions = Conditions { counter: "callgrind Ir", profile: "release, machine in one process", host };
    let report = Report { conditions, commands, lives };
    if write_json(&report, json)? {
        print(&report);
    }
    check_linear(&report.lives)
}

fn build() -> Result<PathBuf> {
    let args = [
        "build",
        "--quiet",
        "--release",
        "--locked",
        "--package",
        "realm-machine",
        "--example",
        "instructions",
    ];
    shell::run(shell::cargo().args(args))?;
    Ok(shell::target().join("release/examples/instructions"))
}

/// Runs the program under callgrind: what it printed, and the profile.
fn callgrind(program: &Path, args: &[&str]) -> Result<(String, Profile)> {
    let out = shell::target().join("callgrind.out");
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--quiet", "--toggle-collect=*realmkit_measured*"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .args(args)
        // Callgrind counts every byte of a `rep movs` or `rep stos` as an instruction; glibc's vector loops are honest.
        .env(
            "GLIBC_TUNABLES",
            "glibc.cpu.x86_rep_movsb_threshold=0x7fffffff:glibc.cpu.x86_rep_stosb_threshold=0x7fffffff",
        );
    let printed = shell::output(&mut command)?;
    Ok((printed, Profile(std::fs::read_to_string(&out).map_err(Error::file(&out))?)))
}

/// What callgrind wrote (its profile data format, version 1).
struct Profile(String);

impl Profile {
    /// All instructions collected.
    fn total(&self) -> Result<u64> {
        let total = self
            .0
            .lines()
            .find_map(|line| line.strip_prefix("totals: ").or_else(|| line.strip_prefix("summary: ")));
        parse("callgrind's totals", total.unwrap_or("none"))
    }

    /// The instructions of all calls to the functions with `name` in their name, and of what those called.
    fn inclusive(&self, name: &str) -> Result<u64> {
        // A function's name stands with its number where it first occurs, later the number alone: "cfn=(12) name", "cfn=(12)".
        let mut wanted = std::collections::HashSet::new();
        let mut callee_wanted = false;
        let mut cost_follows = false;
        let mut sum = 0;
        for line in self.0.lines() {
            if let Some(function) = line.strip_prefix("fn=").or_else(|| line.strip_prefix("cfn=")) {
                let (id, full) = function.split_once(' ').unwrap_or((function, ""));
                if full.contains(name) {
                    wanted.insert(id.to_owned());
                }
                if line.starts_with('c') {
                    callee_wanted = wanted.contains(id);
                }
            } else if line.starts_with("calls=") {
                cost_follows = callee_wanted;
            } else if std::mem::take(&mut cost_follows) {
                sum += parse("a call's cost", line.rsplit(' ').next().unwrap_or(line))?;
            }
        }
        if sum == 0 {
            return Err(Error::Other(format!("callgrind saw no call of `{name}`: was it inlined?")));
        }
        Ok(sum)
    }
}

fn parse(what: &str, text: &str) -> Result<u64> {
    text.trim().parse().map_err(|_| Error::Other(format!("{what}: `{}` is not a number", text.trim())))
}

fn print(report: &Report) {
    println!(
        "| RMI command, in one process | calls | instructions per call | of these in the RMM |\n|---|---:|---:|---:|"
    );
    for CommandCost { command, calls, instructions_per_call, rmm_instructions_per_call } in &report.commands {
        println!("| {command} | {calls} | {instructions_per_call} | {rmm_instructions_per_call} |");
    }
    println!(
        "\n| realm life, guest memory | granules | RMI calls | instructions | per granule |\n|---|---:|---:|---:|---:|"
    );
    for Life { memory_mib, granules, rmi_calls, instructions, instructions_per_granule } in &report.lives {
        println!(
            "| {memory_mib} MiB | {granules} | {rmi_calls} | {instructions} | {instructions_per_granule} |"
        );
    }
}

/// The cost of a life grows with its memory, not faster.
fn check_linear(lives: &[Life]) -> Result {
    for pair in lives.windows(2) {
        let [smaller, larger] = pair else { continue };
        let memory = larger.memory_mib as f64 / smaller.memory_mib as f64;
        let instructions = larger.instructions as f64 / smaller.instructions as f64;
        if instructions > memory * (1.0 + LINEAR_WITHIN) {
            return Err(Error::Other(format!(
                "growth is not linear: {} MiB to {} MiB is {memory:.1} times the memory and {instructions:.2} times the \
                 instructions",
                smaller.memory_mib, larger.memory_mib
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_of_a_function_is_that_of_all_calls_to_it() {
        let profile = Profile(
            "fn=(1) main\n5 10\ncfn=(2) core::run_command\ncalls=1 9\n6 300\ncfn=(3) other\ncalls=2 1\n7 50\nfn=(4) again\n\
             cfn=(2)\ncalls=3 9\n8 900\ntotals: 1260\n"
                .into(),
        );
        assert_eq!(profile.inclusive("::run_command").unwrap(), 1200);
        assert_eq!(profile.total().unwrap(), 1260);
        assert!(profile.inclusive("::absent").is_err());
    }
}
