//! The Root world in this process: it routes secure monitor calls between the worlds, owns the Granule Protection Table,
//! and holds the platform's keys.

pub mod keys;

use crate::hardware::memory::{Memory, TransitionError};
use crate::pas::Pas;
use crate::probe::fault::{FaultPlan, Point};
use realm_abi::smccc;
use realm_monitor::attest::{self, Platform, TokenError};
use sha2::{Digest, Sha256};

/// RMM-EL3 return codes (RMM-EL3 communication specification).
pub mod code {
    /// BAD_ADDR.
    pub const BAD_ADDR: i64 = -2;
    /// BAD_PAS.
    pub const BAD_PAS: i64 = -3;
    /// NOMEM.
    pub const NOMEM: i64 = -4;
    /// INVAL.
    pub const INVAL: i64 = -5;
}

/// Where a call from the Non-secure world goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To the RMM.
    Rmm,
    /// EL3 answers itself: X0.
    Answer(u64),
}

/// EL3 of one machine.
#[derive(Debug, Default)]
pub struct El3 {
    /// Whether the platform has an RMM; without one RMI is not supported.
    pub without_rmm: bool,
}

impl El3 {
    /// Where a call with this function identifier goes when the Non-secure world makes it. Only the RMI range
    /// (function numbers 0x150 to 0x18F) reaches the Realm world; services for the RMM itself are not supported here.
    #[must_use]
    pub const fn route(&self, function: u64) -> Route {
        match function & !smccc::SVE_HINT {
            0xC400_0150..=0xC400_018F if !self.without_rmm => Route::Rmm,
            smccc::VERSION => Route::Answer(smccc::VERSION_1_2),
            _ => Route::Answer(smccc::NOT_SUPPORTED),
        }
    }

    /// RMM_GTSI_DELEGATE.
    ///
    /// # Errors
    /// BAD_ADDR or BAD_PAS.
    pub fn delegate(&self, memory: &Memory, faults: &FaultPlan, pa: u64) -> Result<(), i64> {
        if let Some(code) = faults.hit(Point::GtsiDelegate) {
            return Err(code.cast_signed());
        }
        memory.transition(pa, Pas::NonSecure, Pas::Realm).map_err(gtsi_code)
    }

    /// RMM_GTSI_UNDELEGATE.
    ///
    /// # Errors
    /// BAD_ADDR or BAD_PAS.
    pub fn undelegate(&self, memory: &Memory, faults: &FaultPlan, pa: u64) -> Result<(), i64> {
        if let Some(code) = faults.hit(Point::GtsiUndelegate) {
            return Err(code.cast_signed());
        }
        memory.transition(pa, Pas::Realm, Pas::NonSecure).map_err(gtsi_code)
    }

    /// RMM_ATTEST_GET_PLAT_TOKEN with all hunks: writes the token to `out` and returns its length.
    ///
    /// # Errors
    /// INVAL for a challenge that is not 32, 48 or 64 bytes, NOMEM if `out` is too short.
    pub fn platform_token(&self, challenge: &[u8], out: &mut [u8]) -> Result<usize, i64> {
        let measure = |kind: &str| Sha256::digest(format!("realmkit machine: {kind}")).into();
        let components = [("EL3", measure("EL3")), ("RMM", measure("RMM"))];
        let platform = Platform { config: "in one process", components: &components };
        attest::platform_token(&platform, challenge, out).map_err(|error| match error {
            TokenError::Challenge(_) => code::INVAL,
            TokenError::NoRoom => code::NOMEM,
        })
    }
}

const fn gtsi_code(error: TransitionError) -> i64 {
    match error {
        TransitionError::BadAddress => code::BAD_ADDR,
        TransitionError::BadPas => code::BAD_PAS,
    }
}
