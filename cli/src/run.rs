//! `realm run`: a realm through its whole life.

#[cfg(target_os = "linux")]
mod kvm;
mod program;
#[cfg(target_os = "linux")]
mod qemu;
mod report;
mod steps;
#[cfg(target_os = "linux")]
mod terminal;

use crate::output::{self, JsonOption};
use crate::realm_options::RealmOptions;
use crate::{Failure, Result, input, measure};
use program::{Findings, Plan};
use realm_abi::kvm::Generation;
use realm_attest::token::{Expectations, PublicKey, Token, verify};
use realm_machine::{Machine, MachineConfig, MachineHost, Process};
use realm_vmm::{Guest, Progress, RealmSettings, RealmVm, Step, Stop, System, VmError};
use report::{Outcome, Report};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use steps::{Counters, Recorder};

/// Run a realm: build it from a kernel, measure it, run it, get its attestation token, destroy it.
///
/// On the hosted machine everything happens in this process, on any computer: the real host code and the real realm
/// management code (RMM), on a machine model with granule protection and stage 2 translation. There is no Arm CPU in it: instead of
/// the kernel's instructions a short program runs, whose every access and call goes through the realm's own tables and
/// the real interfaces.
///
/// Prints the steps with their costs, what the program found, the measurement of the RMM beside the one predicted
/// ahead of time, and the token.
#[derive(clap::Args)]
#[command(override_usage = "realm run --kernel <FILE> [OPTIONS]")]
pub struct Options {
    /// The machine to run on [default: kvm where there is the module's device, else qemu where its parts are, else hosted].
    #[arg(long, value_enum)]
    machine: Option<MachineKind>,
    /// The kernel: an arm64 Linux Image.
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    #[command(flatten)]
    realm: RealmOptions,
    /// Challenge for the attestation token, in hexadecimal, padded with zeros to 64 bytes [default: random].
    #[arg(long, value_name = "HEX", value_parser = input::padded_hex)]
    challenge: Option<[u8; input::PADDED_SIZE]>,
    /// Save the attestation token.
    #[arg(long, value_name = "FILE")]
    token: Option<PathBuf>,
    /// Ctrl-A begins a command although standard input is no terminal.
    #[arg(long, hide = true)]
    escapes: bool,
    #[command(flatten)]
    json: JsonOption,
    #[cfg(target_os = "linux")]
    #[command(flatten)]
    qemu: qemu::QemuOptions,
}

/// Machines a realm can run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum MachineKind {
    /// All of it in this process, with a short program in the place of the kernel's instructions.
    Hosted,
    /// This computer: arm64 with realms, and the module kvm-realm.
    Kvm,
    /// An emulated machine: QEMU, with this repository's firmware below a Debian kernel.
    Qemu,
}

/// Most DRAM the hosted machine gets: its tables take memory here even where its DRAM does not.
const MAX_DRAM: u64 = 16 << 30;
const BLOCK: u64 = 0x20_0000;

