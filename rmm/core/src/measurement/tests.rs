//! The known answers: initial values agree with public calculators, the steps with the same layouts.

use super::*;
use crate::fakes::FakePlatform;
use realm_abi::rmi::RecFlags;
use sha2::{Digest, Sha256, Sha512};

extern crate std;

use std::string::String;
use std::vec::Vec;

fn hex(measurement: &Measurement, algorithm: HashAlgorithm) -> String {
    let (value, padding) = measurement.split_at(hash_size(algorithm));
    assert!(padding.iter().all(|byte| *byte == 0));
    value.iter().map(|byte| std::format!("{byte:02x}")).collect()
}

/// REALM_CREATE, INIT_RIPAS of one 2 MiB entry, DATA_CREATE measured and not, REC_CREATE.
fn rims(algorithm: HashAlgorithm) -> Vec<String> {
    let machine = FakePlatform::new(0);
    let mut params = RealmParams::default();
    (params.s2sz, params.num_bps, params.num_wps, params.hash_algo) = (48, 1, 1, algorithm);
    let mut rec = RecParams::default();
    (rec.flags, rec.pc, rec.gprs) = (RecFlags::RUNNABLE.bits(), 0x8000_0000, [0, 1, 2, 3, 4, 5, 6, 7]);
    // What is not measured makes no difference.
    (params.vmid, params.rtt_base, params.rpv) = (5, 0x1000, [7; 64]);
    (rec.mpidr, rec.num_aux) = (3, 2);

    let mut rd = RealmDescriptor::new(&params, initial_rim(&machine, &params));
    let steps: [&dyn Fn(&mut RealmDescriptor); 5] = [
        &|_| (),
        &|rd| extend_ripas(&machine, rd, 0x8000_0000, 0x8020_0000),
        &|rd| extend_data(&machine, rd, 0x8000_0000, DataFlags::MEASURE, &[0xa5; 4096]),
        &|rd| extend_data(&machine, rd, 0x8000_1000, DataFlags::NO_MEASURE, &[0x5a; 4096]),
        &|rd| extend_rec(&machine, rd, &rec),
    ];
    let rim = |step: &&dyn Fn(&mut RealmDescriptor)| {
        step(&mut rd);
        hex(&rd.measurements[0], algorithm)
    };
    steps.iter().map(rim).collect()
}

#[test]
#[cfg_attr(miri, ignore = "the hash is another one under Miri")]
fn the_rim_with_sha256_has_the_known_answers() {
    let expected = [
        "6739dfb22b75ee1268d08dfa8369f501bc0b066243553f069f560d1fa1172973",
        "25061e2b4070eacd9775a416dacf0596d4f52c274be1c0125ac1b11bcacf7588",
        "b23525663e5d8f13d3475854d74eaf91ca26d8189ab725792651436116c120ac",
        "9bc0123678a7081204f0ccf41cf470ce8894e2fdf5bab1f5b3eecd820b79f827",
        "b49f3f876cb22c3d8eca738f8f5616ee83001870acaae1ab34b41133673589dc",
    ];
    assert_eq!(rims(HashAlgorithm::SHA_256), expected);
}

#[test]
#[cfg_attr(miri, ignore = "the hash is another one under Miri")]
fn the_rim_with_sha512_has_the_known_answers() {
    let expected = [
        "799e434048fb57eb9d4f0e2a2b98158720377252deab2bdfcd69b5a8f82237f4\
         34bd6bb1c75bf160a2d49382f733b3439a3ff769e4ea5dd9a6f72239d44bbbab",
        "77d41ad522fde88d9dec42538043639fc059b547507c3a1e806549aecb8048a6\
         02a8ca62f3ad1e53791834c231a7bc415eb0491d8178c53601a66c44418adfb5",
        "c4a61aac1be4559448321d50d6e56acb5506c559846db509705b67b7b4d25220\
         02e785214fbe06c31ef0df77e37968654469d2595060ffcc6e82dcf7908e8ef7",
        "bb6225fe99a5d5a68deef807e70b5fe2024ef03d567e85d02cdfa603b873920b\
         f8a19032e79734bb80117cea918e1033c5cc0e71fcac7840beb25f5666069aa6",
        "a02b345169aaa96a28328020cdc07bec57dac067a667e8a07f49cd7c1fc759e5\
         197ee9457a82e377d29bf364182dfd52b4e61b3cc1ff80087c0961ce94f6a0a7",
    ];
    assert_eq!(rims(HashAlgorithm::SHA_512), expected);
}

