//! The registers of a realm, and how those it goes on with are judged.

use realm_abi::rmi::GPRS;

/// What a realm sees of its CPU, as far as the RMM changes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the architecture's")]
pub struct Registers {
    pub gprs: [u64; GPRS],
    pub pc: u64,
    pub pstate: u64,
    pub vbar_el1: u64,
    pub elr_el1: u64,
    pub spsr_el1: u64,
    pub esr_el1: u64,
    pub far_el1: u64,
}

/// PSTATE of a REC that starts: AArch64 EL1h, D, A, I and F masked.
pub(crate) const PSTATE_RESET: u64 = 0x3c5;

/// How registers on resumption are judged beyond equality.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    None,
    /// EL1 registers are not specified.
    Fresh,
    /// An exception was injected: of ESR_EL1 only the specified fields count, of PSTATE mode and masks.
    Injected,
    /// RSI_IPA_STATE_GET: X1 and X2 describe a prefix of the range.
    StateGet {
        base: u64,
        top: u64,
    },
    /// RSI_ATTESTATION_TOKEN_INIT: X1 is a bound.
    TokenInit,
    /// RSI_ATTESTATION_TOKEN_CONTINUE: X0 INCOMPLETE or SUCCESS, X1 at most `size`, written to the granule `pa`.
    TokenContinue {
        size: u64,
        pa: u64,
    },
}
