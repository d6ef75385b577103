//! ECDSA over P-384 with SHA-384 (ES384) in steps: signing can stop between two steps when an interrupt waits and go
//! on later, from a state that is plain bytes.
//!
//! The nonce is derived from key and message (RFC 6979), so there is no random number whose quality could give the key
//! away. The time of every step is the same whatever key and nonce are: each bit of the nonce costs one doubling, one
//! addition and one selection; the nonce is lengthened to a fixed number of bits first, so that not even its leading
//! zeros show.

use core::ops::{Add, Mul};
use hmac::{Hmac, KeyInit, Mac};
use p384::elliptic_curve::bigint::Limb;
use p384::elliptic_curve::group::Group;
use p384::elliptic_curve::ops::Reduce;
use p384::elliptic_curve::point::AffineCoordinates;
use p384::elliptic_curve::subtle::{Choice, ConditionallySelectable};
use p384::elliptic_curve::{Curve, PrimeField};
use p384::{AffinePoint, FieldBytes, NistP384, ProjectivePoint, Scalar, U384};
use sha2::Sha384;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
use zeroize::{Zeroize, Zeroizing};

/// Bytes of a P-384 scalar or coordinate, and of a SHA-384 digest.
pub const SCALAR_SIZE: usize = 48;
/// Bytes of a signature: r, then s.
pub const SIGNATURE_SIZE: usize = 96;

/// Bits of the nonce handled between two looks at the interrupt.
const BITS_PER_STEP: u64 = 16;
/// Bits of a nonce.
const NONCE_BITS: u64 = 384;
/// Nonces tried before giving up; each is out of range with a probability of about 2^-190.
const NONCE_TRIES: usize = 4;

/// A signature in the making. Secret: it must be wiped when done.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Signing {
    /// The digest to sign, reduced.
    digest: [u8; SCALAR_SIZE],
    /// The nonce k.
    nonce: [u8; SCALAR_SIZE],
    /// The lowest 384 bits of the number congruent to k that has 385 bits.
    lengthened: [u8; SCALAR_SIZE],
    /// Affine coordinates of the multiple of G so far; never the point at infinity, for the first bit is a one.
    x: [u8; SCALAR_SIZE],
    y: [u8; SCALAR_SIZE],
    /// Bits of `lengthened` still to do.
    bits_left: u64,
}

/// How far [`Signing::advance`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// An interrupt waits: call again later.
    Interrupted,
    /// The multiplication is done: [`Signing::finish`] gives the signature.
    Done,
}

/// The key is no scalar, or an event of negligible probability (below 2^-180) happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SigningError;

/// The affine coordinates of the public key of `key`.
///
/// # Errors
/// If `key` is zero or not below the order of the group.
pub fn public_key(key: &[u8; SCALAR_SIZE]) -> Result<([u8; SCALAR_SIZE], [u8; SCALAR_SIZE]), SigningError> {
    let scalar = scalar_from(key).ok_or(SigningError)?;
    let point = ProjectivePoint::mul_by_generator(&scalar).to_affine();
    Ok((point.x().into(), point.y().into()))
}

impl Signing {
    /// Starts to sign `digest` (SHA-384 of the message) with `key`.
    ///
    /// # Errors
    /// If `key` is no scalar.
    pub fn start(key: &[u8; SCALAR_SIZE], digest: &[u8; SCALAR_SIZE]) -> Result<Self, SigningError> {
        let digest: [u8; SCALAR_SIZE] = Scalar::reduce(&FieldBytes::from(*digest)).to_repr().into();
        let nonce = derive_nonce(key, &digest)?;
        let generator = AffinePoint::GENERATOR;
        Ok(Self {
            digest,
            nonce: *nonce,
            lengthened: *lengthen(&nonce),
            x: generator.x().into(),
            y: generator.y().into(),
            bits_left: NONCE_BITS,
        })
    }

    /// Goes on until done or until `interrupted` says so, which is asked after every sixteenth bit.
    ///
    /// # Errors
    /// See [`SigningError`].
    pub fn advance(&mut self, mut interrupted: impl FnMut() -> bool) -> Result<Progress, SigningError> {
        let start = AffinePoint::from_coordinates(&self.x.into(), &self.y.into());
        let mut point = ProjectivePoint::from(Option::<AffinePoint>::from(start).ok_or(SigningError)?);
        while self.bits_left > 0 {
            for _ in 0..BITS_PER_STEP.min(self.bits_left) {
                self.bits_left = self.bits_left.saturating_sub(1);
                let doubled = point.double();
                let added = doubled.add(&AffinePoint::GENERATOR);
                point = ProjectivePoint::conditional_select(&doubled, &added, self.bit(self.bits_left));
            }
            if self.bits_left > 0 && interrupted() {
                self.keep(&point);
                return Ok(Progress::Interrupted);
            }
        }
        self.keep(&point);
        Ok(Progress::Done)
    }

