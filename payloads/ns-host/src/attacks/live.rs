//! Granules in use: no command takes them, no access reaches them, and a REC that runs is left alone.

use super::weapons::{Page, rmi, spinning_realm, status};
use crate::checks::Checks;
use crate::cpus::Task;
use crate::host::BareHost;
use crate::memory;
use crate::realm::{RAM_BASE, Stop};
use alloc::format;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use realm_abi::rmi::{RmiCommand, Status};
use realm_el2::lock::{Mutex, relax};
use realm_el2::probe;
use realm_host::Device;

/// Where the realm has no memory yet, in a table that is there.
const FREE_IPA: u64 = RAM_BASE + (15 << 20);
/// Memory of the firmware: the RMM's image, the page it shares with EL3, on-chip memory of EL3, and the flash.
const FIRMWARE: [(&str, u64); 4] =
    [("rmm", 0x4010_0000), ("shared", 0x418f_f000), ("sram", 0x0e00_0000), ("flash", 0x1000)];

/// Makes the attacks.
pub fn run(checks: &mut Checks, device: &realm_host::Arc<Device<BareHost>>) {
    for (name, address) in FIRMWARE {
        untouchable(checks, name, address);
    }
    let Some(realm) = spinning_realm(checks, device) else { return };
    let running = Arc::clone(&realm);
    let outcome = Arc::new(Mutex::new(None));
    let stop = Arc::clone(&outcome);
    let task = Task::start(1, move || *stop.lock() = Some(running.run(0)));
    checks.state("waiting for the realm to count");
    let counter = || realm.shared_counter();
    while counter() == 0 {
        relax();
    }
    let seen = &device.host().seen;
    let [rd, rec, data, rtt] =
        [&seen.rd, &seen.rec, &seen.data, &seen.rtt].map(|slot| slot.load(Ordering::Relaxed));
    for (name, pa) in [("rd", rd), ("rec", rec), ("data", data), ("rtt", rtt)] {
        checks.state(format_args!("attacks on {name} at {pa:#x}"));
        untouchable(checks, name, pa);
        refused(checks, name, pa, rd);
    }
    checks.state("attacks on the REC that runs");
    let run = Page::new();
    let running = [
        ("enter-twice", RmiCommand::RecEnter { rec, run_ptr: run.0 }, Status::ERROR_REC),
        ("destroy-running", RmiCommand::RecDestroy { rec }, Status::ERROR_REC),
        ("destroy-realm", RmiCommand::RealmDestroy { rd }, Status::ERROR_REALM),
        (
            "complete",
            RmiCommand::PsciComplete { calling_rec: rec, target_rec: rec, status: 0 },
            Status::ERROR_INPUT,
        ),
    ];
    for (name, command, wanted) in running {
        checks.equal(name, status(command), wanted);
    }
    checks.that("run-page", run.reclaim(), || "the page did not stay the host's");
    let before = counter();
    checks.state("waiting for the realm to count on");
    while counter() == before {
        relax();
    }
    realm.stop();
    task.join();
    let stop = outcome.lock().take();
    checks.equal("lived-on", stop, Some(Stop::Stopped));
    realm.destroy();
    // The pages are the host's again: nothing of the realm may be left in them.
    for (name, pa) in [("rd", rd), ("rec", rec), ("data", data), ("rtt", rtt)] {
        let mut page = [0xff; memory::PAGE as usize];
        memory::read(pa, &mut page);
        let left = page.iter().filter(|byte| **byte != 0).count();
        checks.that(&format!("{name}-wiped"), left == 0, || format!("{left} bytes of it are left"));
    }
}

/// A check that neither load nor store reach `address`, for granule protection alone.
fn untouchable(checks: &mut Checks, name: &str, address: u64) {
    // SAFETY: the address is aligned and another world's; if it is not, the check fails.
    let loaded = unsafe { probe::load(address) };
    let stopped = loaded.is_err_and(probe::Refused::is_granule_protection);
    checks.that(&format!("{name}-load"), stopped, || format!("{loaded:x?}"));
    if stopped {
        // SAFETY: the load has shown that it is another world's.
        let stored = unsafe { probe::store(address, !0) };
        let stopped = stored.is_err_and(probe::Refused::is_granule_protection);
        checks.that(&format!("{name}-store"), stopped, || format!("{stored:x?}"));
    }
}

/// A check that no command takes a granule in use for another purpose.
fn refused(checks: &mut Checks, name: &str, pa: u64, rd: u64) {
    let params_ptr = Page::new();
    let commands = [
        ("delegate", RmiCommand::GranuleDelegate { addr: pa }),
        ("undelegate", RmiCommand::GranuleUndelegate { addr: pa }),
        ("data", RmiCommand::DataCreateUnknown { rd, data: pa, ipa: FREE_IPA }),
        ("rtt", RmiCommand::RttCreate { rd, rtt: pa, ipa: 0, level: 2 }),
        ("rec", RmiCommand::RecCreate { rd, rec: pa, params_ptr: params_ptr.0 }),
        ("rd", RmiCommand::RealmCreate { rd: pa, params_ptr: params_ptr.0 }),
    ];
    for (what, command) in commands {
        checks.equal(&format!("{name}-as-{what}"), status(command), Status::ERROR_INPUT);
    }
    let wrong = [
        (name != "rd").then_some(("rd", RmiCommand::RealmDestroy { rd: pa })),
        (name != "rec").then_some(("rec", RmiCommand::RecDestroy { rec: pa })),
        (name != "rec").then_some(("enter", RmiCommand::RecEnter { rec: pa, run_ptr: params_ptr.0 })),
    ];
    for (what, command) in wrong.into_iter().flatten() {
        checks.equal(&format!("{name}-used-as-{what}"), rmi(command).status(), Status::ERROR_INPUT);
    }
    checks.that(&format!("{name}-params"), params_ptr.reclaim(), || "the page did not stay the host's");
}
