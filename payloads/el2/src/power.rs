//! PSCI.

use crate::{secondary_entry, smc};
use realm_abi::psci::PsciCall;

fn call(call: &PsciCall) -> i64 {
    let mut regs = [0; 8];
    for (slot, value) in regs.iter_mut().zip(call.to_regs()) {
        *slot = value;
    }
    smc::call(regs)[0].cast_signed()
}

/// Turns CPU `cpu` on; whether there is one.
#[must_use]
pub fn cpu_on(cpu: usize) -> bool {
    let (target_cpu, context_id) = (cpu as u64, cpu as u64);
    call(&PsciCall::CpuOn { smc64: true, target_cpu, entry_point: secondary_entry(), context_id }) == 0
}

/// Turns the machine off.
pub fn off() -> ! {
    call(&PsciCall::SystemOff);
    loop {
        crate::sysreg::wfi();
    }
}
