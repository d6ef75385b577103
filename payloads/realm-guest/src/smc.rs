//! Calls to the RMM.

use crate::vcpu::{halt, mask};
use core::arch::global_asm;
use realm_abi::psci::{PsciCall, PsciStatus};
use realm_abi::rmi::Ripas;
use realm_abi::rsi::{RsiCall, RsiStatus};

/// X0 to X30.
pub type Registers = [u64; 31];

// Every register goes in and comes out, so that one that should be kept and is not is seen.
global_asm!(
    ".section .text.smc, \"ax\"",
    ".macro guest_call name, immediate",
    ".global \\name",
    "\\name:",
    "    stp x29, x30, [sp, #-112]!",
    "    stp x19, x20, [sp, #16]",
    "    stp x21, x22, [sp, #32]",
    "    stp x23, x24, [sp, #48]",
    "    stp x25, x26, [sp, #64]",
    "    stp x27, x28, [sp, #80]",
    "    stp x0, x18, [sp, #96]",
    "    ldp x2, x3, [x0, #16]",
    "    ldp x4, x5, [x0, #32]",
    "    ldp x6, x7, [x0, #48]",
    "    ldp x8, x9, [x0, #64]",
    "    ldp x10, x11, [x0, #80]",
    "    ldp x12, x13, [x0, #96]",
    "    ldp x14, x15, [x0, #112]",
    "    ldp x16, x17, [x0, #128]",
    "    ldp x18, x19, [x0, #144]",
    "    ldp x20, x21, [x0, #160]",
    "    ldp x22, x23, [x0, #176]",
    "    ldp x24, x25, [x0, #192]",
    "    ldp x26, x27, [x0, #208]",
    "    ldp x28, x29, [x0, #224]",
    "    ldr x30, [x0, #240]",
    "    ldp x0, x1, [x0]",
    "    smc #\\immediate",
    "    stp x0, x1, [sp, #-16]!",
    "    ldr x0, [sp, #112]",
    "    stp x2, x3, [x0, #16]",
    "    stp x4, x5, [x0, #32]",
    "    stp x6, x7, [x0, #48]",
    "    stp x8, x9, [x0, #64]",
    "    stp x10, x11, [x0, #80]",
    "    stp x12, x13, [x0, #96]",
    "    stp x14, x15, [x0, #112]",
    "    stp x16, x17, [x0, #128]",
    "    stp x18, x19, [x0, #144]",
    "    stp x20, x21, [x0, #160]",
    "    stp x22, x23, [x0, #176]",
    "    stp x24, x25, [x0, #192]",
    "    stp x26, x27, [x0, #208]",
    "    stp x28, x29, [x0, #224]",
    "    str x30, [x0, #240]",
    "    ldp x2, x3, [sp], #16",
    "    stp x2, x3, [x0]",
    "    ldp x19, x20, [sp, #16]",
    "    ldp x21, x22, [sp, #32]",
    "    ldp x23, x24, [sp, #48]",
    "    ldp x25, x26, [sp, #64]",
    "    ldp x27, x28, [sp, #80]",
    "    ldr x18, [sp, #104]",
    "    ldp x29, x30, [sp], #112",
    "    ret",
    ".endm",
    "guest_call guest_smc, 0",
    "guest_call guest_smc_other, 0xffff",
);

unsafe extern "C" {
    fn guest_smc(registers: *mut u64);
    fn guest_smc_other(registers: *mut u64);
}

/// Makes a call with these registers.
pub fn raw(registers: &mut Registers) {
    // SAFETY: room for 31 registers. What the RMM writes to memory is a page the call names.
    unsafe { guest_smc(registers.as_mut_ptr()) }
}

/// The same with another immediate.
pub fn raw_other_immediate(registers: &mut Registers) {
    // SAFETY: as for `raw`.
    unsafe { guest_smc_other(registers.as_mut_ptr()) }
}

/// Makes a call with these first registers, all others zero.
pub fn call(first: &[u64]) -> Registers {
    let mut registers = [0; 31];
    registers[..first.len()].copy_from_slice(first);
    raw(&mut registers);
    registers
}

/// An RSI call: status and X1 to X8.
pub fn rsi(call_: &RsiCall) -> (RsiStatus, [u64; 8]) {
    let [x0, x1, x2, x3, x4, x5, x6, x7, x8, ..] = call(&call_.to_regs());
    (RsiStatus(x0), [x1, x2, x3, x4, x5, x6, x7, x8])
}

/// A PSCI call.
pub fn psci(call_: &PsciCall) -> PsciStatus {
    let [x0, ..] = call(&call_.to_regs());
    PsciStatus(x0.cast_signed())
}

/// Ends the realm.
pub fn system_off() -> ! {
    mask();
    psci(&PsciCall::SystemOff);
    halt()
}

/// RSI_IPA_STATE_SET of all of a range: what it answers, in the first call that does not succeed completely.
pub fn set_ripas(base: u64, top: u64, ripas: Ripas, destroyed: bool) -> Result<(), (RsiStatus, [u64; 3])> {
    let mut next = base;
    while next < top {
        let call =
            RsiCall::IpaStateSet { base: next, top, ripas: ripas.0.into(), flags: u64::from(destroyed) };
        let (status, [new_base, response, x3, ..]) = rsi(&call);
        let good = status == RsiStatus::SUCCESS && response == 0 && x3 == 0;
        if !good || new_base <= next || new_base > top {
            return Err((status, [new_base, response, x3]));
        }
        next = new_base;
    }
    Ok(())
}

/// RSI_IPA_STATE_GET of all of a range: the one RIPAS it has, or `None` if it is mixed or the call fails.
pub fn ripas(base: u64, top: u64) -> Option<Ripas> {
    let mut next = base;
    let mut common = None;
    while next < top {
        let (status, [end, ripas, ..]) = rsi(&RsiCall::IpaStateGet { base: next, top });
        let ripas = Ripas(u8::try_from(ripas).ok()?);
        if status != RsiStatus::SUCCESS
            || end <= next
            || end > top
            || common.is_some_and(|found| found != ripas)
        {
            return None;
        }
        common = Some(ripas);
        next = end;
    }
    common
}
