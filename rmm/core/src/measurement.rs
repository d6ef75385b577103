//! Realm measurements (RMM 1.0): the hash, the Realm Initial Measurement and the extensible ones.

mod hasher;
#[cfg(test)]
mod tests;

pub use hasher::Hasher;

use crate::Platform;
use crate::realm::RealmDescriptor;
use realm_abi::rmi::{DataFlags, HashAlgorithm, MEASUREMENT_SIZE, RealmParams, RecParams};
use zerocopy::{Immutable, IntoBytes};

/// A measurement slot: the hash, padded with zeros.
pub type Measurement = [u8; MEASUREMENT_SIZE];

/// The hash of `parts` one after the other.
pub fn hash<P: Platform>(platform: &P, algorithm: HashAlgorithm, parts: &[&[u8]]) -> Measurement {
    let mut hasher = Hasher::new(platform, algorithm);
    for part in parts {
        hasher.update(part);
    }
    hasher.finish()
}

/// Bytes of a hash: the part of a [`Measurement`] that is not padding.
#[must_use]
pub const fn hash_size(algorithm: HashAlgorithm) -> usize {
    match algorithm {
        HashAlgorithm::SHA_256 => 32,
        _ => 64,
    }
}

/// What extends the RIM, RMM 1.0's `RmmMeasurementDescriptor*`: 256 bytes that begin with the old RIM.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Descriptor {
    desc_type: u64,
    len: u64,
    rim: Measurement,
    /// IPA and flags of data, base and top of a RIPAS change; zero for a REC, whose content starts here.
    body: [u8; 0xb0],
}

const _: () = assert!(size_of::<Descriptor>() == 0x100);

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct DataBody {
    ipa: u64,
    flags: u64,
    content: Measurement,
}

fn extend_rim<P: Platform>(platform: &P, rd: &mut RealmDescriptor, desc_type: u64, content: &[u8]) {
    let [rim, ..] = &mut rd.measurements;
    let mut descriptor = Descriptor { desc_type, len: 0x100, rim: *rim, body: [0; 0xb0] };
    for (to, from) in descriptor.body.iter_mut().zip(content) {
        *to = *from;
    }
    *rim = hash(platform, rd.hash_algo, &[descriptor.as_bytes()]);
}

/// The RIM of a realm just created (REALM_CREATE).
pub fn initial_rim<P: Platform>(platform: &P, params: &RealmParams) -> Measurement {
    hash(platform, params.hash_algo, &[params.measured().as_bytes()])
}

/// Extends the RIM by a data granule (DATA_CREATE). Its content counts only if `flags` say so, its address always.
pub fn extend_data<P: Platform>(
    platform: &P,
    rd: &mut RealmDescriptor,
    ipa: u64,
    flags: DataFlags,
    data: &[u8],
) {
    let content = if flags.measure() { hash(platform, rd.hash_algo, &[data]) } else { [0; MEASUREMENT_SIZE] };
    extend_rim(platform, rd, 0, DataBody { ipa, flags: flags.0, content }.as_bytes());
}

/// Extends the RIM by a runnable REC (REC_CREATE). One that is not runnable is not measured; the caller knows.
pub fn extend_rec<P: Platform>(platform: &P, rd: &mut RealmDescriptor, params: &RecParams) {
    let content = hash(platform, rd.hash_algo, &[params.measured().as_bytes()]);
    extend_rim(platform, rd, 1, &content);
}

/// Extends the RIM by one RTT entry whose RIPAS became RAM (RTT_INIT_RIPAS). The prose of the specification does not
/// list the old RIM among the fields filled; the structure has it and deployed firmware fills it.
pub fn extend_ripas<P: Platform>(platform: &P, rd: &mut RealmDescriptor, base: u64, top: u64) {
    extend_rim(platform, rd, 2, [base, top].as_bytes());
}

/// Extends REM `index` (1 to 4, else nothing happens) by `value` (RSI_MEASUREMENT_EXTEND): the hash of the old value,
/// without its padding, then the new one as long as it is. The specification leaves this function opaque; this is what
/// deployed firmware does.
pub fn extend_rem<P: Platform>(platform: &P, rd: &mut RealmDescriptor, index: usize, value: &[u8]) {
    let algorithm = rd.hash_algo;
    if let Some(rem) = rd.measurements.get_mut(index).filter(|_| index != 0) {
        let (old, _) = rem.split_at(hash_size(algorithm));
        *rem = hash(platform, algorithm, &[old, value]);
    }
}
