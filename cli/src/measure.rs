//! `realm measure`: the RIM of a realm, without a machine.

mod layout;

use crate::output::{self, JsonOption};
use crate::realm_options::{RealmOptions, hash_name};
use crate::{Failure, Result};
use realm_abi::rmi::HashAlgorithm;
use realm_attest::Measurement;
use realm_attest::rim::{PopulateError, RealmParameters, RimPredictor, StepError};
use realm_machine::MachineConfig;
use realm_vmm::Guest;
use serde::Serialize;
use std::fmt::Write;
use std::path::PathBuf;

const LAYOUT_HELP: &str = r#"A layout is a JSON file with the realm, and the steps that build it in the order of the calls:

  {"ipa_bits": 33, "hash": "sha256", "lpa2": false, "sve_vl": null, "num_bps": 2, "num_wps": 2,
   "pmu_num_ctrs": null, "steps": [
    {"init_ripas": {"base": "0x80000000", "size": "0x10000000"}},
    {"populate": {"ipa": "0x80000000", "file": "Image", "measured": true}},
    {"rec": {"pc": "0x80000000", "gprs": ["0x8fe00000"], "runnable": true}}]}

Numbers are integers or "0x..." strings; null means that a feature is off; sve_vl is the vector
length in quadwords minus one. Files are looked for beside the layout and padded with zeros to whole
pages of 4 KiB. Tables are as our host code would have made them at that point."#;

/// Compute the initial measurement (RIM) of a realm without running it.
///
/// Give the options of `realm run`, and the RIM is the one that run will show. Or describe what another VMM does with
/// --layout (see below).
#[derive(clap::Args)]
#[command(
    override_usage = "realm measure --kernel <FILE> [OPTIONS]\n       realm measure --layout <FILE> [--json <FILE>]",
    after_long_help = LAYOUT_HELP
)]
pub struct Options {
    /// The kernel: an arm64 Linux Image.
    #[arg(long, value_name = "FILE", required_unless_present = "layout")]
    kernel: Option<PathBuf>,
    #[command(flatten)]
    realm: RealmOptions,
    /// Breakpoints of the machine [default: those of the hosted machine].
    #[arg(long, value_name = "N")]
    num_bps: Option<u8>,
    /// Watchpoints of the machine [default: those of the hosted machine].
    #[arg(long, value_name = "N")]
    num_wps: Option<u8>,
    /// Measure the steps another VMM takes instead; "-" for standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["kernel", "RealmOptions", "num_bps", "num_wps"])]
    layout: Option<PathBuf>,
    #[command(flatten)]
    json: JsonOption,
}

/// What the command prints.
#[derive(Serialize)]
struct Output {
    rim: String,
    hash: &'static str,
    ipa_bits: u8,
    steps: Vec<Step>,
}

/// A step, with the measurement after it. Addresses are "0x..." strings, as in a layout.
#[derive(Serialize)]
struct Step {
    name: &'static str,
    #[serde(flatten)]
    detail: Detail,
    rim: String,
}

/// What a step is about.
#[derive(Serialize)]
#[serde(untagged)]
enum Detail {
    Create { ipa_bits: u8 },
    InitRipas { base: String, size: u64 },
    Populate { ipa: String, size: u64, content: String, measured: bool },
    Rec { pc: String, gprs: Vec<String>, runnable: bool },
}

impl std::fmt::Display for Detail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let not = |holds: &bool| if *holds { "" } else { "not " };
        match self {
            Self::Create { ipa_bits } => write!(f, "{ipa_bits} IPA bits"),
            Self::InitRipas { base, size } => write!(f, "{base}, {}", output::bytes(*size)),
            Self::Populate { ipa, size, content, measured } => {
                write!(f, "{ipa}, {}, {content}, {}measured", output::bytes(*size), not(measured))
            }
            Self::Rec { pc, gprs, runnable } => {
                write!(f, "pc {pc}, gprs [{}], {}runnable", gprs.join(", "), not(runnable))
            }
        }
    }
}

/// Runs the command.
pub fn measure(options: &Options) -> Result {
    options.json.check()?;
    let output = match (&options.layout, &options.kernel) {
        (Some(layout), _) => layout::measure(layout)?,
        (None, kernel) => {
            let guest = options.realm.guest(kernel.as_deref().unwrap_or(std::path::Path::new("")))?;
            // Not measured, but an impossible one is an error here as it would be in `run`.
            options.realm.rpv()?;
            let mut parameters = parameters(&guest, options.realm.hash());
            parameters.num_bps = options.num_bps.unwrap_or(parameters.num_bps);
            parameters.num_wps = options.num_wps.unwrap_or(parameters.num_wps);
            follow(&guest, &parameters).map_err(Failure::bad_input)?
        }
    };
    options.json.write(&output, &explain(&output))
}

