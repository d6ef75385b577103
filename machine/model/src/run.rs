//! A REC while it runs: what may happen after each trap, and what did.

pub(crate) mod abort;
pub(crate) mod alternative;
pub(crate) mod enter;
pub(crate) mod psci;
pub(crate) mod rsi;

use crate::rec::LastExit;
use crate::registers::{Registers, Rule};
use crate::{Model, RealmState};
use abort::undefined;
use alternative::{Alternative, Exit, Resume, Running, exit_of, not_supported, sync_exit};
use realm_abi::rmi::{ExitReason, RecExit};
use realm_abi::rsi::RsiStatus;
use zerocopy::IntoBytes;

/// Why a realm stopped running, as R-EL2 sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// A synchronous exception: ESR_EL2, FAR_EL2, HPFAR_EL2.
    Sync {
        /// ESR_EL2.
        esr: u64,
        /// FAR_EL2.
        far: u64,
        /// HPFAR_EL2.
        hpfar: u64,
    },
    /// Physical IRQ.
    Irq,
    /// Physical FIQ.
    Fiq,
    /// SError: ESR_EL2.
    SError {
        /// ESR_EL2.
        esr: u64,
    },
}

impl Model {
    /// The REC that runs.
    #[must_use]
    pub fn running(&self) -> Option<u64> {
        self.running.as_ref().map(|running| running.rec)
    }

    /// The registers the realm should go on with, as far as they are specified; `None` if it should not go on.
    #[must_use]
    pub fn expected_resume(&self) -> Option<Registers> {
        match self.running.as_ref()?.alternatives.first()? {
            Alternative::Resume(resume) => Some(resume.registers),
            Alternative::Exit(_) => None,
        }
    }

    /// A physical interrupt ends the run before the realm's first instruction: what it would have found is what it
    /// finds next time.
    pub fn interrupt_before_run(&mut self) {
        let Some(Running { rec, alternatives }) = self.running.clone() else { return };
        // A run that ends before it begins, as its host call cannot be completed, sees no interrupt.
        let Some(Alternative::Resume(resume)) = alternatives.into_iter().next() else { return };
        if let Some(rec) = self.recs.get_mut(&rec) {
            rec.kept_or_zero = resume.kept_or_zero;
            rec.rule = resume.rule;
        }
        let exit = Alternative::exit("IRQ", exit_of(ExitReason::IRQ), &resume.registers, LastExit::Other);
        self.running = Some(Running { rec, alternatives: vec![exit] });
    }

