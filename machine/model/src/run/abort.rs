//! Aborts: what the Host learns of them, and what the realm is given instead (RMM 1.0, REC exits due to aborts).

use crate::Model;
use crate::rec::LastExit;
use crate::registers::{PSTATE_RESET, Registers, Rule};
use crate::rtt::{Access, AccessKind};
use crate::run::alternative::{Alternative, Resume, sync_exit};

const EC: u64 = 0x3f << 26;
const IL: u64 = 1 << 25;
const ISV: u64 = 1 << 24;
const SAS: u64 = 3 << 22;
const SF: u64 = 1 << 15;
const SET: u64 = 3 << 11;
const FNV: u64 = 1 << 10;
const EA: u64 = 1 << 9;
const S1PTW: u64 = 1 << 7;
const WNR: u64 = 1 << 6;
const FSC: u64 = 0x3f;
const EC_INSTRUCTION_ABORT: u64 = 0x20;
const EC_DATA_ABORT: u64 = 0x24;

/// The exit an RSI call becomes when its buffer has no memory behind it: a translation fault of a data access that the
/// realm repeats.
pub(crate) fn data_abort_exit(
    name: &'static str,
    ipa: u64,
    level: i64,
    regs: &Registers,
    last_exit: LastExit,
) -> Alternative {
    // Level -1 has a code of its own.
    let fsc = if level < 0 { 0x2b } else { 0b0100 | level.cast_unsigned() };
    let exit = sync_exit(EC_DATA_ABORT << 26 | fsc, ipa >> 12 << 4);
    Alternative::exit(name, exit, regs, last_exit)
}

/// The registers after an exception to EL1 with this syndrome, for the fault ESR_EL2 describes.
fn inject(regs: &Registers, esr: u64, far: u64, clear: u64, set: u64) -> Registers {
    let from_el1 = regs.pstate >> 2 & 3 == 1;
    let offset = match regs.pstate & 0x1f {
        0b00101 => 0x200,
        0b00100 => 0,
        mode if mode & 0x10 == 0 => 0x400,
        _ => 0x600,
    };
    let same_el = if from_el1 { 1 << 26 } else { 0 };
    Registers {
        pc: regs.vbar_el1.wrapping_add(offset),
        pstate: PSTATE_RESET,
        elr_el1: regs.pc,
        spsr_el1: regs.pstate,
        esr_el1: (esr & !clear | set) + same_el,
        far_el1: far,
        ..*regs
    }
}

/// A synchronous external abort.
pub(crate) fn inject_sea(regs: &Registers, esr: u64, far: u64) -> Registers {
    inject(regs, esr, far, FSC | FNV | S1PTW, 0x10 | EA)
}

/// An instruction at `at` that is UNDEFINED to the realm.
pub(crate) fn undefined(regs: &Registers, at: u64) -> Alternative {
    let registers = Registers { elr_el1: at, ..inject(regs, IL, regs.far_el1, 0, 0) };
    // The class of an unknown reason is the same from every exception level.
    let registers = Registers { esr_el1: IL, ..registers };
    Alternative::Resume(Resume { name: "undefined", registers, kept_or_zero: 0, rule: Rule::Injected })
}

impl Model {
    /// A stage 2 abort at the IPA in HPFAR_EL2.
    pub(crate) fn abort(
        &self,
        rec: u64,
        regs: &Registers,
        esr: u64,
        far: u64,
        hpfar: u64,
    ) -> Result<Alternative, String> {
        let ipa = hpfar >> 4 << 12;
        let fetch = esr >> 26 & 0x3f == EC_INSTRUCTION_ABORT;
        let kind = match (fetch, esr & WNR != 0) {
            (true, _) => AccessKind::Fetch,
            (_, true) => AccessKind::Write,
            _ => AccessKind::Read,
        };
        let realm = self.recs.get(&rec).and_then(|rec| self.realms.get(&rec.owner)).ok_or("no realm runs")?;
        let injected = |name, registers| {
            Ok(Alternative::Resume(Resume { name, registers, kept_or_zero: 0, rule: Rule::Injected }))
        };
        match realm.access(ipa, kind) {
            Access::External => injected("abort, SEA", inject_sea(regs, esr, far)),
            // With stage 1 off the fault is at level 0 (the text; reference firmware gives an external abort).
            Access::AddressSize => {
                injected("abort, address size", inject(regs, esr, far, FSC | FNV | S1PTW | EA, 0))
            }
            Access::Data(pa) | Access::Ns(pa) => {
                Err(format!("a {kind:?} of IPA {ipa:#x} aborted but it reaches {pa:#x}"))
            }
            Access::Exit { .. } if fetch => {
                let exit = sync_exit(esr & (EC | SET | EA | FSC), hpfar);
                Ok(Alternative::exit("instruction abort", exit, regs, LastExit::Other))
            }
            Access::Exit { .. } => Ok(data_abort(regs, esr, far, hpfar, realm.protected(ipa))),
        }
    }
}

fn data_abort(regs: &Registers, esr: u64, far: u64, hpfar: u64, protected: bool) -> Alternative {
    let mut exit = sync_exit(0, hpfar);
    let always = EC | SET | FNV | EA | FSC;
    if protected {
        exit.esr = esr & always;
        return Alternative::exit("data abort, protected", exit, regs, LastExit::Other);
    }
    let emulatable = esr & ISV != 0;
    if emulatable {
        exit.esr = esr & (always | ISV | SAS | SF | WNR);
        exit.far = far & 0xfff;
        if esr & WNR != 0 {
            let register = usize::try_from(esr >> 16 & 0x1f).unwrap_or(31);
            let shift = 64 - (8u32 << (esr >> 22 & 3));
            exit.gprs[0] = regs.gprs.get(register).copied().unwrap_or(0) << shift >> shift;
        }
    } else {
        // The letter shows IL too; all firmware leaves it out (docs/rmm-readings.md).
        exit.esr = esr & always;
    }
    let name = if emulatable { "data abort, emulatable" } else { "data abort, unprotected" };
    Alternative::exit(name, exit, regs, LastExit::Abort { esr, far, emulatable })
}
