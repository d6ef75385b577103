//! PSCI of realms and RMI_PSCI_COMPLETE, as RMM 1.0 defines them.

use crate::Model;
use crate::outcome::{Conditions, Outcome};
use crate::rec::{LastExit, realm_rec_index};
use crate::registers::{PSTATE_RESET, Registers, Rule};
use crate::run::alternative::{Alternative, exit_of, not_supported};
use realm_abi::psci::{AffinityState, PsciCall, PsciStatus, VERSION_1_1, fid};
use realm_abi::rmi::{ExitReason, GPRS};

fn status(name: &'static str, regs: &Registers, status: PsciStatus) -> Alternative {
    Alternative::answer(name, regs, &[status.0.cast_unsigned()])
}

/// The exit that tells the Host about a call: the function and its own arguments.
fn psci_exit(name: &'static str, regs: &Registers, call: &PsciCall, last_exit: LastExit) -> Alternative {
    let mut exit = exit_of(ExitReason::PSCI);
    exit.gprs[..4].copy_from_slice(&call.to_regs());
    Alternative::exit(name, exit, regs, last_exit)
}

impl Model {
    fn rec_of_mpidr(&self, owner: u64, mpidr: u64) -> Option<u64> {
        let index = realm_rec_index(mpidr)?;
        self.recs.iter().find(|(_, rec)| rec.owner == owner && rec.index == index).map(|(pa, _)| *pa)
    }

    /// Whether a REC with that MPIDR has existed: the RMM keeps no list of RECs to tell that it has gone.
    fn had_mpidr(&self, owner: u64, mpidr: u64) -> bool {
        let index = realm_rec_index(mpidr);
        self.realms.get(&owner).is_some_and(|realm| index.is_some_and(|index| index < realm.rec_index))
    }

    /// What a PSCI call in X0 to X3 may do.
    pub(crate) fn psci(&self, rec_pa: u64, regs: &Registers) -> Vec<Alternative> {
        let Some(rec) = self.recs.get(&rec_pa) else { return Vec::new() };
        let call = PsciCall::from_regs(&[regs.gprs[0], regs.gprs[1], regs.gprs[2], regs.gprs[3]]);
        let pending = LastExit::Psci(call);
        match call {
            PsciCall::Version => vec![Alternative::answer("PSCI_VERSION", regs, &[VERSION_1_1])],
            PsciCall::CpuSuspend { .. } => {
                vec![psci_exit("PSCI_CPU_SUSPEND", regs, &call, LastExit::Suspend)]
            }
            PsciCall::CpuOff => {
                let mut exit = psci_exit("PSCI_CPU_OFF", regs, &call, LastExit::Other);
                if let Alternative::Exit(exit) = &mut exit {
                    exit.cpu_off = true;
                }
                vec![exit]
            }
            PsciCall::SystemOff | PsciCall::SystemReset => {
                let name = call.name().unwrap_or_default();
                let mut exit = psci_exit(name, regs, &call, LastExit::Other);
                if let Alternative::Exit(exit) = &mut exit {
                    exit.system_off = true;
                }
                vec![exit]
            }
            PsciCall::Features { function } => {
                let known = matches!(
                    function,
                    fid::VERSION
                        | fid::CPU_SUSPEND_32
                        | fid::CPU_SUSPEND_64
                        | fid::CPU_OFF
                        | fid::CPU_ON_32
                        | fid::CPU_ON_64
                        | fid::AFFINITY_INFO_32
                        | fid::AFFINITY_INFO_64
                        | fid::SYSTEM_OFF
                        | fid::SYSTEM_RESET
                        | fid::FEATURES
                        | realm_abi::smccc::VERSION
                );
                let answer = if known { PsciStatus::SUCCESS } else { PsciStatus::NOT_SUPPORTED };
                vec![status("PSCI_FEATURES", regs, answer)]
            }
            PsciCall::CpuOn { target_cpu, entry_point, .. } => {
                let target = self.rec_of_mpidr(rec.owner, target_cpu);
                let mut out = Vec::new();
                if !self.realms.get(&rec.owner).is_some_and(|realm| realm.protected(entry_point)) {
                    out.push(status("PSCI_CPU_ON, address", regs, PsciStatus::INVALID_ADDRESS));
                }
                if target.is_none() {
                    out.push(status("PSCI_CPU_ON, parameters", regs, PsciStatus::INVALID_PARAMETERS));
                }
                let wrong = !out.is_empty();
                if target.and_then(|pa| self.recs.get(&pa)).is_some_and(|target| target.runnable) {
                    out.push(status("PSCI_CPU_ON, already on", regs, PsciStatus::ALREADY_ON));
                }
                // Only PSCI_COMPLETE names the target's granule: that another REC is on may be left to it.
                let gone = out.len() == 1 && target.is_none() && self.had_mpidr(rec.owner, target_cpu);
                if (!wrong || gone) && target != Some(rec_pa) {
                    out.push(psci_exit("PSCI_CPU_ON", regs, &call, pending));
                }
                out
            }
            PsciCall::AffinityInfo { target_affinity, lowest_affinity_level, .. } => {
                let target = self.rec_of_mpidr(rec.owner, target_affinity);
                let parameters =
                    status("PSCI_AFFINITY_INFO, parameters", regs, PsciStatus::INVALID_PARAMETERS);
                if lowest_affinity_level != 0 {
                    return vec![parameters];
                }
                let exit = psci_exit("PSCI_AFFINITY_INFO", regs, &call, pending);
                match target {
                    Some(target) if target == rec_pa => {
                        vec![Alternative::answer("PSCI_AFFINITY_INFO, self", regs, &[AffinityState::ON.0])]
                    }
                    Some(_) => vec![exit],
                    None if self.had_mpidr(rec.owner, target_affinity) => vec![parameters, exit],
                    None => vec![parameters],
                }
            }
            PsciCall::Unknown { .. } => vec![not_supported(regs)],
        }
    }

