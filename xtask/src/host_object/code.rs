//! What an A64 instruction does to the stack and to the flow of control (Arm ARM, C4.1, "A64 instruction set encoding").

/// What of an instruction matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The stack grows by so many bytes.
    Grow(u64),
    /// The stack pointer becomes something only running tells.
    Unknown,
    /// A call of what is so many bytes away.
    Call(i64),
    /// A branch there, with or without a condition.
    Branch(i64),
    /// A call of what a register says.
    CallRegister,
    /// A branch to what a register says.
    BranchRegister,
    /// A return.
    Return,
    /// A trap, the end of what cannot happen.
    Trap,
    /// Nothing of that.
    Nothing,
}

/// Register number 31 in the place of a base or a result: the stack pointer.
const SP: u32 = 31;
/// The frame pointer, from which an epilogue takes the stack pointer again.
const FP: u32 = 29;

/// The `width` bits of `word` from bit `low` on as a signed number.
fn signed(word: u32, low: u32, width: u32) -> i64 {
    let up = word << (32 - low - width);
    i64::from(up.cast_signed() >> (32 - width))
}

/// What `word` does.
pub fn effect(word: u32) -> Effect {
    let rn = word >> 5 & 31;
    if word & 0xfc00_0000 == 0x9400_0000 {
        return Effect::Call(signed(word, 0, 26) * 4);
    }
    if word & 0xfc00_0000 == 0x1400_0000 {
        return Effect::Branch(signed(word, 0, 26) * 4);
    }
    // B.cond; CBZ, CBNZ.
    if word & 0xff00_0000 == 0x5400_0000 || word & 0x7e00_0000 == 0x3400_0000 {
        return Effect::Branch(signed(word, 5, 19) * 4);
    }
    // TBZ, TBNZ.
    if word & 0x7e00_0000 == 0x3600_0000 {
        return Effect::Branch(signed(word, 5, 14) * 4);
    }
    // BR, BLR, RET and their kind with pointer authentication.
    if word & 0xfe1f_0000 == 0xd61f_0000 {
        return match word >> 21 & 0xf {
            0 | 8 => Effect::BranchRegister,
            1 | 9 => Effect::CallRegister,
            2 => Effect::Return,
            _ => Effect::Nothing,
        };
    }
    // BRK; UDF.
    if word & 0xffe0_001f == 0xd420_0000 || word >> 16 == 0 {
        return Effect::Trap;
    }
    // SUB and ADD (immediate) to the stack pointer.
    if matches!(word & 0xff80_001f, 0xd100_001f | 0x9100_001f) {
        let subtracts = word & 0xff80_0000 == 0xd100_0000;
        let shift = if word & 1 << 22 != 0 { 12 } else { 0 };
        return match rn {
            SP if subtracts => Effect::Grow(u64::from(word >> 10 & 0xfff) << shift),
            SP | FP => Effect::Nothing,
            _ => Effect::Unknown,
        };
    }
    // SUB and ADD (extended register), AND (immediate), to the stack pointer.
    if matches!(word & 0xffe0_001f, 0xcb20_001f | 0x8b20_001f) || word & 0xff80_001f == 0x9200_001f {
        return Effect::Unknown;
    }
    // STP and LDP, pre-indexed, of general (bit 26 clear) or SIMD registers.
    if word & 0x3b80_0000 == 0x2980_0000 && rn == SP {
        let scale = if word & 1 << 26 != 0 { 2 + (word >> 30) } else { 2 + (word >> 31) };
        return grown(signed(word, 15, 7) << scale);
    }
    // STR and LDR, pre-indexed.
    if word & 0x3b20_0c00 == 0x3800_0c00 && rn == SP {
        return grown(signed(word, 12, 9));
    }
    Effect::Nothing
}

fn grown(by: i64) -> Effect {
    if by < 0 { Effect::Grow(by.unsigned_abs()) } else { Effect::Nothing }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_the_stack_grow_is_counted() {
        for (word, bytes) in [
            (0xd101_03ff, 64),   // sub sp, sp, #64
            (0xd140_07ff, 4096), // sub sp, sp, #1, lsl #12
            (0xa9ba_7bfd, 96),   // stp x29, x30, [sp, #-96]!
            (0xf81f_0ffe, 16),   // str x30, [sp, #-16]!
            (0x6dbe_27e8, 32),   // stp d8, d9, [sp, #-32]!
            (0xadbe_27e8, 64),   // stp q8, q9, [sp, #-64]!
        ] {
            assert_eq!(effect(word), Effect::Grow(bytes), "{word:#x}");
        }
    }

    #[test]
    fn a_stack_pointer_that_depends_on_a_register_is_not_taken_for_a_frame() {
        for word in [
            0xcb29_63ff, // sub sp, sp, x9
            0x8b29_63ff, // add sp, sp, x9
            0x9100_013f, // mov sp, x9
            0xd100_413f, // sub sp, x9, #16
            0x927a_e53f, // and sp, x9, #0xffffffffffffffc0
        ] {
            assert_eq!(effect(word), Effect::Unknown, "{word:#x}");
        }
    }

    #[test]
    fn what_leaves_the_stack_alone_or_gives_back_is_not_counted() {
        for word in [
            0x9100_03bf, // mov sp, x29
            0xd100_43bf, // sub sp, x29, #16
            0x9101_03ff, // add sp, sp, #64
            0xd101_03e9, // sub x9, sp, #64
            0xa8c6_7bfd, // ldp x29, x30, [sp], #96
            0xa901_7bfd, // stp x29, x30, [sp, #16]
            0xa9bf_0440, // stp x0, x1, [x2, #-16]!
            0x5100_0c20, // sub w0, w1, #3
        ] {
            assert_eq!(effect(word), Effect::Nothing, "{word:#x}");
        }
    }

    #[test]
    fn calls_and_branches_know_how_far_they_go() {
        assert_eq!(effect(0x9400_0002), Effect::Call(8)); // bl .+8
        assert_eq!(effect(0x97ff_ffff), Effect::Call(-4)); // bl .-4
        assert_eq!(effect(0x1400_0001), Effect::Branch(4)); // b .+4
        assert_eq!(effect(0x17ff_fffe), Effect::Branch(-8)); // b .-8
        assert_eq!(effect(0x5400_0040), Effect::Branch(8)); // b.eq .+8
        assert_eq!(effect(0xb4ff_ffc0), Effect::Branch(-8)); // cbz x0, .-8
        assert_eq!(effect(0x3710_0063), Effect::Branch(12)); // tbnz w3, #2, .+12
        assert_eq!(effect(0xd63f_0100), Effect::CallRegister); // blr x8
        assert_eq!(effect(0xd61f_0060), Effect::BranchRegister); // br x3
        assert_eq!(effect(0xd65f_03c0), Effect::Return); // ret
        assert_eq!(effect(0xd65f_0bff), Effect::Return); // retaa
        assert_eq!(effect(0xd420_0020), Effect::Trap); // brk #1
        assert_eq!(effect(0), Effect::Trap); // udf #0
    }
}
