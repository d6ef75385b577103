//! `realm measure`: the RIM of a realm, without a machine.

use crate::output::{self, JsonOption};
use crate::{Failure, Result, input};
use realm_abi::rmi::HashAlgorithm;
use realm_attest::layout::{Layout, Number, Step};
use realm_attest::rim::{PopulateError, RealmParameters, RimPredictor};
use serde::Serialize;
use std::fmt::Write;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// Compute the initial measurement (RIM) of a realm without running it.
#[derive(clap::Args)]
pub struct Options {
    /// Measure the steps of another VMM, described in JSON (see "A layout" below).
    #[arg(long, value_name = "FILE")]
    layout: PathBuf,
    #[command(flatten)]
    json: JsonOption,
}

/// Largest layout that is read.
const MAX_LAYOUT: u64 = 16 << 20;

/// What the command prints.
#[derive(Serialize)]
struct Output {
    rim: String,
    hash: &'static str,
    ipa_bits: u8,
    steps: Vec<StepOutput>,
}

/// A step, with the measurement after it.
#[derive(Serialize)]
struct StepOutput {
    name: &'static str,
    detail: String,
    rim: String,
}

/// Runs the command.
pub fn measure(options: &Options) -> Result {
    options.json.check()?;
    let output = measure_layout(&options.layout)?;
    options.json.write(&output, &explain(&output))
}

/// Follows the steps of a layout file. Files it names are looked for beside it.
fn measure_layout(path: &Path) -> Result<Output> {
    let text = input::read_at_most(path, MAX_LAYOUT + 1)?;
    if text.len() as u64 > MAX_LAYOUT {
        return Err(Failure::in_file(path)(format!("a layout has at most {MAX_LAYOUT} bytes")));
    }
    let layout: Layout = serde_json::from_slice(&text).map_err(Failure::in_file(path))?;
    let parameters = layout.parameters().map_err(Failure::in_file(path))?;
    let mut measurement = Measurement::new(&parameters).map_err(Failure::in_file(path))?;
    let directory = path.parent().unwrap_or(Path::new(""));
    for (i, step) in layout.steps.iter().enumerate() {
        measurement.step(step, directory).map_err(|error| {
            Failure::BadInput(format!("{}: step {} ({}): {error}", path.display(), i + 1, step.name()))
        })?;
    }
    Ok(measurement.finish())
}

/// A prediction and its record.
struct Measurement {
    predictor: RimPredictor,
    parameters: RealmParameters,
    steps: Vec<StepOutput>,
}

impl Measurement {
    fn new(parameters: &RealmParameters) -> std::result::Result<Self, String> {
        let predictor = RimPredictor::new(parameters).map_err(|error| error.to_string())?;
        let mut measurement = Self { predictor, parameters: *parameters, steps: Vec::new() };
        measurement.record("create", format!("{} IPA bits", parameters.ipa_bits));
        Ok(measurement)
    }

    fn record(&mut self, name: &'static str, detail: String) {
        self.steps.push(StepOutput { name, detail, rim: self.predictor.rim().to_hex() });
    }

    fn step(&mut self, step: &Step, directory: &Path) -> std::result::Result<(), String> {
        let detail = match step {
            Step::InitRipas { base: Number(base), size: Number(size) } => {
                self.predictor.init_ripas(*base, *size).map_err(|error| error.to_string())?;
                format!("{base:#x}, {}", output::bytes(*size))
            }
            Step::Populate { ipa: Number(ipa), file, measured } => {
                let size = self.populate_file(*ipa, &directory.join(file), *measured)?;
                let measured = if *measured { "measured" } else { "not measured" };
                format!("{ipa:#x}, {} of {file}, {measured}", output::bytes(size))
            }
            Step::Rec { pc: Number(pc), gprs, runnable } => {
                let gprs: Vec<u64> = gprs.iter().map(|number| number.0).collect();
                self.predictor.rec(*pc, &gprs, *runnable).map_err(|error| error.to_string())?;
                format!(
                    "pc {pc:#x}, gprs {gprs:#x?}, {}",
                    if *runnable { "runnable" } else { "not runnable" }
                )
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
            }
        };
        self.record(step.name(), detail);
        Ok(())
    }

    /// Streams a file into the prediction and returns its size.
    fn populate_file(&mut self, ipa: u64, path: &Path, measured: bool) -> std::result::Result<u64, String> {
        let (file, size) = input::open(path).map_err(|failure| match failure {
            Failure::Failed(message) | Failure::BadInput(message) => message,
        })?;
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let result = self.predictor.populate(ipa, size, measured, |out| reader.read_exact(out));
        match result {
            Ok(()) => Ok(size),
            Err(PopulateError::Step(error)) => Err(format!("{} ({size} bytes): {error}", path.display())),
            Err(PopulateError::Read(error)) => Err(format!("{}: {error}", path.display())),
        }
    }

    fn finish(self) -> Output {
        let hash = if self.parameters.hash == HashAlgorithm::SHA_256 { "sha256" } else { "sha512" };
        Output {
            rim: self.predictor.rim().to_hex(),
            hash,
            ipa_bits: self.parameters.ipa_bits,
            steps: self.steps,
        }
    }
}

fn explain(output: &Output) -> String {
    let rows: Vec<Vec<String>> =
        output.steps.iter().map(|step| vec![step.name.into(), step.detail.clone()]).collect();
    let mut text = output::table(&["step", "what"], &[], &rows);
    let _ = writeln!(text, "\nRIM ({}): {}", output.hash, output.rim);
    text
}
