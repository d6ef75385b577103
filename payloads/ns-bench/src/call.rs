//! Calls out of this world, and what they take.

use core::arch::asm;

/// X0 to X4 of an answer.
pub type Answer = [u64; 5];

/// When a call was made, and when its answer was there; in ticks.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub before: u64,
    pub after: u64,
}

impl Times {
    pub const fn ticks(self) -> u64 {
        self.after.wrapping_sub(self.before)
    }
}

/// Makes a call nobody measures and that does not come back.
pub fn last(function: u64) -> ! {
    loop {
        // SAFETY: nothing is used after it.
        unsafe { asm!("smc #0", inout("x0") function => _, options(nostack)) };
    }
}

macro_rules! between_marks {
    ($instruction:literal, $regs:ident, $answer:ident, $before:ident, $after:ident) => {
        asm!(
            "isb",
            "mrs x20, cntpct_el0",
            "hint #120",
            $instruction,
            "hint #121",
            "isb",
            "mrs x21, cntpct_el0",
            inout("x0") $regs[0] => $answer[0],
            inout("x1") $regs[1] => $answer[1],
            inout("x2") $regs[2] => $answer[2],
            inout("x3") $regs[3] => $answer[3],
            inout("x4") $regs[4] => $answer[4],
            inout("x5") $regs[5] => _,
            inout("x6") $regs[6] => _,
            inout("x7") $regs[7] => _,
            out("x20") $before,
            out("x21") $after,
            out("x8") _, out("x9") _, out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _,
            out("x15") _, out("x16") _, out("x17") _,
            options(nostack),
        )
    };
}

/// Makes a call between two looks at the counter and between the marks of the plugin.
pub fn timed(regs: &[u64; 8]) -> (Answer, Times) {
    let mut answer = [0; 5];
    let (before, after);
    // SAFETY: what the calls of this program take from it, it does not use (`memory`); all else follows the SMC calling
    // convention.
    unsafe { between_marks!("smc #0", regs, answer, before, after) };
    (answer, Times { before, after })
}

/// The same without a call: what measuring costs.
pub fn empty() -> Times {
    let (regs, mut answer) = ([0_u64; 8], [0_u64; 5]);
    let (before, after);
    // SAFETY: changes nothing.
    unsafe { between_marks!("", regs, answer, before, after) };
    core::hint::black_box(&mut answer);
    Times { before, after }
}
