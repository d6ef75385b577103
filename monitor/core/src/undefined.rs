//! An access that EL3 has to refuse is UNDEFINED where it was made: the exception that the CPU would have taken there, made by hand
//! (Arm ARM, AArch64.TakeException and AArch32.TakeUndefInstrException).

use crate::features::Features;

/// Exception classes of ESR_EL3.
mod class {
    pub const WFX: u64 = 0x01;
    /// MCR, MRC and their like in AArch32, of coprocessors 15, 14 and 10.
    pub const CP15: u64 = 0x03;
    pub const CP15_PAIR: u64 = 0x04;
    pub const CP14: u64 = 0x05;
    pub const CP14_MEMORY: u64 = 0x06;
    pub const SIMD: u64 = 0x07;
    pub const CP10: u64 = 0x08;
    pub const PAUTH: u64 = 0x09;
    pub const LS64: u64 = 0x0a;
    pub const CP14_PAIR: u64 = 0x0c;
    pub const SYS_PAIR: u64 = 0x14;
    pub const SYS: u64 = 0x18;
    pub const SVE: u64 = 0x19;
    pub const TSTART: u64 = 0x1b;
    pub const SME: u64 = 0x1d;
}

/// Whether an exception to EL3 with this syndrome is an instruction that EL3 traps, not a fault.
#[must_use]
pub const fn is_trapped_instruction(esr: u64) -> bool {
    use class::{
        CP10, CP14, CP14_MEMORY, CP14_PAIR, CP15, CP15_PAIR, LS64, PAUTH, SIMD, SME, SVE, SYS, SYS_PAIR,
        TSTART, WFX,
    };
    matches!(
        esr >> 26 & 0x3f,
        WFX | CP15
            | CP15_PAIR
            | CP14
            | CP14_MEMORY
            | SIMD
            | CP10
            | PAUTH
            | LS64
            | CP14_PAIR
            | SYS_PAIR
            | SYS
            | SVE
            | TSTART
            | SME
    )
}

/// Where a world was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The address of the instruction, from ELR_EL3.
    pub pc: u64,
    /// Its PSTATE, from SPSR_EL3.
    pub pstate: u64,
}

/// Registers of the world that decide how it takes an exception.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Controls {
    /// HCR_EL2.
    pub hcr: u64,
    /// SCTLR_EL1, SCTLR_EL2.
    pub sctlr: [u64; 2],
    /// VBAR_EL1, VBAR_EL2.
    pub vbar: [u64; 2],
    /// GCSCR_EL1, GCSCR_EL2; zero without FEAT_GCS.
    pub gcscr: [u64; 2],
}

/// Who takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// EL1 in AArch64.
    El1,
    /// EL2.
    El2,
    /// EL1 in AArch32, in mode Undefined.
    Undefined32,
}

/// The exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Who takes it.
    pub target: Target,
    /// How the world goes on.
    pub next: State,
    /// What ELR_ELx holds then, or LR_und.
    pub link: u64,
    /// What SPSR_ELx holds then, or SPSR_und.
    pub saved: u64,
    /// What ESR_ELx holds then: unknown reason, of an instruction of 32 bits.
    pub esr: u64,
}

const HCR_TGE: u64 = 1 << 27;
const HCR_RW: u64 = 1 << 31;
const HCR_E2H: u64 = 1 << 34;
const HCR_NV: u64 = 1 << 42;
const HCR_NV1: u64 = 1 << 43;
const HCR_NV2: u64 = 1 << 45;

/// Of SCTLR_ELx in AArch64.
mod sctlr {
    pub const SPAN: u64 = 1 << 23;
    pub const DSSBS: u64 = 1 << 44;
    pub const SPINTMASK: u64 = 1 << 62;
}

/// Of SCTLR in AArch32, which is SCTLR_EL1.
mod sctlr32 {
    pub const V: u64 = 1 << 13;
    pub const SPAN: u64 = 1 << 23;
    pub const EE: u64 = 1 << 25;
    pub const TE: u64 = 1 << 30;
    pub const DSSBS: u64 = 1 << 31;
}

const GCSCR_EXLOCKEN: u64 = 1 << 6;
const ESR_IL: u64 = 1 << 25;

