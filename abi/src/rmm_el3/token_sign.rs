//! Structures of RMM_EL3_TOKEN_SIGN (chapter 8.5).

use crate::layout::assert_layout;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// [`TokenSignRequest::sig_alg`]: ECDSA on P-384.
pub const SIG_ECDSA_P384: u32 = 0;
/// [`TokenSignRequest::hash_alg`]: SHA-384.
pub const HASH_SHA_384: u32 = 1;

/// `el3_token_sign_request`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TokenSignRequest {
    /// [`SIG_ECDSA_P384`].
    pub sig_alg: u32,
    pad_4: [u8; 4],
    /// The REC the token is for; opaque to EL3.
    pub rec: u64,
    /// Tells requests of one REC apart; opaque to EL3.
    pub ticket: u64,
    /// [`HASH_SHA_384`].
    pub hash_alg: u32,
    pad_1c: [u8; 4],
    /// Hash of what is to be signed, at the start.
    pub hash: [u8; 64],
}

assert_layout!(TokenSignRequest, 0x60, { sig_alg: 0x0, rec: 0x8, ticket: 0x10, hash_alg: 0x18, hash: 0x20 });

/// `el3_token_sign_response`. Its size is a multiple of 8; the bytes behind the signature are unused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TokenSignResponse {
    /// From the request.
    pub rec: u64,
    /// From the request.
    pub ticket: u64,
    /// Bytes of the signature: 96 for P-384.
    pub sig_len: u16,
    /// r, then s.
    pub signature: [u8; 512],
    pad_212: [u8; 6],
}

assert_layout!(TokenSignResponse, 0x218, { rec: 0x0, ticket: 0x8, sig_len: 0x10, signature: 0x12 });

impl Default for TokenSignRequest {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

impl Default for TokenSignResponse {
    fn default() -> Self {
        Self::new_zeroed()
    }
}
