//! PSCI calls of a realm, as far as the Host takes part (RMM 1.0, PSCI, docs/kvm-realm-abi.md section 2.13).

use crate::run::pending::Next;
use crate::run::vcpu::State;
use crate::{Errno, Host, UserMemory, Vcpu};
use realm_abi::kvm::{InternalError, PsciComplete, SystemEvent};
use realm_abi::psci::{PsciCall, PsciStatus};
use realm_alloc::Arc;

/// The affinity fields of MPIDR_EL1.
const AFFINITY: u64 = 0xff_00ff_ffff;

impl<H: Host> Vcpu<H> {
    /// The RMM has checked a call before it exits, and answers the caller by itself once the Host has completed it.
    pub(crate) fn handle_psci(&self, state: &mut State<H>, user: &impl UserMemory) -> Result<Next, Errno> {
        state.registers.x = state.exit.gprs;
        let [x0, x1, x2, x3, ..] = state.exit.gprs;
        match PsciCall::from_regs(&[x0, x1, x2, x3]) {
            // All power states are a plain wait for an interrupt, as in KVM.
            PsciCall::CpuSuspend { .. } => self.block(state, user, None),
            PsciCall::CpuOff => {
                state.off_is_uncertain = !self.power_off_unless_called(state.calls_before_entry)
            }
            PsciCall::CpuOn { target_cpu, .. } => return Ok(self.cpu_on(target_cpu)),
            PsciCall::AffinityInfo { target_affinity, .. } => {
                let target = self.vcpu_by_mpidr(target_affinity);
                return Ok(self.complete_or_stop(target.as_deref(), PsciStatus::SUCCESS));
            }
            PsciCall::SystemOff => return Ok(self.system_event(SystemEvent::SHUTDOWN)),
            PsciCall::SystemReset => return Ok(self.system_event(SystemEvent::RESET)),
            // The RMM answers these without an exit, so there is nobody to answer.
            PsciCall::Version | PsciCall::Features { .. } | PsciCall::Unknown { .. } => {}
        }
        Ok(Next::Resume)
    }

    /// The call is completed before the target may run: the RMM makes it runnable, and tells the caller when it already
    /// was.
    fn cpu_on(&self, mpidr: u64) -> Next {
        let target = self.vcpu_by_mpidr(mpidr);
        let next = self.complete_or_stop(target.as_deref(), PsciStatus::SUCCESS);
        if let (Next::Resume, Some(target)) = (&next, target) {
            target.power_on();
        }
        next
    }

    /// Completes a call. One that cannot be completed leaves a REC the RMM will not enter: the VMM is told.
    fn complete_or_stop(&self, target: Option<&Self>, status: PsciStatus) -> Next {
        let completed = target.map_or(Err(Errno::EINVAL), |target| self.complete(target, status));
        match completed {
            Ok(()) => Next::Resume,
            Err(_) => {
                self.kvm_run().exit_internal_error(InternalError::UNEXPECTED_EXIT_REASON, 0);
                Next::Return
            }
        }
    }

    fn complete(&self, target: &Self, status: PsciStatus) -> Result<(), Errno> {
        let (Some(calling), Some(target)) = (self.rec_pa(), target.rec_pa()) else {
            return Err(Errno::EINVAL);
        };
        self.vm().device().rmm().rmi().psci_complete(calling, target, status.0).map_err(|error| {
            self.vm().host().explain(format_args!("PSCI call of vCPU {}: {error}", self.id()));
            Errno::EINVAL
        })
    }

    fn vcpu_by_mpidr(&self, mpidr: u64) -> Option<Arc<Self>> {
        self.vm().vcpus().find(|vcpu| vcpu.mpidr() == mpidr & AFFINITY)
    }

    /// The realm is over: this VMM thread learns why, the others that it is.
    fn system_event(&self, event: SystemEvent) -> Next {
        self.vm().switch_off();
        self.kvm_run().exit_system_event(event);
        Next::Return
    }

    /// KVM_ARM_VCPU_RMM_PSCI_COMPLETE: the VMM completes a call of this vCPU. This core completes every call before
    /// KVM_RUN returns, so the RMM finds none pending.
    pub(crate) fn psci_complete(&self, request: &PsciComplete) -> Result<(), Errno> {
        if request.padding != [0; 3] {
            return Err(Errno::EINVAL);
        }
        let target = self.vcpu_by_mpidr(request.target_mpidr).ok_or(Errno::EINVAL)?;
        self.complete(&target, PsciStatus(i64::from(request.psci_status.cast_signed())))
    }
}
