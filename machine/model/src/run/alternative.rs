//! What may happen next to a REC that runs: it goes on, or it exits.

use crate::rec::LastExit;
use crate::registers::{Registers, Rule};
use realm_abi::rmi::{ExitReason, RecExit};

/// The realm goes on.
#[derive(Clone, Debug)]
pub(crate) struct Resume {
    pub(crate) name: &'static str,
    pub(crate) registers: Registers,
    /// Registers that may be zero instead: outputs the call does not use.
    pub(crate) kept_or_zero: u32,
    pub(crate) rule: Rule,
}

/// The REC exits.
#[derive(Clone, Debug)]
pub(crate) struct Exit {
    pub(crate) name: &'static str,
    pub(crate) exit: Box<RecExit>,
    /// Content of the host call structure was not specified.
    pub(crate) any_call: bool,
    pub(crate) registers: Registers,
    pub(crate) last_exit: LastExit,
    pub(crate) cpu_off: bool,
    pub(crate) system_off: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Alternative {
    Resume(Resume),
    Exit(Exit),
}

/// X1 to X16, which the abstract interface zeroes where a call does not use them and deployed firmware keeps.
const UNUSED: u32 = 0x1_fffe;

impl Alternative {
    pub(crate) fn resume(name: &'static str, registers: Registers) -> Self {
        Self::Resume(Resume { name, registers, kept_or_zero: 0, rule: Rule::None })
    }

    /// An SMC is answered with X0 and on.
    pub(crate) fn answer(name: &'static str, regs: &Registers, out: &[u64]) -> Self {
        Self::answer_with(name, regs, out, Rule::None)
    }

    pub(crate) fn answer_with(name: &'static str, regs: &Registers, out: &[u64], rule: Rule) -> Self {
        let mut registers = *regs;
        registers.pc = registers.pc.wrapping_add(4);
        let mut kept_or_zero = UNUSED;
        for (i, (register, value)) in registers.gprs.iter_mut().zip(out).enumerate() {
            *register = *value;
            kept_or_zero &= !(1 << i);
        }
        Self::Resume(Resume { name, registers, kept_or_zero, rule })
    }

    pub(crate) fn exit(name: &'static str, exit: RecExit, regs: &Registers, last_exit: LastExit) -> Self {
        Self::Exit(Exit {
            name,
            exit: Box::new(exit),
            any_call: false,
            registers: *regs,
            last_exit,
            cpu_off: false,
            system_off: false,
        })
    }
}

/// The REC that runs and what may happen next.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) rec: u64,
    pub(crate) alternatives: Vec<Alternative>,
}

/// An exit with its reason.
pub(crate) fn exit_of(reason: ExitReason) -> RecExit {
    let mut exit = RecExit::default();
    exit.exit_reason = reason;
    exit
}

/// A synchronous exit with what it says about the fault.
pub(crate) fn sync_exit(esr: u64, hpfar: u64) -> RecExit {
    let mut exit = exit_of(ExitReason::SYNC);
    (exit.esr, exit.hpfar) = (esr, hpfar);
    exit
}

pub(crate) fn not_supported(regs: &Registers) -> Alternative {
    Alternative::answer("not supported", regs, &[realm_abi::smccc::NOT_SUPPORTED])
}