    pub(crate) fn psci_complete(&mut self, calling_pa: u64, target_pa: u64, code: i64) -> Outcome {
        let mut c = Conditions::default();
        c.input_if("alias", calling_pa == target_pa);
        let calling = self.rec_group(&mut c, calling_pa);
        let target = self.rec_group(&mut c, target_pa);
        let mut found = None;
        if let Some(calling) = calling {
            let call = match calling.last_exit {
                LastExit::Psci(call) => Some(call),
                _ => None,
            };
            c.input_if("pending", call.is_none());
            if let (Some(call), Some(target)) = (call, target) {
                let (mpidr, on) = match call {
                    PsciCall::CpuOn { target_cpu, .. } => (target_cpu, true),
                    PsciCall::AffinityInfo { target_affinity, .. } => (target_affinity, false),
                    _ => (u64::MAX, false),
                };
                c.input_if("owner", calling.owner != target.owner);
                c.input_if("target", realm_rec_index(mpidr) != Some(target.index));
                let denied = code == PsciStatus::DENIED.0 && on && !target.runnable;
                c.input_if("status", code != PsciStatus::SUCCESS.0 && !denied);
                found = Some((call, target.runnable));
            }
        }
        if let Some(failure) = c.outcome(None) {
            return failure;
        }
        let Some((call, runnable)) = found else { return Outcome::success(&[]) };
        let result = match call {
            PsciCall::CpuOn { .. } if runnable => PsciStatus::ALREADY_ON.0.cast_unsigned(),
            PsciCall::CpuOn { .. } => code.cast_unsigned(),
            _ if runnable => AffinityState::ON.0,
            _ => AffinityState::OFF.0,
        };
        if let Some(calling) = self.recs.get_mut(&calling_pa) {
            calling.last_exit = LastExit::Other;
            calling.registers.gprs[..4].copy_from_slice(&[result, 0, 0, 0]);
            calling.registers.pc = calling.registers.pc.wrapping_add(4);
            // X4 to X6 are the result's too, without a value.
            calling.kept_or_zero = 0x70;
        }
        if let (PsciCall::CpuOn { entry_point, context_id, .. }, Some(target)) =
            (call, self.recs.get_mut(&target_pa))
            && result == 0
        {
            let mut gprs = [0; GPRS];
            gprs[0] = context_id;
            target.registers = Registers { gprs, pc: entry_point, pstate: PSTATE_RESET, ..target.registers };
            target.runnable = true;
            target.rule = Rule::Fresh;
            target.kept_or_zero = 0;
            target.last_exit = LastExit::Other;
        }
        Outcome::success(&[])
    }
}