/// The parameters our Host core gives a realm on the hosted machine.
pub fn parameters(guest: &Guest, hash: HashAlgorithm) -> RealmParameters {
    let features = MachineConfig::FEATURES;
    let ipa_bits = guest.layout.ipa_bits;
    RealmParameters {
        lpa2: ipa_bits > realm_attest::rim::MAX_IPA_BITS,
        // The machine's registers hold breakpoints and watchpoints minus one.
        num_bps: features.num_bps + 1,
        num_wps: features.num_wps + 1,
        ..RealmParameters::plain(ipa_bits, hash)
    }
}

/// The RIM of a guest as our VMM builds it.
///
/// # Errors
/// Parameters no realm can have.
pub fn predict(guest: &Guest, parameters: &RealmParameters) -> std::result::Result<Measurement, StepError> {
    let mut recorder = Recorder::new(parameters)?;
    recorder.guest(guest)?;
    Ok(*recorder.predictor.rim())
}

fn follow(guest: &Guest, parameters: &RealmParameters) -> std::result::Result<Output, StepError> {
    let mut recorder = Recorder::new(parameters)?;
    recorder.guest(guest)?;
    Ok(recorder.finish())
}

/// A prediction and its record.
struct Recorder {
    predictor: RimPredictor,
    parameters: RealmParameters,
    steps: Vec<Step>,
}

impl Recorder {
    fn new(parameters: &RealmParameters) -> std::result::Result<Self, StepError> {
        let predictor = RimPredictor::new(parameters)?;
        let mut recorder = Self { predictor, parameters: *parameters, steps: Vec::new() };
        recorder.record("create", Detail::Create { ipa_bits: parameters.ipa_bits });
        Ok(recorder)
    }

    fn record(&mut self, name: &'static str, detail: Detail) {
        self.steps.push(Step { name, detail, rim: self.predictor.rim().to_hex() });
    }

    /// The steps of our VMM: all RAM, the images in ascending order, the boot REC. The other RECs start by PSCI and are not
    /// measured.
    fn guest(&mut self, guest: &Guest) -> std::result::Result<(), StepError> {
        let ram = guest.layout.ram;
        self.init_ripas(ram.base, ram.size)?;
        for part in &guest.parts {
            let mut rest = part.content.as_slice();
            let read = |out: &mut [u8]| std::io::Read::read_exact(&mut rest, out);
            match self.populate(part.region.base, part.region.size, true, part.name, read) {
                Ok(()) => {}
                Err(PopulateError::Step(error)) => return Err(error),
                Err(PopulateError::Read(_)) => unreachable!("a part's content is as long as its region"),
            }
        }
        self.rec(guest.entry(), &[guest.boot_argument()], true)
    }

    fn init_ripas(&mut self, base: u64, size: u64) -> std::result::Result<(), StepError> {
        self.predictor.init_ripas(base, size)?;
        self.record("init_ripas", Detail::InitRipas { base: format!("{base:#x}"), size });
        Ok(())
    }

    fn populate<E>(
        &mut self,
        ipa: u64,
        size: u64,
        measured: bool,
        what: &str,
        read: impl FnMut(&mut [u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), PopulateError<E>> {
        self.predictor.populate(ipa, size, measured, read)?;
        let detail = Detail::Populate { ipa: format!("{ipa:#x}"), size, content: what.into(), measured };
        self.record("populate", detail);
        Ok(())
    }

    fn rec(&mut self, pc: u64, gprs: &[u64], runnable: bool) -> std::result::Result<(), StepError> {
        self.predictor.rec(pc, gprs, runnable)?;
        let gprs = gprs.iter().map(|value| format!("{value:#x}")).collect();
        self.record("rec", Detail::Rec { pc: format!("{pc:#x}"), gprs, runnable });
        Ok(())
    }

    fn finish(self) -> Output {
        Output {
            rim: self.predictor.rim().to_hex(),
            hash: hash_name(self.parameters.hash),
            ipa_bits: self.parameters.ipa_bits,
            steps: self.steps,
        }
    }
}

fn explain(output: &Output) -> String {
    let rows: Vec<Vec<String>> =
        output.steps.iter().map(|step| vec![step.name.into(), step.detail.to_string()]).collect();
    let mut text = output::table(&["step", "what"], &[], &rows);
    let _ = writeln!(text, "\nRIM ({}): {}", output.hash, output.rim);
    text
}