/// Runs the command.
pub fn run(options: &Options) -> Result {
    options.json.check()?;
    options.token.as_deref().map_or(Ok(()), |path| check_token(path, &options.json))?;
    let rpv = options.realm.rpv()?;
    let features = MachineConfig::FEATURES;
    let (machine, why) = options.machine.map_or_else(|| choose(options), |machine| (machine, ""));
    let hosted = machine == MachineKind::Hosted;
    if let Some(bits) = options.realm.ipa_bits.filter(|bits| hosted && *bits > features.pa_bits) {
        let max = features.pa_bits;
        return Err(Failure::BadInput(format!("--ipa-bits {bits}: the hosted machine has at most {max}")));
    }
    // There the kernel itself asks for a token.
    for (option, given) in
        [("--token", options.token.is_some()), ("--challenge", options.challenge.is_some())]
    {
        if given && !hosted {
            return Err(Failure::BadInput(format!(
                "{option}: only the hosted machine's program gets a token"
            )));
        }
    }
    let guest = options.realm.guest(&options.kernel)?;
    let parameters = measure::parameters(&guest, options.realm.hash());
    let predicted = measure::predict(&guest, &parameters).map_err(Failure::bad_input)?;
    let settings = RealmSettings {
        hash: options.realm.hash(),
        rpv: options.realm.rpv_given().then_some(rpv),
        generation: Generation::V8,
    };
    let config = hosted.then(|| machine_config(&guest)).transpose()?;
    if !why.is_empty() {
        let name = clap::ValueEnum::to_possible_value(&machine);
        eprintln!("on the machine {}: {why}", name.as_ref().map_or("", |name| name.get_name()));
    }
    #[cfg(target_os = "linux")]
    match machine {
        MachineKind::Hosted => {}
        MachineKind::Kvm => return kvm::run(options, &guest, &settings, &predicted),
        MachineKind::Qemu => return qemu::run(options, &guest),
    }
    let Some(config) = config else {
        return Err(Failure::BadInput("this is no Linux: only --machine hosted runs here".into()));
    };
    let challenge = options.challenge.map_or_else(random_challenge, Ok)?;

    let machine = Machine::new(config)
        .map_err(|error| Failure::Failed(format!("the hosted machine cannot be built: {error:?}")))?;
    let findings = Arc::new(Mutex::new(Findings::default()));
    let plan = Arc::new(Plan::new(&guest, options.realm.hash(), rpv, challenge));
    let shared = (Arc::clone(&plan), Arc::clone(&findings));
    machine.set_guest(move |cpu| program::run(cpu, &shared.0, &shared.1));
    let device = MachineHost::boot(Arc::clone(&machine));
    let process = Process::new(&device);
    let mut recorder = Recorder::new(&guest, || {
        let statistics = device.statistics();
        Counters {
            rmi_calls: statistics.ledger.calls().collect(),
            delegated: statistics.ledger.delegated,
            undelegated: statistics.ledger.undelegated,
            leaked: statistics.ledger.leaked,
            exits: statistics.exits.by_reason().collect(),
        }
    });
    let life = live(process, &guest, &settings, &plan, &mut recorder)?;
    let statistics = recorder.finish();

    let findings = std::mem::take(&mut *findings.lock().unwrap_or_else(PoisonError::into_inner));
    let key = PublicKey::parse(realm_machine::el3::keys::platform_public_key_pem().as_bytes());
    let key = key.map_err(Failure::failed)?;
    let expectations = Expectations {
        platform_key: &key,
        secured: true,
        rim: Some(predicted.as_bytes()),
        rpv: Some(&rpv),
        challenge: Some(&challenge),
    };
    let token = Token::decode(&life.token).map(|token| (verify(&token, &expectations), token));
    let mut saved = None;
    if let (Some(path), Ok(_)) = (&options.token, &token) {
        std::fs::write(path, &life.token).map_err(Failure::in_file(path))?;
        saved = Some(path.as_path());
    }
    let outcome =
        Outcome { predicted, findings, statistics, console: life.console, log: machine.log().take(), token };
    let report = Report::new(&outcome, &guest, options.realm.hash(), saved);
    options.json.write(&report, &report.explain(&outcome))?;
    report.verdict()
}

/// The machine where nobody names one, and why that.
fn choose(options: &Options) -> (MachineKind, &'static str) {
    #[cfg(target_os = "linux")]
    let found = (!options.wants_token()).then(|| {
        if Path::new(realm_vmm_linux::DEVICE).exists() {
            return Some((MachineKind::Kvm, "this computer has the module kvm-realm"));
        }
        qemu::is_ready(&options.qemu).then_some((MachineKind::Qemu, "its parts are here and so is QEMU"))
    });
    #[cfg(not(target_os = "linux"))]
    let found: Option<Option<(MachineKind, &str)>> = None;
    let why =
        if options.wants_token() { "its program gets a token" } else { "no other is ready (`realm doctor`)" };
    found.flatten().unwrap_or((MachineKind::Hosted, why))
}

