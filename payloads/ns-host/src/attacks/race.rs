//! Memory that another CPU changes, or gives to the Realm world, while a command reads or writes it.

use super::weapons::{Page, Random, enter, rmi, spinning_realm, status};
use crate::checks::Checks;
use crate::cpus::Task;
use crate::host::BareHost;
use crate::memory;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::sync::atomic::{AtomicBool, Ordering};
use realm_abi::rmi::{RealmParams, RecParams, RecRun, RmiCommand, Status};
use realm_el2::smc;
use realm_host::Device;
use zerocopy::{FromZeros, IntoBytes};

/// Commands made while the other CPU interferes.
const ROUNDS: usize = 300;

/// Makes the attacks.
pub fn run(checks: &mut Checks, device: &realm_host::Arc<Device<BareHost>>) {
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

    /// Gives the page away, takes it back and puts there again what it held.
    fn delegate(page: u64) -> Self {
        let mut content = alloc::vec![0; memory::PAGE as usize];
        memory::read(page, &mut content);
        Self::start(move || {
            rmi(RmiCommand::GranuleDelegate { addr: page });
            rmi(RmiCommand::GranuleUndelegate { addr: page });
            memory::write(page, &content);
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
fn run_page(checks: &mut Checks, device: &realm_host::Arc<Device<BareHost>>) {
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

/// A command that makes something of parameters in a page, and the one that takes it away again.
struct Making<'a> {
    name: &'static str,
    params: u64,
    /// Writes good parameters.
    fresh: &'a dyn Fn(),
    create: &'a dyn Fn() -> Status,
    destroy: &'a dyn Fn() -> Status,
}

impl Making<'_> {
    /// Makes it again and again while the page changes, or changes hands. It is made whole or not at all.
    fn attack(&self, checks: &mut Checks, offsets: &'static [u64], values: &'static [u64]) {
        const MADE: (Status, Status) = (Status::SUCCESS, Status::SUCCESS);
        let Self { name, params, fresh, create, destroy } = *self;
        fresh();
        checks.equal(&format!("{name}-before"), (create(), destroy()), MADE);
        for how in ["flipped", "delegated"] {
            checks.state(format_args!("parameters of {name} {how}"));
            let flipped = how == "flipped";
            let interference = if flipped {
                Interference::flip(params, offsets, values)
            } else {
                Interference::delegate(params)
            };
            let (mut made, mut odd) = (0, None);
            for _ in 0..ROUNDS {
                if flipped {
                    fresh();
                }
                match create() {
                    Status::SUCCESS => {
                        made += 1;
                        odd = odd.or(Some(destroy()).filter(|status| *status != Status::SUCCESS));
                    }
                    Status::ERROR_INPUT => {}
                    other => odd = Some(other),
                }
            }
            interference.end();
            checks.that(&format!("{name}-{how}"), odd.is_none(), || format!("{odd:?} after {made}"));
            fresh();
            checks.equal(&format!("{name}-after-{how}"), (create(), destroy()), MADE);
        }
    }
}

/// The parameters of REALM_CREATE, then those of REC_CREATE.
fn parameters(checks: &mut Checks) {
    const VALUES: &[u64] = &[0, 1, 2, 3, 33, 40, 48, 52, 255, u64::MAX, 1 << 63];
    let (rd, rtt, params) = (Page::delegated(), Page::delegated(), Page::new());
    let good_realm = || {
        let mut good = RealmParams::new_zeroed();
        (good.s2sz, good.num_bps, good.num_wps) = (33, 1, 1);
        (good.vmid, good.rtt_base, good.rtt_level_start, good.rtt_num_start) = (200, rtt.0, 1, 1);
        memory::write(params.0, good.as_bytes());
    };
    let create_realm = || status(RmiCommand::RealmCreate { rd: rd.0, params_ptr: params.0 });
    let destroy_realm = || status(RmiCommand::RealmDestroy { rd: rd.0 });
    let realm = Making {
        name: "realm",
        params: params.0,
        fresh: &good_realm,
        create: &create_realm,
        destroy: &destroy_realm,
    };
    realm.attack(checks, &[0x0, 0x8, 0x10, 0x18, 0x20, 0x28, 0x30, 0x800, 0x808, 0x810, 0x818], VALUES);

    good_realm();
    checks.equal("realm-for-recs", create_realm(), Status::SUCCESS);
    let (rec, aux) = (Page::delegated(), aux_pages(rd.0));
    // RECs have the MPIDRs of a realm in order, whether earlier ones are still there or not (RMI_REC_CREATE, mpidr_index).
    let made = Cell::new(0);
    let good_rec = || {
        let mut good = RecParams::new_zeroed();
        good.mpidr = made.get() & 0xf | made.get() >> 4 << 8;
        good.num_aux = aux.len() as u64;
        for (slot, page) in good.aux.iter_mut().zip(&aux) {
            *slot = page.0;
        }
        memory::write(params.0, good.as_bytes());
    };
    let create_rec = || {
        let status = status(RmiCommand::RecCreate { rd: rd.0, rec: rec.0, params_ptr: params.0 });
        made.set(made.get() + u64::from(status == Status::SUCCESS));
        status
    };
    let destroy_rec = || status(RmiCommand::RecDestroy { rec: rec.0 });
    let making = Making {
        name: "rec",
        params: params.0,
        fresh: &good_rec,
        create: &create_rec,
        destroy: &destroy_rec,
    };
    making.attack(checks, &[0x0, 0x100, 0x200, 0x300, 0x800, 0x808, 0x810, 0x880], VALUES);
    checks.equal("realm-of-recs", destroy_realm(), Status::SUCCESS);
    for (name, page) in [("rd-back", rd), ("rtt-back", rtt), ("rec-back", rec), ("params-back", params)] {
        checks.that(name, page.reclaim(), || "the page did not come back");
    }
    let lost = aux.into_iter().map(Page::reclaim).filter(|back| !back).count();
    checks.equal("aux-back", lost, 0);
}

/// As many pages as a REC of this realm needs beside its own.
fn aux_pages(rd: u64) -> Vec<Page> {
    let mut regs = [0; 8];
    for (slot, value) in regs.iter_mut().zip(RmiCommand::RecAuxCount { rd }.to_regs()) {
        *slot = value;
    }
    let [_, count, ..] = smc::call(regs);
    (0..count).map(|_| Page::delegated()).collect()
}