/// Of SPSR_ELx.
mod pstate {
    /// The stack pointer is SP_ELx, not SP_EL0.
    pub const SP: u64 = 1 << 0;
    pub const LEVEL: u64 = 0b11 << 2;
    pub const EL2: u64 = 0b10 << 2;
    pub const AARCH32: u64 = 1 << 4;
    pub const DAIF: u64 = 0xf << 6;
    pub const SSBS: u64 = 1 << 12;
    pub const ALLINT: u64 = 1 << 13;
    pub const PAN: u64 = 1 << 22;
    pub const DIT: u64 = 1 << 24;
    pub const TCO: u64 = 1 << 25;
    pub const NZCV: u64 = 0xf << 28;
    pub const PM: u64 = 1 << 32;
    pub const EXLOCK: u64 = 1 << 34;

    /// In AArch32.
    pub const T32: u64 = 1 << 5;
    pub const I32: u64 = 1 << 7;
    pub const E32: u64 = 1 << 9;
    pub const AF32: u64 = 0b101 << 6;
    pub const SSBS32: u64 = 1 << 23;
    /// Of SPSR_ELx; in SPSR_und it is bit 21.
    pub const DIT32: u64 = 1 << 24;
    pub const GE32: u64 = 0xf << 16;
    pub const Q32: u64 = 1 << 27;
    pub const MODE32: u64 = 0xf;
    pub const UND32: u64 = 0x1b;
}

/// What UNDEFINED does to a world that was at `from`.
#[must_use]
pub const fn take(from: State, controls: &Controls, features: Features) -> Exception {
    let aarch32 = from.pstate & pstate::AARCH32 != 0;
    // Of AArch32 modes only User is EL0.
    let level = match (aarch32, from.pstate & pstate::MODE32) {
        (true, 0) => 0,
        (true, _) => 1,
        (false, mode) => mode >> 2,
    };
    // EL1 in AArch32 is known by the mode, or, seen from EL0, by HCR_EL2.RW.
    let el1_is_32 = aarch32 && (level == 1 || controls.hcr & HCR_RW == 0);
    match (level, controls.hcr & HCR_TGE != 0) {
        (0, true) | (2, _) => to_aarch64(from, level, 2, controls, features),
        _ if el1_is_32 => to_aarch32(from, controls),
        _ => to_aarch64(from, level, 1, controls, features),
    }
}

/// To EL1 or EL2, `to`, in AArch64.
const fn to_aarch64(from: State, level: u64, to: u64, controls: &Controls, features: Features) -> Exception {
    let ([sctlr1, sctlr2], [vbar1, vbar2], [gcscr1, gcscr2]) =
        (controls.sctlr, controls.vbar, controls.gcscr);
    let (target, sctlr, vbar, gcscr) = match to {
        1 => (Target::El1, sctlr1, vbar1, gcscr1),
        _ => (Target::El2, sctlr2, vbar2, gcscr2),
    };
    let vector = match (level == to, from.pstate & pstate::AARCH32 != 0, from.pstate & pstate::SP != 0) {
        (true, _, false) => 0,
        (true, _, true) => 0x200,
        (false, false, _) => 0x400,
        (false, true, _) => 0x600,
    };
    let mut next =
        from.pstate & (pstate::NZCV | pstate::DIT | pstate::PAN) | pstate::DAIF | to << 2 | pstate::SP;
    if sctlr & sctlr::DSSBS != 0 {
        next |= pstate::SSBS;
    }
    let host = controls.hcr & (HCR_E2H | HCR_TGE) == HCR_E2H | HCR_TGE;
    if sctlr & sctlr::SPAN == 0 && (to == 1 || host) {
        next |= pstate::PAN;
    }
    if features.contains(Features::NMI) && sctlr & sctlr::SPINTMASK == 0 {
        next |= pstate::ALLINT;
    }
    if features.contains(Features::MTE2) {
        next |= pstate::TCO;
    }
    if features.contains(Features::EBEP) {
        next |= pstate::PM;
    }
    if features.contains(Features::GCS) && level == to && gcscr & GCSCR_EXLOCKEN != 0 {
        next |= pstate::EXLOCK;
    }
    // A guest hypervisor at EL1 is told that it was at EL2.
    let nested = match (controls.hcr & HCR_NV != 0, controls.hcr & HCR_NV1 != 0, controls.hcr & HCR_NV2 != 0)
    {
        (true, false, _) | (true, true, true) => level == 1 && to == 1,
        _ => false,
    };
    let saved = if nested { from.pstate & !pstate::LEVEL | pstate::EL2 } else { from.pstate };
    Exception {
        target,
        next: State { pc: (vbar & !0x7ff) | vector, pstate: next },
        link: from.pc,
        saved,
        esr: ESR_IL,
    }
}

