//! Calls from the RMM to EL3 (chapters 8.4 and 8.5).

use super::BootCode;
use crate::macros::{call_table, open_enum};
use crate::regs::reg_newtype;

open_enum! {
    /// X0 of every answer of EL3 ("E_RMM").
    pub struct El3Code(i64) {
        /// Success.
        OK = 0,
        /// Unknown error, or no such call.
        UNKNOWN = -1,
        /// The address is not one the call can work on.
        BAD_ADDR = -2,
        /// The granule is in the wrong physical address space.
        BAD_PAS = -3,
        /// Out of memory.
        NOMEM = -4,
        /// An argument is invalid.
        INVAL = -5,
        /// Not now; call again.
        AGAIN = -6,
        /// A fault happened (from 0.6 on).
        FAULT = -7,
        /// The operation goes on (from 0.6 on).
        IN_PROGRESS = -8,
    }
}

open_enum! {
    /// X1 of RMM_EL3_TOKEN_SIGN.
    pub struct TokenSignOp(u64) {
        /// Hand over a [`TokenSignRequest`](super::TokenSignRequest).
        PUSH_REQUEST = 1,
        /// Fetch a [`TokenSignResponse`](super::TokenSignResponse).
        PULL_RESPONSE = 2,
        /// Fetch the Realm Attestation Key's public half.
        GET_RAK_PUB = 3,
    }
}

/// X1 of RMM_MEC_REFRESH: MECID in bits 47:32, reason in bit 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MecRefresh(pub u64);

impl MecRefresh {
    /// From its parts.
    #[must_use]
    pub const fn new(mecid: u16, reason: bool) -> Self {
        Self((mecid as u64) << 32 | reason as u64)
    }
    /// Memory Encryption Context identifier.
    #[must_use]
    pub const fn mecid(self) -> u16 {
        (self.0 >> 32 & 0xffff) as u16
    }
    /// Bit 0.
    #[must_use]
    pub const fn reason(self) -> bool {
        self.0 & 1 != 0
    }
}

/// Feature register 0 of RMM_EL3_FEATURES.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct El3Features(pub u64);

impl El3Features {
    /// Bit 0: RMM_EL3_TOKEN_SIGN is there.
    pub const TOKEN_SIGN: Self = Self(1);

    /// Whether RMM_EL3_TOKEN_SIGN is there.
    #[must_use]
    pub const fn token_sign(self) -> bool {
        self.0 & Self::TOKEN_SIGN.0 != 0
    }
}

reg_newtype!(El3Code, TokenSignOp, MecRefresh, El3Features);

