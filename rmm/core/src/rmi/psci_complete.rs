//! RMI_PSCI_COMPLETE.

use super::Outcome;
use crate::granule::GranuleState;
use crate::rec::{Mpidr, Pending, Rec};
use crate::{Platform, Rmm};
use realm_abi::psci::{AffinityState, PsciCall, PsciStatus};
use realm_abi::rmi::{ReturnCode, RmiReply};

impl<P: Platform> Rmm<'_, P> {
    /// RMI_PSCI_COMPLETE (RMM 1.0). Every failure is `RMI_ERROR_INPUT`.
    pub(super) fn psci_complete(&self, calling_rec: u64, target_rec: u64, status: i64) -> Outcome {
        // alias, calling_*, target_*
        let (mut calling, mut target) =
            self.granules.lock_pair((calling_rec, GranuleState::Rec), (target_rec, GranuleState::Rec))?;
        let platform = &self.platform;
        calling.with(platform, |calling: &mut Rec| {
            target.with(platform, |target: &mut Rec| {
                let result = answer(calling, target, PsciStatus(status))?;
                calling.set_pending(Pending::Nothing);
                for (slot, value) in calling.context.gprs.iter_mut().zip([result, 0, 0, 0]) {
                    *slot = value;
                }
                Ok(RmiReply::SUCCESS)
            })
        })
    }
}

/// What the calling REC gets in X0; turns `target` on if that is what was asked for and granted.
///
/// That a CPU has claimed one of them does not matter, as long as its granule says what it was entered with: a REC that
/// runs is runnable there and no PSCI call is pending, and an entry of any other is about to fail without a change.
fn answer(calling: &Rec, target: &mut Rec, status: PsciStatus) -> Result<u64, ReturnCode> {
    // pending
    let Pending::Psci { regs } = calling.pending() else {
        return Err(ReturnCode::ERROR_INPUT);
    };
    let call = PsciCall::from_regs(&regs);
    let named = match call {
        PsciCall::CpuOn { target_cpu, .. } => target_cpu,
        PsciCall::AffinityInfo { target_affinity, .. } => target_affinity,
        _ => return Err(ReturnCode::ERROR_INPUT),
    };
    // owner, target
    if calling.owner != target.owner || Mpidr::from_register(named) != Some(target.mpidr()) {
        return Err(ReturnCode::ERROR_INPUT);
    }
    let is_on = target.is_runnable();
    match (call, status) {
        (PsciCall::CpuOn { .. }, PsciStatus::SUCCESS) if is_on => {
            Ok(PsciStatus::ALREADY_ON.0.cast_unsigned())
        }
        (PsciCall::CpuOn { entry_point, context_id, .. }, PsciStatus::SUCCESS) => {
            target.turn_on(entry_point, context_id, &calling.context);
            Ok(PsciStatus::SUCCESS.0.cast_unsigned())
        }
        (PsciCall::CpuOn { .. }, PsciStatus::DENIED) if !is_on => Ok(PsciStatus::DENIED.0.cast_unsigned()),
        (PsciCall::AffinityInfo { .. }, PsciStatus::SUCCESS) => {
            Ok(if is_on { AffinityState::ON.0 } else { AffinityState::OFF.0 })
        }
        // status
        _ => Err(ReturnCode::ERROR_INPUT),
    }
}