    /// The realm starts to run with these registers. `Ok` names what that stands for.
    ///
    /// # Errors
    /// What was expected and what came, in words.
    pub fn observe_resume(&mut self, seen: &Registers) -> Result<&'static str, String> {
        let Some(running) = self.running.clone() else { return Err("no REC was entered".into()) };
        let owner = self.recs.get(&running.rec).map_or(0, |rec| rec.owner);
        let mut reasons = Vec::new();
        for alternative in &running.alternatives {
            match alternative {
                Alternative::Resume(resume) => match self.judge(owner, resume, seen) {
                    Ok(()) => {
                        self.resumed(running.rec, resume, seen);
                        return Ok(resume.name);
                    }
                    Err(why) => reasons.push(format!("{}: {why}", resume.name)),
                },
                Alternative::Exit(exit) => reasons.push(format!("{}: an exit was expected", exit.name)),
            }
        }
        Err(format!("the realm goes on with the wrong registers: {}", reasons.join("; ")))
    }

    fn judge(&self, owner: u64, resume: &Resume, seen: &Registers) -> Result<(), String> {
        let mut want = resume.registers;
        match resume.rule {
            Rule::None => {}
            Rule::Fresh => {
                let Registers { vbar_el1, elr_el1, spsr_el1, esr_el1, far_el1, .. } = *seen;
                want = Registers { vbar_el1, elr_el1, spsr_el1, esr_el1, far_el1, ..want };
            }
            Rule::Injected => {
                // EC, IL, FnV, EA, S1PTW, FSC.
                let fields = 0xfe00_0000 | 1 << 10 | 1 << 9 | 1 << 7 | 0x3f;
                want.esr_el1 = (want.esr_el1 & fields) | (seen.esr_el1 & !fields);
                want.pstate = (want.pstate & 0x3df) | (seen.pstate & !0x3df);
            }
            Rule::StateGet { base, top } => {
                let [out_top, ripas] = [seen.gprs[1], seen.gprs[2]];
                let some = base < out_top && out_top <= top;
                if !(some && self.same_ripas(owner, base, out_top, ripas)) {
                    return Err(format!(
                        "[{base:#x}, {out_top:#x}) of [{base:#x}, {top:#x}) does not have RIPAS {ripas}"
                    ));
                }
                want.gprs[1..3].copy_from_slice(&seen.gprs[1..3]);
            }
            Rule::TokenInit => {
                if seen.gprs[1] == 0 {
                    return Err("a token of no bytes".into());
                }
                want.gprs[1] = seen.gprs[1];
            }
            Rule::TokenContinue { size, .. } => {
                let [status, length] = [seen.gprs[0], seen.gprs[1]];
                let known = status == RsiStatus::SUCCESS.0 || status == RsiStatus::INCOMPLETE.0;
                if !known || length > size {
                    return Err(format!("status {status}, {length} bytes of at most {size}"));
                }
                want.gprs[..2].copy_from_slice(&seen.gprs[..2]);
            }
        }
        for (i, (want, seen)) in want.gprs.iter_mut().zip(seen.gprs).enumerate() {
            if seen == 0 && resume.kept_or_zero >> i & 1 == 1 {
                *want = 0;
            }
        }
        if want == *seen { Ok(()) } else { Err(difference(&want, seen)) }
    }

    fn resumed(&mut self, rec_pa: u64, resume: &Resume, seen: &Registers) {
        if let Rule::TokenContinue { pa, .. } = resume.rule
            && seen.gprs[1] != 0
        {
            self.forget_data(pa);
        }
        if let Some(rec) = self.recs.get_mut(&rec_pa) {
            rec.registers = *seen;
            match resume.rule {
                Rule::TokenInit => rec.token = Some(seen.gprs[1]),
                Rule::TokenContinue { .. } if seen.gprs[0] == RsiStatus::SUCCESS.0 => rec.token = None,
                _ => {}
            }
        }
        self.running = Some(Running { rec: rec_pa, alternatives: Vec::new() });
    }

    /// The realm stops running for `trap` with these registers.
    ///
    /// # Errors
    /// The trap cannot happen in the state the model is in: the tables of the machine are not those of the model.
    pub fn trap(&mut self, regs: &Registers, trap: Trap) -> Result<(), String> {
        let rec = self.running().ok_or("no REC was entered")?;
        let alternatives = match trap {
            Trap::Irq => vec![Alternative::exit("IRQ", exit_of(ExitReason::IRQ), regs, LastExit::Other)],
            Trap::Fiq => vec![Alternative::exit("FIQ", exit_of(ExitReason::FIQ), regs, LastExit::Other)],
            Trap::SError { esr } => {
                // EC, IDS, AET, EA, DFSC.
                let fields = 0xfc00_0000 | 1 << 24 | 7 << 10 | 1 << 9 | 0x3f;
                let mut exit = exit_of(ExitReason::SERROR);
                exit.esr = esr & fields;
                vec![Alternative::exit("SError", exit, regs, LastExit::Other)]
            }
            Trap::Sync { esr, far, hpfar } => match esr >> 26 & 0x3f {
                0x01 => vec![wait(regs, esr)],
                // Realms have no hypervisor to call; ELR_EL2 is behind the instruction that tried.
                0x16 => vec![undefined(regs, regs.pc.wrapping_sub(4))],
                0x17 => self.smc(rec, regs),
                0x20 | 0x24 => vec![self.abort(rec, regs, esr, far, hpfar)?],
                _ => {
                    // No exit class is specified; reference firmware tells the Host nothing.
                    vec![Alternative::exit("other", exit_of(ExitReason::SYNC), regs, LastExit::Other)]
                }
            },
        };
        self.running = Some(Running { rec, alternatives });
        Ok(())
    }

    /// REC_ENTER has returned this. `Ok` names what that stands for. Interrupt, timer and PMU fields are not judged.
    ///
    /// # Errors
    /// What was expected and what came, in words.
    pub fn observe_exit(&mut self, seen: &RecExit) -> Result<&'static str, String> {
        let Some(running) = self.running.take() else { return Err("no REC was entered".into()) };
        let mut reasons = Vec::new();
        for alternative in running.alternatives {
            match alternative {
                Alternative::Resume(resume) => reasons.push(format!("{}: no exit was expected", resume.name)),
                Alternative::Exit(exit) => match exit_difference(&exit, seen) {
                    None => return Ok(self.exited(running.rec, &exit)),
                    Some(why) => reasons.push(format!("{}: {why}", exit.name)),
                },
            }
        }
        Err(format!("the wrong exit: {}", reasons.join("; ")))
    }

    /// The structure REC_ENTER was to write its exit to could not be written: it fails, and the realm has run. `Ok` names
    /// the exit the Host does not learn of.
    ///
    /// # Errors
    /// No exit was expected.
    pub fn observe_lost_exit(&mut self) -> Result<&'static str, String> {
        let Some(running) = self.running.take() else { return Err("no REC was entered".into()) };
        let exit = running.alternatives.into_iter().find_map(|alternative| match alternative {
            Alternative::Exit(exit) => Some(exit),
            Alternative::Resume(_) => None,
        });
        Ok(self.exited(running.rec, &exit.ok_or("no exit was expected")?))
    }

    fn exited(&mut self, rec_pa: u64, exit: &Exit) -> &'static str {
        if let Some(rec) = self.recs.get_mut(&rec_pa) {
            rec.registers = exit.registers;
            rec.last_exit = exit.last_exit;
            rec.runnable &= !exit.cpu_off;
            if exit.system_off
                && let Some(realm) = self.realms.get_mut(&rec.owner)
            {
                realm.state = RealmState::SystemOff;
            }
        }
        exit.name
    }

    fn same_ripas(&self, rd: u64, base: u64, top: u64, ripas: u64) -> bool {
        let mut ipa = base;
        while ipa < top {
            let Some(walk) = self.walk(rd, ipa, 3) else { return false };
            if walk.entry.ripas().map(|r| u64::from(r.0)) != Some(ripas) {
                return false;
            }
            ipa = walk.entry_base() + crate::rtt::entry_size(walk.level);
        }
        true
    }

    fn smc(&mut self, rec: u64, regs: &Registers) -> Vec<Alternative> {
        use realm_abi::psci::PsciCall;
        let function = regs.gprs[0];
        if PsciCall::in_range(function) {
            return self.psci(rec, regs);
        }
        match function & !realm_abi::smccc::SVE_HINT {
            0xC400_0190..=0xC400_01AF => self.rsi(rec, regs),
            realm_abi::smccc::VERSION => {
                vec![Alternative::answer("SMCCC_VERSION", regs, &[realm_abi::smccc::VERSION_1_2])]
            }
            _ => vec![not_supported(regs)],
        }
    }
}

