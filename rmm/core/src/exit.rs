//! What happens when a realm stops running: most exceptions are the RMM's or the realm's own, some the Host gets to see,
//! with nothing in them it has no need of (RMM 1.0, REC exit).

mod abort;

use crate::cpu::{Pmu, RealmExit};
use crate::esr::{self, Syndrome};
use crate::platform::Platform;
use crate::rec::{Next, Pending, Running};
use crate::{inject, sysreg};
use realm_abi::rmi::{EnterFlags, ExitReason, RecEnter, Ripas};
use realm_abi::rsi::{RsiResponse, RsiStatus};

/// SError: the only status code with a defined syndrome.
const SERROR_DFSC: u64 = 0x11;
/// SError AET: uncontainable, unrecoverable, restartable, recoverable, corrected.
const AET_UNRECOVERABLE: u64 = 0b001 << 10;
const AET_RESTARTABLE: u64 = 0b010 << 10;
const AET_RECOVERABLE: u64 = 0b011 << 10;
const AET_CORRECTED: u64 = 0b110 << 10;

const PMCR_E: u64 = 1;

/// `pmu_ovf_status`: an enabled counter has overflowed and asks for an interrupt (RMM 1.0, RmiRecExit.pmu_ovf_status).
pub(crate) const fn pmu_overflow(pmu: &Pmu) -> bool {
    pmu.pmcr & PMCR_E != 0 && pmu.pmovs & pmu.pminten & pmu.pmcnten != 0
}

impl<P: Platform> Running<'_, '_, P> {
    /// Completes what the last exit left (RMM 1.0, REC entry). [`Next::Exit`] if it cannot be completed now; it is
    /// then still pending.
    pub(crate) fn complete(&mut self, enter: &RecEnter) -> Next {
        let flags = EnterFlags::from_bits_retain(enter.flags);
        match self.rec.pending() {
            Pending::UnprotectedAbort { esr, far, .. } if flags.contains(EnterFlags::INJECT_SEA) => {
                inject::external_abort(&mut self.rec.context, Syndrome(esr), far);
            }
            Pending::UnprotectedAbort { esr, .. } if flags.contains(EnterFlags::EMUL_MMIO) => {
                let [value, ..] = enter.gprs;
                self.complete_mmio(Syndrome(esr), value);
            }
            Pending::RipasChange(change) => {
                let refused = flags.contains(EnterFlags::RIPAS_RESPONSE);
                let rejected = refused && change.ripas == Ripas::RAM && change.addr != change.top;
                let response = if rejected { RsiResponse::REJECT } else { RsiResponse::ACCEPT };
                self.answer(RsiStatus::SUCCESS, [change.addr, response.0, 0]);
            }
            Pending::HostCall { ipa } if self.complete_host_call(ipa, &enter.gprs) == Next::Exit => {
                return Next::Exit;
            }
            _ => {}
        }
        self.rec.set_pending(Pending::Nothing);
        Next::Resume
    }

    /// Acts on an exit from the realm.
    pub(crate) fn handle(&mut self, exit: RealmExit) -> Next {
        match exit {
            RealmExit::Irq => self.exit_for(ExitReason::IRQ),
            RealmExit::Fiq => self.exit_for(ExitReason::FIQ),
            RealmExit::SError { esr } => self.serror(Syndrome(esr)),
            RealmExit::Sync { esr, far, hpfar } => self.synchronous(Syndrome(esr), far, hpfar),
        }
    }

    /// RMM 1.0, REC exit due to synchronous exception.
    fn synchronous(&mut self, esr: Syndrome, far: u64, hpfar: u64) -> Next {
        match esr.class() {
            esr::EC_WFX => self.wait(esr),
            esr::EC_SMC => self.smc(),
            esr::EC_HVC => {
                // ELR_EL2 is behind an HVC; the exception the realm takes is at it.
                let at = self.rec.context.pc.wrapping_sub(4);
                self.undefined(at)
            }
            // The platform switches SIMD state; what it passes on is not there for this realm.
            esr::EC_SIMD | esr::EC_SVE | esr::EC_SME => self.undefined(self.rec.context.pc),
            esr::EC_SYSREG => self.system_register(esr),
            esr::EC_INSTRUCTION_ABORT | esr::EC_DATA_ABORT => self.abort(esr, far, hpfar),
            // Nothing of it is the Host's; it gets the exit, as from deployed firmware.
            _ => self.exit_for(ExitReason::SYNC),
        }
    }

    fn undefined(&mut self, at: u64) -> Next {
        inject::undefined(&mut self.rec.context, at);
        Next::Resume
    }

    /// WFI, WFE, WFIT, WFET, which trap only if the Host asked for it. The timeout of the last two is reported, if the CPU
    /// tells which register has it; else it reads as one that has passed, as such a wait may end at any time.
    fn wait(&mut self, esr: Syndrome) -> Next {
        self.exit.esr = esr.keep(esr::WFX_TI);
        if esr.has(esr::WFX_TI_TIMEOUT | esr::WFX_RV) {
            self.exit_value(self.gpr(esr.operand_register()));
        }
        self.advance_pc();
        self.exit_for(ExitReason::SYNC)
    }

    fn system_register(&mut self, esr: Syndrome) -> Next {
        let access = sysreg::Access::of(esr);
        match sysreg::emulate(&self.rmm.platform, &self.realm, &access) {
            sysreg::Action::Undefined => return self.undefined(self.rec.context.pc),
            sysreg::Action::Forward => {
                // The specification has no exit for it; without, a realm could not send an SGI. Deployed firmware and
                // hosts agree on the syndrome and the value written in gprs[0]. Some Hosts read gprs[Rt]: as Rt is 0, that is the same.
                self.exit.esr = esr.0 & !esr::OPERAND;
                self.exit_value(self.gpr(access.register));
                self.advance_pc();
                return self.exit_for(ExitReason::SYNC);
            }
            sysreg::Action::Read(value) if access.is_read => self.set_gpr(access.register, value),
            sysreg::Action::Read(_) => {}
        }
        self.advance_pc();
        Next::Resume
    }

    /// `exit.gprs[0]`.
    pub(crate) const fn exit_value(&mut self, value: u64) {
        let [x0, ..] = &mut self.exit.gprs;
        *x0 = value;
    }

    /// RMM 1.0, REC exit due to SError. What is the realm's own waits for it as a virtual SError. What was not contained
    /// ends the realm: its state cannot be trusted any more.
    fn serror(&mut self, esr: Syndrome) -> Next {
        self.exit.esr = esr.keep(esr::SERROR_IDS | esr::SERROR_AET | esr::EA | esr::FSC);
        let defined = !esr.has(esr::SERROR_IDS) && esr.fault_status() == SERROR_DFSC;
        match esr.0 & esr::SERROR_AET {
            AET_UNRECOVERABLE | AET_RECOVERABLE if defined => {
                self.rec.context.vse = 1;
                self.rec.context.vsesr = esr.0 & esr::SERROR_ISS;
            }
            AET_CORRECTED | AET_RESTARTABLE if defined => {}
            _ => self.end_realm(),
        }
        self.exit_for(ExitReason::SERROR)
    }
}
