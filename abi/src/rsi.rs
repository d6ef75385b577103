//! Realm Services Interface 1.0: what a realm asks of the RMM (RMM 1.0).

use crate::layout::assert_layout;
use crate::macros::{call_table, open_enum};
use crate::regs::reg_newtype;
use crate::rmi::{GPRS, HashAlgorithm, RPV_SIZE, Version};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

open_enum! {
    /// `RsiCommandReturnCode`, X0 of every RSI call.
    pub struct RsiStatus(u64) {
        /// The call succeeded.
        SUCCESS = 0,
        /// An input value is wrong.
        ERROR_INPUT = 1,
        /// The state does not permit the call.
        ERROR_STATE = 2,
        /// There is more to do: call again.
        INCOMPLETE = 3,
        /// The RMM failed for a reason of its own.
        ERROR_UNKNOWN = 4,
    }
}

open_enum! {
    /// `RsiResponse`: what the Host said to a RIPAS change.
    pub struct RsiResponse(u64) {
        /// Accepted.
        ACCEPT = 0,
        /// Rejected.
        REJECT = 1,
    }
}

call_table! {
    /// A call from a realm. Addresses are IPAs.
    pub enum RsiCall<11> {
        /// Negotiates the interface version.
        Version = 0xC400_0190 "RSI_VERSION" {
            /// The version the realm asks for.
            req: Version,
        },
        /// Reads a feature register.
        Features = 0xC400_0191 "RSI_FEATURES" {
            /// Which register.
            index: u64,
        },
        /// Reads a measurement.
        MeasurementRead = 0xC400_0192 "RSI_MEASUREMENT_READ" {
            /// 0 for the RIM, 1 to 4 for a REM.
            index: u64,
        },
        /// Extends a REM.
        MeasurementExtend = 0xC400_0193 "RSI_MEASUREMENT_EXTEND" {
            /// 1 to 4.
            index: u64,
            /// Bytes of `value` that count, at most 64.
            size: u64,
            /// The value, the memory image of X3 to X10.
            value: [u64; 8],
        },
        /// Starts to make an attestation token.
        AttestationTokenInit = 0xC400_0194 "RSI_ATTESTATION_TOKEN_INIT" {
            /// The challenge, the memory image of X1 to X8.
            challenge: [u64; 8],
        },
        /// Goes on making an attestation token.
        AttestationTokenContinue = 0xC400_0195 "RSI_ATTESTATION_TOKEN_CONTINUE" {
            /// The granule to write to.
            addr: u64,
            /// Offset in it.
            offset: u64,
            /// Bytes free behind the offset.
            size: u64,
        },
        /// Reads the realm's configuration.
        RealmConfig = 0xC400_0196 "RSI_REALM_CONFIG" {
            /// The granule to write [`RealmConfig`] to.
            addr: u64,
        },
        /// Asks for a RIPAS change.
        IpaStateSet = 0xC400_0197 "RSI_IPA_STATE_SET" {
            /// First IPA.
            base: u64,
            /// End, exclusive.
            top: u64,
            /// The RIPAS wanted, in bits 7:0.
            ripas: u64,
            /// Bit 0: DESTROYED may be changed too.
            flags: u64,
        },
        /// Reads the RIPAS of a range.
        IpaStateGet = 0xC400_0198 "RSI_IPA_STATE_GET" {
            /// First IPA.
            base: u64,
            /// End, exclusive.
            top: u64,
        },
        /// Calls the Host.
        HostCall = 0xC400_0199 "RSI_HOST_CALL" {
            /// The [`HostCall`] structure.
            addr: u64,
        },
    }
}

/// `RsiRealmConfig`: one granule, all other bytes zero.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct RealmConfig {
    /// IPA width in bits.
    pub ipa_width: u64,
    /// Hash of RIM and REMs.
    pub hash_algo: HashAlgorithm,
    pad_9: [u8; 0x200 - 0x9],
    /// Realm Personalization Value.
    pub rpv: [u8; RPV_SIZE],
    pad_240: [u8; 0x1000 - 0x240],
}

assert_layout!(RealmConfig, 0x1000, { ipa_width: 0x0, hash_algo: 0x8, rpv: 0x200 });

impl Default for RealmConfig {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

/// `RsiHostCall`: 256 bytes in realm memory, aligned to 256.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct HostCall {
    /// The immediate.
    pub imm: u16,
    pad_2: [u8; 6],
    /// X0 to X30, there and back.
    pub gprs: [u64; GPRS],
}

assert_layout!(HostCall, 0x100, { imm: 0x0, gprs: 0x8 });

impl Default for HostCall {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

reg_newtype!(RsiStatus, RsiResponse);