/// REM 1 of a new realm extended once by `value`.
fn rem(algorithm: HashAlgorithm, value: &[u8]) -> String {
    let machine = FakePlatform::new(0);
    let mut params = RealmParams::default();
    params.hash_algo = algorithm;
    let mut rd = RealmDescriptor::new(&params, [9; 64]);
    extend_rem(&machine, &mut rd, 1, value);
    assert_eq!((rd.measurements[0], rd.measurements[2]), ([9; 64], [0; 64]));
    hex(&rd.measurements[1], algorithm)
}

#[test]
#[cfg_attr(miri, ignore = "the hash is another one under Miri")]
fn rems_have_the_known_answers() {
    let eight: Vec<u8> = (1..=8).collect();
    let all: Vec<u8> = (0..64).collect();
    let (sha256, sha512) = (HashAlgorithm::SHA_256, HashAlgorithm::SHA_512);
    assert_eq!(rem(sha256, &eight), "f0bac6157eaec34c9368f09d783aa3a47ae1ff0e295aeb322b063e9f60feeeb3");
    assert_eq!(rem(sha256, &all), "dc7a48014fc1fac8b52af39bc7ea5cafafabf8bb81fb8f880fdf3b4a4566795c");
    assert_eq!(
        rem(sha512, &eight),
        "dd1b3ffabe9fd7023316baa8d1cea5a274d9dd2a0e48ce482d0f1a39beeb0977\
         5ec06c4d0a3a63d8194586f360ca296f9522a5cb827c01916aa22b4f004c274d"
    );
    assert_eq!(
        rem(sha512, &all),
        "3317cc3c3c68eadf60825ca04a9a4d238c73cd2ad755d2ac479352ee6e56127a\
         5fc8c65dcc5073246ac82b1be0797c4bdcc1a6c06195558d1955739fa607db03"
    );
}

#[test]
fn the_rim_is_no_rem_and_there_are_four() {
    let machine = FakePlatform::new(0);
    let mut rd = RealmDescriptor::new(&RealmParams::default(), [9; 64]);
    for index in [0, 5, usize::MAX] {
        extend_rem(&machine, &mut rd, index, &[1]);
    }
    assert_eq!(rd.measurements, [[9; 64], [0; 64], [0; 64], [0; 64], [0; 64]]);
}

proptest::proptest! {
    #[test]
    #[cfg_attr(miri, ignore = "the hash is another one under Miri")]
    fn any_pieces_hash_as_the_whole(data: Vec<u8>, cuts: Vec<proptest::sample::Index>) {
        let machine = FakePlatform::new(0);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(data.len() + 1)).collect();
        cuts.extend([0, data.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &data[cut[0]..cut[1]]).collect();
        let sha256 = hash(&machine, HashAlgorithm::SHA_256, &pieces);
        proptest::prop_assert_eq!(&sha256[..32], &Sha256::digest(&data)[..]);
        let sha512 = hash(&machine, HashAlgorithm::SHA_512, &pieces);
        proptest::prop_assert_eq!(&sha512[..], &Sha512::digest(&data)[..]);
    }
}

#[test]
#[cfg_attr(miri, ignore = "the hash is another one under Miri")]
fn every_length_around_a_block_is_padded_right() {
    let machine = FakePlatform::new(0);
    // Under Miri only lengths on both sides of where padding needs another block.
    let chosen =
        |len: &usize| !cfg!(miri) || matches!(len % 64, 0 | 55 | 56) || matches!(len % 128, 111 | 112);
    for len in (0..300).filter(chosen) {
        let data = std::vec![0x61; len];
        assert_eq!(
            hash(&machine, HashAlgorithm::SHA_256, &[&data])[..32],
            Sha256::digest(&data)[..],
            "{len}"
        );
        assert_eq!(hash(&machine, HashAlgorithm::SHA_512, &[&data])[..], Sha512::digest(&data)[..], "{len}");
    }
}
