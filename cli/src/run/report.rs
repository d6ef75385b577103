//! What `realm run` tells in the end.

use super::program::Findings;
use super::steps::{Statistics, StepCost};
use crate::realm_options::hash_name;
use crate::{Failure, Result, output};
use realm_abi::rmi::HashAlgorithm;
use realm_attest::Measurement;
use realm_attest::token::{Check, Report as Verified, Token, TokenError};
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
    /// The attestation token and what verifying it found.
    pub token: std::result::Result<(Verified, Token), TokenError>,
}

impl Outcome {
    /// Why the run failed: nothing, if it did not.
    fn problems(&self) -> Vec<String> {
        if let Some(error) = &self.findings.error {
            // What follows from it need not be said.
            return vec![format!("in the realm: {error}")];
        }
        let mut problems: Vec<String> = self.log.iter().map(ToString::to_string).collect();
        let granules = &self.statistics.total;
        if granules.delegated != granules.undelegated || granules.leaked != 0 {
            problems.push(format!(
                "{} granules were delegated, {} came back, {} are lost",
                granules.delegated, granules.undelegated, granules.leaked
            ));
        }
        if self.findings.rim != self.predicted.as_bytes() {
            problems.push("the measured RIM is not the predicted one".into());
        }
        match &self.token {
            Err(error) => problems.push(format!("the realm's attestation token: {error}")),
            Ok((verified, _)) => {
                let failed = verified.checks.iter().filter(|check| !check.ok);
                problems.extend(failed.map(|Check { name, expected, found, .. }| {
                    format!("{name} of the token: expected {expected}, found {found}")
                }));
            }
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
    problems: Vec<String>,
}

#[derive(Serialize)]
struct Granules {
    delegated: u64,
    undelegated: u64,
    leaked: u64,
}

impl<'a> Report<'a> {
    /// The report of a realm's life; `saved` is where its token is.
    pub fn new(outcome: &'a Outcome, guest: &Guest, hash: HashAlgorithm, saved: Option<&Path>) -> Self {
        let total = &outcome.statistics.total;
        let problems = outcome.problems();
        Self {
            rim: hex::encode(&outcome.findings.rim),
            predicted_rim: outcome.predicted.to_hex(),
            hash: hash_name(hash),
            rmi_calls: &total.rmi_calls,
            granules: Granules {
                delegated: total.delegated,
                undelegated: total.undelegated,
                leaked: total.leaked,
            },
            exits: &total.exits,
            steps: &outcome.statistics.steps,
            token: saved.map(|path| path.display().to_string()),
            machine: "hosted",
            cpus: guest.layout.cpus,
            memory: guest.layout.ram.size,
            ipa_bits: guest.layout.ipa_bits,
            console: String::from_utf8_lossy(&outcome.console).into_owned(),
            realm: &outcome.findings.lines,
            checks: outcome.token.as_ref().map_or(&[], |(verified, _)| &verified.checks),
            ok: problems.is_empty(),
            problems,
        }
    }

    /// Success only if nothing went wrong, what was measured is what was predicted, and the token holds.
    pub fn verdict(&self) -> Result {
        if self.ok { Ok(()) } else { Err(Failure::Failed(self.problems.join("; "))) }
    }

    /// The report for a person.
    pub fn explain(&self, outcome: &Outcome) -> String {
        let mut text = format!(
            "A realm with {} CPU{}, {} of memory and {} IPA bits on the {} machine\n\n",
            self.cpus,
            if self.cpus == 1 { "" } else { "s" },
            output::bytes(self.memory),
            self.ipa_bits,
            self.machine
        );
        text.push_str(&self.step_table());
        let list = |counts: &BTreeMap<&str, u64>| {
            counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>()
        };
        let _ = writeln!(text, "\n{}", output::list("RMI calls: ", &list(self.rmi_calls)));
        let _ = writeln!(text, "{}", output::list("REC exits: ", &list(self.exits)));
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
        if let Ok((verified, token)) = &outcome.token {
            let held = verified.checks.iter().filter(|check| check.ok).count();
            let _ = writeln!(text, "{token}\nToken: {held} of {} checks hold", verified.checks.len());
        }
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
                if step.bytes == 0 { String::new() } else { output::bytes(step.bytes) },
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::steps::Counters;

    fn outcome() -> Outcome {
        let predicted = Measurement::of(HashAlgorithm::SHA_256, b"realm").unwrap();
        Outcome {
            predicted,
            findings: Findings { lines: Vec::new(), rim: predicted.as_bytes().into(), error: None },
            statistics: Statistics { steps: Vec::new(), total: Counters::default() },
            console: Vec::new(),
            log: Vec::new(),
            token: Err(TokenError::TooLarge(1)),
        }
    }

    #[test]
    fn everything_that_went_wrong_is_told() {
        let mut outcome = outcome();
        outcome.findings.rim.clear();
        outcome.log.push(Event::HostWarning("odd".into()));
        outcome.statistics.total =
            Counters { delegated: 3, undelegated: 1, leaked: 1, ..Counters::default() };
        assert_eq!(
            outcome.problems(),
            [
                "host warning: odd",
                "3 granules were delegated, 1 came back, 1 are lost",
                "the measured RIM is not the predicted one",
                "the realm's attestation token: 1 bytes: a token has at most 65536",
            ]
        );
    }

    #[test]
    fn the_realms_own_complaint_comes_alone() {
        let mut outcome = outcome();
        outcome.findings.error = Some("no device tree".into());
        assert_eq!(outcome.problems(), ["in the realm: no device tree"]);
    }
}
