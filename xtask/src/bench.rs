//! Instruction counts: this field's currency, since emulated machines have no honest clock.
//!
//! `machine/examples/instructions.rs` makes the calls; callgrind counts what happens inside its function
//! `realmkit_measured`. Counts repeat exactly for the same binary.

use crate::apt;
use crate::shell::{self, Error, Result};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Options {
    /// Write the results as JSON to FILE, `-` for standard output instead of the tables.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Guest memory of the realm lives, in MiB.
const LIFE_SIZES: [u64; 3] = [64, 256, 1024];
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
    instructions_per_call: u64,
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
pub fn bench(options: &Options) -> Result {
    apt::install(&["valgrind"])?;
    let program = shell::step("build the measured program", build)?;
    let names = shell::output(&mut Command::new(&program))?;
    let mut commands = Vec::new();
    for name in names.lines() {
        let (calls, instructions) = shell::step(name, || callgrind(&program, &[name]))?;
        let calls: u64 = parse(name, &calls)?;
        commands.push(CommandCost {
            command: name.to_owned(),
            calls,
            instructions_per_call: instructions / calls.max(1),
        });
    }
    let mut lives = Vec::new();
    for mib in LIFE_SIZES {
        let size = mib.to_string();
        let (output, instructions) =
            shell::step(&format!("a realm life with {mib} MiB"), || callgrind(&program, &["--life", &size]))?;
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
    write(&report, options.json.as_deref())?;
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

/// Runs the program under callgrind: what it printed, and the instructions collected.
fn callgrind(program: &Path, args: &[&str]) -> Result<(String, u64)> {
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
    let profile = std::fs::read_to_string(&out).map_err(Error::file(&out))?;
    let total = profile
        .lines()
        .find_map(|line| line.strip_prefix("totals: ").or_else(|| line.strip_prefix("summary: ")))
        .ok_or_else(|| Error::Other(format!("{}: callgrind wrote no totals", out.display())))?;
    Ok((printed, parse("callgrind's totals", total)?))
}

fn parse(what: &str, text: &str) -> Result<u64> {
    text.trim().parse().map_err(|_| Error::Other(format!("{what}: `{}` is not a number", text.trim())))
}

fn write(report: &Report, json: Option<&Path>) -> Result {
    let text = serde_json::to_string_pretty(report).map_err(|error| Error::Other(error.to_string()))?;
    if json == Some(Path::new("-")) {
        println!("{text}");
        return Ok(());
    }
    if let Some(path) = json {
        std::fs::write(path, text + "\n").map_err(Error::file(path))?;
    }
    println!("| RMI command, in one process | calls | instructions per call |\n|---|---:|---:|");
    for CommandCost { command, calls, instructions_per_call } in &report.commands {
        println!("| {command} | {calls} | {instructions_per_call} |");
    }
    println!(
        "\n| realm life, guest memory | granules | RMI calls | instructions | per granule |\n|---|---:|---:|---:|---:|"
    );
    for Life { memory_mib, granules, rmi_calls, instructions, instructions_per_granule } in &report.lives {
        println!(
            "| {memory_mib} MiB | {granules} | {rmi_calls} | {instructions} | {instructions_per_granule} |"
        );
    }
    Ok(())
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