    /// The signature, r then s, big-endian. Only after [`Progress::Done`].
    ///
    /// # Errors
    /// See [`SigningError`].
    pub fn finish(&self, key: &[u8; SCALAR_SIZE]) -> Result<[u8; SIGNATURE_SIZE], SigningError> {
        if self.bits_left != 0 {
            return Err(SigningError);
        }
        let key = scalar_from(key).ok_or(SigningError)?;
        let nonce = scalar_from(&self.nonce).ok_or(SigningError)?;
        let digest = scalar_from_any(&self.digest).ok_or(SigningError)?;
        let r = Scalar::reduce(&FieldBytes::from(self.x));
        let inverse = Option::<Scalar>::from(nonce.invert()).ok_or(SigningError)?;
        let inverse = Zeroizing::new(inverse);
        let s = inverse.mul(&digest.add(&r.mul(&*key)));
        if bool::from(r.is_zero() | s.is_zero()) {
            return Err(SigningError);
        }
        let mut signature = [0; SIGNATURE_SIZE];
        let (r_out, s_out) = signature.split_at_mut(SCALAR_SIZE);
        r_out.copy_from_slice(&r.to_repr());
        s_out.copy_from_slice(&s.to_repr());
        Ok(signature)
    }

    /// Forgets everything.
    pub fn wipe(&mut self) {
        self.as_mut_bytes().zeroize();
    }

    /// Bit `index` of the lengthened nonce; `index` is public.
    fn bit(&self, index: u64) -> Choice {
        let byte =
            usize::try_from(index >> 3).ok().and_then(|from_end| self.lengthened.iter().rev().nth(from_end));
        Choice::from(byte.map_or(0, |byte| (byte >> (index & 7)) & 1))
    }

    fn keep(&mut self, point: &ProjectivePoint) {
        let point = point.to_affine();
        self.x = point.x().into();
        self.y = point.y().into();
    }
}

/// A secret scalar that is neither zero nor at least the order of the group.
fn scalar_from(bytes: &[u8; SCALAR_SIZE]) -> Option<Zeroizing<Scalar>> {
    scalar_from_any(bytes).map(Zeroizing::new).filter(|scalar| !bool::from(scalar.is_zero()))
}

fn scalar_from_any(bytes: &[u8; SCALAR_SIZE]) -> Option<Scalar> {
    Scalar::from_repr(FieldBytes::from(*bytes)).into()
}

/// The lowest 384 bits of whichever of k + n and k + 2n has bit 384 set.
fn lengthen(nonce: &[u8; SCALAR_SIZE]) -> Zeroizing<[u8; SCALAR_SIZE]> {
    let order = NistP384::ORDER.as_ref();
    let (once, carry) = U384::from_be_slice(nonce).carrying_add(order, Limb::ZERO);
    let (twice, _) = once.carrying_add(order, Limb::ZERO);
    let carried = Choice::from(u8::from(carry.0 != 0));
    Zeroizing::new(U384::conditional_select(&twice, &once, carried).to_be_bytes().into())
}

/// RFC 6979 section 3.2 with HMAC-SHA-384; `digest` is reduced already (its `bits2octets`).
fn derive_nonce(
    key: &[u8; SCALAR_SIZE],
    digest: &[u8; SCALAR_SIZE],
) -> Result<Zeroizing<[u8; SCALAR_SIZE]>, SigningError> {
    let mut v = Zeroizing::new([1; SCALAR_SIZE]);
    let mut k = Zeroizing::new([0; SCALAR_SIZE]);
    for separator in [0_u8, 1] {
        k = hmac(&k, &[v.as_slice(), &[separator], key, digest])?;
        v = hmac(&k, &[v.as_slice()])?;
    }
    for _ in 0..NONCE_TRIES {
        v = hmac(&k, &[v.as_slice()])?;
        if scalar_from(&v).is_some() {
            return Ok(v);
        }
        k = hmac(&k, &[v.as_slice(), &[0]])?;
        v = hmac(&k, &[v.as_slice()])?;
    }
    Err(SigningError)
}

