use super::*;
use minicbor::Decoder;
use minicbor::data::Tag;
use p384::ecdsa::VerifyingKey;
use p384::ecdsa::signature::Verifier;
use p384::ecdsa::signature::hazmat::PrehashVerifier;

const PLATFORM: Platform<'static> =
    Platform { config: "a test", components: &[("EL3", [3; 32]), ("RMM", [4; 32])] };

fn token(challenge: &[u8]) -> Vec<u8> {
    let mut out = vec![0; TOKEN_MAX];
    let size = platform_token(&PLATFORM, challenge, &mut out).expect("a token");
    out.truncate(size);
    out
}

fn platform_key() -> VerifyingKey {
    VerifyingKey::from(SecretKey::from_slice(&keys::PLATFORM_KEY).expect("a key").public_key())
}

#[test]
fn a_platform_token_carries_the_challenge_and_verifies() {
    for size in [32, 48, 64] {
        let challenge = vec![0x5a; size];
        let token = token(&challenge);
        let mut d = Decoder::new(&token);
        assert_eq!(d.tag().expect("tagged"), Tag::new(18));
        assert_eq!(d.array().expect("array"), Some(4));
        let protected = d.bytes().expect("protected");
        assert_eq!(d.map().expect("unprotected"), Some(0));
        let payload = d.bytes().expect("payload");
        let signature = Signature::from_slice(d.bytes().expect("signature")).expect("r and s");
        assert_eq!(d.position(), token.len());
        assert!(payload.windows(size).any(|window| window == challenge));
        let mut tbs = vec![0; 2048];
        let mut e = minicbor::Encoder::new(minicbor::encode::write::Cursor::new(tbs.as_mut_slice()));
        e.array(4)
            .and_then(|e| e.str("Signature1")?.bytes(protected)?.bytes(&[])?.bytes(payload))
            .expect("room");
        let size = e.into_writer().position();
        platform_key().verify(&tbs[..size], &signature).expect("signed by the platform key");
    }
}

#[test]
fn a_challenge_that_is_no_hash_is_refused() {
    for size in [0, 31, 33, 65] {
        let result = platform_token(&PLATFORM, &vec![0; size], &mut [0; TOKEN_MAX]);
        assert_eq!(result, Err(TokenError::Challenge(size)));
    }
    assert_eq!(platform_token(&PLATFORM, &[0; 32], &mut [0; 100]), Err(TokenError::NoRoom));
}

#[test]
fn what_is_signed_for_the_realm_world_verifies_with_the_public_half() {
    let point = realm_public_key().expect("a point");
    assert_eq!(point[0], 4);
    let key = VerifyingKey::from_sec1_bytes(&point).expect("a point on the curve");
    let hash = [0x77; 48];
    let signature = sign_for_realm(&hash).expect("a signature");
    let signature = Signature::from_slice(&signature).expect("r and s");
    key.verify_prehash(&hash, &signature).expect("signed by the Realm Attestation Key");
}
