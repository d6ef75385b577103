//! Calls to EL3.

use core::arch::asm;
use realm_abi::rmm_el3::{El3Call, El3Code, El3Reply};

/// The calls with which the RMM says that it has booted on a CPU, and that a command has ended.
pub const BOOT_COMPLETE: u64 = 0xC400_01CF;
pub const RMI_REQ_COMPLETE: u64 = 0xC400_018F;

/// A service of EL3.
pub fn call(call: El3Call) -> El3Reply {
    let [x0, x1, x2, x3, x4, ..] = call.to_regs();
    let mut out = [0; 4];
    // SAFETY: EL3 writes no memory of ours but the shared page, which `SharedPage` gives away for the time.
    unsafe {
        asm!(
            "smc #0",
            inout("x0") x0 => out[0], inout("x1") x1 => out[1], inout("x2") x2 => out[2], inout("x3") x3 => out[3],
            inout("x4") x4 => _, out("x5") _, out("x6") _, out("x7") _,
            out("x8") _, out("x9") _, out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _,
            out("x15") _, out("x16") _, out("x17") _,
            options(nostack),
        );
    }
    El3Reply::from_regs(&out)
}

/// As a result.
pub fn service(request: El3Call) -> Result<[u64; 3], El3Code> {
    let reply = call(request);
    if reply.code == El3Code::OK { Ok(reply.out) } else { Err(reply.code) }
}

/// Ends the RMM's turn with `args` as X0 to X5; the next command, X0 to X7, comes back.
#[inline]
pub fn wait_for_command(args: [u64; 6]) -> [u64; 8] {
    let mut regs = [0; 8];
    // SAFETY: EL3 keeps the RMM's other registers while the Non-secure world runs. Memory of the Host may have changed,
    // so this is a barrier to the compiler, too.
    unsafe {
        asm!(
            "smc #0",
            inout("x0") args[0] => regs[0], inout("x1") args[1] => regs[1], inout("x2") args[2] => regs[2],
            inout("x3") args[3] => regs[3], inout("x4") args[4] => regs[4], inout("x5") args[5] => regs[5],
            out("x6") regs[6], out("x7") regs[7],
            options(nostack),
        );
    }
    regs
}
