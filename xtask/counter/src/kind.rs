//! What an A64 instruction is, as far as its cost is not that of any other.

/// Kinds of instructions that are counted apart. All others are [`Kind::Plain`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Kind {
    /// Anything else.
    Plain,
    /// DSB.
    Dsb,
    /// DMB.
    Dmb,
    /// ISB and SB.
    Isb,
    /// TLBI.
    Tlbi,
    /// DC and IC but for those that only zero.
    Cache,
    /// DC ZVA and its like.
    Zero,
    /// MRS and MSR.
    SystemRegister,
    /// SMC, HVC and SVC.
    Call,
    /// ERET.
    Return,
}

impl Kind {
    /// How many there are.
    pub const COUNT: usize = 10;
    /// Their names in what the plugin writes, in their order.
    pub const NAMES: [&'static str; Self::COUNT] =
        ["plain", "dsb", "dmb", "isb", "tlbi", "cache", "zero", "system_register", "call", "return"];

    /// The kind of an instruction (Arm ARM, A64 index by encoding: branches, exceptions and system instructions).
    #[must_use]
    pub fn of(word: u32) -> Self {
        // ERET, ERETAA, ERETAB; SVC, HVC, SMC.
        if word == 0xd69f_03e0 || word & 0xffff_fbff == 0xd69f_0bff {
            return Self::Return;
        }
        if word & 0xffe0_001c == 0xd400_0000 && matches!(word & 3, 1..=3) {
            return Self::Call;
        }
        // System instructions: 1101010100 L op0 op1 CRn CRm op2 Rt.
        if word >> 22 != 0b11_0101_0100 {
            return Self::Plain;
        }
        let field = |shift: u32, mask: u32| word >> shift & mask;
        let (op0, op1, crn, crm, op2) =
            (field(19, 3), field(16, 7), field(12, 15), field(8, 15), field(5, 7));
        match (op0, crn) {
            (0, 3) => match op2 {
                // The one with op2 = 1 is DSB nXS.
                1 | 4 => Self::Dsb,
                5 => Self::Dmb,
                6 | 7 => Self::Isb,
                _ => Self::Plain,
            },
            // MSR (immediate).
            (0, 4) | (2 | 3, _) => Self::SystemRegister,
            // DC ZVA, GVA and GZVA.
            (1, 7) if op1 == 3 && crm == 4 && matches!(op2, 1 | 3 | 4) => Self::Zero,
            // AT.
            (1, 7) if matches!(crm, 8 | 9) => Self::Plain,
            (1, 7) => Self::Cache,
            (1, 8 | 9) => Self::Tlbi,
            _ => Self::Plain,
        }
    }
}

/// Instructions that do nothing and mark what is to be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// `hint #120`: count from here.
    Begin,
    /// `hint #121`: up to here.
    End,
}

impl Mark {
    /// The mark an instruction is, if it is one.
    #[must_use]
    pub const fn of(word: u32) -> Option<Self> {
        /// HINT #0, NOP; the number is in bits 11:5.
        const HINT: u32 = 0xd503_201f;
        match word.wrapping_sub(HINT) {
            0xf00 => Some(Self::Begin),
            0xf20 => Some(Self::End),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_told_apart() {
        let known = [
            (0xd503_3f9f, Kind::Dsb),            // dsb sy
            (0xd503_379f, Kind::Dsb),            // dsb nsh
            (0xd503_3bbf, Kind::Dmb),            // dmb ish
            (0xd503_3fdf, Kind::Isb),            // isb
            (0xd50c_871f, Kind::Tlbi),           // tlbi alle2
            (0xd50c_8722, Kind::Tlbi),           // tlbi vae2, x2
            (0xd50e_84e1, Kind::Tlbi),           // sys #6, c8, c4, #7: TLBI RPALOS
            (0xd50e_7e21, Kind::Cache),          // sys #6, c7, c14, #1: DC CIPAPA
            (0xd508_7620, Kind::Cache),          // dc ivac, x0
            (0xd508_751f, Kind::Cache),          // ic iallu
            (0xd50b_7420, Kind::Zero),           // dc zva, x0
            (0xd508_7800, Kind::Plain),          // at s1e1r, x0
            (0xd53b_e020, Kind::SystemRegister), // mrs x0, cntpct_el0
            (0xd51c_1100, Kind::SystemRegister), // msr hcr_el2, x0
            (0xd503_4fdf, Kind::SystemRegister), // msr daifset, #15
            (0xd400_0003, Kind::Call),           // smc #0
            (0xd400_0002, Kind::Call),           // hvc #0
            (0xd420_0000, Kind::Plain),          // brk #0
            (0xd69f_03e0, Kind::Return),         // eret
            (0xd69f_0bff, Kind::Return),         // eretaa
            (0xd65f_03c0, Kind::Plain),          // ret
            (0xd503_201f, Kind::Plain),          // nop
            (0x8b01_0000, Kind::Plain),          // add x0, x0, x1
        ];
        for (word, kind) in known {
            assert_eq!(Kind::of(word), kind, "{word:#x}");
        }
    }

    #[test]
    fn only_two_hints_are_marks() {
        let marks: Vec<_> = (0..128).filter_map(|n| Some((n, Mark::of(0xd503_201f + (n << 5))?))).collect();
        assert_eq!(marks, [(120, Mark::Begin), (121, Mark::End)]);
        assert_eq!(Mark::of(0xd503_2f1e), None);
    }
}
