//! Exceptions at EL1. One in an instruction run by [`attempt!`] is a result; interrupts go to [`crate::interrupt`]; any other ends
//! the realm with a report.

use crate::interrupt;
use crate::report::fail;
use crate::sysreg::mrs;
use crate::vcpu::{MAX_VCPUS, vcpu};
use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What an exception leaves in the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1.
    pub far: u64,
    /// ELR_EL1 less the address of the instruction that was tried.
    pub skew: u64,
}

/// ESR_EL1 of an instruction that does not exist.
pub const UNDEFINED: u64 = 1 << 25;
/// ESR_EL1 of the synchronous external aborts of a realm: load, store, instruction.
pub const LOAD_SEA: u64 = 0x25 << 26 | 1 << 25 | 1 << 9 | 0x10;
pub const STORE_SEA: u64 = LOAD_SEA | 1 << 6;
pub const FETCH_SEA: u64 = 0x21 << 26 | 1 << 25 | 1 << 9 | 0x10;
/// ESR_EL1 of a load from, and a store to, an address the IPA space does not have.
pub const LOAD_OUTSIDE: u64 = 0x25 << 26 | 1 << 25 | 0x03;
pub const STORE_OUTSIDE: u64 = LOAD_OUTSIDE | 1 << 6;
/// CM: a cache maintenance instruction.
pub const CM: u64 = 1 << 8;

/// What a vCPU expects, and what happened.
pub struct Expectation {
    /// Where to go on after an exception; zero if none is expected.
    resume: AtomicU64,
    happened: AtomicBool,
    esr: AtomicU64,
    far: AtomicU64,
    elr: AtomicU64,
}

static EXPECTATIONS: [Expectation; MAX_VCPUS] = [const {
    Expectation {
        resume: AtomicU64::new(0),
        happened: AtomicBool::new(false),
        esr: AtomicU64::new(0),
        far: AtomicU64::new(0),
        elr: AtomicU64::new(0),
    }
}; MAX_VCPUS];

/// Prepares for an exception; where the address to go on at has to be stored.
pub fn expect() -> *mut u64 {
    let expectation = &EXPECTATIONS[vcpu()];
    expectation.happened.store(false, Ordering::Relaxed);
    expectation.resume.as_ptr()
}

/// What came of the instruction at `at`.
pub fn outcome(at: u64) -> Result<(), Fault> {
    let expectation = &EXPECTATIONS[vcpu()];
    if !expectation.happened.load(Ordering::Relaxed) {
        return Ok(());
    }
    Err(Fault {
        esr: expectation.esr.load(Ordering::Relaxed),
        far: expectation.far.load(Ordering::Relaxed),
        skew: expectation.elr.load(Ordering::Relaxed).wrapping_sub(at),
    })
}

/// Runs one instruction that may end in an exception: `Ok`, or the [`Fault`]. Operands are those of `asm!`.
macro_rules! attempt {
    ($text:literal $(, $($operand:tt)*)?) => {{
        let slot = $crate::exception::expect();
        let at: u64;
        // SAFETY: an exception goes on behind the instruction. What the instruction itself does is the program's to know: it
        // touches memory of its own, devices, or addresses where there is nothing.
        unsafe {
            core::arch::asm!(
                "adr {at}, 7f",
                "str {at}, [{slot}]",
                "adr {at}, 6f",
                "6:",
                $text,
                "7: str xzr, [{slot}]",
                slot = in(reg) slot,
                at = out(reg) at,
                $($($operand)*,)?
                options(nostack)
            );
        }
        $crate::exception::outcome(at)
    }};
}
pub(crate) use attempt;

/// What is kept while an exception is handled.
#[repr(C)]
struct Frame {
    x0_to_x18: [u64; 19],
    x30: u64,
    elr: u64,
    spsr: u64,
}

global_asm!(
    ".section .text.vectors, \"ax\"",
    ".macro guest_vector kind",
    "    .balign 128",
    "    sub sp, sp, #176",
    "    stp x0, x1, [sp]",
    "    mov x1, #\\kind",
    "    b guest_exception",
    ".endm",
    ".balign 2048",
    ".global guest_vectors",
    "guest_vectors:",
    ".irp kind, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "guest_vector \\kind",
    ".endr",
    ".balign 128",
    "guest_exception:",
    "    stp x2, x3, [sp, #16]",
    "    stp x4, x5, [sp, #32]",
    "    stp x6, x7, [sp, #48]",
    "    stp x8, x9, [sp, #64]",
    "    stp x10, x11, [sp, #80]",
    "    stp x12, x13, [sp, #96]",
    "    stp x14, x15, [sp, #112]",
    "    stp x16, x17, [sp, #128]",
    "    stp x18, x30, [sp, #144]",
    "    mrs x2, elr_el1",
    "    mrs x3, spsr_el1",
    "    stp x2, x3, [sp, #160]",
    "    mov x0, sp",
    "    bl {handle}",
    "    ldp x2, x3, [sp, #160]",
    "    msr elr_el1, x2",
    "    msr spsr_el1, x3",
    "    ldp x2, x3, [sp, #16]",
    "    ldp x4, x5, [sp, #32]",
    "    ldp x6, x7, [sp, #48]",
    "    ldp x8, x9, [sp, #64]",
    "    ldp x10, x11, [sp, #80]",
    "    ldp x12, x13, [sp, #96]",
    "    ldp x14, x15, [sp, #112]",
    "    ldp x16, x17, [sp, #128]",
    "    ldp x18, x30, [sp, #144]",
    "    ldp x0, x1, [sp], #176",
    "    eret",
    // Nothing is executed ahead of an exception return.
    "    dsb nsh",
    "    isb",
    handle = sym handle,
);

/// From EL1 with its own stack pointer: the vectors that are used.
const SYNC: u64 = 4;
const IRQ: u64 = 5;

extern "C" fn handle(frame: &mut Frame, kind: u64) {
    if kind == IRQ {
        return interrupt::handle();
    }
    let (esr, far) = (mrs!("esr_el1"), mrs!("far_el1"));
    let expectation = &EXPECTATIONS[vcpu()];
    let resume = expectation.resume.swap(0, Ordering::Relaxed);
    if kind != SYNC || resume == 0 {
        fail(format_args!(
            "vCPU {} exception {kind}: ESR {esr:#x} ELR {:#x} FAR {far:#x} X30 {:#x} SPSR {:#x} X0 {:#x}",
            vcpu(),
            frame.elr,
            frame.x30,
            frame.spsr,
            frame.x0_to_x18[0],
        ));
    }
    expectation.esr.store(esr, Ordering::Relaxed);
    expectation.far.store(far, Ordering::Relaxed);
    expectation.elr.store(frame.elr, Ordering::Relaxed);
    expectation.happened.store(true, Ordering::Relaxed);
    frame.elr = resume;
}
