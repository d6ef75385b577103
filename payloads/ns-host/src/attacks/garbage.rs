//! Every RMI command with arguments that make no sense, or sense by chance.

use super::weapons::{Page, Random, enter, rmi, spinning_realm, status};
use crate::checks::Checks;
use crate::host::BareHost;
use crate::memory;
use alloc::format;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use realm_abi::rmi::{RecRun, RmiCommand, Status, Version};
use realm_el2::smc;
use realm_host::Device;
use zerocopy::{FromZeros, IntoBytes};

/// Calls made.
const CALLS: usize = 20_000;
/// Function identifiers: those of RMI and what is around them.
const FIRST: u64 = 0xC400_0150;
const COUNT: u64 = 0x20;

/// Makes the calls.
pub fn run(checks: &mut Checks, device: &realm_host::Arc<Device<BareHost>>) {
    let Some(realm) = spinning_realm(checks, device) else { return };
    let seen = &device.host().seen;
    let rec = seen.rec.load(Ordering::Relaxed);
    let victims = [&seen.data, &seen.rtt].map(|slot| slot.load(Ordering::Relaxed));
    // Pages that are given away to be misused; no command may touch any other of the host's.
    let pages: Vec<_> = (0..8).map(|_| Page::new()).collect();
    let mut values = Vec::from(victims);
    values.extend(pages.iter().map(|page| page.0));
    values.extend([
        0,
        1,
        2,
        3,
        4,
        0xfff,
        0x1000,
        0x8000_0000,
        0x4010_0000,
        0x0e00_0000,
        1 << 32,
        1 << 48,
        1 << 63,
    ]);
    values.extend([u64::MAX, u64::MAX - 0xfff]);
    let mut random = Random::new(7);
    checks.state(format_args!("{CALLS} calls with garbage"));
    let mut answered = 0;
    for _ in 0..CALLS {
        let mut regs = [0; 8];
        regs[0] = FIRST + random.next() % COUNT;
        for slot in &mut regs[1..] {
            *slot =
                random.pick(&values) ^ if random.next().is_multiple_of(8) { random.next() % 16 } else { 0 };
        }
        let _ = smc::call(regs);
        answered += 1;
    }
    checks.equal("answered", answered, CALLS);
    checks.equal("version", status(RmiCommand::Version { req: Version::V1_0 }), Status::SUCCESS);
    let run = Page::new();
    memory::write(run.0, RecRun::new_zeroed().as_bytes());
    checks.equal("realm", enter(rec, run.0), Status::SUCCESS);
    checks.that("run-back", run.reclaim(), || "the page did not come back");
    realm.destroy();
    // None of them can have become more than a delegated granule: no realm could be made of them.
    for (n, page) in pages.into_iter().enumerate() {
        let pa = page.0;
        checks.that(&format!("page-{n}"), page.reclaim(), || {
            format!("{pa:#x}: {:?}", rmi(RmiCommand::GranuleUndelegate { addr: pa }))
        });
    }
}
