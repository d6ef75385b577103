//! Attestation: tokens that prove to a third party which realm on which platform speaks (RMM 1.0).
//!
//! At boot the RMM gets the Realm Attestation Key from EL3 and the platform token that vouches for it; both serve all
//! realms. The realm token is made in an auxiliary granule of the REC that asks; signing it stops for interrupts.

mod sign;
mod token;

use crate::granule::granule_content;
use crate::platform::{El3Error, Platform};
use core::fmt;
use realm_abi::rmi::{HashAlgorithm, MEASUREMENT_SIZE, MEASUREMENT_SLOTS, RPV_SIZE};
use sha2::{Digest, Sha256};
pub(crate) use sign::Progress;
use sign::{SCALAR_SIZE, SIGNATURE_SIZE, Signing};
use spin::Once;
pub(crate) use token::CHALLENGE_SIZE;
use token::{COSE_KEY_SIZE, Claims, HEAD_SIZE};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
use zeroize::{Zeroize, Zeroizing};

/// Most bytes of a platform token.
pub const PLATFORM_TOKEN_MAX: usize = 8192;
/// Most bytes of the part of a CCA token that is the realm's.
const REALM_PART_MAX: usize = 2048;

/// Why there is no attestation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttestError {
    /// EL3 gave no Realm Attestation Key.
    Key(El3Error),
    /// EL3 gave no platform token.
    PlatformToken(El3Error),
    /// The Realm Attestation Key is no P-384 private key.
    InvalidKey,
    /// The platform token has this length, which is none.
    TokenLength(usize),
}

impl fmt::Display for AttestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(El3Error(code)) => write!(f, "EL3 gave no Realm Attestation Key: error {code}"),
            Self::PlatformToken(El3Error(code)) => write!(f, "EL3 gave no platform token: error {code}"),
            Self::InvalidKey => f.write_str("the Realm Attestation Key is not a P-384 private key"),
            Self::TokenLength(len) => {
                write!(f, "a platform token of {len} bytes: it must have 1 to {PLATFORM_TOKEN_MAX}")
            }
        }
    }
}

impl core::error::Error for AttestError {}

/// A token cannot be made: there is no key, or an event of negligible probability happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unavailable;

/// What all tokens have in common.
#[derive(Default)]
pub(crate) struct Attestation(Once<Material>);

struct Material {
    /// The private Realm Attestation Key.
    key: [u8; SCALAR_SIZE],
    /// Its public half.
    cose_key: [u8; COSE_KEY_SIZE],
    /// The first part of every CCA token, from `start` to `end`: its head and the platform token.
    common: [u8; HEAD_SIZE + PLATFORM_TOKEN_MAX],
    start: usize,
    end: usize,
}

impl fmt::Debug for Attestation {
    /// Says whether there is a key, and nothing of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Attestation").field(&self.0.is_completed()).finish()
    }
}

impl Material {
    fn fetch<P: Platform>(platform: &P) -> Result<Self, AttestError> {
        let mut key = Zeroizing::new([0; SCALAR_SIZE]);
        platform.realm_attestation_key(&mut key).map_err(AttestError::Key)?;
        let (x, y) = sign::public_key(&key).map_err(|_| AttestError::InvalidKey)?;
        let cose_key = token::cose_key(&x, &y).map_err(|_| AttestError::InvalidKey)?;
        let mut common = [0; HEAD_SIZE + PLATFORM_TOKEN_MAX];
        let (space, platform_token) = common.split_at_mut(HEAD_SIZE);
        let challenge = Sha256::digest(cose_key);
        let len = platform.platform_token(&challenge, platform_token).map_err(AttestError::PlatformToken)?;
        if len == 0 || len > platform_token.len() {
            return Err(AttestError::TokenLength(len));
        }
        let mut head = [0; HEAD_SIZE];
        let head_len = token::head(len, &mut head).map_err(|_| AttestError::TokenLength(len))?;
        let start = HEAD_SIZE.saturating_sub(head_len);
        for (to, from) in space.iter_mut().skip(start).zip(head) {
            *to = from;
        }
        Ok(Self { key: *key, cose_key, common, start, end: HEAD_SIZE.saturating_add(len) })
    }

