//! Exceptions the RMM makes a realm take at R-EL1 (RMM 1.0, exceptions taken to the realm; register values from the Arm
//! architecture's exception entry).

use crate::cpu::CpuContext;
use crate::esr::{self, Syndrome};

/// PSTATE on entry to EL1h: D, A, I and F masked.
pub(crate) const PSTATE_EL1H_MASKED: u64 = 0x3c5;
/// PSTATE fields of the interrupted code that exception entry keeps: DIT.
const PSTATE_KEPT: u64 = 1 << 24;
const PSTATE_PAN: u64 = 1 << 22;
const PSTATE_SSBS: u64 = 1 << 12;
/// PSTATE.M\[4\]: AArch32.
const PSTATE_AARCH32: u64 = 1 << 4;

const SCTLR_SPAN: u64 = 1 << 23;
const SCTLR_DSSBS: u64 = 1 << 44;
const SCTLR_M: u64 = 1;

/// FSC of a synchronous external abort, not on a table walk.
const FSC_EXTERNAL: u64 = 0x10;
/// FSC of an address size fault, plus the level.
const FSC_ADDRESS_SIZE: u64 = 0x00;
/// FSC of a granule protection fault, not on a table walk.
const FSC_GRANULE_PROTECTION: u64 = 0x28;

/// Whether `pstate` is AArch32 code.
pub(crate) const fn is_aarch32(pstate: u64) -> bool {
    pstate & PSTATE_AARCH32 != 0
}

/// Code at EL0; AArch32 exists only there.
const fn is_el0(pstate: u64) -> bool {
    pstate & 0xf == 0 || is_aarch32(pstate)
}

/// Takes a synchronous exception with syndrome `esr` whose return address is `elr`.
fn take(context: &mut CpuContext, esr: u64, elr: u64) {
    let interrupted = context.pstate;
    let vector: u64 = match interrupted & 0x1f {
        mode if is_aarch32(mode) => 0x600,
        0b0000 => 0x400,
        mode if mode & 1 != 0 => 0x200,
        _ => 0x000,
    };
    context.el1.esr_el1 = esr;
    context.el1.elr_el1 = elr;
    context.el1.spsr_el1 = interrupted;
    let sctlr = context.el1.sctlr_el1;
    let pan = if sctlr & SCTLR_SPAN == 0 { PSTATE_PAN } else { interrupted & PSTATE_PAN };
    let ssbs = if sctlr & SCTLR_DSSBS != 0 { PSTATE_SSBS } else { 0 };
    context.pstate = PSTATE_EL1H_MASKED | interrupted & PSTATE_KEPT | pan | ssbs;
    context.pc = context.el1.vbar_el1.wrapping_add(vector);
}

/// Turns the abort `esr` describes into one at EL1 with fault status `fsc`. The syndrome of the access itself (ISV and
/// below) is only valid for aborts taken to EL2, and the walk that failed was not one of stage 1.
fn abort(context: &mut CpuContext, esr: Syndrome, far: u64, fsc: u64, external: bool) {
    let instruction = esr.is_instruction_abort();
    let class = match (instruction, is_el0(context.pstate)) {
        (true, true) => esr::EC_INSTRUCTION_ABORT,
        (true, false) => esr::EC_INSTRUCTION_ABORT_SAME,
        (false, true) => esr::EC_DATA_ABORT,
        (false, false) => esr::EC_DATA_ABORT_SAME,
    };
    let kept = if instruction { esr::IL | esr::SET } else { esr::IL | esr::SET | esr::CM | esr::WNR };
    let ea = if external { esr::EA } else { 0 };
    context.el1.far_el1 = far;
    take(context, class << esr::EC_SHIFT | esr.0 & kept | ea | fsc, context.pc);
}

/// Synchronous external abort in answer to the access `esr` and `far` describe. ESR_EL1.EA reads one, as for every SEA
/// a realm gets.
pub(crate) fn external_abort(context: &mut CpuContext, esr: Syndrome, far: u64) {
    abort(context, esr, far, FSC_EXTERNAL, true);
}

