//! Realm Services Interface 1.0 and everything else a realm asks for by SMC (RMM 1.0, RSI commands).
//!
//! Results a call does not have are zero in X1 to X3; X4 and on keep their values.

mod attestation;
mod host_call;
mod measurement;
mod memory;

use crate::esr;
use crate::granule::GranuleGuard;
use crate::platform::Platform;
use crate::rec::{Next, Running};
use crate::rtt::{Translate, translate};
use realm_abi::psci::PsciCall;
use realm_abi::rmi::{ExitReason, Version};
use realm_abi::rsi::{RsiCall, RsiStatus};
use realm_abi::smccc;

/// RSI feature registers are all zero in 1.0.
const FEATURES: u64 = 0;

/// How a call ends: with a status and up to eight results, or otherwise.
pub(crate) enum Answer {
    /// X0, and X1 to X3.
    Done(RsiStatus, [u64; 3]),
    /// The call is over, and the registers are as they should be.
    Over,
    /// The realm gets no answer now: the call is made again when the REC is next entered.
    Again,
    /// There is an exit before the realm goes on behind the call.
    Exit,
}

impl Answer {
    const INPUT: Self = Self::failed(RsiStatus::ERROR_INPUT);
    const UNKNOWN: Self = Self::failed(RsiStatus::ERROR_UNKNOWN);

    const fn failed(status: RsiStatus) -> Self {
        Self::Done(status, [0; 3])
    }
    const fn success(results: [u64; 3]) -> Self {
        Self::Done(RsiStatus::SUCCESS, results)
    }
}

impl<'a, P: Platform> Running<'_, 'a, P> {
    /// An SMC: RSI, PSCI, the version of the calling convention; all else is not supported.
    pub(crate) fn smc(&mut self) -> Next {
        let mut regs = self.first_gprs::<11>();
        let [fid, a1, a2, a3, ..] = &mut regs;
        // The function identifier is W0; the SVE hint is not part of it.
        *fid &= 0xffff_ffff & !smccc::SVE_HINT;
        if *fid == smccc::VERSION {
            self.set_first_gprs([smccc::VERSION_1_2, 0, 0, 0]);
        } else if PsciCall::in_range(*fid) {
            let call = PsciCall::from_regs(&[*fid, *a1, *a2, *a3]);
            return self.psci(call);
        } else {
            match self.rsi(RsiCall::from_regs(&regs)) {
                Answer::Done(status, results) => self.answer(status, results),
                Answer::Over => {}
                Answer::Again => return Next::Exit,
                Answer::Exit => {
                    self.advance_pc();
                    return Next::Exit;
                }
            }
        }
        self.advance_pc();
        Next::Resume
    }

    fn rsi(&mut self, call: RsiCall) -> Answer {
        match call {
            RsiCall::Version { req } => {
                // Exactly 1.0 is supported, so that is the lower and the higher bound whatever is asked.
                let status = if req == Version::V1_0 { RsiStatus::SUCCESS } else { RsiStatus::ERROR_INPUT };
                Answer::Done(status, [Version::V1_0.0, Version::V1_0.0, 0])
            }
            RsiCall::Features { .. } => Answer::success([FEATURES, 0, 0]),
            RsiCall::MeasurementRead { index } => self.measurement_read(index),
            RsiCall::MeasurementExtend { index, size, value } => self.measurement_extend(index, size, &value),
            RsiCall::AttestationTokenInit { challenge } => self.attestation_token_init(&challenge),
            RsiCall::AttestationTokenContinue { addr, offset, size } => {
                self.attestation_token_continue(addr, offset, size)
            }
            RsiCall::RealmConfig { addr } => self.realm_config(addr),
            RsiCall::IpaStateSet { base, top, ripas, flags } => self.ipa_state_set(base, top, ripas, flags),
            RsiCall::IpaStateGet { base, top } => self.ipa_state_get(base, top),
            RsiCall::HostCall { addr } => self.host_call(addr),
            RsiCall::Unknown { .. } => {
                self.set_first_gprs([smccc::NOT_SUPPORTED, 0, 0, 0]);
                Answer::Over
            }
        }
    }

    /// The DATA granule behind `ipa`, for a buffer of the realm, or how the call ends without: an EMPTY or unprotected
    /// address is the realm's error; for memory that is not there the Host is asked by an exit that looks like a data
    /// abort at a translation fault, and the call is made again.
    fn buffer(&mut self, ipa: u64) -> Result<GranuleGuard<'a>, Answer> {
        translate(self.rmm, &self.realm.stage2, ipa).map_err(|why| match why {
            Translate::NotProtected | Translate::Empty => Answer::INPUT,
            Translate::NotMapped { level } => {
                self.exit.esr = esr::EC_DATA_ABORT << esr::EC_SHIFT | esr::translation_fault(level);
                self.exit.hpfar = esr::hpfar(ipa);
                self.exit.exit_reason = ExitReason::SYNC;
                Answer::Again
            }
        })
    }

    /// X0 to X3 of an RSI call.
    pub(crate) fn answer(&mut self, status: RsiStatus, results: [u64; 3]) {
        let [x1, x2, x3] = results;
        self.set_first_gprs([status.0, x1, x2, x3]);
    }
}
