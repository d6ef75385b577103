//! The realm's program: it makes host calls, and any other call the answer to one asks for.

use core::arch::global_asm;
use core::mem::offset_of;
use realm_abi::rmi::{RecEnter, RecExit, RecRun};
use realm_abi::rsi::{HostCall, RsiCall};

global_asm!(
    ".section .rodata.guest, \"a\"",
    ".balign 8",
    ".global guest_start",
    ".global guest_end",
    // x0: the host call structure.
    "guest_start:",
    "    mov x20, x0",
    "1:  isb",
    "    mrs x11, cntpct_el0",
    "    str x11, [x20, #{leaving}]",
    "    movz x0, #{call} & 0xffff",
    "    movk x0, #{call} >> 16, lsl #16",
    "    mov x1, x20",
    "    smc #0",
    "    isb",
    "    mrs x10, cntpct_el0",
    "    str x10, [x20, #{arrived}]",
    // A function identifier to call, or zero.
    "    ldr x9, [x20, #{gprs}]",
    "    cbz x9, 1b",
    "    mov x0, x9",
    "    ldp x1, x2, [x20, #{gprs} + 8]",
    "    ldp x3, x4, [x20, #{gprs} + 24]",
    "    smc #0",
    "    b 1b",
    "guest_end:",
    call = const RsiCall::HostCall { addr: 0 }.fid(),
    gprs = const offset_of!(HostCall, gprs),
    arrived = const offset_of!(HostCall, gprs) + 8 * ARRIVED,
    leaving = const offset_of!(HostCall, gprs) + 8 * LEAVING,
);

/// Which register of a host call tells when the realm had the answer to the last one.
const ARRIVED: usize = 28;
/// And when it made this one.
const LEAVING: usize = 29;

unsafe extern "C" {
    safe static guest_start: [u8; 0];
    safe static guest_end: [u8; 0];
}

/// The program.
pub fn program() -> &'static [u8] {
    let start = &raw const guest_start;
    let size = &raw const guest_end as usize - start as usize;
    // SAFETY: the bytes between the two symbols, which are constants.
    unsafe { core::slice::from_raw_parts(start.cast(), size) }
}

/// Where a run page holds the register of a host call's answer.
pub const fn answer(register: usize) -> usize {
    offset_of!(RecRun, enter) + offset_of!(RecEnter, gprs) + 8 * register
}

const fn exit_register(register: usize) -> usize {
    offset_of!(RecRun, exit) + offset_of!(RecExit, gprs) + 8 * register
}

/// Where it holds why the REC exited.
pub const EXIT_REASON: usize = offset_of!(RecRun, exit) + offset_of!(RecExit, exit_reason);
/// Where it holds when the realm had the last answer.
pub const EXIT_ARRIVED: usize = exit_register(ARRIVED);
/// Where it holds when the realm called.
pub const EXIT_LEAVING: usize = exit_register(LEAVING);