    fn common(&self) -> &[u8] {
        self.common.get(self.start..self.end).unwrap_or(&[])
    }
}

impl Attestation {
    /// No key yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Once::new())
    }

    /// Gets key and platform token, once.
    ///
    /// # Errors
    /// See [`AttestError`]; it can be tried again.
    pub fn init<P: Platform>(&self, platform: &P) -> Result<(), AttestError> {
        let fetched = self.0.try_call_once(|| Material::fetch(platform)).map(|_| ());
        // The key was in what has become static since.
        wipe_stack::<{ 3 * size_of::<Material>() }>();
        fetched
    }

    /// Starts to make a token in `generation`, whatever was there; returns its length in bytes.
    ///
    /// # Errors
    /// If there is no key.
    pub fn begin(&self, generation: &mut Generation, subject: &Subject<'_>) -> Result<usize, Unavailable> {
        let begun = self.try_begin(generation, subject);
        wipe_stack::<STEP_STACK>();
        begun
    }

    #[inline(never)]
    fn try_begin(&self, generation: &mut Generation, subject: &Subject<'_>) -> Result<usize, Unavailable> {
        generation.wipe();
        let material = self.0.get().ok_or(Unavailable)?;
        let claims = Claims {
            challenge: subject.challenge,
            rpv: subject.rpv,
            hash_algo: subject.hash_algo,
            measurements: subject.measurements,
            cose_key: &material.cose_key,
        };
        let (len, digest) =
            token::realm_part(&claims, &mut generation.realm_part).map_err(|_| Unavailable)?;
        generation.signing = Signing::start(&material.key, &digest).map_err(|_| Unavailable)?;
        generation.len = u64::try_from(len).map_err(|_| Unavailable)?;
        generation.phase = Phase::SIGNING;
        Ok(len.saturating_add(material.common().len()))
    }

    /// Goes on signing until done or until `interrupted` says so.
    ///
    /// # Errors
    /// If the token cannot be made; the generation is then over.
    pub fn sign(
        &self,
        generation: &mut Generation,
        interrupted: impl FnMut() -> bool,
    ) -> Result<Progress, Unavailable> {
        let progress = self.try_sign(generation, interrupted);
        wipe_stack::<STEP_STACK>();
        if progress.is_err() {
            generation.wipe();
        }
        progress
    }

    #[inline(never)]
    fn try_sign(
        &self,
        generation: &mut Generation,
        interrupted: impl FnMut() -> bool,
    ) -> Result<Progress, Unavailable> {
        let material = self.0.get().ok_or(Unavailable)?;
        match generation.phase {
            Phase::SIGNED => return Ok(Progress::Done),
            Phase::SIGNING => {}
            _ => return Err(Unavailable),
        }
        if generation.signing.advance(interrupted).map_err(|_| Unavailable)? == Progress::Interrupted {
            return Ok(Progress::Interrupted);
        }
        let signature = generation.signing.finish(&material.key).map_err(|_| Unavailable)?;
        generation.signing.wipe();
        let len = usize::try_from(generation.len).map_err(|_| Unavailable)?;
        let place =
            len.checked_sub(SIGNATURE_SIZE).and_then(|start| generation.realm_part.get_mut(start..len));
        place.ok_or(Unavailable)?.copy_from_slice(&signature);
        generation.phase = Phase::SIGNED;
        Ok(Progress::Done)
    }

    /// What of a signed token has not been taken yet: two pieces, one after the other.
    #[must_use]
    pub fn rest<'a>(&'a self, generation: &'a Generation) -> [&'a [u8]; 2] {
        let common = self.0.get().map_or(&[][..], Material::common);
        let realm_part =
            usize::try_from(generation.len).ok().and_then(|len| generation.realm_part.get(..len));
        let taken = usize::try_from(generation.taken).unwrap_or(usize::MAX);
        [
            common.get(taken..).unwrap_or(&[]),
            realm_part.and_then(|part| part.get(taken.saturating_sub(common.len())..)).unwrap_or(&[]),
        ]
    }
}

/// More than what making a nonce, a step of the multiplication or the signature leaves on the stack.
const STEP_STACK: usize = 12 << 10;

