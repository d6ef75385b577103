//! The GICv3 as the Non-secure world has it: one SGI that wakes, the timer of this level, and what stops a realm for its host.

use crate::sysreg::{dsb, isb, mrs, msr};
use crate::timer;

const DISTRIBUTOR: usize = 0x0800_0000;
const REDISTRIBUTORS: usize = 0x080a_0000;
const REDISTRIBUTOR_SIZE: usize = 0x2_0000;
const SGI_FRAME: usize = 0x1_0000;
const ISENABLER0: usize = 0x100;
const ICENABLER0: usize = 0x180;
/// EnableGrp1A and ARE_NS.
const CTLR: u32 = 0x12;

/// The SGI of [`wake`].
const WAKE: u32 = 1;
/// Private interrupts that stop a realm: the end of a virtual interrupt that asked for it, its two timers, its PMU. While no realm
/// runs, nothing raises them.
const OF_REALMS: u32 = 1 << 25 | 1 << 27 | 1 << 30 | 1 << PMU;
/// The PMU's interrupt (BSA).
pub const PMU: u32 = 23;
const NO_INTERRUPT: u64 = 1020;

fn put(address: usize, value: u32) {
    // SAFETY: a register of the GIC, which nothing else uses.
    unsafe { (address as *mut u32).write_volatile(value) };
}

fn get(address: usize) -> u32 {
    // SAFETY: a register of the GIC, which nothing else uses.
    unsafe { (address as *const u32).read_volatile() }
}

/// To be called once on each CPU.
pub fn init(cpu: usize) {
    put(DISTRIBUTOR, CTLR);
    put(
        REDISTRIBUTORS + cpu * REDISTRIBUTOR_SIZE + SGI_FRAME + ISENABLER0,
        1 << WAKE | 1 << timer::INTID | OF_REALMS,
    );
    msr!("S3_4_C12_C9_5", 0xf); // ICC_SRE_EL2
    isb();
    msr!("S3_0_C4_C6_0", 0xff); // ICC_PMR_EL1
    msr!("S3_0_C12_C12_7", 1); // ICC_IGRPEN1_EL1
    isb();
}

/// Lets a private interrupt of this CPU through.
pub fn enable(intid: u32) {
    put(REDISTRIBUTORS + crate::cpu() * REDISTRIBUTOR_SIZE + SGI_FRAME + ISENABLER0, 1 << intid);
}

/// Lets a private interrupt of this CPU through no more; in effect on return.
pub fn disable(intid: u32) {
    let redistributor = REDISTRIBUTORS + crate::cpu() * REDISTRIBUTOR_SIZE;
    put(redistributor + SGI_FRAME + ICENABLER0, 1 << intid);
    // GICR_CTLR.RWP: the write has not reached every part of the GIC yet.
    while get(redistributor) & 1 << 3 != 0 {
        core::hint::spin_loop();
    }
}

/// Interrupts CPU `cpu`.
pub fn wake(cpu: usize) {
    dsb();
    msr!("S3_0_C12_C11_5", u64::from(WAKE) << 24 | 1 << cpu); // ICC_SGI1R_EL1
    isb();
}

/// Takes all that is pending: nothing has to be done for a wake, and a timer that fired is off.
pub(crate) fn take() {
    loop {
        let id = mrs!("S3_0_C12_C12_0"); // ICC_IAR1_EL1
        if id & 0xff_ffff >= NO_INTERRUPT {
            return;
        }
        if id == u64::from(timer::INTID) {
            timer::clear();
        }
        msr!("S3_0_C12_C12_1", id); // ICC_EOIR1_EL1
        isb();
    }
}
