//! The encoding of a CCA attestation token (RMM 1.0): claims in CBOR, signed as COSE_Sign1 (RFC 9052).

use super::sign::{SCALAR_SIZE, SIGNATURE_SIZE};
use minicbor::data::Tag;
use minicbor::encode::write::{Cursor, EndOfSlice};
use minicbor::encode::{Encoder, Error};
use realm_abi::rmi::{HashAlgorithm, MEASUREMENT_SIZE, MEASUREMENT_SLOTS, RPV_SIZE};
use sha2::{Digest, Sha384};

/// Bytes of an encoded [`cose_key`].
pub const COSE_KEY_SIZE: usize = 107;
/// Bytes of a challenge.
pub const CHALLENGE_SIZE: usize = 64;
/// Most bytes of what [`head`] writes.
pub const HEAD_SIZE: usize = 16;

/// CBOR tag of a CCA token, a collection of conceptual messages.
const CCA_TOKEN_TAG: u64 = 399;
/// CBOR tag of a COSE_Sign1.
const COSE_SIGN1_TAG: u64 = 18;
/// Key of the platform token in the collection.
const PLATFORM_TOKEN: u16 = 44234;
/// Key of the realm token in the collection.
const REALM_TOKEN: u16 = 44241;
/// The protected header {1: -35}: algorithm ES384.
const PROTECTED: [u8; 4] = [0xa1, 0x01, 0x38, 0x22];

/// Keys of the realm's claims.
mod claim {
    pub const CHALLENGE: u16 = 10;
    pub const PROFILE: u16 = 265;
    pub const PERSONALIZATION_VALUE: u16 = 44235;
    pub const HASH_ALGORITHM: u16 = 44236;
    pub const PUBLIC_KEY: u16 = 44237;
    pub const INITIAL_MEASUREMENT: u16 = 44238;
    pub const EXTENSIBLE_MEASUREMENTS: u16 = 44239;
    pub const PUBLIC_KEY_HASH_ALGORITHM: u16 = 44240;
    /// Claims of a realm.
    pub const COUNT: u64 = 8;
}

const PROFILE: &str = "tag:arm.com,2023:realm#1.0.0";
const SHA_256: &str = "sha-256";
const SHA_512: &str = "sha-512";

/// The buffer is too short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl From<Error<EndOfSlice>> for TooLong {
    fn from(_: Error<EndOfSlice>) -> Self {
        Self
    }
}

type Result<T> = core::result::Result<T, TooLong>;

/// What a realm token says.
pub struct Claims<'a> {
    /// What the realm was asked to prove it is alive with.
    pub challenge: &'a [u8; CHALLENGE_SIZE],
    /// Realm Personalization Value.
    pub rpv: &'a [u8; RPV_SIZE],
    /// Hash of the measurements.
    pub hash_algo: HashAlgorithm,
    /// RIM and REMs, padded.
    pub measurements: &'a [[u8; MEASUREMENT_SIZE]; MEASUREMENT_SLOTS],
    /// The Realm Attestation Key's public half, encoded.
    pub cose_key: &'a [u8; COSE_KEY_SIZE],
}

/// The COSE_Key of a P-384 point: kty EC2, curve P-384, x, y.
pub fn cose_key(x: &[u8; SCALAR_SIZE], y: &[u8; SCALAR_SIZE]) -> Result<[u8; COSE_KEY_SIZE]> {
    let mut out = [0; COSE_KEY_SIZE];
    let mut encoder = Encoder::new(Cursor::new(&mut out[..]));
    encoder.map(4)?.u8(1)?.u8(2)?.i8(-1)?.u8(2)?.i8(-2)?.bytes(x)?.i8(-3)?.bytes(y)?;
    Ok(out)
}

/// The bytes of a CCA token before a platform token of `platform_len` bytes; returns how many.
pub fn head(platform_len: usize, out: &mut [u8]) -> Result<usize> {
    let mut encoder = Encoder::new(Cursor::new(out));
    encoder.tag(Tag::new(CCA_TOKEN_TAG))?.map(2)?.u16(PLATFORM_TOKEN)?.bytes_len(as_u64(platform_len))?;
    Ok(encoder.writer().position())
}