call_table! {
    /// A call from the RMM to EL3. Addresses are physical; buffers lie in the shared page.
    pub enum El3Call<12> {
        /// Ends an RMI command: X0 to X4 for the caller in the Non-secure world. Does not return; the next command arrives
        /// instead.
        RmiReqComplete = 0xC400_018F "RMM_RMI_REQ_COMPLETE" {
            /// X0 to X4.
            results: [u64; 5],
        },
        /// Moves a granule to the Realm physical address space.
        GtsiDelegate = 0xC400_01B0 "RMM_GTSI_DELEGATE" {
            /// The granule.
            pa: u64,
        },
        /// Moves a granule to the Non-secure physical address space.
        GtsiUndelegate = 0xC400_01B1 "RMM_GTSI_UNDELEGATE" {
            /// The granule.
            pa: u64,
        },
        /// Fetches the Realm Attestation Key.
        AttestGetRealmKey = 0xC400_01B2 "RMM_ATTEST_GET_REALM_KEY" {
            /// Where to.
            buffer: u64,
            /// Bytes there.
            size: u64,
            /// [`CURVE_P384`](super::CURVE_P384).
            curve: u64,
        },
        /// Fetches a piece of the platform token.
        AttestGetPlatToken = 0xC400_01B3 "RMM_ATTEST_GET_PLAT_TOKEN" {
            /// Where to; at first the challenge is there.
            buffer: u64,
            /// Bytes there.
            size: u64,
            /// 32, 48 or 64 at first, 0 for the remaining pieces.
            challenge_size: u64,
        },
        /// Reads a feature register (from 0.4 on).
        Features = 0xC400_01B4 "RMM_EL3_FEATURES" {
            /// Which register.
            index: u64,
        },
        /// Lets EL3's backend sign a token (from 0.4 on).
        TokenSign = 0xC400_01B5 "RMM_EL3_TOKEN_SIGN" {
            /// What to do.
            op: TokenSignOp,
            /// The structure.
            buffer: u64,
            /// Its bytes.
            size: u64,
            /// [`CURVE_P384`](super::CURVE_P384).
            curve: u64,
        },
        /// Renews a memory encryption key (from 0.5 on).
        MecRefresh = 0xC400_01B6 "RMM_MEC_REFRESH" {
            /// Which and why.
            arg: MecRefresh,
        },
        /// Programs a link encryption key (from 0.6 on).
        IdeKeyProg = 0xC400_01B7 "RMM_IDE_KEY_PROG" {
            /// ECAM address of the root complex.
            ecam: u64,
            /// Root port.
            root_port: u64,
            /// Stream, sub-stream, direction, slot.
            stream: u64,
            /// The key.
            key: [u64; 4],
            /// The initialisation vector.
            iv: [u64; 2],
            /// Identifies the request in an asynchronous answer.
            request: u64,
            /// Comes back with the answer.
            cookie: u64,
        },
        /// Switches to a programmed key (from 0.6 on).
        IdeKeySetGo = 0xC400_01B8 "RMM_IDE_KEY_SET_GO" {
            /// ECAM address of the root complex.
            ecam: u64,
            /// Root port.
            root_port: u64,
            /// Stream, sub-stream, direction, slot.
            stream: u64,
            /// Identifies the request in an asynchronous answer.
            request: u64,
            /// Comes back with the answer.
            cookie: u64,
        },
        /// Stops using a key (from 0.6 on).
        IdeKeySetStop = 0xC400_01B9 "RMM_IDE_KEY_SET_STOP" {
            /// ECAM address of the root complex.
            ecam: u64,
            /// Root port.
            root_port: u64,
            /// Stream, sub-stream, direction, slot.
            stream: u64,
            /// Identifies the request in an asynchronous answer.
            request: u64,
            /// Comes back with the answer.
            cookie: u64,
        },
        /// Fetches an asynchronous answer (from 0.6 on).
        IdeKmPullResponse = 0xC400_01BA "RMM_IDE_KM_PULL_RESPONSE" {
            /// ECAM address of the root complex.
            ecam: u64,
            /// Root port.
            root_port: u64,
        },
        /// Gets memory from EL3 while starting (from 0.7 on).
        ReserveMemory = 0xC400_01BB "RMM_RESERVE_MEMORY" {
            /// Bytes.
            size: u64,
            /// Flags and alignment.
            flags: u64,
        },
        /// Ends the RMM's start on this CPU. Does not return; the first command arrives instead.
        BootComplete = 0xC400_01CF "RMM_BOOT_COMPLETE" {
            /// How it went.
            code: BootCode,
            /// As in [`ColdBoot`](super::ColdBoot).
            activation_token: u64,
        },
    }
}

/// What EL3 answers: X0, and X1 to X3 whose meaning depends on the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct El3Reply {
    /// X0.
    pub code: El3Code,
    /// X1 to X3; zero where the call has no such output.
    pub out: [u64; 3],
}

impl El3Reply {
    /// A code without outputs.
    #[must_use]
    pub const fn new(code: El3Code) -> Self {
        Self { code, out: [0; 3] }
    }
    /// Success with outputs X1 to X3.
    #[must_use]
    pub const fn success(out: [u64; 3]) -> Self {
        Self { code: El3Code::OK, out }
    }
    /// Reads X0 to X3.
    #[must_use]
    pub const fn from_regs(regs: &[u64; 4]) -> Self {
        Self { code: El3Code(regs[0].cast_signed()), out: [regs[1], regs[2], regs[3]] }
    }
    /// X0 to X3.
    #[must_use]
    pub const fn to_regs(&self) -> [u64; 4] {
        [self.code.0.cast_unsigned(), self.out[0], self.out[1], self.out[2]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_and_its_vector_take_consecutive_registers() {
        let regs = [0xC400_01B7, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
        let call = El3Call::from_regs(&regs);
        let El3Call::IdeKeyProg { key, iv, request, cookie, .. } = call else { panic!("{call:?}") };
        assert_eq!((key, iv, request, cookie), ([4, 5, 6, 7], [8, 9], 10, 11));
        assert_eq!(call.to_regs(), regs);
    }

    #[test]
    fn negative_codes_are_sign_extended() {
        let call = El3Call::BootComplete { code: BootCode::MANIFEST_DATA_ERROR, activation_token: 0 };
        assert_eq!(call.to_regs()[..2], [0xC400_01CF, -7_i64 as u64]);
        let reply = El3Reply::new(El3Code::BAD_PAS);
        assert_eq!(reply.to_regs(), [-3_i64 as u64, 0, 0, 0]);
        assert_eq!(El3Reply::from_regs(&reply.to_regs()), reply);
    }

    #[test]
    fn a_key_refresh_has_its_parts_where_they_belong() {
        let refresh = MecRefresh::new(0xabcd, true);
        assert_eq!((refresh.0, refresh.mecid(), refresh.reason()), (0xabcd_0000_0001, 0xabcd, true));
    }
}
