//! A measurement: a hash of the realm's algorithm in a 64-byte slot (RMM 1.0, realm measurements).

use alloc::string::String;
use realm_abi::rmi::{HashAlgorithm, MEASUREMENT_SIZE};
use sha2::{Digest, Sha256, Sha512};

/// A hash algorithm this crate does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("hash algorithm {0}: a realm measures with sha256 or sha512")]
pub struct UnknownHash(pub HashAlgorithm);

/// RIM or REM of a realm. Values of SHA-256 fill the first 32 bytes of the slot, the rest is zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Measurement {
    hash: HashAlgorithm,
    slot: [u8; MEASUREMENT_SIZE],
}

impl Measurement {
    /// The hash of `bytes`.
    ///
    /// # Errors
    /// [`UnknownHash`] for an algorithm that is not in RMM 1.0.
    pub fn of(hash: HashAlgorithm, bytes: &[u8]) -> Result<Self, UnknownHash> {
        let mut slot = [0; MEASUREMENT_SIZE];
        let mut fill = |digest: &[u8]| slot.iter_mut().zip(digest).for_each(|(to, from)| *to = *from);
        match hash {
            HashAlgorithm::SHA_256 => fill(&Sha256::digest(bytes)),
            HashAlgorithm::SHA_512 => fill(&Sha512::digest(bytes)),
            other => return Err(UnknownHash(other)),
        }
        Ok(Self { hash, slot })
    }

    /// The bytes the hash has: 32 or 64.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        let len = if self.hash == HashAlgorithm::SHA_256 { 32 } else { MEASUREMENT_SIZE };
        self.slot.get(..len).unwrap_or(&self.slot)
    }

    /// The whole slot.
    #[must_use]
    pub const fn slot(&self) -> &[u8; MEASUREMENT_SIZE] {
        &self.slot
    }

    /// The hash as lower-case hexadecimal digits.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex::encode(self.as_bytes())
    }
}

impl core::fmt::Debug for Measurement {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}:{}", self.hash, self.to_hex())
    }
}

impl core::fmt::Display for Measurement {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.to_hex())
    }
}
