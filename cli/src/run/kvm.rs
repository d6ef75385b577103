//! A realm on this computer: through the realm device of the module kvm-realm.

use super::Options;
use super::steps::{Counters, Recorder, StepCost};
use super::terminal::{AGAIN, END, HELP};
use super::{run_vcpus, told};
use crate::output;
use crate::{Failure, Result};
use realm_abi::kvm::SystemEvent;
use realm_attest::Measurement;
use realm_vmm::{Guest, Progress, RealmSettings, RealmVm, Step, Stop, System, VmError};
use realm_vmm_linux::terminal::{self, Keys, RawMode, Typed};
use realm_vmm_linux::{DEVICE, Linux, device_counters};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long the input thread waits for keys, if nothing waits for the realm and if something does.
const IDLE: Duration = Duration::from_millis(100);
const BUSY: Duration = Duration::from_millis(5);
/// Bytes that may wait for the realm.
const MOST_WAITING: usize = 1 << 16;
/// Exit code when the realm has asked to start anew.
const RESET: u8 = 3;
/// Exit code when the realm's kernel has panicked: it says so, and asks to start anew.
const PANIC: u8 = 5;
/// What Linux says.
const PANICKED: &str = "Kernel panic - not syncing";

/// The JSON.
#[derive(Serialize)]
struct Report<'a> {
    predicted_rim: String,
    rmi_calls: BTreeMap<&'static str, u64>,
    granules: BTreeMap<&'static str, u64>,
    exits: BTreeMap<String, u64>,
    steps: &'a [StepCost],
    machine: &'static str,
    cpus: u32,
    memory: u64,
    ipa_bits: u8,
    end: &'static str,
    /// What the guest says of itself.
    verdict: Option<String>,
    console: String,
}

/// Runs a realm with its console on standard input and output.
pub fn run(options: &Options, guest: &Guest, settings: &RealmSettings, predicted: &Measurement) -> Result {
    let json = &options.json;
    if !Path::new(DEVICE).exists() {
        let why = "not there; the module kvm-realm makes it, on an arm64 machine with an RMM";
        return Err(Failure::BadInput(format!("{DEVICE}: {why}")));
    }
    let system = Linux::new(Path::new(DEVICE)).map_err(Failure::failed)?;
    let before = counters();
    let mut recorder = Recorder::new(guest, counters);
    let vm = RealmVm::build(&system, guest, settings, &mut recorder).map_err(told)?;
    if !json.goes_to(Path::new("-")) {
        vm.show_console(Box::new(std::io::stdout()));
        vm.show_hvc(Box::new(std::io::stdout()));
    }
    recorder.hide();
    recorder.begin(Step::Run);
    let stopped = with_console(&vm, guest.layout.cpus, options.escapes);
    recorder.end(Step::Run);
    let (console, exits) = ([vm.output(), vm.hvc_output()].concat(), vm.exits());
    let verdict = String::from_utf8_lossy(&vm.verdict()).trim().to_owned();
    let destroyed = vm.destroy(&mut recorder);
    let statistics = recorder.finish();
    let stop = stopped.and_then(|stop| destroyed.map(|()| stop)).map_err(told)?;
    let lived = statistics.total.since(&before);
    let report = Report {
        predicted_rim: predicted.to_hex(),
        rmi_calls: lived.rmi_calls.clone(),
        granules: BTreeMap::from([
            ("delegated", lived.delegated),
            ("undelegated", lived.undelegated),
            ("leaked", lived.leaked),
        ]),
        exits: exits.iter().map(|(reason, count)| (reason.to_string(), *count)).collect(),
        steps: &statistics.steps,
        machine: "kvm",
        cpus: guest.layout.cpus,
        memory: guest.layout.ram.size,
        ipa_bits: guest.layout.ipa_bits,
        end: name(stop),
        verdict: (!verdict.is_empty()).then_some(verdict),
        console: String::from_utf8_lossy(&console).into_owned(),
    };
    json.write(&report, &explain(&report, &lived))?;
    match stop {
        Stop::Event(SystemEvent::RESET) if report.console.contains(PANICKED) => {
            Err(Failure::Ended { code: PANIC, message: "the realm's kernel panicked".into() })
        }
        Stop::Event(SystemEvent::RESET) => Err(Failure::Ended { code: RESET, message: String::new() }),
        Stop::Event(SystemEvent::CRASH) => Err(Failure::Failed("the realm says that it has crashed".into())),
        _ => match report.verdict.as_deref().map(str::parse) {
            None | Some(Ok(0)) => Ok(()),
            Some(Ok(code)) => Err(Failure::Ended { code, message: format!("the guest's verdict is {code}") }),
            Some(Err(_)) => Err(Failure::Failed("the guest's verdict is no number from 0 to 255".into())),
        },
    }
}

