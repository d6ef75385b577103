//! Interrupts: the virtual CPU interface, the timers, and what each interrupt does.

use crate::device::{self, Command};
use crate::gic;
use crate::sysreg::{instruction, mrs, msr};
use crate::vcpu::{self, MAX_VCPUS};
use core::sync::atomic::{AtomicU64, Ordering};

/// Interrupts that are counted.
const COUNTED: usize = 64;
/// The virtual and the physical timer.
pub const VIRTUAL_TIMER: usize = 27;
pub const PHYSICAL_TIMER: usize = 30;
/// The PMU.
pub const PMU: usize = 23;
/// No interrupt.
pub const SPURIOUS: u64 = 1023;

pub const ENABLE: u64 = 1 << 0;
pub const IMASK: u64 = 1 << 1;
pub const ISTATUS: u64 = 1 << 2;

static COUNTS: [[AtomicU64; COUNTED]; MAX_VCPUS] =
    [const { [const { AtomicU64::new(0) }; COUNTED] }; MAX_VCPUS];
static UNCOUNTED: AtomicU64 = AtomicU64::new(0);

/// Makes this vCPU take interrupts of all priorities.
pub fn init() {
    gic::init();
    // SRE, DFB, DIB; no EOImode; all priorities; Group 1.
    msr!("S3_0_C12_C12_5", 7);
    instruction!("isb");
    msr!("S3_0_C12_C12_4", 0);
    set_priority_mask(0xff);
    msr!("S3_0_C12_C12_7", 1);
    instruction!("isb");
    vcpu::unmask();
}

/// ICC_PMR_EL1.
pub fn set_priority_mask(mask: u64) {
    msr!("S3_0_C4_C6_0", mask);
    instruction!("isb");
}

/// An IRQ at EL1.
pub fn handle() {
    let intid = mrs!("S3_0_C12_C12_0");
    if intid == SPURIOUS {
        return;
    }
    match COUNTS[vcpu::vcpu()].get(intid as usize) {
        Some(count) => {
            count.fetch_add(1, Ordering::AcqRel);
        }
        None => UNCOUNTED.store(intid, Ordering::Relaxed),
    }
    // Lines go low, so that the interrupt does not come again.
    match intid as usize {
        VIRTUAL_TIMER => msr!("cntv_ctl_el0", ENABLE | IMASK),
        PHYSICAL_TIMER => msr!("cntp_ctl_el0", ENABLE | IMASK),
        PMU => msr!("pmovsclr_el0", u64::MAX),
        32.. => device::give(Command::SpiLow(intid)),
        _ => {}
    }
    instruction!("isb");
    msr!("S3_0_C12_C12_1", intid);
    instruction!("isb");
}

/// How often this vCPU has taken an interrupt.
pub fn count(intid: usize) -> u64 {
    count_of(vcpu::vcpu(), intid)
}

/// How often a vCPU has taken one.
pub fn count_of(vcpu: usize, intid: usize) -> u64 {
    COUNTS[vcpu][intid].load(Ordering::Acquire)
}

/// An interrupt that is not counted, if one came.
pub fn uncounted() -> u64 {
    UNCOUNTED.load(Ordering::Relaxed)
}

/// Sleeps until there is an interrupt, which is taken, unless `done` already.
pub fn sleep_unless(done: impl Fn() -> bool) {
    vcpu::mask();
    if !done() {
        instruction!("wfi");
    }
    vcpu::unmask();
    instruction!("isb");
}

/// ICC_SGI1R_EL1: an SGI to the vCPUs of `targets`.
pub fn send(sgi: u64, targets: u64) {
    instruction!("dsb ishst");
    msr!("S3_0_C12_C11_5", sgi << 24 | targets);
    instruction!("isb");
}