/// Address size fault of an access outside the realm's IPA space: of stage 1's last level when stage 1 is on, of level
/// 0 when it is off and there is only an address. A stage 1 that ends in a block is not looked for.
pub(crate) fn address_size_fault(context: &mut CpuContext, esr: Syndrome, far: u64) {
    let level = if context.el1.sctlr_el1 & SCTLR_M != 0 { 3 } else { 0 };
    abort(context, esr, far, FSC_ADDRESS_SIZE | level, false);
}

/// Granule protection fault: the Host mapped memory that is not Non-secure at an unprotected IPA.
pub(crate) fn granule_protection_fault(context: &mut CpuContext, esr: Syndrome, far: u64) {
    abort(context, esr, far, FSC_GRANULE_PROTECTION, false);
}

/// "Unknown reason": the instruction at `at` does not exist for the realm.
pub(crate) fn undefined(context: &mut CpuContext, at: u64) {
    take(context, esr::IL, at);
}

#[cfg(test)]
mod tests {
    use super::*;

    const VBAR: u64 = 0xffff_0000_0000_8000;

    fn context(pstate: u64) -> CpuContext {
        let mut context = CpuContext { pc: 0x1000, pstate, ..CpuContext::default() };
        context.el1.vbar_el1 = VBAR;
        context.el1.sctlr_el1 = SCTLR_SPAN;
        context
    }

    #[test]
    fn an_external_abort_goes_to_the_vector_of_the_interrupted_mode() {
        let write =
            Syndrome(0x24 << 26 | esr::IL | esr::ISV | 0x1f << 16 | esr::FNV | esr::WNR | 1 << 7 | 0x7);
        for (pstate, class, vector) in
            [(0x3c5, 0x25, 0x200), (0x3c4, 0x25, 0x000), (0x3c0, 0x24, 0x400), (0x10, 0x24, 0x600)]
        {
            let mut context = context(pstate);
            external_abort(&mut context, write, 0xdead_0123);
            assert_eq!(context.pc, VBAR + vector);
            assert_eq!(context.pstate, PSTATE_EL1H_MASKED);
            assert_eq!(context.el1.elr_el1, 0x1000);
            assert_eq!(context.el1.spsr_el1, pstate);
            assert_eq!(context.el1.far_el1, 0xdead_0123);
            assert_eq!(context.el1.esr_el1, class << 26 | esr::IL | esr::EA | esr::WNR | 0x10);
        }
    }

    #[test]
    fn an_instruction_abort_stays_one() {
        for (pstate, class) in [(0x3c5, 0x21), (0, 0x20)] {
            let mut context = context(pstate);
            external_abort(&mut context, Syndrome(0x20 << 26 | esr::IL | 0x6), 0x4000);
            assert_eq!(context.el1.esr_el1, class << 26 | esr::IL | esr::EA | 0x10);
        }
    }

    #[test]
    fn an_address_size_fault_has_the_level_of_stage_1() {
        for (sctlr, fsc) in [(0, 0), (SCTLR_M, 3)] {
            let mut context = context(0x3c5);
            context.el1.sctlr_el1 = sctlr;
            address_size_fault(&mut context, Syndrome(0x24 << 26 | esr::IL | 0x5), 0x4000);
            assert_eq!(context.el1.esr_el1, 0x25 << 26 | esr::IL | fsc);
        }
    }

    #[test]
    fn exception_entry_follows_the_realms_own_controls() {
        let mut kept = context(0x3c5 | PSTATE_PAN | PSTATE_KEPT | 0xf000_0000);
        kept.el1.sctlr_el1 = SCTLR_SPAN | SCTLR_DSSBS;
        undefined(&mut kept, 0x0ffc);
        assert_eq!(kept.pstate, PSTATE_EL1H_MASKED | PSTATE_PAN | PSTATE_KEPT | PSTATE_SSBS);
        assert_eq!((kept.el1.esr_el1, kept.el1.elr_el1), (esr::IL, 0x0ffc));
        let mut set = context(0x3c5);
        set.el1.sctlr_el1 = 0;
        undefined(&mut set, 0x1000);
        assert_eq!(set.pstate, PSTATE_EL1H_MASKED | PSTATE_PAN);
    }
}
