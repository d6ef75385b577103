//! Test keys of this machine. They protect nothing: whoever reads this file has them. A platform has its own.

use p384::SecretKey;
use p384::ecdsa::SigningKey;
use p384::pkcs8::{EncodePublicKey, LineEnding};

/// The private scalar of the Realm Attestation Key, big-endian: RMM_ATTEST_GET_REALM_KEY.
pub const REALM_ATTESTATION_KEY: [u8; 48] = *b"realmkit TEST realm attestation key: not secret!";

/// The private scalar of the key that signs platform tokens (the Initial Attestation Key), big-endian.
const PLATFORM_KEY: [u8; 48] = *b"realmkit TEST platform attestation key: no secre";

/// The key that signs platform tokens.
///
/// # Panics
/// Never: the scalar is constant and below the order of P-384.
#[must_use]
pub fn platform_signing_key() -> SigningKey {
    SigningKey::from(SecretKey::from_slice(&PLATFORM_KEY).expect("a constant below the order"))
}

/// The public half of the key that signs platform tokens, PEM SubjectPublicKeyInfo: what a verifier trusts.
///
/// # Panics
/// Never: any P-384 public key can be encoded.
#[must_use]
pub fn platform_public_key_pem() -> String {
    let key = SecretKey::from_slice(&PLATFORM_KEY).expect("a constant below the order").public_key();
    key.to_public_key_pem(LineEnding::LF).expect("a valid key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_platform_key_is_the_one_that_signs() {
        let published = include_str!("../../../attest/keys/test-platform-key.pub.pem");
        assert_eq!(published, platform_public_key_pem());
    }
}
