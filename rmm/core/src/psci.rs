//! PSCI as realms see it (RMM 1.0, PSCI): what concerns power is the Host's to do, and to answer where another REC
//! is named.

use crate::platform::Platform;
use crate::rec::{Mpidr, Next, Pending, Running};
use realm_abi::psci::{AffinityState, PsciCall, PsciStatus, VERSION_1_1, fid};
use realm_abi::rmi::ExitReason;
use realm_abi::smccc;

/// Functions PSCI_FEATURES says yes to.
const SUPPORTED: [u64; 12] = [
    fid::VERSION,
    fid::CPU_SUSPEND_32,
    fid::CPU_SUSPEND_64,
    fid::CPU_OFF,
    fid::CPU_ON_32,
    fid::CPU_ON_64,
    fid::AFFINITY_INFO_32,
    fid::AFFINITY_INFO_64,
    fid::SYSTEM_OFF,
    fid::SYSTEM_RESET,
    fid::FEATURES,
    smccc::VERSION,
];

impl<P: Platform> Running<'_, '_, P> {
    /// Serves a PSCI call.
    pub(crate) fn psci(&mut self, call: PsciCall) -> Next {
        let next = match call {
            PsciCall::Version => self.psci_done(VERSION_1_1),
            PsciCall::Features { function } => {
                let supported = SUPPORTED.contains(&function);
                self.psci_status(if supported { PsciStatus::SUCCESS } else { PsciStatus::NOT_SUPPORTED })
            }
            // Every power state is one that keeps the registers: the realm goes on behind the call.
            PsciCall::CpuSuspend { .. } => {
                self.psci_status(PsciStatus::SUCCESS);
                self.psci_exit(&call, Pending::Nothing)
            }
            PsciCall::CpuOff => {
                self.rec.set_runnable(false);
                self.psci_exit(&call, Pending::Nothing)
            }
            PsciCall::SystemOff | PsciCall::SystemReset => {
                self.end_realm();
                self.psci_exit(&call, Pending::Nothing)
            }
            PsciCall::CpuOn { target_cpu, entry_point, .. } => self.cpu_on(&call, target_cpu, entry_point),
            PsciCall::AffinityInfo { target_affinity, lowest_affinity_level, .. } => {
                self.affinity_info(&call, target_affinity, lowest_affinity_level)
            }
            PsciCall::Unknown { .. } => self.psci_status(PsciStatus::NOT_SUPPORTED),
        };
        self.advance_pc();
        next
    }

    /// PSCI_CPU_ON. Whether another REC is on already is seen by PSCI_COMPLETE, when it cannot change under our hands.
    fn cpu_on(&mut self, call: &PsciCall, target: u64, entry_point: u64) -> Next {
        if !self.realm.stage2.is_protected(entry_point) {
            return self.psci_status(PsciStatus::INVALID_ADDRESS);
        }
        match self.named(target) {
            None => self.psci_status(PsciStatus::INVALID_PARAMETERS),
            Some(target) if target == self.mpidr() => self.psci_status(PsciStatus::ALREADY_ON),
            Some(_) => self.psci_request(call),
        }
    }

    /// PSCI_AFFINITY_INFO. A REC that asks for itself is on; no PSCI_COMPLETE could say so, as it takes two RECs.
    fn affinity_info(&mut self, call: &PsciCall, target: u64, lowest_level: u64) -> Next {
        if lowest_level != 0 {
            return self.psci_status(PsciStatus::INVALID_PARAMETERS);
        }
        match self.named(target) {
            None => self.psci_status(PsciStatus::INVALID_PARAMETERS),
            Some(target) if target == self.mpidr() => self.psci_done(AffinityState::ON.0),
            Some(_) => self.psci_request(call),
        }
    }

    /// The REC of this realm that `target`, in the layout of MPIDR_EL1, names. Indices are given out in order, so every
    /// one below the next has been created.
    fn named(&self, target: u64) -> Option<Mpidr> {
        let target = Mpidr::from_register(target)?;
        let next_index = self.rmm.with_rd(self.realm.rd, |rd| rd.rec_index).ok()?;
        (target.index() < next_index).then_some(target)
    }

    /// An exit the Host answers with PSCI_COMPLETE.
    fn psci_request(&mut self, call: &PsciCall) -> Next {
        self.psci_exit(call, Pending::Psci { regs: call.to_regs() })
    }

    /// An exit with the call and its arguments, nothing else of the registers.
    fn psci_exit(&mut self, call: &PsciCall, pending: Pending) -> Next {
        for (to, from) in self.exit.gprs.iter_mut().zip(call.to_regs()) {
            *to = from;
        }
        self.exit_with(ExitReason::PSCI, pending)
    }

    fn psci_status(&mut self, status: PsciStatus) -> Next {
        self.psci_done(status.0.cast_unsigned())
    }

    fn psci_done(&mut self, result: u64) -> Next {
        self.set_first_gprs([result, 0, 0, 0]);
        Next::Resume
    }
}