/// What the device has counted since the module was loaded.
fn counters() -> Counters {
    let counted = device_counters();
    let of = |name: &str| counted.get(name).copied().unwrap_or(0);
    Counters {
        rmi_calls: BTreeMap::from([("all", of("rmi_calls"))]),
        delegated: of("granules_delegated"),
        undelegated: of("granules_undelegated"),
        leaked: of("granules_lost"),
        exits: BTreeMap::from([("all", of("rec_exits"))]),
    }
}

const fn name(stop: Stop) -> &'static str {
    match stop {
        Stop::Event(SystemEvent::RESET) => "reset",
        Stop::Event(SystemEvent::CRASH) => "crash",
        Stop::Event(_) | Stop::RealmOff => "off",
        Stop::Stopped => "left",
    }
}

/// Runs the vCPUs while what is typed goes to the realm.
fn with_console<S: System>(
    vm: &RealmVm<'_, S>,
    cpus: u32,
    escapes: bool,
) -> std::result::Result<Stop, VmError> {
    let raw = RawMode::enter();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| input(vm, escapes || raw.is_some(), &over));
        let stop = run_vcpus(vm, cpus);
        over.store(true, Ordering::SeqCst);
        stop
    })
}

/// Hands what is typed to the realm until that is over.
fn input<S: System>(vm: &RealmVm<'_, S>, escapes: bool, over: &AtomicBool) {
    let mut keys = Keys::default();
    let stdin = std::io::stdin();
    let mut size = None;
    // A window of another size is noticed with the next key. That the realm cannot be told is for its vCPUs to report.
    let mut follow = || {
        let now = terminal::size();
        if let Some((columns, rows)) = now.filter(|_| now != size) {
            let _ = vm.resize_hvc(columns, rows);
        }
        size = now;
    };
    // What waits until the realm takes it. Keys of a person who types more are lost; a pipe waits.
    let mut queue = Vec::new();
    // When the end of input was told to the realm last.
    let mut ended: Option<Instant> = None;
    while !over.load(Ordering::SeqCst) {
        if ended.is_some_and(|at| at.elapsed() >= AGAIN) && queue.is_empty() {
            queue.push(END);
            ended = Some(Instant::now());
        }
        follow();
        let limit = if queue.is_empty() { IDLE } else { BUSY };
        let full = queue.len() >= MOST_WAITING;
        if ended.is_some() || (full && !escapes) {
            // Nothing tells when the realm has room again.
            std::thread::sleep(limit);
        } else if terminal::has_input(limit) {
            match keys.read(stdin.lock(), escapes) {
                Typed::Keys(_) if full => {}
                Typed::Keys(bytes) => queue.extend(bytes),
                Typed::Leave => return vm.stop(),
                Typed::Help => {
                    let _ = std::io::stderr().write_all(HELP.as_bytes());
                }
                Typed::End => {
                    queue.push(END);
                    ended = Some(Instant::now());
                }
            }
        }
        let taken = if vm.hvc_is_open() { vm.type_in_hvc(&queue) } else { vm.type_in(&queue) };
        match taken {
            Ok(taken) => drop(queue.drain(..taken)),
            // Its vCPUs report what is wrong with the VM.
            Err(_) => return,
        }
    }
}

fn explain(report: &Report<'_>, lived: &Counters) -> String {
    let mut text = String::new();
    let seconds: f64 = report.steps.iter().map(|step| step.seconds).sum();
    let _ = writeln!(
        text,
        "\nThe realm ({} CPUs, {} of memory) is {}: {seconds:.1} s",
        report.cpus,
        output::bytes(report.memory),
        report.end
    );
    let exits: Vec<String> = report.exits.iter().map(|(name, count)| format!("{name} {count}")).collect();
    let _ = writeln!(text, "{}", output::list("KVM_RUN returned: ", &exits));
    let sum = |counts: &BTreeMap<&'static str, u64>| counts.values().sum::<u64>();
    let _ = writeln!(text, "RMI calls: {}, REC exits: {}", sum(&lived.rmi_calls), sum(&lived.exits));
    let _ = writeln!(
        text,
        "Granules: {} delegated, {} came back, {} lost",
        lived.delegated, lived.undelegated, lived.leaked
    );
    text
}
