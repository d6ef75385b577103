//! What `realm run` tells in the end.

use super::program::Findings;
use super::steps::{Statistics, StepCost};
use crate::realm_options::hash_name;
use crate::{Failure, Result, output};
use realm_abi::rmi::HashAlgorithm;
use realm_attest::Measurement;
use realm_attest::token::{self, Check, Token};
use realm_machine::log::Event;
use realm_vmm::Guest;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// Everything there is to tell about a realm's life.
pub struct Outcome {
    /// The RIM computed ahead of time.
    pub predicted: Measurement,
    /// What the realm's program found.
    pub findings: Findings,
    /// What was counted.
    pub statistics: Statistics,
    /// What the realm wrote to its UART.
    pub console: Vec<u8>,
    /// What went wrong on the machine.
    pub log: Vec<Event>,
}

impl Outcome {
    /// Why the run failed, apart from measurement and token.
    pub fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> =
            self.findings.error.iter().map(|error| format!("in the realm: {error}")).collect();
        problems.extend(self.log.iter().map(ToString::to_string));
        let granules = &self.statistics.total;
        if granules.delegated != granules.undelegated || granules.leaked != 0 {
            problems.push(format!(
                "{} granules were delegated, {} came back, {} are lost",
                granules.delegated, granules.undelegated, granules.leaked
            ));
        }
        problems
    }
}

/// The JSON.
#[derive(Serialize)]
pub struct Report<'a> {
    rim: String,
    predicted_rim: String,
    hash: &'static str,
    rmi_calls: &'a BTreeMap<&'static str, u64>,
    granules: Granules,
    exits: &'a BTreeMap<&'static str, u64>,
    steps: &'a [StepCost],
    token: Option<String>,
    machine: &'static str,
    cpus: u32,
    memory: u64,
    ipa_bits: u8,
    console: String,
    realm: &'a [String],
    checks: &'a [Check],
    ok: bool,
}

#[derive(Serialize)]
struct Granules {
    delegated: u64,
    undelegated: u64,
    leaked: u64,
}

impl<'a> Report<'a> {
    /// The report of a run without problems.
    pub fn new(
        outcome: &'a Outcome,
        guest: &Guest,
        hash: HashAlgorithm,
        saved: Option<&Path>,
        token: &Token,
        verified: &'a token::Report,
    ) -> Self {
        let statistics = &outcome.statistics;
        let rim = hex::encode(&outcome.findings.rim);
        let predicted_rim = outcome.predicted.to_hex();
        let token_rim = hex::encode(&token.realm_claims.initial_measurement);
        Self {
            ok: verified.ok && rim == predicted_rim && rim == token_rim,
            rim,
            predicted_rim,
            hash: hash_name(hash),
            rmi_calls: &statistics.total.rmi_calls,
            granules: Granules {
                delegated: statistics.total.delegated,
                undelegated: statistics.total.undelegated,
                leaked: statistics.total.leaked,
            },
            exits: &statistics.total.exits,
            steps: &statistics.steps,
            token: saved.map(|path| path.display().to_string()),
            machine: "hosted",
            cpus: guest.layout.cpus,
            memory: guest.layout.ram.size,
            ipa_bits: guest.layout.ipa_bits,
            console: String::from_utf8_lossy(&outcome.console).into_owned(),
            realm: &outcome.findings.lines,
            checks: &verified.checks,
        }
    }

    /// Success only if what was measured is what was predicted, and the token holds.
    pub fn verdict(&self) -> Result {
        if self.rim != self.predicted_rim {
            return Err(Failure::Failed("the measured RIM is not the predicted one".into()));
        }
        match self.checks.iter().find(|check| !check.ok) {
            Some(check) => Err(Failure::Failed(format!(
                "{}: expected {}, found {}",
                check.name, check.expected, check.found
            ))),
            None if !self.ok => {
                Err(Failure::Failed("the token has another RIM than the realm was told".into()))
            }
            None => Ok(()),
        }
    }

    /// The report for a person.
    pub fn explain(&self, token: &Token, verified: &token::Report) -> String {
        let mut text = format!(
            "A realm with {} CPUs, {} of memory and {} IPA bits on the {} machine\n\n",
            self.cpus,
            output::bytes(self.memory),
            self.ipa_bits,
            self.machine
        );
        text.push_str(&self.step_table());
        let commands: Vec<String> =
            self.rmi_calls.iter().map(|(name, count)| format!("{name} {count}")).collect();
        let exits: Vec<String> =
            self.exits.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        let _ = writeln!(text, "\nRMI calls:  {}", commands.join(", "));
        let _ = writeln!(text, "REC exits:  {}", exits.join(", "));
        let _ = writeln!(text, "\nIn the realm:");
        for line in self.realm {
            let _ = writeln!(text, "  {line}");
        }
        for line in self.console.lines() {
            let _ = writeln!(text, "  its console: {}", line.escape_debug());
        }
        let verdict = if self.rim == self.predicted_rim { "the same" } else { "DIFFERENT" };
        let _ = writeln!(text, "\nInitial measurement ({}), {verdict}:", self.hash);
        let _ = writeln!(text, "  measured   {}\n  predicted  {}\n", self.rim, self.predicted_rim);
        let _ = write!(text, "{token}");
        let failed: Vec<&str> =
            verified.checks.iter().filter(|check| !check.ok).map(|check| check.name).collect();
        let _ = match failed.as_slice() {
            [] => writeln!(text, "Token verified: {} checks hold", verified.checks.len()),
            failed => writeln!(text, "Token NOT verified: {}", failed.join(", ")),
        };
        if let Some(path) = &self.token {
            let _ = writeln!(text, "Token saved to {path}");
        }
        let Granules { delegated, undelegated, leaked } = self.granules;
        let _ = writeln!(text, "Granules: {delegated} delegated, {undelegated} came back, {leaked} lost");
        text
    }

    fn step_table(&self) -> String {
        let row = |step: &StepCost| {
            vec![
                step.name.clone(),
                step.rmi_calls.to_string(),
                format!("{:+}", step.delegated.cast_signed() - step.undelegated.cast_signed()),
                output::bytes(step.bytes),
                format!("{:.3} s", step.seconds),
            ]
        };
        let mut rows: Vec<Vec<String>> = self.steps.iter().map(row).collect();
        let seconds: f64 = self.steps.iter().map(|step| step.seconds).sum();
        let calls: u64 = self.steps.iter().map(|step| step.rmi_calls).sum();
        let held = self.granules.delegated.cast_signed() - self.granules.undelegated.cast_signed();
        rows.push(vec![
            "all".into(),
            calls.to_string(),
            format!("{held:+}"),
            String::new(),
            format!("{seconds:.3} s"),
        ]);
        output::table(&["step", "RMI calls", "granules", "memory", "time"], &[1, 2, 3, 4], &rows)
    }
}
