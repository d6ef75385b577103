//! What a REC exit asks of the Host (RMM 1.0, RmiRecExit, docs/kvm-realm-abi.md section 3.17).

use crate::run::irqchip::GicRegister;
use crate::run::mmio::{SysregAccess, Wait, class, ec};
use crate::run::pending::{Next, Pending};
use crate::run::vcpu::State;
use crate::{Errno, Host, UserMemory, Vcpu};
use realm_abi::kvm::InternalError;
use realm_abi::rmi::{ExitReason, GPRS};
use realm_abi::smccc;

/// SMCCC_VERSION of a host call, as KVM answers a hypercall: 1.1.
const HOST_CALL_SMCCC_VERSION: u64 = 0x1_0001;

impl<H: Host> Vcpu<H> {
    pub(crate) fn handle_exit(&self, state: &mut State<H>, user: &impl UserMemory) -> Result<Next, Errno> {
        match state.exit.reason {
            ExitReason::SYNC => self.handle_sync(state, user),
            // The Host took its interrupt when it left the section around REC_ENTER.
            ExitReason::IRQ | ExitReason::FIQ => {
                self.vm().host().yield_now();
                Ok(Next::Resume)
            }
            ExitReason::PSCI => self.handle_psci(state, user),
            ExitReason::RIPAS_CHANGE => self.handle_ripas_change(state),
            ExitReason::HOST_CALL => {
                state.registers.x = host_call(&state.exit.gprs);
                state.pending = Pending::HostCall;
                Ok(Next::Resume)
            }
            reason => {
                // An SError is the VMM's to judge; a reason RMI 1.0 does not have cannot be gone on from.
                self.vm().host().explain(format_args!("vCPU {} stopped: exit {reason}", self.id()));
                let detail = if reason == ExitReason::SERROR { state.exit.esr } else { u64::from(reason.0) };
                self.kvm_run().exit_internal_error(InternalError::UNEXPECTED_EXIT_REASON, detail);
                Ok(Next::Return)
            }
        }
    }

    fn handle_sync(&self, state: &mut State<H>, user: &impl UserMemory) -> Result<Next, Errno> {
        let esr = state.exit.esr;
        match class(esr) {
            ec::WFX => {
                let [timeout, ..] = state.exit.gprs;
                match Wait::of_syndrome(esr) {
                    Wait::Interrupt => self.block(state, user, None),
                    Wait::InterruptOrTime => self.block(state, user, Some(timeout)),
                    Wait::Event | Wait::EventOrTime => self.vm().host().yield_now(),
                }
                Ok(Next::Resume)
            }
            ec::SYSREG => {
                self.handle_sysreg(state, SysregAccess::of_syndrome(esr));
                Ok(Next::Resume)
            }
            ec::DATA_ABORT | ec::INSTRUCTION_ABORT => self.handle_abort(state, user),
            other => {
                self.vm()
                    .host()
                    .explain(format_args!("vCPU {} stopped: exception class {other:#x}", self.id()));
                Err(Errno::ENXIO)
            }
        }
    }

    /// Writes to the GIC's CPU interface that involve other vCPUs; everything else reads as zero and ignores writes.
    /// The RMM has advanced the program counter.
    fn handle_sysreg(&self, state: &mut State<H>, access: SysregAccess) {
        let register = match access.encoding {
            (3, 0, 12, 11, 5) => Some(GicRegister::Sgi1r),
            (3, 0, 12, 11, 6) => Some(GicRegister::Asgi1r),
            (3, 0, 12, 11, 7) => Some(GicRegister::Sgi0r),
            (3, 0, 12, 11, 1) => Some(GicRegister::Dir),
            _ => None,
        };
        if !access.write {
            state.pending = Pending::Register(0);
            return;
        }
        let [value, ..] = state.exit.gprs;
        if let (Some(register), Some(gic)) = (register, &state.gic) {
            gic.write_register(self.id(), register, value);
        }
    }
}

/// Answers a host call as KVM answers a hypercall: X0 to X3 hold the result.
fn host_call(gprs: &[u64; GPRS]) -> [u64; GPRS] {
    let [function, ..] = *gprs;
    let result = match function & 0xffff_ffff {
        smccc::VERSION => HOST_CALL_SMCCC_VERSION,
        _ => smccc::NOT_SUPPORTED,
    };
    let mut reply = *gprs;
    for (register, value) in reply.iter_mut().zip([result, 0, 0, 0]) {
        *register = value;
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_call_is_answered_in_the_first_four_registers() {
        let gprs = core::array::from_fn(|n| n as u64 + 100);
        let reply = host_call(&gprs);
        assert_eq!(reply[..5], [u64::MAX, 0, 0, 0, 104]);
        assert_eq!(reply[30], 130);
        let mut gprs = gprs;
        gprs[0] = 0x8000_0000;
        assert_eq!(host_call(&gprs)[0], 0x1_0001);
    }
}