/// Writes the bytes of a CCA token behind the platform token, all but the signature, which comes last. Returns the
/// length with the signature, and the digest to sign.
pub fn realm_part(claims: &Claims<'_>, out: &mut [u8]) -> Result<(usize, [u8; SCALAR_SIZE])> {
    // The payload's length comes before it: it is encoded once to know the length.
    let payload_len = encode_claims(claims, out)?;
    // Tag and array, the protected header in its byte string, the empty map, then two byte strings.
    let token_len = 2_usize
        .saturating_add(bytes_size(PROTECTED.len()))
        .saturating_add(1)
        .saturating_add(bytes_size(payload_len))
        .saturating_add(bytes_size(SIGNATURE_SIZE));
    let mut encoder = Encoder::new(Cursor::new(&mut *out));
    encoder.u16(REALM_TOKEN)?.bytes_len(as_u64(token_len))?;
    encoder
        .tag(Tag::new(COSE_SIGN1_TAG))?
        .array(4)?
        .bytes(&PROTECTED)?
        .map(0)?
        .bytes_len(as_u64(payload_len))?;
    let start = encoder.writer().position();
    let rest = out.get_mut(start..).ok_or(TooLong)?;
    encode_claims(claims, rest)?;
    let payload = rest.get(..payload_len).ok_or(TooLong)?;
    let digest = signature_input(payload)?;
    let rest = rest.get_mut(payload_len..).ok_or(TooLong)?;
    Encoder::new(Cursor::new(&mut *rest)).bytes(&[0; SIGNATURE_SIZE])?;
    Ok((start.saturating_add(payload_len).saturating_add(bytes_size(SIGNATURE_SIZE)), digest))
}

/// SHA-384 of the Sig_structure (RFC 9052 section 4.4) of a realm token.
fn signature_input(payload: &[u8]) -> Result<[u8; SCALAR_SIZE]> {
    let mut start = [0; 32];
    let mut encoder = Encoder::new(Cursor::new(&mut start[..]));
    encoder.array(4)?.str("Signature1")?.bytes(&PROTECTED)?.bytes(&[])?.bytes_len(as_u64(payload.len()))?;
    let len = encoder.writer().position();
    let start = start.get(..len).ok_or(TooLong)?;
    Ok(Sha384::new().chain_update(start).chain_update(payload).finalize().into())
}

/// The claims in the order reference firmware has them; returns their length.
fn encode_claims(claims: &Claims<'_>, out: &mut [u8]) -> Result<usize> {
    let (hash, hash_len) = match claims.hash_algo {
        HashAlgorithm::SHA_512 => (SHA_512, 64),
        _ => (SHA_256, 32),
    };
    // A measurement has the length of its hash here, without the padding.
    let measurements = claims.measurements.each_ref().map(|slot| slot.get(..hash_len).unwrap_or(slot));
    let [rim, rems @ ..] = measurements;
    let mut encoder = Encoder::new(Cursor::new(out));
    encoder.map(claim::COUNT)?;
    encoder.u16(claim::CHALLENGE)?.bytes(claims.challenge)?;
    encoder.u16(claim::PERSONALIZATION_VALUE)?.bytes(claims.rpv)?;
    encoder.u16(claim::PUBLIC_KEY)?.bytes(claims.cose_key)?;
    encoder.u16(claim::HASH_ALGORITHM)?.str(hash)?;
    encoder.u16(claim::PUBLIC_KEY_HASH_ALGORITHM)?.str(SHA_256)?;
    encoder.u16(claim::PROFILE)?.str(PROFILE)?;
    encoder.u16(claim::INITIAL_MEASUREMENT)?.bytes(rim)?;
    encoder.u16(claim::EXTENSIBLE_MEASUREMENTS)?.array(as_u64(rems.len()))?;
    for rem in rems {
        encoder.bytes(rem)?;
    }
    Ok(encoder.writer().position())
}

/// Bytes of a byte string of `len` bytes with its head.
const fn bytes_size(len: usize) -> usize {
    let head = match len {
        0..=23 => 1,
        24..=0xff => 2,
        _ => 3,
    };
    len.saturating_add(head)
}

