//! SHA-256 and SHA-512 (FIPS 180-4) around the platform's compression functions.

use super::Measurement;
use crate::Platform;
use realm_abi::rmi::HashAlgorithm;

/// A hash of what it is given piece by piece.
pub struct Hasher<'p, P> {
    platform: &'p P,
    state: State,
}

enum State {
    Sha256([u32; 8], Blocks<64>),
    Sha512([u64; 8], Blocks<128>),
}

/// First 32 bits of the fractional parts of the square roots of the first eight primes.
const SHA256_START: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];
/// First 64 bits of the same.
const SHA512_START: [u64; 8] = [
    0x6a09_e667_f3bc_c908,
    0xbb67_ae85_84ca_a73b,
    0x3c6e_f372_fe94_f82b,
    0xa54f_f53a_5f1d_36f1,
    0x510e_527f_ade6_82d1,
    0x9b05_688c_2b3e_6c1f,
    0x1f83_d9ab_fb41_bd6b,
    0x5be0_cd19_137e_2179,
];

/// Input cut into blocks: what does not fill one waits.
struct Blocks<const N: usize> {
    waiting: [u8; N],
    /// Bytes in `waiting`, less than `N`.
    filled: usize,
    /// Bytes seen.
    total: u64,
}

impl<const N: usize> Blocks<N> {
    const fn new() -> Self {
        Self { waiting: [0; N], filled: 0, total: 0 }
    }

    fn update(&mut self, data: &[u8], mut compress: impl FnMut(&[[u8; N]])) {
        self.total = self.total.wrapping_add(data.len() as u64);
        let mut data = data;
        if self.filled != 0 {
            data = self.fill(data);
            if self.filled < N {
                return;
            }
            compress(&[self.waiting]);
            self.filled = 0;
        }
        let (whole, rest) = data.as_chunks::<N>();
        if !whole.is_empty() {
            compress(whole);
        }
        self.fill(rest);
    }

    /// Puts as much of `data` as fits behind what waits; the rest of `data`.
    fn fill<'d>(&mut self, data: &'d [u8]) -> &'d [u8] {
        let free = self.waiting.get_mut(self.filled..).unwrap_or_default();
        let (now, rest) = data.split_at(free.len().min(data.len()));
        for (to, from) in free.iter_mut().zip(now) {
            *to = *from;
        }
        self.filled = self.filled.saturating_add(now.len());
        rest
    }

    /// Appends a one bit, zeros, and the length in bits as the last `length_bytes` of a block.
    fn pad(&mut self, length_bytes: usize, mut compress: impl FnMut(&[[u8; N]])) {
        let bits = u128::from(self.total).wrapping_mul(8).to_be_bytes();
        self.update(&[0x80], &mut compress);
        let start = N.saturating_sub(length_bytes);
        let zeros =
            if self.filled <= start { start } else { start.saturating_add(N) }.saturating_sub(self.filled);
        // Twice the largest block is more than any padding.
        self.update([0; 256].get(..zeros).unwrap_or_default(), &mut compress);
        let (_, length) = bits.split_at(bits.len().saturating_sub(length_bytes));
        self.update(length, &mut compress);
    }
}

impl<'p, P: Platform> Hasher<'p, P> {
    /// A hash of nothing yet. An unknown algorithm is taken for SHA-512: a realm has none.
    pub const fn new(platform: &'p P, algorithm: HashAlgorithm) -> Self {
        let state = match algorithm {
            HashAlgorithm::SHA_256 => State::Sha256(SHA256_START, Blocks::new()),
            _ => State::Sha512(SHA512_START, Blocks::new()),
        };
        Self { platform, state }
    }

    /// Adds `data`.
    pub fn update(&mut self, data: &[u8]) {
        let platform = self.platform;
        match &mut self.state {
            State::Sha256(state, blocks) => blocks.update(data, |b| platform.sha256_compress(state, b)),
            State::Sha512(state, blocks) => blocks.update(data, |b| platform.sha512_compress(state, b)),
        }
    }

    /// The hash of all that was added, padded with zeros.
    #[must_use]
    pub fn finish(self) -> Measurement {
        let mut out = [0; 64];
        match self.state {
            State::Sha256(mut state, mut blocks) => {
                blocks.pad(8, |b| self.platform.sha256_compress(&mut state, b));
                for (to, word) in out.as_chunks_mut::<4>().0.iter_mut().zip(state) {
                    *to = word.to_be_bytes();
                }
            }
            State::Sha512(mut state, mut blocks) => {
                blocks.pad(16, |b| self.platform.sha512_compress(&mut state, b));
                for (to, word) in out.as_chunks_mut::<8>().0.iter_mut().zip(state) {
                    *to = word.to_be_bytes();
                }
            }
        }
        out
    }
}
