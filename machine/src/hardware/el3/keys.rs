//! Test keys of this machine: those of the monitor.

use p384::SecretKey;
use p384::pkcs8::{EncodePublicKey, LineEnding};
use realm_monitor::attest::keys::PLATFORM_KEY;

pub use realm_monitor::attest::keys::REALM_ATTESTATION_KEY;

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
        let published = include_str!("../../../../attest/keys/test-platform-key.pub.pem");
        assert_eq!(published, platform_public_key_pem());
    }
}
