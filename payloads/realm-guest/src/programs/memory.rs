//! Memory in every state of RIPAS and HIPAS that a realm can survive.

use crate::device::{self, Command};
use crate::exception::{CM, FETCH_SEA, Fault, LOAD_OUTSIDE, LOAD_SEA, STORE_OUTSIDE, STORE_SEA, attempt};
use crate::memory::{self, FREE, PAGE, RAM, RAM_END, probe_fetch, probe_load, probe_store};
use crate::report::Run;
use crate::smc;
use core::sync::atomic::Ordering;
use realm_abi::rmi::Ripas;
use realm_abi::rsi::RsiStatus;

const SECRET: u64 = 0x5ec2_e700_5ec2_e700;
const BLOCK: u64 = 2 << 20;

pub fn run(run: &Run) {
    ram(run);
    empty(run, "empty", FREE + 0x10_0000, 1);
    shared(run);
    taken(run);
    // A block of its own, and a range that begins and ends in the middle of blocks.
    empty(run, "block", FREE + 2 * BLOCK, BLOCK / PAGE);
    empty(run, "blocks", FREE + BLOCK + 0x1f_0000, BLOCK / PAGE + 32);
    empty(run, "last", RAM_END - PAGE, 1);
    nothing(run);
    run.end();
}

/// What a page holds, if it is the same everywhere.
fn content(page: u64) -> Option<u64> {
    let first = memory::read(page);
    memory::words(page).all(|word| word == first).then_some(first)
}

fn ram(run: &Run) {
    run.state("fresh RAM");
    for (check, page) in [("fresh", FREE), ("fresh-middle", FREE + 0x60_3000), ("fresh-last", RAM_END - PAGE)]
    {
        run.equal(check, content(page), Some(0));
        memory::fill(page, SECRET);
        run.equal(check, content(page), Some(SECRET));
    }
    // First touches by a store, by an exclusive pair, and by a fetch.
    memory::write(FREE + 0x7000, 1);
    run.equal("fresh-store", memory::words(FREE + 0x7000).sum::<u64>(), 1);
    let fetched = probe_fetch(FREE + 0x9000).map_err(|fault| (fault.esr, fault.skew));
    run.equal("fresh-fetch", fetched, Err((1 << 25, 0)));
    let counter = memory::atomic(FREE + 0xb000);
    run.equal(
        "fresh-atomic",
        (counter.fetch_add(5, Ordering::AcqRel), counter.load(Ordering::Acquire)),
        (0, 5),
    );
}

/// Every kind of access to where there is nothing for this realm.
fn refused(run: &Run, check: &str, address: u64, load: u64, store: u64, fetch: u64) {
    let fault = |esr| Fault { esr, far: address, skew: 0 };
    run.equal(check, probe_load(address), Err(fault(load)));
    run.equal(check, probe_store(address, SECRET), Err(fault(store)));
    run.equal(check, probe_fetch(address), Err(fault(fetch)));
    let zeroed = attempt!("dc zva, {address}", address = in(reg) address);
    run.equal(check, zeroed.map_err(|fault| fault.esr), Err(store));
    // Maintenance of what is not there may do nothing or fault like a store.
    let maintained = attempt!("dc civac, {address}", address = in(reg) address).map_err(|fault| fault.esr);
    let good = maintained == Ok(()) || maintained == Err(store | CM);
    run.check(check, good, format_args!("DC CIVAC: {maintained:x?}"));
}

/// RAM to EMPTY and back.
fn empty(run: &Run, check: &str, base: u64, pages: u64) {
    run.state(check);
    let top = base + pages * PAGE;
    let probes = [base, base + pages / 2 * PAGE, top - PAGE];
    let probes = &probes[if pages == 1 { 2 } else { 0 }..];
    for &page in probes {
        memory::fill(page, SECRET);
    }
    run.equal(check, smc::set_ripas(base, top, Ripas::EMPTY, true), Ok(()));
    run.equal(check, smc::ripas(base, top), Some(Ripas::EMPTY));
    for &page in probes {
        refused(run, check, page + 8, LOAD_SEA, STORE_SEA, FETCH_SEA);
    }
    run.equal(check, smc::set_ripas(base, top, Ripas::RAM, false), Ok(()));
    run.equal(check, smc::ripas(base, top), Some(Ripas::RAM));
    for &page in probes {
        run.equal(check, content(page), Some(0));
        memory::fill(page, SECRET);
        run.equal(check, content(page), Some(SECRET));
    }
}

