//! What a REC waits for between two entries.

use realm_abi::rmi::Ripas;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What the last exit left to complete. One thing at a time: the attributes of RMM 1.0's RmmRec
/// (`emulatable_abort`, `psci_pending`, `ripas_*`, `host_call_pending`) exclude each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pending {
    /// Nothing: the REC just goes on.
    Nothing,
    /// A data abort at an unprotected IPA: the Host may inject an external abort or, if it is emulatable, have
    /// emulated the access.
    UnprotectedAbort {
        /// ESR_EL2.
        esr: u64,
        /// FAR_EL2.
        far: u64,
        /// Whether it is emulatable.
        emulatable: bool,
    },
    /// RSI_IPA_STATE_SET.
    RipasChange(RipasChange),
    /// RSI_HOST_CALL with the structure at this IPA.
    HostCall {
        /// The structure.
        ipa: u64,
    },
    /// A PSCI call with an MPIDR, which PSCI_COMPLETE has to answer before the next entry.
    Psci {
        /// The call's X0 to X3.
        regs: [u64; 4],
    },
}

/// A RIPAS change under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RipasChange {
    /// First IPA not changed yet.
    pub(crate) addr: u64,
    /// End, exclusive.
    pub(crate) top: u64,
    /// What the realm asks for.
    pub(crate) ripas: Ripas,
    /// DESTROYED may be changed too.
    pub(crate) destroyed: bool,
}

impl RipasChange {
    /// The attributes of a REC without a RIPAS change.
    pub(crate) const NONE: Self = Self { addr: 0, top: 0, ripas: Ripas::EMPTY, destroyed: false };
}

/// [`Pending`] as it lies in a REC granule. All zeros is [`Pending::Nothing`].
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct PendingWords {
    kind: u64,
    words: [u64; 4],
}

const UNPROTECTED_ABORT: u64 = 1;
const RIPAS_CHANGE: u64 = 2;
const HOST_CALL: u64 = 3;
const PSCI: u64 = 4;

impl From<Pending> for PendingWords {
    fn from(pending: Pending) -> Self {
        let (kind, words) = match pending {
            Pending::Nothing => (0, [0; 4]),
            Pending::UnprotectedAbort { esr, far, emulatable } => {
                (UNPROTECTED_ABORT, [esr, far, emulatable.into(), 0])
            }
            Pending::RipasChange(change) => {
                (RIPAS_CHANGE, [change.addr, change.top, change.ripas.0.into(), change.destroyed.into()])
            }
            Pending::HostCall { ipa } => (HOST_CALL, [ipa, 0, 0, 0]),
            Pending::Psci { regs } => (PSCI, regs),
        };
        Self { kind, words }
    }
}

impl PendingWords {
    pub(crate) fn get(&self) -> Pending {
        let [a, b, c, d] = self.words;
        match self.kind {
            UNPROTECTED_ABORT => Pending::UnprotectedAbort { esr: a, far: b, emulatable: c != 0 },
            RIPAS_CHANGE => Pending::RipasChange(RipasChange {
                addr: a,
                top: b,
                ripas: if c == Ripas::RAM.0.into() { Ripas::RAM } else { Ripas::EMPTY },
                destroyed: d != 0,
            }),
            HOST_CALL => Pending::HostCall { ipa: a },
            PSCI => Pending::Psci { regs: self.words },
            _ => Pending::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_what_is_read() {
        for pending in [
            Pending::Nothing,
            Pending::UnprotectedAbort { esr: 1, far: 2, emulatable: false },
            Pending::UnprotectedAbort { esr: 1, far: 2, emulatable: true },
            Pending::RipasChange(RipasChange { addr: 1, top: 2, ripas: Ripas::RAM, destroyed: false }),
            Pending::RipasChange(RipasChange { addr: 1, top: 2, ripas: Ripas::EMPTY, destroyed: true }),
            Pending::HostCall { ipa: 5 },
            Pending::Psci { regs: [1, 2, 3, 4] },
        ] {
            assert_eq!(PendingWords::from(pending).get(), pending);
        }
    }
}
