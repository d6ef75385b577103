//! `realm doctor`: what this computer has and lacks for each kind of machine.

mod hosted;
mod kvm;
mod qemu;

use crate::output::JsonOption;
use crate::{Failure, Result};
use serde::Serialize;
use std::fmt::Write;

/// Tell what this computer has and lacks for each kind of machine, and how to mend it.
///
/// Without --machine the command only reports. With it, the exit code is 1 when that machine lacks something.
#[derive(clap::Args)]
pub struct Options {
    /// Look at this machine only.
    #[arg(long, value_enum)]
    machine: Option<Kind>,
    #[command(flatten)]
    json: JsonOption,
}

/// Where a realm can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// Everything in one process, on any computer.
    Hosted,
    /// An emulated machine with realms (QEMU's RME emulation).
    Qemu,
    /// This computer, if it is an Arm machine with realms.
    Kvm,
}

/// A machine and what it needs.
#[derive(Serialize)]
struct Machine {
    name: &'static str,
    about: &'static str,
    /// Whether it could run a realm now.
    ready: bool,
    needs: Vec<Need>,
}

/// One thing a machine needs.
#[derive(Serialize)]
struct Need {
    name: &'static str,
    ok: bool,
    /// What was found.
    found: String,
    /// What mends it, when it is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

impl Need {
    /// A need that is met if `result` is, with what was found in both cases.
    fn new(name: &'static str, result: std::result::Result<String, String>, fix: impl Into<String>) -> Self {
        match result {
            Ok(found) => Self { name, ok: true, found, fix: None },
            Err(found) => Self { name, ok: false, found, fix: Some(fix.into()) },
        }
    }
}

impl Kind {
    fn machine(self) -> Machine {
        let (name, about, needs) = match self {
            Self::Hosted => ("hosted", "everything in one process, on any computer", hosted::needs()),
            Self::Qemu => ("qemu", "an emulated machine with realms (QEMU)", qemu::needs()),
            Self::Kvm => ("kvm", "this computer, if it is an Arm machine with realms", kvm::needs()),
        };
        Machine { name, about, ready: needs.iter().all(|need| need.ok), needs }
    }
}

#[derive(Serialize)]
struct Output {
    machines: Vec<Machine>,
}

/// Runs the command.
pub fn doctor(options: &Options) -> Result {
    options.json.check()?;
    let kinds = options.machine.map_or(vec![Kind::Hosted, Kind::Qemu, Kind::Kvm], |kind| vec![kind]);
    let output = Output { machines: kinds.into_iter().map(Kind::machine).collect() };
    options.json.write(&output, &explain(&output))?;
    match output.machines.iter().find(|machine| options.machine.is_some() && !machine.ready) {
        Some(machine) => Err(Failure::Failed(format!("the {} machine is not ready", machine.name))),
        None => Ok(()),
    }
}

fn explain(output: &Output) -> String {
    let mut text = String::new();
    for machine in &output.machines {
        let state = if machine.ready { "ready" } else { "not ready" };
        let _ = writeln!(text, "{} ({}): {state}", machine.name, machine.about);
        for need in &machine.needs {
            let _ = writeln!(
                text,
                "  {:<7} {}: {}",
                if need.ok { "ok" } else { "missing" },
                need.name,
                need.found
            );
            if let Some(fix) = &need.fix {
                let _ = writeln!(text, "          to mend it: {fix}");
            }
        }
    }
    text
}
