//! The platform token (RMM 1.0): a COSE_Sign1 with the platform's claims, bound to a challenge.

use super::{SIGNATURE_SIZE, keys, sign_hash};
use minicbor::Encoder;
use minicbor::data::Tag;
use minicbor::encode::write::Cursor;
use sha2::{Digest, Sha256, Sha384};

/// Most bytes of a token.
pub const TOKEN_MAX: usize = 1024;
const CLAIMS_MAX: usize = 768;

/// Why there is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// A challenge is a hash: it has 32, 48 or 64 bytes, not this many.
    Challenge(usize),
    /// The claims do not fit, or cannot be signed.
    NoRoom,
}

/// What the token says of the platform.
#[derive(Clone, Copy, Debug)]
pub struct Platform<'a> {
    /// What tells one kind of machine from another.
    pub config: &'a str,
    /// What runs below the Realm world: its kind, and SHA-256 of its image.
    pub components: &'a [(&'a str, [u8; 32])],
}

/// Claim keys.
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
/// The first byte of an instance identifier.
const UEID_RANDOM: u8 = 1;

type Encoded = Result<usize, minicbor::encode::Error<minicbor::encode::write::EndOfSlice>>;

fn name(what: &str) -> [u8; 32] {
    Sha256::new().chain_update("realmkit machine: ").chain_update(what).finalize().into()
}

fn claims(platform: &Platform<'_>, challenge: &[u8], out: &mut [u8]) -> Encoded {
    let mut e = Encoder::new(Cursor::new(out));
    let mut instance = [UEID_RANDOM; 33];
    for (byte, value) in instance.iter_mut().skip(1).zip(name("instance")) {
        *byte = value;
    }
    e.map(9)?;
    e.u16(claim::PROFILE)?.str("tag:arm.com,2023:cca_platform#1.0.0")?;
    e.u16(claim::NONCE)?.bytes(challenge)?;
    e.u16(claim::IMPLEMENTATION_ID)?.bytes(&name("implementation"))?;
    e.u16(claim::INSTANCE_ID)?.bytes(&instance)?;
    e.u16(claim::CONFIG)?.bytes(platform.config.as_bytes())?;
    e.u16(claim::LIFECYCLE)?.u16(LIFECYCLE_SECURED)?;
    e.u16(claim::HASH_ALGORITHM)?.str("sha-256")?;
    e.u16(claim::VERIFICATION_SERVICE)?.str("https://verifier.invalid/realmkit-test")?;
    e.u16(claim::SW_COMPONENTS)?.array(platform.components.len() as u64)?;
    for (kind, measurement) in platform.components {
        e.map(5)?;
        e.u8(1)?.str(kind)?;
        e.u8(2)?.bytes(measurement)?;
        e.u8(4)?.str(env!("CARGO_PKG_VERSION"))?;
        e.u8(5)?.bytes(&name("signer"))?;
        e.u8(6)?.str("sha-256")?;
    }
    Ok(e.into_writer().position())
}

/// SHA-384 of the Sig_structure (RFC 9052 section 4.4) around a payload.
fn to_be_signed(payload: &[u8]) -> Option<[u8; 48]> {
    // All but the payload itself, which follows the last head.
    let mut head = [0; 32];
    let mut e = Encoder::new(Cursor::new(head.as_mut_slice()));
    e.array(4).ok()?.str("Signature1").ok()?.bytes(&PROTECTED).ok()?.bytes(&[]).ok()?;
    e.bytes_len(payload.len() as u64).ok()?;
    let size = e.into_writer().position();
    Some(Sha384::new().chain_update(head.get(..size)?).chain_update(payload).finalize().into())
}

fn wrap(payload: &[u8], signature: &[u8; SIGNATURE_SIZE], out: &mut [u8]) -> Encoded {
    let mut e = Encoder::new(Cursor::new(out));
    e.tag(Tag::new(18))?.array(4)?.bytes(&PROTECTED)?.map(0)?.bytes(payload)?.bytes(signature)?;
    Ok(e.into_writer().position())
}

/// Writes the token of `platform`, bound to `challenge`, to `out` and returns its bytes: a tagged COSE_Sign1, ES384.
///
/// # Errors
/// See [`TokenError`]; `out` is not to be used then.
pub fn platform_token(
    platform: &Platform<'_>,
    challenge: &[u8],
    out: &mut [u8],
) -> Result<usize, TokenError> {
    if !matches!(challenge.len(), 32 | 48 | 64) {
        return Err(TokenError::Challenge(challenge.len()));
    }
    let mut payload = [0; CLAIMS_MAX];
    let size = claims(platform, challenge, &mut payload).map_err(|_| TokenError::NoRoom)?;
    let payload = payload.get(..size).ok_or(TokenError::NoRoom)?;
    let signature = to_be_signed(payload).and_then(|hash| sign_hash(&keys::PLATFORM_KEY, &hash));
    wrap(payload, &signature.ok_or(TokenError::NoRoom)?, out).map_err(|_| TokenError::NoRoom)
}
