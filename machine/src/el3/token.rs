//! The platform token (RMM 1.0, CCA platform token claims): claims about this machine, signed with its test key.

use super::keys;
use minicbor::Encoder;
use minicbor::data::Tag;
use minicbor::encode::Error;
use p384::ecdsa::Signature;
use p384::ecdsa::signature::Signer;
use sha2::{Digest, Sha256};
use std::convert::Infallible;

/// Why there is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// A challenge is a hash.
    #[error("a challenge has 32, 48 or 64 bytes, not {0}")]
    Challenge(usize),
}

/// Claim keys of a platform token.
mod claim {
    pub const NONCE: u16 = 10;
    pub const INSTANCE_ID: u16 = 256;
    pub const PROFILE: u16 = 265;
    pub const LIFECYCLE: u16 = 2395;
    pub const IMPLEMENTATION_ID: u16 = 2396;
    pub const SW_COMPONENTS: u16 = 2399;
    pub const VERIFICATION_SERVICE: u16 = 2400;
    pub const CONFIG: u16 = 2401;
    pub const HASH_ALGORITHM: u16 = 2402;
}

/// The protected header {alg: ES384}.
const PROTECTED: [u8; 4] = [0xa1, 0x01, 0x38, 0x22];
/// "Secured".
const LIFECYCLE_SECURED: u16 = 0x3003;
/// What runs below the Realm world here: type and version.
const COMPONENTS: [(&str, &str); 2] =
    [("EL3", env!("CARGO_PKG_VERSION")), ("RMM", env!("CARGO_PKG_VERSION"))];

fn claims(challenge: &[u8]) -> Result<Vec<u8>, Error<Infallible>> {
    let name = |what: &str| Sha256::digest(format!("realmkit machine: {what}"));
    let mut instance = [1; 33];
    instance[1..].copy_from_slice(&name("instance"));
    let mut e = Encoder::new(Vec::new());
    e.map(9)?;
    e.u16(claim::PROFILE)?.str("tag:arm.com,2023:cca_platform#1.0.0")?;
    e.u16(claim::NONCE)?.bytes(challenge)?;
    e.u16(claim::IMPLEMENTATION_ID)?.bytes(&name("implementation"))?;
    e.u16(claim::INSTANCE_ID)?.bytes(&instance)?;
    e.u16(claim::CONFIG)?.bytes(b"in one process")?;
    e.u16(claim::LIFECYCLE)?.u16(LIFECYCLE_SECURED)?;
    e.u16(claim::HASH_ALGORITHM)?.str("sha-256")?;
    e.u16(claim::VERIFICATION_SERVICE)?.str("https://verifier.invalid/realmkit-test")?;
    e.u16(claim::SW_COMPONENTS)?.array(COMPONENTS.len() as u64)?;
    for (kind, version) in COMPONENTS {
        e.map(5)?;
        e.u8(1)?.str(kind)?;
        e.u8(2)?.bytes(&name(kind))?;
        e.u8(4)?.str(version)?;
        e.u8(5)?.bytes(&name("signer"))?;
        e.u8(6)?.str("sha-256")?;
    }
    Ok(e.into_writer())
}

fn sign(payload: &[u8]) -> Result<Vec<u8>, Error<Infallible>> {
    let mut tbs = Encoder::new(Vec::new());
    tbs.array(4)?.str("Signature1")?.bytes(&PROTECTED)?.bytes(&[])?.bytes(payload)?;
    let signature: Signature = keys::platform_signing_key().sign(tbs.writer());
    let mut token = Encoder::new(Vec::new());
    token
        .tag(Tag::new(18))?
        .array(4)?
        .bytes(&PROTECTED)?
        .map(0)?
        .bytes(payload)?
        .bytes(&signature.to_bytes())?;
    Ok(token.into_writer())
}

/// A platform token bound to `challenge`: a tagged COSE_Sign1, ES384.
pub(super) fn platform_token(challenge: &[u8]) -> Result<Vec<u8>, TokenError> {
    if !matches!(challenge.len(), 32 | 48 | 64) {
        return Err(TokenError::Challenge(challenge.len()));
    }
    // Writing to a vector cannot fail.
    Ok(claims(challenge).and_then(|payload| sign(&payload)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use p384::ecdsa::VerifyingKey;
    use p384::ecdsa::signature::Verifier;

    #[test]
    fn a_platform_token_carries_the_challenge_and_verifies() {
        let challenge = [0x5a; 32];
        let token = platform_token(&challenge).expect("a challenge of 32 bytes");
        let mut d = minicbor::Decoder::new(&token);
        assert_eq!(d.tag().expect("tagged"), Tag::new(18));
        assert_eq!(d.array().expect("array"), Some(4));
        assert_eq!(d.bytes().expect("protected"), PROTECTED);
        assert_eq!(d.map().expect("unprotected"), Some(0));
        let payload = d.bytes().expect("payload");
        let signature = Signature::from_slice(d.bytes().expect("signature")).expect("r and s");
        assert!(payload.windows(32).any(|window| window == challenge));
        let mut tbs = Encoder::new(Vec::new());
        tbs.array(4)
            .and_then(|e| e.str("Signature1")?.bytes(&PROTECTED)?.bytes(&[])?.bytes(payload))
            .expect("vector");
        let key = VerifyingKey::from(keys::platform_signing_key().verifying_key().to_owned());
        key.verify(tbs.writer(), &signature).expect("signed by the platform key");
    }

    #[test]
    fn a_challenge_that_is_no_hash_is_refused() {
        assert_eq!(platform_token(&[0; 31]), Err(TokenError::Challenge(31)));
    }
}
