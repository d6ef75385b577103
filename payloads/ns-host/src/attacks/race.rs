//! Memory that another CPU changes, or gives to the Realm world, while a command reads or writes it.

use super::{Page, Random, enter, rmi, spinning_realm, status};
use crate::checks::Checks;
use crate::cpus::Task;
use crate::host::BareHost;
use crate::memory;
use alloc::format;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};
use realm_abi::rmi::{RealmParams, RecRun, RmiCommand, Status};
use realm_host::Device;
use zerocopy::{FromZeros, IntoBytes};

/// Commands made while the other CPU interferes.
const ROUNDS: usize = 300;

/// Makes the attacks.
pub fn run(checks: &mut Checks, device: &Arc<Device<BareHost>>) {
    run_page(checks, device);
    parameters(checks);
}

/// Interferes with a page on CPU 1 until the result is told to end.
struct Interference {
    end: Arc<AtomicBool>,
    task: Task,
}

impl Interference {
    /// Writes `values` over and over, at offsets of `offsets`.
    fn flip(page: u64, offsets: &'static [u64], values: &'static [u64]) -> Self {
        let mut random = Random::new(page);
        Self::start(move || {
            let at = page + random.pick(offsets);
            let value = if random.next().is_multiple_of(2) { random.pick(values) } else { random.next() };
            memory::write(at, &value.to_le_bytes());
        })
    }

    /// Gives the page away and takes it back.
    fn delegate(page: u64) -> Self {
        Self::start(move || {
            rmi(RmiCommand::GranuleDelegate { addr: page });
            rmi(RmiCommand::GranuleUndelegate { addr: page });
        })
    }

    fn start(mut once: impl FnMut() + Send + 'static) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&end);
        let task = Task::start(1, move || {
            while !until.load(Ordering::Relaxed) {
                once();
            }
        });
        Self { end, task }
    }

    fn end(self) {
        self.end.store(true, Ordering::Relaxed);
        self.task.join();
    }
}

/// The run page of REC_ENTER: flags, registers and list registers change under the RMM's eyes.
fn run_page(checks: &mut Checks, device: &Arc<Device<BareHost>>) {
    const OFFSETS: &[u64] = &[0x0, 0x200, 0x208, 0x300, 0x308, 0x310, 0x318, 0x320, 0x328, 0x380];
    const VALUES: &[u64] = &[0, 1, 2, 4, 8, 16, 31, u64::MAX, 1 << 62, 1 << 61, 1 << 62 | 27];
    let Some(realm) = spinning_realm(checks, device) else { return };
    let rec = device.host().seen.rec.load(Ordering::Relaxed);
    let page = Page::new();
    let fresh = || {
        memory::write(page.0, RecRun::new_zeroed().as_bytes());
        enter(rec, page.0)
    };
    checks.equal("enter-before", fresh(), Status::SUCCESS);
    checks.state("run page flipped");
    let interference = Interference::flip(page.0, OFFSETS, VALUES);
    let mut odd = None;
    for _ in 0..ROUNDS {
        let status = enter(rec, page.0);
        if !matches!(status, Status::SUCCESS | Status::ERROR_INPUT | Status::ERROR_REC) {
            odd = Some(status);
        }
    }
    interference.end();
    checks.that("enter-flipped", odd.is_none(), || format!("{odd:?}"));
    checks.equal("enter-after-flipped", fresh(), Status::SUCCESS);
    checks.state("run page delegated");
    let interference = Interference::delegate(page.0);
    let (mut entered, mut refused, mut odd) = (0, 0, None);
    for _ in 0..ROUNDS {
        match enter(rec, page.0) {
            Status::SUCCESS => entered += 1,
            Status::ERROR_INPUT => refused += 1,
            other => odd = Some(other),
        }
    }
    interference.end();
    checks.that("enter-delegated", odd.is_none(), || format!("{odd:?} after {entered} and {refused}"));
    checks.equal("enter-after-delegated", fresh(), Status::SUCCESS);
    checks.that("run-page-back", page.reclaim(), || "the page did not come back");
    realm.destroy();
}

/// The parameters of REALM_CREATE.
fn parameters(checks: &mut Checks) {
    const OFFSETS: &[u64] = &[0x0, 0x8, 0x10, 0x18, 0x20, 0x28, 0x30, 0x800, 0x808, 0x810, 0x818];
    const VALUES: &[u64] = &[0, 1, 2, 3, 33, 40, 48, 52, 255, u64::MAX, 1 << 63];
    let (rd, rtt, params) = (Page::delegated(), Page::delegated(), Page::new());
    let fresh = || {
        let mut good = RealmParams::new_zeroed();
        (good.s2sz, good.num_bps, good.num_wps) = (33, 1, 1);
        (good.vmid, good.rtt_base, good.rtt_level_start, good.rtt_num_start) = (200, rtt.0, 1, 1);
        memory::write(params.0, good.as_bytes());
    };
    let create = || status(RmiCommand::RealmCreate { rd: rd.0, params_ptr: params.0 });
    let destroy = || status(RmiCommand::RealmDestroy { rd: rd.0 });
    fresh();
    checks.equal("create-before", (create(), destroy()), (Status::SUCCESS, Status::SUCCESS));
    for name in ["flipped", "delegated"] {
        checks.state(format_args!("parameters {name}"));
        let interference = match name {
            "flipped" => Interference::flip(params.0, OFFSETS, VALUES),
            _ => Interference::delegate(params.0),
        };
        let (mut created, mut odd) = (0, None);
        for _ in 0..ROUNDS {
            if name == "flipped" {
                fresh();
            }
            match create() {
                Status::SUCCESS => {
                    created += 1;
                    let status = destroy();
                    if status != Status::SUCCESS {
                        odd = Some(status);
                    }
                }
                Status::ERROR_INPUT => {}
                other => odd = Some(other),
            }
        }
        interference.end();
        checks.that(&format!("create-{name}"), odd.is_none(), || format!("{odd:?} after {created}"));
        fresh();
        let after = (create(), destroy());
        checks.equal(&format!("create-after-{name}"), after, (Status::SUCCESS, Status::SUCCESS));
    }
    for (name, page) in [("rd-back", rd), ("rtt-back", rtt), ("params-back", params)] {
        checks.that(name, page.reclaim(), || "the page did not come back");
    }
}
