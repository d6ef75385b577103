//! REC_ENTER up to the first instruction of the realm (RMM 1.0, RMI_REC_ENTER, RmiRecEnter).

use crate::granule::NsMemory;
use crate::outcome::{Conditions, Outcome};
use crate::rec::LastExit;
use crate::registers::{Registers, Rule};
use crate::run::abort::{data_abort_exit, inject_sea};
use crate::run::alternative::{Alternative, Resume, Running};
use crate::run::rsi::Buffer;
use crate::{Model, RealmState, gic};
use realm_abi::rmi::{EnterFlags, GPRS, RecEnter, RecRun, ReturnCode, Ripas, Status};
use realm_abi::rsi::{RsiResponse, RsiStatus};
use zerocopy::IntoBytes;

const FIRST: &[&str] = &["rec_align", "rec_bound", "rec_gran_state", "run_pas", "run_bound", "run_align"];
const SECOND: &[&str] =
    &["realm_new", "system_off", "rec_state", "rec_runnable", "rec_mmio", "rec_sea", "rec_gicv3", "rec_psci"];

impl Model {
    pub(crate) fn rec_enter(&mut self, rec_pa: u64, run_ptr: u64, ns: &dyn NsMemory) -> Outcome {
        let mut c = Conditions::default();
        let run: Option<RecRun> = self.ns_group(&mut c, ["run_align", "run_bound", "run_pas"], run_ptr, ns);
        if let (Some(rec), Some(run)) = (self.rec_group(&mut c, rec_pa), &run) {
            let state = self.realms.get(&rec.owner).map(|realm| realm.state);
            let system_off = ReturnCode::new(Status::ERROR_REALM, 1);
            c.fail_if("realm_new", state == Some(RealmState::New), ReturnCode::ERROR_REALM);
            c.fail_if("system_off", state == Some(RealmState::SystemOff), system_off);
            let flags = EnterFlags::from_bits_retain(run.enter.flags);
            let sea = flags.contains(EnterFlags::INJECT_SEA);
            let mmio = flags.contains(EnterFlags::EMUL_MMIO) && !sea;
            let emulatable = matches!(rec.last_exit, LastExit::Abort { emulatable: true, .. });
            let abort = matches!(rec.last_exit, LastExit::Abort { .. });
            let rec_error = ReturnCode::ERROR_REC;
            c.fail_if("rec_runnable", !rec.runnable, rec_error);
            c.fail_if("rec_mmio", mmio && !emulatable, rec_error);
            // The text only says when the flag has an effect; reference firmware refuses it everywhere else.
            c.fail_if("rec_sea", sea && !abort, rec_error);
            c.fail_if("rec_gicv3", !gic::valid(&self.config, &run.enter), rec_error);
            c.fail_if("rec_psci", matches!(rec.last_exit, LastExit::Psci(_)), rec_error);
        }
        c.order(FIRST, SECOND);
        if let Some(failure) = c.outcome(None) {
            return failure;
        }
        if let Some(run) = run {
            let first = self.entry(rec_pa, &run.enter);
            self.running = Some(Running { rec: rec_pa, alternatives: vec![first] });
        }
        Outcome::Entered
    }

