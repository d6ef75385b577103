//! The platform's part of attestation: its test keys, and the token in which it vouches for the RMM's key.

pub mod keys;
mod token;

pub use keys::REALM_ATTESTATION_KEY;
pub use token::{Platform, TOKEN_MAX, TokenError, platform_token};

use p384::SecretKey;
use p384::ecdsa::signature::hazmat::PrehashSigner;
use p384::ecdsa::{Signature, SigningKey};
use p384::elliptic_curve::sec1::ToSec1Point;

/// Bytes of an uncompressed P-384 point.
pub const POINT_SIZE: usize = 97;
/// Bytes of a signature: r, then s.
pub const SIGNATURE_SIZE: usize = 96;

/// The public half of the Realm Attestation Key as an uncompressed point; `None` never happens with the constant key.
#[must_use]
pub fn realm_public_key() -> Option<[u8; POINT_SIZE]> {
    let key = SecretKey::from_slice(&REALM_ATTESTATION_KEY).ok()?;
    key.public_key().to_sec1_point(false).as_bytes().try_into().ok()
}

/// Signs a SHA-384 hash with the Realm Attestation Key, for an RMM that leaves this to EL3.
#[must_use]
pub fn sign_for_realm(hash: &[u8; 48]) -> Option<[u8; SIGNATURE_SIZE]> {
    sign_hash(&REALM_ATTESTATION_KEY, hash)
}

fn sign_hash(key: &[u8; 48], hash: &[u8; 48]) -> Option<[u8; SIGNATURE_SIZE]> {
    let key = SigningKey::from(SecretKey::from_slice(key).ok()?);
    let signature: Signature = key.sign_prehash(hash).ok()?;
    signature.to_bytes().as_slice().try_into().ok()
}

#[cfg(test)]
mod tests;