impl Options {
    /// Whether the caller wants the hosted machine's program to get a token.
    fn wants_token(&self) -> bool {
        self.token.is_some() || self.challenge.is_some()
    }
}

/// Refuses a place where the token would not be afterwards.
fn check_token(path: &Path, json: &JsonOption) -> Result {
    if path.as_os_str() == "-" {
        return Err(Failure::BadInput(
            "--token -: a token is saved to a file, not to standard output".into(),
        ));
    }
    if json.goes_to(path) {
        return Err(Failure::BadInput(format!("{}: --token and --json need a file each", path.display())));
    }
    output::check_writable(path)
}

/// What is left when a realm is gone.
struct Life {
    token: Vec<u8>,
    console: Vec<u8>,
}

/// Builds, runs and destroys the realm in a process of its own.
fn live(
    process: Process,
    guest: &Guest,
    settings: &RealmSettings,
    plan: &Plan,
    recorder: &mut Recorder<'_>,
) -> Result<Life> {
    let vm = RealmVm::build(&process, guest, settings, recorder).map_err(told)?;
    recorder.begin(Step::Run);
    let stopped = run_vcpus(&vm, guest.layout.cpus);
    recorder.end(Step::Run);
    let token = plan.receive(|ipa, out| vm.read_shared(ipa, out));
    let console = vm.output();
    let destroyed = vm.destroy(recorder);
    drop(process);
    stopped.and(destroyed).map_err(told)?;
    Ok(Life { token: token.map_err(told)?, console })
}

/// An error of the VMM: bad input if other input would help.
fn told(error: VmError) -> Failure {
    if error.is_bad_input() { Failure::bad_input(error) } else { Failure::failed(error) }
}

/// Runs every vCPU on a thread of its own until the realm ends. When one cannot go on, all stop: how the first did, if none has
/// failed.
fn run_vcpus<S: System>(vm: &RealmVm<'_, S>, cpus: u32) -> std::result::Result<Stop, VmError> {
    let first = Mutex::new(None);
    std::thread::scope(|scope| {
        for id in 0..cpus {
            let first = &first;
            scope.spawn(move || {
                let result = vm.run_vcpu(id);
                let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
                match (&*first, &result) {
                    (None, _) | (Some(Ok(_)), Err(_)) => *first = Some(result),
                    _ => {}
                }
                drop(first);
                vm.stop();
            });
        }
    });
    first.into_inner().unwrap_or_else(PoisonError::into_inner).unwrap_or(Ok(Stop::Stopped))
}

/// A machine that is large enough: the realm's memory as far as a short program can use it, the VMM's copy of the images,
/// and room for what the RMM is given.
fn machine_config(guest: &Guest) -> Result<MachineConfig> {
    let images: u64 = guest.parts.iter().map(|part| part.region.size).sum();
    let cpus = guest.layout.cpus;
    let overhead = (64 << 20) + u64::from(cpus) * (1 << 20);
    let dram = (guest.layout.ram.size + images + overhead).next_multiple_of(BLOCK);
    if dram > MAX_DRAM {
        return Err(Failure::BadInput(format!(
            "memory of {}: the hosted machine has at most {} in all",
            output::bytes(guest.layout.ram.size),
            output::bytes(MAX_DRAM)
        )));
    }
    Ok(MachineConfig::new(dram, cpus as usize))
}

/// 64 random bytes of the operating system.
fn random_challenge() -> Result<[u8; input::PADDED_SIZE]> {
    let mut challenge = [0; input::PADDED_SIZE];
    let source = Path::new("/dev/urandom");
    let read =
        std::fs::File::open(source).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut challenge));
    read.map_err(|error| Failure::Failed(format!("{}: {error} (give a --challenge)", source.display())))?;
    Ok(challenge)
}
