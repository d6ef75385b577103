//! Arm CCA attestation tokens (RMM 1.0, CCA attestation token): decoded strictly, explained, verified.
//!
//! A token has two parts, each a signed map of claims. The platform part says what the machine and its firmware
//! are, and is signed by the machine's attestation key. The realm part says what runs in the realm, and is signed by a key
//! whose hash is the challenge of the platform part: so the two belong together.

pub mod cbor;
mod claims;
mod cose;
mod explain;
mod verify;

pub use claims::{
    Lifecycle, PLATFORM_PROFILE, PLATFORM_PROFILE_LEGACY, PlatformClaims, REALM_PROFILE, RealmClaims,
    SoftwareComponent, UnknownClaim,
};
pub use cose::{ES384, KeyError, PublicKey, Sign1};
pub use verify::{Check, Expectations, Report, verify};

use alloc::string::String;
use alloc::vec::Vec;
use cbor::{CborError, Value};

/// Largest token that is read. Real ones have 2 to 4 KiB.
pub const MAX_TOKEN_SIZE: usize = 64 << 10;

/// CBOR tag of a CCA token.
const TAG_CCA_TOKEN: u64 = 399;
/// Key of the platform part.
const KEY_PLATFORM: i128 = 44234;
/// Key of the realm part.
const KEY_REALM: i128 = 44241;

/// A decoded token. Nothing in it has been verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The signed platform part.
    pub platform: Sign1,
    /// Its claims.
    pub platform_claims: PlatformClaims,
    /// The signed realm part.
    pub realm: Sign1,
    /// Its claims.
    pub realm_claims: RealmClaims,
}

/// Why bytes are not a CCA token. Every message is one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// More bytes than any token has.
    #[error("{0} bytes: a token has at most {MAX_TOKEN_SIZE}")]
    TooLarge(usize),
    /// Not CBOR, or CBOR that is not strict.
    #[error("{part}: {error}")]
    Cbor {
        /// Where.
        part: &'static str,
        /// What is wrong.
        error: CborError,
    },
    /// Something other than expected.
    #[error("{part}: expected {expected}, found {found}")]
    Structure {
        /// Where.
        part: &'static str,
        /// What belongs there.
        expected: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// A required claim is not there.
    #[error("{part}: claim {key} ({name}) is missing")]
    MissingClaim {
        /// Where.
        part: &'static str,
        /// The claim's key.
        key: i64,
        /// The claim's name.
        name: &'static str,
    },
    /// A claim has a wrong type or length.
    #[error("{part}: claim {key} ({name}): expected {expected}, found {found}")]
    Claim {
        /// Where.
        part: &'static str,
        /// The claim's key.
        key: i64,
        /// The claim's name.
        name: &'static str,
        /// What belongs there.
        expected: String,
        /// What is there.
        found: String,
    },
}

impl Token {
    /// Decodes a token: CBOR tag 399 around a map of the two parts.
    ///
    /// # Errors
    /// The first thing that is not as the specification has it: duplicate keys, wrong types or lengths, missing claims,
    /// trailing bytes, an encoding that is not the shortest. Claims with unknown keys are kept.
    pub fn decode(bytes: &[u8]) -> Result<Self, TokenError> {
        const PART: &str = "CCA token";
        let wrong = |expected, found| TokenError::Structure { part: PART, expected, found };
        if bytes.len() > MAX_TOKEN_SIZE {
            return Err(TokenError::TooLarge(bytes.len()));
        }
        let value = Value::decode(bytes).map_err(|error| TokenError::Cbor { part: PART, error })?;
        let Value::Tag(TAG_CCA_TOKEN, inner) = value else {
            return Err(wrong("CBOR tag 399", value.type_name()));
        };
        let Value::Map(entries) = *inner else {
            return Err(wrong("a map in tag 399", inner.type_name()));
        };
        if entries.len() != 2 {
            return Err(wrong("exactly the keys 44234 and 44241", "another number of entries"));
        }
        let part = |key, expected| match entries.iter().find(|(label, _)| *label == Value::Int(key)) {
            Some((_, Value::Bytes(bytes))) => Ok(bytes.as_slice()),
            Some((_, other)) => Err(wrong(expected, other.type_name())),
            None => Err(wrong(expected, "no such key")),
        };
        let platform = part(KEY_PLATFORM, "the platform token in a byte string under key 44234")?;
        let realm = part(KEY_REALM, "the realm token in a byte string under key 44241")?;
        let platform = Sign1::decode("platform token", platform)?;
        let realm = Sign1::decode("realm token", realm)?;
        Ok(Self {
            platform_claims: PlatformClaims::decode(&platform.payload)?,
            platform,
            realm_claims: RealmClaims::decode(&realm.payload)?,
            realm,
        })
    }

    /// Headers that are in the token but under no signature.
    fn unsigned_headers(&self) -> Vec<UnknownClaim> {
        let headers = self.platform.unprotected.iter().chain(&self.realm.unprotected);
        headers.map(|(key, value)| UnknownClaim { key: key.clone(), value: value.clone() }).collect()
    }
}

#[cfg(test)]
mod tests;