fn hmac(key: &[u8; SCALAR_SIZE], parts: &[&[u8]]) -> Result<Zeroizing<[u8; SCALAR_SIZE]>, SigningError> {
    let mut mac = Hmac::<Sha384>::new_from_slice(key).map_err(|_| SigningError)?;
    for part in parts {
        mac.update(part);
    }
    Ok(Zeroizing::new(mac.finalize().into_bytes().into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use p384::elliptic_curve::bigint::U384 as Number;
    use sha2::Digest;

    fn bytes(hex: &str) -> [u8; SCALAR_SIZE] {
        Number::from_be_hex(hex).to_be_bytes().into()
    }

    /// RFC 6979 appendix A.2.6.
    const KEY: &str =
        "6B9D3DAD2E1B8C1C05B19875B6659F4DE23C3B667BF297BA9AA47740787137D896D5724E4C70A825F872C9EA60D2EDF5";
    const UX: &str =
        "EC3A4E415B4E19A4568618029F427FA5DA9A8BC4AE92E02E06AAE5286B300C64DEF8F0EA9055866064A254515480BC13";
    const UY: &str =
        "8015D9B72D7D57244EA8EF9AC0C621896708A59367F9DFB9F54CA84B3F1C9DB1288B231C3AE0D4FE7344FD2533264720";
    const VECTORS: [(&[u8], &str, &str, &str); 2] = [
        (
            b"sample",
            "94ED910D1A099DAD3254E9242AE85ABDE4BA15168EAF0CA87A555FD56D10FBCA2907E3E83BA95368623B8C4686915CF9",
            "94EDBB92A5ECB8AAD4736E56C691916B3F88140666CE9FA73D64C4EA95AD133C81A648152E44ACF96E36DD1E80FABE46",
            "99EF4AEB15F178CEA1FE40DB2603138F130E740A19624526203B6351D0A3A94FA329C145786E679E7B82C71A38628AC8",
        ),
        (
            b"test",
            "015EE46A5BF88773ED9123A5AB0807962D193719503C527B031B4C2D225092ADA71F4A459BC0DA98ADB95837DB8312EA",
            "8203B63D3C853E8D77227FB377BCF7B7B772E97892A80F36AB775D509D7A5FEB0542A7F0812998DA8F1DD3CA3CF023DB",
            "DDD0760448D42D8A43AF45AF836FCE4DE8BE06B485E9B61B827C2F13173923E06A739F040649A667BF3B828246BAA5A5",
        ),
    ];

    fn sign(message: &[u8], mut interrupted: impl FnMut() -> bool) -> ([u8; SIGNATURE_SIZE], usize) {
        let key = bytes(KEY);
        let mut signing = Signing::start(&key, &Sha384::digest(message).into()).unwrap();
        let mut interruptions = 0;
        while signing.advance(&mut interrupted).unwrap() == Progress::Interrupted {
            interruptions += 1;
        }
        (signing.finish(&key).unwrap(), interruptions)
    }

    #[test]
    #[cfg_attr(miri, ignore = "a key or signature takes a minute in an interpreter")]
    fn nonces_and_signatures_are_those_of_rfc_6979() {
        for (message, k, r, s) in VECTORS {
            let signing = Signing::start(&bytes(KEY), &Sha384::digest(message).into()).unwrap();
            assert_eq!(signing.nonce, bytes(k));
            assert_eq!(sign(message, || false), ([bytes(r), bytes(s)].concat().try_into().unwrap(), 0));
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "a key or signature takes a minute in an interpreter")]
    fn the_public_key_is_that_of_rfc_6979() {
        assert_eq!(public_key(&bytes(KEY)).unwrap(), (bytes(UX), bytes(UY)));
    }

    #[test]
    #[cfg_attr(miri, ignore = "a key or signature takes a minute in an interpreter")]
    fn interruptions_change_nothing_but_the_number_of_calls() {
        let (signature, interruptions) = sign(b"sample", || true);
        assert_eq!(signature, sign(b"sample", || false).0);
        assert_eq!(interruptions, usize::try_from(NONCE_BITS / BITS_PER_STEP).unwrap() - 1);
    }

    #[test]
    fn an_unfinished_signature_is_not_given_out() {
        let mut signing = Signing::start(&bytes(KEY), &[7; SCALAR_SIZE]).unwrap();
        assert_eq!(signing.advance(|| true), Ok(Progress::Interrupted));
        assert_eq!(signing.finish(&bytes(KEY)), Err(SigningError));
    }

    #[test]
    fn zero_and_the_order_are_no_keys() {
        let order: [u8; SCALAR_SIZE] = NistP384::ORDER.as_ref().to_be_bytes().into();
        for key in [[0; SCALAR_SIZE], order, [0xff; SCALAR_SIZE]] {
            assert_eq!(public_key(&key), Err(SigningError));
        }
    }

    #[test]
    fn a_lengthened_nonce_is_congruent_and_has_385_bits() {
        let order = NistP384::ORDER;
        for nonce in
            [Number::ONE, Number::MAX >> 200, Number::MAX >> 1, order.as_ref().wrapping_sub(&Number::ONE)]
        {
            let low = Number::from_be_slice(lengthen(&nonce.to_be_bytes().into()).as_slice());
            // 2^384 + low, modulo the order, is the nonce.
            let top = Number::ZERO.wrapping_sub(order.as_ref());
            let sum = Scalar::reduce(&top).add(&Scalar::reduce(&low));
            assert_eq!(sum, Scalar::reduce(&nonce));
        }
    }
}
