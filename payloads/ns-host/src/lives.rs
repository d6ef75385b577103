//! Realms of one to four vCPUs that live and die, again and again, several at the same time.

use crate::checks::Checks;
use crate::cpus::Task;
use crate::host::BareHost;
use crate::programs::{Balance, IDLE, run_on};
use crate::realm::{Realm, Settings, Stop};
use alloc::format;
use alloc::sync::Arc;
use realm_abi::kvm::SystemEvent;
use realm_abi::rmi::HashAlgorithm;
use realm_el2::lock::Mutex;
use realm_host::Device;

/// Lives of each shape.
const ROUNDS: usize = 3;

/// Runs them.
pub fn run(checks: &mut Checks, device: &realm_host::Arc<Device<BareHost>>, cpus: usize) {
    let before = Balance::of(device);
    for vcpus in 1..=cpus.min(4) {
        checks.state(format_args!("lives with {vcpus} vCPUs"));
        for round in 0..ROUNDS {
            let outcome = life(device, vcpus, 0);
            checks.that(&format!("life-{vcpus}-{round}"), outcome.is_ok(), || format!("{outcome:?}"));
        }
    }
    if cpus >= 4 {
        checks.state("two realms at the same time");
        let others = Arc::new(Mutex::new(alloc::vec::Vec::new()));
        let (device_too, outcomes) = (device.clone(), Arc::clone(&others));
        // The other realm's first vCPU runs on CPU 1, where this closure does not wait for it.
        let task = Task::start(1, move || {
            for _ in 0..ROUNDS {
                let outcome = alone(&device_too);
                outcomes.lock().push(outcome);
            }
        });
        for round in 0..ROUNDS {
            let outcome = life(device, 2, 2);
            checks.that(&format!("beside-{round}"), outcome.is_ok(), || format!("{outcome:?}"));
        }
        task.join();
        for (round, outcome) in others.lock().iter().enumerate() {
            checks.that(&format!("other-{round}"), outcome.is_ok(), || format!("{outcome:?}"));
        }
    }
    Balance::of(device).check(checks, "lives-balance", &before);
}

#[derive(Debug)]
#[expect(dead_code, reason = "shown when a life fails")]
enum Failed {
    Build(&'static str, realm_abi::Errno),
    End(alloc::vec::Vec<Stop>),
}

fn settings(cpus: usize) -> Settings {
    Settings { cpus, argument: IDLE, hash: HashAlgorithm::SHA_256, full: false }
}

fn ended(stops: alloc::vec::Vec<Stop>) -> Result<(), Failed> {
    if stops.contains(&Stop::Event(SystemEvent::SHUTDOWN)) { Ok(()) } else { Err(Failed::End(stops)) }
}

/// A whole life, its vCPUs on CPUs from `first_cpu` on.
fn life(device: &realm_host::Arc<Device<BareHost>>, cpus: usize, first_cpu: usize) -> Result<(), Failed> {
    let realm = Realm::build(device, &settings(cpus)).map_err(|(step, error)| Failed::Build(step, error))?;
    let stops = run_on(&realm, cpus, first_cpu);
    realm.destroy();
    ended(stops)
}

/// A whole life of a single vCPU on this CPU.
fn alone(device: &realm_host::Arc<Device<BareHost>>) -> Result<(), Failed> {
    let realm = Realm::build(device, &settings(1)).map_err(|(step, error)| Failed::Build(step, error))?;
    let stop = realm.run(0);
    realm.destroy();
    ended(alloc::vec![stop])
}