/// WFI, WFE, WFIT or WFET that the Host traps: it is over, and the Host learns which it was and its timeout.
fn wait(regs: &Registers, esr: u64) -> Alternative {
    let mut exit = sync_exit(esr & (0x3f << 26 | 3), 0);
    // WFIT and WFET with RV.
    if esr & 6 == 6 {
        let register = usize::try_from(esr >> 5 & 0x1f).unwrap_or(31);
        exit.gprs[0] = regs.gprs.get(register).copied().unwrap_or(0);
    }
    let after = Registers { pc: regs.pc.wrapping_add(4), ..*regs };
    Alternative::exit("wait", exit, &after, LastExit::Other)
}

fn difference(want: &Registers, seen: &Registers) -> String {
    let mut out = Vec::new();
    for (i, (want, seen)) in want.gprs.iter().zip(seen.gprs).enumerate() {
        if *want != seen {
            out.push(format!("X{i} is {seen:#x}, not {want:#x}"));
        }
    }
    for (name, want, seen) in [
        ("PC", want.pc, seen.pc),
        ("PSTATE", want.pstate, seen.pstate),
        ("VBAR_EL1", want.vbar_el1, seen.vbar_el1),
        ("ELR_EL1", want.elr_el1, seen.elr_el1),
        ("SPSR_EL1", want.spsr_el1, seen.spsr_el1),
        ("ESR_EL1", want.esr_el1, seen.esr_el1),
        ("FAR_EL1", want.far_el1, seen.far_el1),
    ] {
        if want != seen {
            out.push(format!("{name} is {seen:#x}, not {want:#x}"));
        }
    }
    out.join(", ")
}

/// Compares all of an exit structure, padding too, but the fields every exit has whatever its reason.
fn exit_difference(want: &Exit, seen: &RecExit) -> Option<String> {
    let mut seen = seen.clone();
    seen.gicv3_hcr = 0;
    seen.gicv3_lrs = [0; 16];
    (seen.gicv3_misr, seen.gicv3_vmcr) = (0, 0);
    (seen.cntp_ctl, seen.cntp_cval, seen.cntv_ctl, seen.cntv_cval) = (0, 0, 0, 0);
    seen.pmu_ovf_status = 0;
    if want.any_call {
        seen.gprs = [0; 31];
        seen.imm = 0;
    }
    let (a, b) = (want.exit.as_bytes(), seen.as_bytes());
    let at = a.iter().zip(b).position(|(a, b)| a != b)? & !7;
    let word =
        |bytes: &[u8]| bytes.iter().skip(at).take(8).rev().map(|b| format!("{b:02x}")).collect::<String>();
    Some(format!("exit offset {at:#x} is 0x{}, not 0x{} ({})", word(b), word(a), seen.exit_reason))
}