    /// What the realm finds when it goes on, or the exit that happens instead.
    fn entry(&mut self, rec_pa: u64, enter: &RecEnter) -> Alternative {
        let Some(rec) = self.recs.get_mut(&rec_pa) else {
            return Alternative::resume("no REC", Registers::default());
        };
        let mut regs = rec.registers;
        let kept_or_zero = std::mem::take(&mut rec.kept_or_zero);
        let mut rule = std::mem::replace(&mut rec.rule, Rule::None);
        let flags = EnterFlags::from_bits_retain(enter.flags);
        let owner = rec.owner;
        let mut name = "enter";
        match std::mem::replace(&mut rec.last_exit, LastExit::Other) {
            LastExit::Abort { esr, far, .. } if flags.contains(EnterFlags::INJECT_SEA) => {
                name = "enter after an abort, SEA";
                regs = inject_sea(&regs, esr, far);
                rule = Rule::Injected;
            }
            LastExit::Abort { esr, .. } if flags.contains(EnterFlags::EMUL_MMIO) => {
                name = "enter after an abort, emulated";
                complete_mmio(&mut regs, esr, enter.gprs[0]);
            }
            LastExit::Ripas { addr, top, value, .. } => {
                let reject = value == Ripas::RAM && addr != top && flags.contains(EnterFlags::RIPAS_RESPONSE);
                let response = if reject { RsiResponse::REJECT } else { RsiResponse::ACCEPT };
                name = if reject {
                    "enter after a RIPAS change, rejected"
                } else {
                    "enter after a RIPAS change"
                };
                return Alternative::answer(name, &regs, &[RsiStatus::SUCCESS.0, addr, response.0]);
            }
            LastExit::HostCall { ipa } => return self.complete_host_call(rec_pa, owner, ipa, &regs, enter),
            LastExit::Suspend => return Alternative::answer("enter after CPU_SUSPEND", &regs, &[0]),
            LastExit::Abort { .. } | LastExit::Psci(_) | LastExit::Other => {}
        }
        Alternative::Resume(Resume { name, registers: regs, kept_or_zero, rule })
    }

    fn complete_host_call(
        &mut self,
        rec_pa: u64,
        owner: u64,
        ipa: u64,
        regs: &Registers,
        enter: &RecEnter,
    ) -> Alternative {
        match self.buffer(owner, ipa) {
            Buffer::Data(pa) => {
                let offset = usize::try_from(ipa & 0xfff).unwrap_or(0);
                self.write_data(pa, offset + 8, enter.gprs[..GPRS].as_bytes());
                Alternative::answer("enter after a host call", regs, &[RsiStatus::SUCCESS.0])
            }
            Buffer::Empty => {
                Alternative::answer("enter after a host call, EMPTY", regs, &[RsiStatus::ERROR_INPUT.0])
            }
            Buffer::Missing(level) => {
                // The call stays pending: this very exit must not close it.
                if let Some(rec) = self.recs.get_mut(&rec_pa) {
                    rec.last_exit = LastExit::HostCall { ipa };
                }
                data_abort_exit(
                    "enter after a host call, not mapped",
                    ipa,
                    level,
                    regs,
                    LastExit::HostCall { ipa },
                )
            }
        }
    }
}

/// A load gets its value, cut and extended as its syndrome says; load and store are done.
fn complete_mmio(regs: &mut Registers, esr: u64, value: u64) {
    regs.pc = regs.pc.wrapping_add(4);
    let write = esr >> 6 & 1 == 1;
    let register = usize::try_from(esr >> 16 & 0x1f).unwrap_or(31);
    let Some(target) = regs.gprs.get_mut(register).filter(|_| !write) else { return };
    let bits = 8u32 << (esr >> 22 & 3);
    let shift = 64 - bits;
    let signed = esr >> 21 & 1 == 1;
    let value = if signed {
        ((value << shift).cast_signed() >> shift).cast_unsigned()
    } else {
        value << shift >> shift
    };
    *target = if esr >> 15 & 1 == 1 { value } else { value & 0xffff_ffff };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SAS, SSE, SRT 3, SF.
    fn load(sas: u64, sse: u64, sf: u64) -> u64 {
        1 << 24 | sas << 22 | sse << 21 | 3 << 16 | sf << 15
    }

    #[test]
    fn an_emulated_load_is_cut_and_extended_as_its_syndrome_says() {
        let cases = [
            (load(0, 0, 0), 0x1ff, 0xff),
            (load(0, 1, 0), 0x80, 0xffff_ff80),
            (load(1, 1, 1), 0x8000, 0xffff_ffff_ffff_8000),
            (load(2, 0, 1), u64::MAX, 0xffff_ffff),
            (load(3, 0, 1), u64::MAX, u64::MAX),
        ];
        for (esr, value, expected) in cases {
            let mut regs = Registers { pc: 0x1000, ..Registers::default() };
            complete_mmio(&mut regs, esr, value);
            assert_eq!((regs.gprs[3], regs.pc), (expected, 0x1004), "{esr:#x}");
        }
    }
}