/// Overwrites what returned calls have left on `SIZE` bytes of the stack: copies of key and nonce that nobody can name, as arithmetic
/// makes them.
#[inline(never)]
fn wipe_stack<const SIZE: usize>() {
    let mut left = [0_u8; SIZE];
    left.zeroize();
    core::hint::black_box(&left);
}

/// Of whom a token speaks.
#[derive(Debug)]
pub(crate) struct Subject<'a> {
    /// The challenge the realm was given.
    pub challenge: &'a [u8; CHALLENGE_SIZE],
    /// Realm Personalization Value.
    pub rpv: &'a [u8; RPV_SIZE],
    /// Hash of the measurements.
    pub hash_algo: HashAlgorithm,
    /// RIM and REMs, padded.
    pub measurements: &'a [[u8; MEASUREMENT_SIZE]; MEASUREMENT_SLOTS],
}

/// `RmmAttestState` with what belongs to it; all zeros is "no attestation in progress".
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
struct Phase(u64);

impl Phase {
    const SIGNING: Self = Self(1);
    const SIGNED: Self = Self(2);
}

/// A token in the making, the content of a REC's first auxiliary granule.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Generation {
    phase: Phase,
    /// Bytes of `realm_part` in use.
    len: u64,
    /// Bytes of the token the realm has.
    taken: u64,
    signing: Signing,
    realm_part: [u8; REALM_PART_MAX],
}

granule_content!(Generation);

impl Generation {
    /// Whether a token is being made.
    #[must_use]
    pub fn in_progress(&self) -> bool {
        matches!(self.phase, Phase::SIGNING | Phase::SIGNED)
    }
    /// Notes that the realm has `bytes` more of the token.
    pub const fn take(&mut self, bytes: u64) {
        self.taken = self.taken.saturating_add(bytes);
    }
    /// Ends the generation; nothing of it remains.
    pub fn wipe(&mut self) {
        self.as_mut_bytes().zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::FakePlatform;
    use zerocopy::FromZeros;

    fn begun() -> (Attestation, Generation) {
        let attestation = Attestation::new();
        attestation.init(&FakePlatform::new(1)).unwrap();
        let mut generation = Generation::new_zeroed();
        let subject = Subject {
            challenge: &[1; 64],
            rpv: &[2; 64],
            hash_algo: HashAlgorithm::SHA_256,
            measurements: &[[3; 64]; 5],
        };
        let len = attestation.begin(&mut generation, &subject).unwrap();
        assert_eq!(attestation.rest(&generation).map(<[u8]>::len).iter().sum::<usize>(), len);
        (attestation, generation)
    }

    #[test]
    #[cfg_attr(miri, ignore = "a key or signature takes a minute in an interpreter")]
    fn nothing_of_the_nonce_is_left_once_the_signature_is_made() {
        let (attestation, mut generation) = begun();
        assert_eq!(attestation.sign(&mut generation, || true), Ok(Progress::Interrupted));
        assert!(generation.signing.as_bytes().iter().any(|byte| *byte != 0));
        assert_eq!(attestation.sign(&mut generation, || false), Ok(Progress::Done));
        assert!(generation.signing.as_bytes().iter().all(|byte| *byte == 0));
        assert_eq!(attestation.sign(&mut generation, || true), Ok(Progress::Done), "it stays signed");
    }

    #[test]
    #[cfg_attr(miri, ignore = "a key or signature takes a minute in an interpreter")]
    fn a_generation_that_fails_is_over() {
        let (_, mut generation) = begun();
        assert_eq!(Attestation::new().sign(&mut generation, || false), Err(Unavailable));
        assert!(!generation.in_progress());
        assert!(generation.as_bytes().iter().all(|byte| *byte == 0));
    }

    #[test]
    #[cfg_attr(miri, ignore = "a key or signature takes a minute in an interpreter")]
    fn a_key_is_fetched_once_and_not_shown() {
        extern crate std;
        let attestation = Attestation::new();
        let platform = FakePlatform::new(1);
        assert_eq!(std::format!("{attestation:?}"), "Attestation(false)");
        for _ in 0..2 {
            assert_eq!(attestation.init(&platform), Ok(()));
        }
        assert_eq!(std::format!("{attestation:?}"), "Attestation(true)");
    }
}