/// Memory that is the Host's too.
fn shared(run: &Run) {
    run.state("shared memory");
    let (base, top) = (FREE + 0x20_0000, FREE + 0x20_0000 + 4 * PAGE);
    let pages = || (base..top).step_by(PAGE as usize);
    let alias = memory::alias();
    for page in pages() {
        memory::fill(page, SECRET);
    }
    run.equal("share", smc::set_ripas(base, top, Ripas::EMPTY, true), Ok(()));
    for page in pages() {
        // Not there until it is touched.
        run.equal("shared-no-secret", content(alias | page).is_some_and(|word| word == SECRET), false);
        memory::fill(alias | page, page);
        let sum = memory::words(alias | page)
            .flat_map(u64::to_le_bytes)
            .fold(0_u64, |sum, byte| sum.wrapping_add(byte.into()));
        run.equal("shared-to-host", device::control(Command::SharedSum(page)), sum);
    }
    for page in pages() {
        run.equal("shared-fill", device::control(Command::SharedFill(page)), 0);
        let word = u64::from_le_bytes([device::pattern(page); 8]);
        run.equal("shared-from-host", content(alias | page), Some(word));
        let fetched = probe_fetch(alias | page);
        run.equal("shared-fetch", fetched, Err(Fault { esr: FETCH_SEA, far: alias | page, skew: 0 }));
        run.equal("shared-protected", probe_load(page).map_err(|fault| fault.esr), Err(LOAD_SEA));
        let counter = memory::atomic(alias | page);
        counter.store(7, Ordering::Release);
        run.equal(
            "shared-atomic",
            (counter.fetch_add(1, Ordering::AcqRel), counter.load(Ordering::Acquire)),
            (7, 8),
        );
    }
    run.equal("unshare", smc::set_ripas(base, top, Ripas::RAM, true), Ok(()));
    for page in pages() {
        run.equal("unshared", content(page), Some(0));
        memory::fill(page, SECRET);
        run.equal("unshared-ram", content(page), Some(SECRET));
    }
}

/// Memory the Host has taken, and what a realm can do about it without a touch.
fn taken(run: &Run) {
    run.state("destroyed memory");
    let page = FREE + 0x30_0000;
    memory::fill(page, SECRET);
    // Consent is for EMPTY and RAM only: what is DESTROYED by the Host's conversion does not change without the flag.
    let kept = smc::set_ripas(page, page + PAGE, Ripas::EMPTY, false);
    run.equal("empty-without-flag", kept, Err((RsiStatus::SUCCESS, [page, 0, 0])));
    run.equal("destroyed", smc::ripas(page, page + PAGE), Some(Ripas::DESTROYED));
    run.equal("destroyed-to-empty", smc::set_ripas(page, page + PAGE, Ripas::EMPTY, true), Ok(()));
    run.equal("destroyed-is-empty", probe_load(page).map_err(|fault| fault.esr), Err(LOAD_SEA));
    run.equal("empty-to-ram", smc::set_ripas(page, page + PAGE, Ripas::RAM, false), Ok(()));
    run.equal("empty-ram", content(page), Some(0));

    memory::fill(page, SECRET);
    run.equal("taken", device::control(Command::MakeShared(page)), 0);
    run.equal("taken-destroyed", smc::ripas(page, page + PAGE), Some(Ripas::DESTROYED));
    run.equal("taken-neighbours", smc::ripas(page + PAGE, page + 2 * PAGE), Some(Ripas::RAM));
    run.equal("taken-back", smc::set_ripas(page, page + PAGE, Ripas::RAM, true), Ok(()));
    run.equal("taken-content", content(page), Some(0));
    memory::fill(page, SECRET);
    run.equal("taken-ram", content(page), Some(SECRET));
}

/// Addresses without memory.
fn nothing(run: &Run) {
    run.state("no memory");
    for (check, address) in [("behind", RAM_END), ("before", RAM - 8), ("zero", 0), ("low", 0x0100_0000)] {
        refused(run, check, address, LOAD_SEA, STORE_SEA, FETCH_SEA);
    }
    let device = device::scratch();
    run.equal("device-fetch", probe_fetch(device), Err(Fault { esr: FETCH_SEA, far: device, skew: 0 }));
    if let Some(outside) = memory::outside() {
        for address in [outside, outside + 0x123_4568, outside + (1 << 30) - 8] {
            let fault = |esr| Fault { esr, far: address, skew: 0 };
            run.equal("outside", probe_load(address), Err(fault(LOAD_OUTSIDE)));
            run.equal("outside", probe_store(address, 0), Err(fault(STORE_OUTSIDE)));
        }
    }
    run.equal("ram-still", smc::ripas(RAM, RAM_END), Some(Ripas::RAM));
}