fn as_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use p384::elliptic_curve::bigint::{U256, U384};
    use sha2::Sha256;

    #[test]
    fn the_digest_of_the_reference_key_is_the_challenge_of_the_reference_platform_token() {
        let x = U384::from_be_hex(
            "76f988091be585ed41801aecfab858548c63057e16b0e676120bbd0d2f9c29e056c5d41a0130eb9c21517899dc23146b",
        );
        let y = U384::from_be_hex(
            "28e1b062bd3ea4b315fd219f1cbb528cb6e74ca49be16773734f61a1ca61031b2bbf3d918f2f94ffc4228e50919544ae",
        );
        let key = cose_key(&x.to_be_bytes().into(), &y.to_be_bytes().into()).unwrap();
        let expected = U256::from_be_hex("0d22e08a98469058486318283489bdb36f09dbefeb1864df433fa6e54ea2d711");
        assert_eq!(Sha256::digest(key)[..], expected.to_be_bytes()[..]);
    }

    #[test]
    fn a_token_begins_as_the_reference_says() {
        let mut out = [0; HEAD_SIZE];
        let len = head(1518, &mut out).unwrap();
        assert_eq!(out[..len], [0xd9, 0x01, 0x8f, 0xa2, 0x19, 0xac, 0xca, 0x59, 0x05, 0xee]);
    }

    fn claims_of(hash_algo: HashAlgorithm) -> ([u8; 2048], usize, [u8; SCALAR_SIZE]) {
        let mut out = [0xaa; 2048];
        let claims = Claims {
            challenge: &[1; 64],
            rpv: &[2; 64],
            hash_algo,
            measurements: &[[3; 64], [4; 64], [5; 64], [6; 64], [7; 64]],
            cose_key: &[8; COSE_KEY_SIZE],
        };
        let (len, digest) = realm_part(&claims, &mut out).unwrap();
        (out, len, digest)
    }

    #[test]
    fn the_lengths_written_are_the_lengths_read_back() {
        for (hash_algo, name, hash_len) in
            [(HashAlgorithm::SHA_256, SHA_256, 32), (HashAlgorithm::SHA_512, SHA_512, 64)]
        {
            let (out, len, digest) = claims_of(hash_algo);
            assert!(out[len..].iter().all(|byte| *byte == 0xaa));
            let mut outer = minicbor::Decoder::new(&out[..len]);
            assert_eq!(outer.u16().unwrap(), REALM_TOKEN);
            let token = outer.bytes().unwrap();
            assert_eq!(outer.position(), len);
            let mut sign1 = minicbor::Decoder::new(token);
            assert_eq!(sign1.tag().unwrap(), Tag::new(COSE_SIGN1_TAG));
            assert_eq!(sign1.array().unwrap(), Some(4));
            assert_eq!(sign1.bytes().unwrap(), PROTECTED);
            assert_eq!(sign1.map().unwrap(), Some(0));
            let payload = sign1.bytes().unwrap();
            assert_eq!(sign1.bytes().unwrap(), [0; SIGNATURE_SIZE]);
            assert_eq!(sign1.position(), token.len());
            assert_eq!(signature_input(payload).unwrap(), digest);

            let mut claims = minicbor::Decoder::new(payload);
            assert_eq!(claims.map().unwrap(), Some(8));
            assert_eq!((claims.u16().unwrap(), claims.bytes().unwrap()), (10, &[1; 64][..]));
            assert_eq!((claims.u16().unwrap(), claims.bytes().unwrap()), (44235, &[2; 64][..]));
            assert_eq!((claims.u16().unwrap(), claims.bytes().unwrap()), (44237, &[8; COSE_KEY_SIZE][..]));
            assert_eq!((claims.u16().unwrap(), claims.str().unwrap()), (44236, name));
            assert_eq!((claims.u16().unwrap(), claims.str().unwrap()), (44240, "sha-256"));
            assert_eq!((claims.u16().unwrap(), claims.str().unwrap()), (265, "tag:arm.com,2023:realm#1.0.0"));
            assert_eq!((claims.u16().unwrap(), claims.bytes().unwrap()), (44238, &[3; 64][..hash_len]));
            assert_eq!((claims.u16().unwrap(), claims.array().unwrap()), (44239, Some(4)));
            for rem in 4..8 {
                assert_eq!(claims.bytes().unwrap(), &[rem; 64][..hash_len]);
            }
            assert_eq!(claims.position(), payload.len());
        }
    }

    #[test]
    fn a_buffer_too_short_is_an_error_and_not_a_truncated_token() {
        let (_, len, _) = claims_of(HashAlgorithm::SHA_512);
        let claims = Claims {
            challenge: &[1; 64],
            rpv: &[2; 64],
            hash_algo: HashAlgorithm::SHA_512,
            measurements: &[[3; 64]; 5],
            cose_key: &[8; COSE_KEY_SIZE],
        };
        for short in [0, 1, 20, len / 2, len - 1] {
            assert!(realm_part(&claims, &mut [0; 2048][..short]).is_err());
        }
    }
}
