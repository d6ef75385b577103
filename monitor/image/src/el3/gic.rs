//! The GICv3: every interrupt belongs to the Non-secure world, except what EL3 wakes CPUs with.

use super::sysreg::{self, read, write};
use realm_monitor::layout::CLUSTER_SHIFT;

const DISTRIBUTOR: usize = 0x0800_0000;
const REDISTRIBUTORS: usize = 0x080a_0000;
const REDISTRIBUTOR_SIZE: usize = 0x2_0000;
/// Offset of the frame for SGIs and PPIs.
const SGI_FRAME: usize = 0x1_0000;

const GICD_CTLR: usize = 0x000;
/// Address of GICD_CTLR, in which start.s looks for [`RELEASED_BIT`].
pub const DISTRIBUTOR_CONTROL: usize = DISTRIBUTOR + GICD_CTLR;
/// EnableGrp0: set when the other CPUs may go on. The Non-secure world does not see it.
pub const RELEASED_BIT: u32 = 0;
const GICD_TYPER: usize = 0x004;
const GICD_IGROUPR: usize = 0x080;
const GICD_IPRIORITYR: usize = 0x400;
const GICR_WAKER: usize = 0x014;
const GICR_IGROUPR0: usize = 0x080;
const GICR_ISENABLER0: usize = 0x100;
const GICR_IPRIORITYR: usize = 0x400;

const CTLR_ENABLE_GROUP0: u32 = 1 << RELEASED_BIT;
const CTLR_ARE_S: u32 = 1 << 4;
const CTLR_ARE_NS: u32 = 1 << 5;
const WAKER_PROCESSOR_SLEEP: u32 = 1 << 1;
const WAKER_CHILDREN_ASLEEP: u32 = 1 << 2;

/// The SGI that wakes a CPU which is off.
const WAKE: u32 = 15;
/// SGIs 8 to 15 and the Secure physical timer (29) stay with EL3.
const EL3_OWN: u32 = 0x2000_ff00;
/// The lowest priority the Non-secure world could have set is above this.
const NS_PRIORITIES: u32 = 0xa0a0_a0a0;
const NO_INTERRUPT: u64 = 1020;

fn get(address: usize) -> u32 {
    // SAFETY: `address` is a register of the GIC, mapped as a device, and reading it has no effect.
    unsafe { (address as *const u32).read_volatile() }
}

fn put(address: usize, value: u32) {
    // SAFETY: `address` is a register of the GIC, mapped as a device; it controls interrupts, not memory.
    unsafe { (address as *mut u32).write_volatile(value) };
}

/// Gives all shared interrupts to the Non-secure world. Once, on the first CPU.
pub fn init_distributor() {
    put(DISTRIBUTOR + GICD_CTLR, CTLR_ARE_S | CTLR_ARE_NS);
    let words = (get(DISTRIBUTOR + GICD_TYPER) & 0x1f) as usize + 1;
    for word in 1..words.min(32) {
        put(DISTRIBUTOR + GICD_IGROUPR + 4 * word, u32::MAX);
        for quarter in 0..8 {
            put(DISTRIBUTOR + GICD_IPRIORITYR + 4 * (8 * word + quarter), NS_PRIORITIES);
        }
    }
}

/// Enables EL3's own interrupts, and with that lets the other CPUs go on. Once all they use is there.
pub fn release_others() {
    sysreg::dsb();
    put(DISTRIBUTOR_CONTROL, CTLR_ARE_S | CTLR_ARE_NS | CTLR_ENABLE_GROUP0);
    sysreg::sev();
}

/// Wakes the redistributor of CPU `cpu`, which this is, and opens its CPU interface to the lower worlds.
pub fn init_cpu(cpu: usize) {
    let redistributor = REDISTRIBUTORS + cpu * REDISTRIBUTOR_SIZE;
    put(redistributor + GICR_WAKER, get(redistributor + GICR_WAKER) & !WAKER_PROCESSOR_SLEEP);
    while get(redistributor + GICR_WAKER) & WAKER_CHILDREN_ASLEEP != 0 {}
    let frame = redistributor + SGI_FRAME;
    put(frame + GICR_IGROUPR0, !EL3_OWN);
    for word in 0..8 {
        put(frame + GICR_IPRIORITYR + 4 * word, NS_PRIORITIES);
    }
    // The priority of EL3's own SGIs.
    put(frame + GICR_IPRIORITYR + 4 * (WAKE as usize / 4), 0);
    put(frame + GICR_ISENABLER0, 1 << WAKE);
    // System registers everywhere, and lower levels may use them (SRE, DFB, DIB, Enable).
    write!("S3_6_C12_C12_5", 0xf);
    sysreg::isb();
    write!("S3_4_C12_C9_5", 0xf);
    write!("S3_0_C12_C12_5", 0x7);
    sysreg::isb();
    // The Non-secure world sees and sets only the lower half of the priorities, and only while the mask is there.
    write!("S3_0_C4_C6_0", 0xff);
    // Group 0 is EL3's.
    write!("S3_0_C12_C12_6", 1);
    sysreg::isb();
}

/// Wakes a CPU that waits for [`acknowledge`] to tell it so.
pub fn wake(cpu: usize) {
    sysreg::dsb();
    let (cluster, within) = (cpu as u64 >> CLUSTER_SHIFT, cpu & ((1 << CLUSTER_SHIFT) - 1));
    // ICC_SGI0R_EL1: a group 0 SGI to the CPU with this affinity 0 in the cluster of this affinity 1.
    write!("S3_0_C12_C11_7", u64::from(WAKE) << 24 | cluster << 16 | 1 << within);
    sysreg::isb();
}

/// Takes EL3's own pending interrupts. None of them needs more than that.
pub fn acknowledge() {
    loop {
        let id = read!("S3_0_C12_C8_0");
        if id & 0xff_ffff >= NO_INTERRUPT {
            return;
        }
        write!("S3_0_C12_C8_1", id);
    }
}
