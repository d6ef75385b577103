//! SHA-2: portable for now.

use crate::features::Optional;

/// Blocks of SHA-256.
pub fn sha256(_: &Optional, state: &mut [u32; 8], blocks: &[[u8; 64]]) {
    sha2::block_api::compress256(state, blocks);
}

/// Blocks of SHA-512.
pub fn sha512(_: &Optional, state: &mut [u64; 8], blocks: &[[u8; 128]]) {
    sha2::block_api::compress512(state, blocks);
}
