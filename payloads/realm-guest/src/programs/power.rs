//! Two ways for a realm to end: memory taken away without its consent, and SYSTEM_RESET.

use crate::device::{self, Command};
use crate::memory::{self, FREE, PAGE};
use crate::report::{self, Run};
use crate::{smc, vcpu};
use realm_abi::psci::PsciCall;
use realm_abi::rmi::Ripas;

/// The Host takes a page away; from the first touch on this vCPU must not go on.
pub fn destroyed(run: &Run) {
    let page = FREE + PAGE;
    memory::fill(page, 0x5ec2_e75e_c2e7_5ec2);
    run.equal("before", smc::ripas(page, page + PAGE), Some(Ripas::RAM));
    run.equal("taken", device::control(Command::MakeShared(page)), 0);
    run.equal("after", smc::ripas(page, page + PAGE), Some(Ripas::DESTROYED));
    run.end();
    let found = memory::probe_load(page);
    report::fail(format_args!("memory that was taken away reads {found:x?}"));
}

/// A realm is not reset, it ends.
pub fn reset(run: &Run) {
    run.equal("alive", smc::ripas(FREE, FREE + PAGE), Some(Ripas::RAM));
    run.end();
    vcpu::mask();
    let back = smc::psci(&PsciCall::SystemReset);
    report::fail(format_args!("SYSTEM_RESET came back with {back}"));
}
