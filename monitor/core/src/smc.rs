//! Which calls of the worlds below EL3 answers itself. RMI commands do not come here: the assembly hands them to the RMM
//! if there is one that works.

use realm_abi::psci::PsciCall;
use realm_abi::smccc;

/// SMCCC 1.3: the first with the hint that SVE state is not live.
pub const SMCCC_VERSION: u64 = 0x1_0003;

/// A call of the Non-secure world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// PSCI.
    Psci(PsciCall),
    /// Return this in X0.
    Answer(u64),
}

/// Reads a call of the Non-secure world from X0 to X3. The function identifier is in W0 (DEN0028 section 2.7).
#[must_use]
pub const fn non_secure(regs: &[u64; 4]) -> Call {
    let [x0, x1, x2, x3] = *regs;
    let function = x0 & 0xffff_ffff & !smccc::SVE_HINT;
    match function {
        _ if PsciCall::in_range(function) => Call::Psci(PsciCall::from_regs(&[function, x1, x2, x3])),
        smccc::VERSION => Call::Answer(SMCCC_VERSION),
        smccc::ARCH_FEATURES => match x1 & 0xffff_ffff {
            smccc::VERSION | smccc::ARCH_FEATURES => Call::Answer(0),
            _ => Call::Answer(smccc::NOT_SUPPORTED),
        },
        _ => Call::Answer(smccc::NOT_SUPPORTED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_w0_says_which_call_it_is() {
        let call = non_secure(&[0xdead_beef_8400_0000, 0, 0, 0]);
        assert_eq!(call, Call::Psci(PsciCall::Version));
        assert_eq!(non_secure(&[0x8000_0000, 0, 0, 0]), Call::Answer(SMCCC_VERSION));
    }

    #[test]
    fn services_for_the_rmm_are_not_supported_for_anyone_else() {
        for function in (0xc400_018f..=0xc400_01cf).chain([0xc400_0150, 0x8400_0150]) {
            assert_eq!(non_secure(&[function, 0, 0, 0]), Call::Answer(smccc::NOT_SUPPORTED));
        }
    }

    #[test]
    fn arch_features_names_what_there_is() {
        let ask = |function| non_secure(&[smccc::ARCH_FEATURES, function, 0, 0]);
        assert_eq!(ask(smccc::VERSION), Call::Answer(0));
        assert_eq!(ask(0x8000_8000), Call::Answer(smccc::NOT_SUPPORTED));
    }
}
