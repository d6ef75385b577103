//! RIM and REM (RMM 1.0, realm measurements): rolling hashes over fixed 256-byte descriptors.

use realm_abi::rmi::HashAlgorithm;
use sha2::{Digest, Sha256, Sha512};

/// A measurement slot; a shorter hash leaves the end zero.
pub type Measurement = [u8; 64];

/// The realm's hash of `bytes`, zero-padded.
pub(crate) fn hash(algo: HashAlgorithm, bytes: &[u8]) -> Measurement {
    let mut slot = [0; 64];
    if algo == HashAlgorithm::SHA_512 {
        slot.copy_from_slice(&Sha512::digest(bytes));
    } else {
        slot[..32].copy_from_slice(&Sha256::digest(bytes));
    }
    slot
}

/// A measurement descriptor: `kind`, the RIM so far, and what is measured from offset 0x50.
pub(crate) fn extend_rim(algo: HashAlgorithm, rim: &Measurement, kind: u8, parts: &[&[u8]]) -> Measurement {
    let mut desc = [0; 0x100];
    desc[0] = kind;
    desc[8..16].copy_from_slice(&0x100u64.to_le_bytes());
    desc[0x10..0x50].copy_from_slice(rim);
    let measured = parts.concat();
    desc[0x50..0x50 + measured.len()].copy_from_slice(&measured);
    hash(algo, &desc)
}

/// RSI_MEASUREMENT_EXTEND. What of the old value and how much of the new one is hashed is not settled by the text of
/// 1.0-rel0; this is what deployed firmware does: the old value at the width of the hash, then `value` unpadded.
pub(crate) fn extend_rem(algo: HashAlgorithm, old: &Measurement, value: &[u8]) -> Measurement {
    let width = if algo == HashAlgorithm::SHA_512 { 64 } else { 32 };
    hash(algo, &[&old[..width], value].concat())
}

/// DATA_CREATE.
pub(crate) const DATA: u8 = 0;
/// REC_CREATE.
pub(crate) const REC: u8 = 1;
/// RTT_INIT_RIPAS.
pub(crate) const RIPAS: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rem_extension_gives_the_known_answers() {
        let short: Vec<u8> = (1..=8).collect();
        let long: Vec<u8> = (0..64).collect();
        let hex = |m: &Measurement, n: usize| m[..n].iter().map(|b| format!("{b:02x}")).collect::<String>();
        let zero = [0; 64];
        assert_eq!(
            hex(&extend_rem(HashAlgorithm::SHA_256, &zero, &short), 32),
            "f0bac6157eaec34c9368f09d783aa3a47ae1ff0e295aeb322b063e9f60feeeb3"
        );
        assert_eq!(
            hex(&extend_rem(HashAlgorithm::SHA_256, &zero, &long), 32),
            "dc7a48014fc1fac8b52af39bc7ea5cafafabf8bb81fb8f880fdf3b4a4566795c"
        );
        assert_eq!(
            hex(&extend_rem(HashAlgorithm::SHA_512, &zero, &short), 64),
            "dd1b3ffabe9fd7023316baa8d1cea5a274d9dd2a0e48ce482d0f1a39beeb0977\
             5ec06c4d0a3a63d8194586f360ca296f9522a5cb827c01916aa22b4f004c274d"
        );
    }
}
