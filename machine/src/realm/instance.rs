//! A program that a virtual CPU is in the middle of, and where it continues.

use crate::realm::program::{GuestException, Op, Outcome, RealmProgram};
use realm_abi::psci;
use realm_rmm::cpu::CpuContext;

/// An operation that has not completed.
pub(crate) struct Pending {
    pub op: Op,
    /// Where it is.
    pub pc: u64,
    /// Bytes of it that are done.
    pub progress: usize,
    /// What has been read so far.
    pub bytes: Vec<u8>,
}

/// A program and where it is: what in hardware is the realm's memory and registers.
pub(crate) struct Instance {
    pub program: Box<dyn RealmProgram>,
    pub pending: Option<Pending>,
    pub last: Outcome,
}

/// Where a virtual CPU continues, seen from its pending operation.
pub(crate) enum Resume {
    Retry,
    Emulated,
    Exception(GuestException),
    Restart,
}

impl Instance {
    pub fn new(program: Box<dyn RealmProgram>) -> Self {
        Self { program, pending: None, last: Outcome::Started }
    }

    /// Whether the virtual CPU was turned off, or sent elsewhere, since its program's last operation: it then needs a
    /// new program.
    pub fn is_over(&self, context: &CpuContext) -> bool {
        self.pending.as_ref().is_some_and(|pending| matches!(resume_at(pending, context), Resume::Restart))
    }
}

pub(crate) fn resume_at(pending: &Pending, context: &CpuContext) -> Resume {
    if matches!(&pending.op, Op::Smc(regs) if regs[0] == psci::fid::CPU_OFF) && context.pc != pending.pc {
        return Resume::Restart;
    }
    let behind = pending.pc.wrapping_add(4);
    if context.pc == pending.pc {
        return Resume::Retry;
    }
    if context.pc == behind {
        return Resume::Emulated;
    }
    let offset = context.pc.wrapping_sub(context.el1.vbar_el1);
    let elr = context.el1.elr_el1;
    if offset < 0x800 && offset.is_multiple_of(0x80) && (elr == pending.pc || elr == behind) {
        return Resume::Exception(GuestException { esr: context.el1.esr_el1, far: context.el1.far_el1, elr });
    }
    Resume::Restart
}
