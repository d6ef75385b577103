//! The memory-mapped part of the GIC, as a kernel that starts sets it up (IHI 0069).

use crate::device;
use crate::sysreg::mrs;
use core::arch::asm;

/// Offsets of the distributor, and of the second frame of a redistributor.
const CTLR: u64 = 0x0000;
const IGROUPR: u64 = 0x0080;
const ISENABLER: u64 = 0x0100;
const ISACTIVER: u64 = 0x0300;
const IPRIORITYR: u64 = 0x0400;
/// Of the first frame of a redistributor.
const TYPER: u64 = 0x0008;
const WAKER: u64 = 0x0014;
const SGI_FRAME: u64 = 0x1_0000;
const REDISTRIBUTOR_SIZE: u64 = 0x2_0000;

/// ARE, EnableGrp1A and EnableGrp1, as Linux writes them.
const ENABLE: u32 = 0x13;
/// ChildrenAsleep.
const ASLEEP: u64 = 1 << 2;
/// A priority below which the mask can be.
const PRIORITY: u32 = 0xa0a0_a0a0;
/// SGIs, the PMU and both timers.
const PRIVATE: u32 = 0xffff | 1 << 23 | 1 << 27 | 1 << 30;

fn put(address: u64, value: u32) {
    // SAFETY: a register of the GIC. The form of the store is one the Host can emulate.
    unsafe { asm!("str {0:w}, [{1}]", in(reg) value, in(reg) address, options(nostack)) };
}

fn get(address: u64) -> u64 {
    let value: u64;
    // SAFETY: as above.
    unsafe { asm!("ldr {0:w}, [{1}]", out(reg) value, in(reg) address, options(nostack)) };
    value
}

/// The redistributor with this vCPU's affinity: they end where the distributor begins, this one's among them.
fn redistributor() -> u64 {
    let affinity = mrs!("mpidr_el1") & 0xff_ffff;
    let mut frame = device::distributor() - REDISTRIBUTOR_SIZE;
    while get(frame + TYPER + 4) != affinity {
        frame -= REDISTRIBUTOR_SIZE;
    }
    frame
}

/// Sets the distributor up, and this vCPU's redistributor: everything in Group 1, of one priority; what programs take is enabled.
pub fn init() {
    let distributor = device::distributor();
    put(distributor + CTLR, ENABLE);
    put(distributor + IGROUPR + 4, u32::MAX);
    put(distributor + ISENABLER + 4, u32::MAX);
    priorities(distributor + IPRIORITYR + 32);
    let redistributor = redistributor();
    put(redistributor + WAKER, 0);
    while get(redistributor + WAKER) & ASLEEP != 0 {}
    put(redistributor + SGI_FRAME + IGROUPR, u32::MAX);
    put(redistributor + SGI_FRAME + ISENABLER, PRIVATE);
    priorities(redistributor + SGI_FRAME + IPRIORITYR);
}

/// The same for 32 interrupts.
fn priorities(first: u64) {
    for word in 0..8 {
        put(first + word * 4, PRIORITY);
    }
}

/// Sets the priority of an SGI of this vCPU.
pub fn set_priority(sgi: u64, priority: u64) {
    let address = redistributor() + SGI_FRAME + IPRIORITYR + sgi;
    // SAFETY: a register of the GIC, of which this is one byte.
    unsafe { asm!("strb {0:w}, [{1}]", in(reg) priority, in(reg) address, options(nostack)) };
}

/// The private interrupts of this vCPU that are active.
pub fn active() -> u64 {
    get(redistributor() + SGI_FRAME + ISACTIVER)
}