/// To EL1 in AArch32.
const fn to_aarch32(from: State, controls: &Controls) -> Exception {
    let [sctlr, _] = controls.sctlr;
    let [vbar, _] = controls.vbar;
    let kept = pstate::NZCV | pstate::Q32 | pstate::GE32 | pstate::DIT32 | pstate::PAN | pstate::AF32;
    let mut next = from.pstate & kept | pstate::I32 | pstate::UND32;
    let set = [
        (sctlr & sctlr32::TE != 0, pstate::T32),
        (sctlr & sctlr32::EE != 0, pstate::E32),
        (sctlr & sctlr32::SPAN == 0, pstate::PAN),
        (sctlr & sctlr32::DSSBS != 0, pstate::SSBS32),
    ];
    let mut rest: &[(bool, u64)] = &set;
    while let [(wanted, bit), more @ ..] = rest {
        if *wanted {
            next |= *bit;
        }
        rest = more;
    }
    const UNDEFINED_VECTOR: u64 = 4;
    let base = if sctlr & sctlr32::V != 0 { 0xffff_0000 } else { vbar & 0xffff_ffe0 };
    let size = if from.pstate & pstate::T32 != 0 { 2 } else { 4 };
    // PSTATE.DIT is in another place, and PSTATE.SS has none.
    let mut saved = from.pstate & !(pstate::DIT32 | 1 << 21) & 0xffff_ffff;
    if from.pstate & pstate::DIT32 != 0 {
        saved |= 1 << 21;
    }
    Exception {
        target: Target::Undefined32,
        next: State { pc: base | UNDEFINED_VECTOR, pstate: next },
        link: from.pc.wrapping_add(size) & 0xffff_ffff,
        saved,
        esr: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTROLS: Controls = Controls {
        hcr: HCR_RW,
        sctlr: [sctlr::SPAN, sctlr::SPAN],
        vbar: [0x1_0000, 0x2_0000],
        gcscr: [0; 2],
    };

    fn taken(pstate: u64, controls: &Controls) -> Exception {
        take(State { pc: 0x8_0004, pstate }, controls, Features::empty())
    }

    #[test]
    fn each_level_takes_its_own_and_el1_that_of_el0() {
        // EL0t, EL1t, EL1h, EL2t, EL2h.
        for (pstate, target, pc, next) in [
            (0x0, Target::El1, 0x1_0400, 0x3c5),
            (0x4, Target::El1, 0x1_0000, 0x3c5),
            (0x5, Target::El1, 0x1_0200, 0x3c5),
            (0x8, Target::El2, 0x2_0000, 0x3c9),
            (0x9, Target::El2, 0x2_0200, 0x3c9),
        ] {
            let exception = taken(pstate, &CONTROLS);
            assert_eq!(
                (exception.target, exception.next),
                (target, State { pc, pstate: next }),
                "{pstate:#x}"
            );
            assert_eq!((exception.link, exception.saved, exception.esr), (0x8_0004, pstate, 0x0200_0000));
        }
    }

    #[test]
    fn a_host_at_el2_takes_that_of_its_programs() {
        let controls = Controls { hcr: HCR_RW | HCR_TGE | HCR_E2H, ..CONTROLS };
        let exception = taken(0, &controls);
        assert_eq!((exception.target, exception.next.pc), (Target::El2, 0x2_0400));
        // A program in AArch32 has its vector.
        let exception = taken(0x10, &controls);
        assert_eq!((exception.target, exception.next.pc), (Target::El2, 0x2_0600));
    }

    #[test]
    fn a_guest_hypervisor_is_told_that_it_was_at_el2() {
        let nested = |bits| taken(5, &Controls { hcr: HCR_RW | bits, ..CONTROLS }).saved;
        assert_eq!([HCR_NV, HCR_NV | HCR_NV2, HCR_NV | HCR_NV1 | HCR_NV2].map(nested), [9; 3]);
        assert_eq!([0, HCR_NV1, HCR_NV | HCR_NV1, HCR_NV2].map(nested), [5; 4]);
        // Its programs are at EL0.
        assert_eq!(taken(0, &Controls { hcr: HCR_RW | HCR_NV, ..CONTROLS }).saved, 0);
    }

    #[test]
    fn what_an_exception_sets_and_clears_is_set_and_cleared() {
        // N, DIT, UAO, SS, IL, SSBS, BTYPE.
        let before = 1 << 31 | 1 << 24 | 1 << 23 | 1 << 21 | 1 << 20 | 1 << 12 | 3 << 10 | 5;
        let exception = taken(before, &CONTROLS);
        assert_eq!(exception.next.pstate, 1 << 31 | 1 << 24 | 0x3c5);
        assert_eq!(exception.saved, before);
        let pan_and_ssbs = Controls { sctlr: [sctlr::DSSBS, 0], ..CONTROLS };
        assert_eq!(taken(5, &pan_and_ssbs).next.pstate, 1 << 22 | 1 << 12 | 0x3c5);
        // EL2 only as a host.
        assert_eq!(taken(9, &pan_and_ssbs).next.pstate, 0x3c9);
        let host = Controls { hcr: HCR_TGE | HCR_E2H, ..pan_and_ssbs };
        assert_eq!(taken(9, &host).next.pstate, 1 << 22 | 0x3c9);
        // Already set, it stays.
        assert_eq!(taken(1 << 22 | 9, &CONTROLS).next.pstate, 1 << 22 | 0x3c9);
    }

    #[test]
    fn features_have_their_part_in_the_state() {
        let with = |features, controls: &Controls, pstate| {
            take(State { pc: 0, pstate }, controls, features).next.pstate & !0x3cf
        };
        assert_eq!(with(Features::NMI, &CONTROLS, 5), pstate::ALLINT);
        let masked = Controls { sctlr: [sctlr::SPAN | sctlr::SPINTMASK; 2], ..CONTROLS };
        assert_eq!(with(Features::NMI, &masked, 5), 0);
        assert_eq!(with(Features::MTE2, &CONTROLS, 5), pstate::TCO);
        assert_eq!(with(Features::EBEP, &CONTROLS, 5), pstate::PM);
        let locked = Controls { gcscr: [GCSCR_EXLOCKEN; 2], ..CONTROLS };
        assert_eq!(with(Features::GCS, &locked, 5), pstate::EXLOCK);
        assert_eq!(with(Features::GCS, &locked, 0), 0);
        assert_eq!(with(Features::empty(), &locked, 5), 0);
    }

    #[test]
    fn aarch32_takes_it_in_mode_undefined() {
        let controls = Controls { hcr: 0, sctlr: [sctlr32::SPAN, 0], vbar: [0x4000, 0], ..CONTROLS };
        // Supervisor, A32.
        let exception = taken(0x13, &controls);
        assert_eq!(
            (exception.target, exception.next.pc, exception.link),
            (Target::Undefined32, 0x4004, 0x8_0008)
        );
        assert_eq!(exception.next.pstate, 0x9b);
        // User, T32, with DIT, GE, Q and N, in an IT block.
        let flags = 1 << 31 | 1 << 27 | 5 << 16;
        let exception = taken(flags | 1 << 24 | 3 << 25 | 0x30, &controls);
        assert_eq!((exception.target, exception.link), (Target::Undefined32, 0x8_0006));
        assert_eq!(exception.next.pstate, flags | 1 << 24 | 0x9b);
        assert_eq!(exception.saved, flags | 1 << 21 | 3 << 25 | 0x30);
        let all = sctlr32::V | sctlr32::EE | sctlr32::TE | sctlr32::DSSBS;
        let exception = taken(0x13, &Controls { sctlr: [all, 0], ..controls });
        assert_eq!(exception.next.pc, 0xffff_0004);
        assert_eq!(exception.next.pstate, 1 << 23 | 1 << 22 | 1 << 9 | 1 << 5 | 0x9b);
        // A 32 bit program of a 64 bit kernel.
        assert_eq!(taken(0x10, &CONTROLS).target, Target::El1);
    }

    #[test]
    fn instructions_are_reflected_and_faults_are_not() {
        for class in [0x01, 0x03, 0x07, 0x0a, 0x14, 0x18, 0x19, 0x1d] {
            assert!(is_trapped_instruction(class << 26 | 0x1ff_ffff), "{class:#x}");
        }
        // Calls; a fault of the granule protection check, of an instruction, of data.
        for class in [0x13, 0x17, 0x1e, 0x20, 0x24] {
            assert!(!is_trapped_instruction(class << 26), "{class:#x}");
        }
    }
}
