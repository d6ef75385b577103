//! What attacks are made with: commands past the Host core, a realm that runs, pages, numbers.

use crate::checks::Checks;
use crate::host::BareHost;
use crate::memory;
use crate::realm::{Realm, Settings};
use alloc::sync::Arc;
use realm_abi::rmi::{HashAlgorithm, ReturnCode, RmiCommand, Status};
use realm_el2::sysreg::{mask, unmask};
use realm_el2::{smc, timer};
use realm_host::Device;

/// The realm program that counts in shared memory and never ends.
const SPIN: u64 = 12;

/// A command, past the Host core and its ledger.
pub fn rmi(command: RmiCommand) -> ReturnCode {
    let mut regs = [0; 8];
    for (slot, value) in regs.iter_mut().zip(command.to_regs()) {
        *slot = value;
    }
    ReturnCode(smc::call(regs)[0])
}

pub fn status(command: RmiCommand) -> Status {
    rmi(command).status()
}

/// REC_ENTER, past the Host core. A realm may loop for ever (one whose host injects aborts does), so an interrupt ends the run.
pub fn enter(rec: u64, run_ptr: u64) -> Status {
    mask();
    timer::set(timer::now() + timer::frequency() / 10_000);
    let status = status(RmiCommand::RecEnter { rec, run_ptr });
    timer::clear();
    unmask();
    status
}

/// A realm that counts for ever, without its host looking.
pub fn spinning_realm(checks: &mut Checks, device: &realm_host::Arc<Device<BareHost>>) -> Option<Arc<Realm>> {
    let settings = Settings { cpus: 1, argument: SPIN, hash: HashAlgorithm::SHA_256, full: false };
    match Realm::build(device, &settings) {
        Ok(realm) => Some(realm),
        Err(error) => {
            checks.that("build", false, || alloc::format!("{error:?}"));
            None
        }
    }
}

/// A page of the host's that is given away and comes back.
pub struct Page(pub u64);

impl Page {
    pub fn new() -> Self {
        Self(memory::alloc(1).expect("a page"))
    }

    /// A page the Realm world has.
    pub fn delegated() -> Self {
        let page = Self::new();
        let code = rmi(RmiCommand::GranuleDelegate { addr: page.0 });
        assert!(code.is_success(), "GRANULE_DELEGATE of {:#x}: {code:?}", page.0);
        page
    }

    /// Takes it back, whoever has it, if it is in no use any more; whether that went well.
    pub fn reclaim(self) -> bool {
        rmi(RmiCommand::GranuleUndelegate { addr: self.0 });
        memory::free(self.0, 1).is_ok()
    }
}

/// Numbers that look random and are the same in every run (xorshift64).
pub struct Random(u64);

impl Random {
    pub const fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn pick(&mut self, from: &[u64]) -> u64 {
        from[(self.next() % from.len() as u64) as usize]
    }
}
