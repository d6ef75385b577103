//! The realm programs, each in a realm of its own. What they find they report themselves; here it is checked how they ended
//! and that everything came back.

use crate::checks::Checks;
use crate::cpus::Task;
use crate::host::BareHost;
use crate::memory;
use crate::realm::{Realm, Settings, Stop};
use crate::registers::ALL_MODES;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use realm_abi::kvm::SystemEvent;
use realm_abi::rmi::HashAlgorithm;
use realm_el2::lock::Mutex;
use realm_host::Device;

/// How a program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Off,
    Reset,
    /// At an access to this address that cannot be served.
    Fault(u64),
}

/// A program of payloads/realm-guest.
struct Program {
    number: u64,
    name: &'static str,
    cpus: usize,
    end: End,
    /// Whether the realm has SVE and a PMU, and the host's registers are guarded.
    full: bool,
    /// Whether all vCPUs take turns on one CPU.
    turns: bool,
}

const fn program(number: u64, name: &'static str, cpus: usize) -> Program {
    Program { number, name, cpus, end: End::Off, full: false, turns: false }
}

const PROGRAMS: [Program; 12] = [
    program(0, "rsi", 1),
    program(1, "psci", 2),
    program(2, "memory", 1),
    program(3, "mmio", 1),
    program(4, "interrupts", 1),
    program(5, "smp", 4),
    Program { full: true, ..program(6, "noisy", 2) },
    Program { full: true, turns: true, ..program(13, "turns", 2) },
    Program { full: true, ..program(10, "overflow", 1) },
    program(7, "hostile", 1),
    Program { end: End::Fault(DESTROYED), ..program(8, "destroyed", 1) },
    Program { end: End::Reset, ..program(9, "reset", 1) },
];

/// The page the program `destroyed` has its host take away.
const DESTROYED: u64 = 0x8040_1000;

/// The program for lives that are about something else.
pub const IDLE: u64 = 11;

/// Runs them all.
pub fn run(checks: &mut Checks, device: &realm_host::Arc<Device<BareHost>>, cpus: usize) {
    for Program { number, name, cpus: wanted, end, full, turns } in PROGRAMS {
        if wanted > cpus {
            realm_el2::uart::line(format_args!("host: {name} needs {wanted} CPUs"));
            continue;
        }
        checks.state(format_args!("realm program {name}"));
        let before = Balance::of(device);
        let hash = if number % 2 == 0 { HashAlgorithm::SHA_256 } else { HashAlgorithm::SHA_512 };
        let settings = Settings { cpus: wanted, argument: number, hash, full };
        device.host().guard(full);
        let realm = match Realm::build(device, &settings) {
            Ok(realm) => realm,
            Err(error) => {
                device.host().guard(false);
                checks.that(name, false, || format!("{error:?}"));
                continue;
            }
        };
        let stops = if turns {
            // Even before the realm asks for it.
            device.host().preempt(u64::MAX);
            run_in_turns(&realm, wanted)
        } else {
            run_on(&realm, wanted, usize::from(wanted < cpus))
        };
        device.host().guard(false);
        device.host().preempt(0);
        realm.destroy();
        let ended = match end {
            End::Off => stops.contains(&Stop::Event(SystemEvent::SHUTDOWN)),
            End::Reset => stops.contains(&Stop::Event(SystemEvent::RESET)),
            End::Fault(address) => *stops == [Stop::Fault(address)],
        };
        checks.that(&format!("{name}-end"), ended, || format!("{stops:?}"));
        Balance::of(device).check(checks, &format!("{name}-balance"), &before);
    }
    let changed = device.host().changed();
    checks.that("registers", changed.is_none(), || format!("{changed:x?}"));
    checks.equal("simd-modes", device.host().modes(), [ALL_MODES; 2]);
}

/// Runs each vCPU of a realm on a CPU of its own, from `first_cpu` on, until one of them ends; how they ended.
pub fn run_on(realm: &Arc<Realm>, vcpus: usize, first_cpu: usize) -> Vec<Stop> {
    let stops = Arc::new(Mutex::new(Vec::new()));
    let run = |id: usize| {
        let (realm, stops) = (Arc::clone(realm), Arc::clone(&stops));
        move || {
            let stop = realm.run(id);
            stops.lock().push(stop);
            realm.stop();
        }
    };
    let others: Vec<_> =
        (usize::from(first_cpu == 0)..vcpus).map(|id| Task::start(first_cpu + id, run(id))).collect();
    if first_cpu == 0 {
        run(0)();
    }
    others.into_iter().for_each(Task::join);
    core::mem::take(&mut stops.lock())
}

/// Runs the vCPUs of a realm in turns on this CPU until one of them ends, so that what one leaves in a register reaches the other.
fn run_in_turns(realm: &Realm, vcpus: usize) -> Vec<Stop> {
    loop {
        if let Some(stop) = (0..vcpus).find_map(|id| realm.turn(id)) {
            return Vec::from([stop]);
        }
    }
}

/// What a host has, to see whether a realm left anything behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    held: u64,
    leaked: u64,
    unfinished: usize,
    free: u64,
    warnings: u64,
}

impl Balance {
    /// What it has now.
    pub fn of(device: &Device<BareHost>) -> Self {
        let statistics = device.statistics();
        Self {
            held: statistics.ledger.held(),
            leaked: statistics.ledger.leaked,
            unfinished: statistics.unfinished_vms,
            free: memory::free_pages(),
            warnings: device.host().warnings(),
        }
    }

    /// A check that it is as it was.
    pub fn check(self, checks: &mut Checks, name: &str, before: &Self) {
        checks.equal(name, self, *before);
    }
}
