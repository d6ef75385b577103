use super::*;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

const RAM: u64 = 0x8000_0000;
const BLOCK: u64 = 0x20_0000;

fn plain(ipa_bits: u8) -> RimPredictor {
    RimPredictor::new(&RealmParameters::plain(ipa_bits, HashAlgorithm::SHA_256)).unwrap()
}

fn populate_bytes(
    predictor: &mut RimPredictor,
    ipa: u64,
    bytes: &[u8],
    measured: bool,
) -> Result<(), StepError> {
    let mut rest = bytes;
    predictor
        .populate(ipa, bytes.len() as u64, measured, |out| {
            let (head, tail) = rest.split_at(out.len());
            out.copy_from_slice(head);
            rest = tail;
            Ok::<(), ()>(())
        })
        .map_err(|error| match error {
            PopulateError::Step(error) => error,
            PopulateError::Read(()) => unreachable!(),
        })
}

/// The chain of known answers: parameters, one 2 MiB entry, a measured and an unmeasured granule, a REC.
fn known_answers(hash: HashAlgorithm, expected: [&str; 5]) {
    let mut predictor = RimPredictor::new(&RealmParameters::plain(48, hash)).unwrap();
    assert_eq!(predictor.rim().to_hex(), expected[0]);
    predictor.init_ripas(RAM, BLOCK).unwrap();
    assert_eq!(predictor.rim().to_hex(), expected[1]);
    populate_bytes(&mut predictor, RAM, &[0xa5; 4096], true).unwrap();
    assert_eq!(predictor.rim().to_hex(), expected[2]);
    populate_bytes(&mut predictor, RAM + 0x1000, &[0x5a; 4096], false).unwrap();
    assert_eq!(predictor.rim().to_hex(), expected[3]);
    predictor.rec(RAM, &[0, 1, 2, 3, 4, 5, 6, 7], true).unwrap();
    assert_eq!(predictor.rim().to_hex(), expected[4]);
}

#[test]
fn the_known_answers_of_sha256_hold() {
    known_answers(
        HashAlgorithm::SHA_256,
        [
            "6739dfb22b75ee1268d08dfa8369f501bc0b066243553f069f560d1fa1172973",
            "25061e2b4070eacd9775a416dacf0596d4f52c274be1c0125ac1b11bcacf7588",
            "b23525663e5d8f13d3475854d74eaf91ca26d8189ab725792651436116c120ac",
            "9bc0123678a7081204f0ccf41cf470ce8894e2fdf5bab1f5b3eecd820b79f827",
            "b49f3f876cb22c3d8eca738f8f5616ee83001870acaae1ab34b41133673589dc",
        ],
    );
}

#[test]
fn the_known_answers_of_sha512_hold() {
    known_answers(
        HashAlgorithm::SHA_512,
        [
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
        ],
    );
}

#[test]
fn the_known_answers_of_rem_extension_hold() {
    let zero = [0; MEASUREMENT_SIZE];
    let short = [1, 2, 3, 4, 5, 6, 7, 8];
    let long: Vec<u8> = (0..64).collect();
    let rem = |hash, value: &[u8]| extend_rem(hash, &zero, value).unwrap().to_hex();
    assert_eq!(
        rem(HashAlgorithm::SHA_256, &short),
        "f0bac6157eaec34c9368f09d783aa3a47ae1ff0e295aeb322b063e9f60feeeb3"
    );
    assert_eq!(
        rem(HashAlgorithm::SHA_512, &short),
        "dd1b3ffabe9fd7023316baa8d1cea5a274d9dd2a0e48ce482d0f1a39beeb0977\
         5ec06c4d0a3a63d8194586f360ca296f9522a5cb827c01916aa22b4f004c274d"
    );
    assert_eq!(
        rem(HashAlgorithm::SHA_256, &long),
        "dc7a48014fc1fac8b52af39bc7ea5cafafabf8bb81fb8f880fdf3b4a4566795c"
    );
    assert_eq!(
        rem(HashAlgorithm::SHA_512, &long),
        "3317cc3c3c68eadf60825ca04a9a4d238c73cd2ad755d2ac479352ee6e56127a\
         5fc8c65dcc5073246ac82b1be0797c4bdcc1a6c06195558d1955739fa607db03"
    );
}

/// The RIM after RIPAS descriptors for exactly these entries.
fn ripas_chain(ipa_bits: u8, entries: &[(u64, u64)]) -> Measurement {
    let mut chain = plain(ipa_bits);
    for (base, top) in entries {
        chain.extend_ripas(*base, *top).unwrap();
    }
    *chain.rim()
}

#[test]
fn ripas_is_measured_in_the_largest_entries_that_fit() {
    // 33 bits start at level 2, where an entry is 2 MiB: 1 GiB at 2 GiB is 512 of them.
    let mut predictor = plain(33);
    predictor.init_ripas(RAM, 0x4000_0000).unwrap();
    let blocks: Vec<_> = (0..512).map(|i| (RAM + i * BLOCK, RAM + (i + 1) * BLOCK)).collect();
    assert_eq!(*predictor.rim(), ripas_chain(33, &blocks));
    // 39 bits start at level 1, where it is one entry.
    let mut predictor = plain(39);
    predictor.init_ripas(RAM, 0x4000_0000).unwrap();
    assert_eq!(*predictor.rim(), ripas_chain(39, &[(RAM, RAM + 0x4000_0000)]));
}

#[test]
fn a_ragged_range_is_measured_in_pages_then_blocks_then_pages() {
    let (base, size) = (RAM + BLOCK - 0x2000, BLOCK + 0x5000);
    let mut predictor = plain(36);
    predictor.init_ripas(base, size).unwrap();
    let mut entries: Vec<_> = (0..2).map(|i| (base + i * 0x1000, base + (i + 1) * 0x1000)).collect();
    let block = RAM + BLOCK;
    entries.push((block, block + BLOCK));
    entries.extend((0..3).map(|i| (block + BLOCK + i * 0x1000, block + BLOCK + (i + 1) * 0x1000)));
    assert_eq!(*predictor.rim(), ripas_chain(36, &entries));
}

#[test]
fn tables_of_an_earlier_step_make_later_entries_smaller() {
    // A page of the second block is made RAM first, which leaves tables of level 2 and 3 there: the first block is one
    // entry then, the second one 512.
    let mut predictor = plain(36);
    predictor.init_ripas(RAM + BLOCK, 0x1000).unwrap();
    predictor.init_ripas(RAM, 2 * BLOCK).unwrap();
    let mut entries = vec![(RAM + BLOCK, RAM + BLOCK + 0x1000), (RAM, RAM + BLOCK)];
    entries.extend((0..512).map(|i| (RAM + BLOCK + i * 0x1000, RAM + BLOCK + (i + 1) * 0x1000)));
    assert_eq!(*predictor.rim(), ripas_chain(36, &entries));
}

#[test]
fn ripas_of_the_widest_space_takes_bounded_time() {
    let lpa2 = RealmParameters { lpa2: true, ..RealmParameters::plain(52, HashAlgorithm::SHA_256) };
    let mut predictor = RimPredictor::new(&lpa2).unwrap();
    predictor.init_ripas(0x1000, (1 << 51) - 0x2000).unwrap();
    assert!(predictor.tables.walk(0) == 3 && predictor.tables.walk(1 << 50) == 0);
}

#[test]
fn ripas_may_start_before_but_not_on_a_populated_granule() {
    let mut predictor = plain(33);
    populate_bytes(&mut predictor, RAM + 0x1000, &[1; 1], true).unwrap();
    // The scan of the RMM is bounded by tables only, so an assigned granule inside the range is measured again.
    predictor.clone().init_ripas(RAM, BLOCK).unwrap();
    assert_eq!(
        predictor.init_ripas(RAM + 0x1000, 0x1000),
        Err(StepError::RipasAfterPopulate { ipa: RAM + 0x1000 })
    );
}

#[test]
fn the_last_granule_is_padded_with_zeros() {
    let mut short = plain(33);
    populate_bytes(&mut short, RAM, &[7; 4097], true).unwrap();
    let mut long = plain(33);
    let mut bytes = vec![7; 4097];
    bytes.resize(8192, 0);
    populate_bytes(&mut long, RAM, &bytes, true).unwrap();
    assert_eq!(short.rim(), long.rim());
}

#[test]
fn a_rec_that_cannot_run_is_not_measured() {
    let mut predictor = plain(33);
    let before = *predictor.rim();
    predictor.rec(RAM, &[1], false).unwrap();
    assert_eq!(*predictor.rim(), before);
    assert_eq!(predictor.rec(RAM, &[0; 9], false), Err(StepError::Gprs(9)));
}

#[test]
fn every_measured_parameter_changes_the_rim() {
    let base = RealmParameters::plain(40, HashAlgorithm::SHA_256);
    let variants = [
        base,
        RealmParameters { ipa_bits: 41, ..base },
        RealmParameters { lpa2: true, ..base },
        RealmParameters { sve_vl: Some(0), ..base },
        RealmParameters { sve_vl: Some(15), ..base },
        RealmParameters { num_bps: 6, ..base },
        RealmParameters { num_wps: 6, ..base },
        RealmParameters { pmu_num_ctrs: Some(0), ..base },
        RealmParameters { pmu_num_ctrs: Some(6), ..base },
        RealmParameters { hash: HashAlgorithm::SHA_512, ..base },
    ];
    let mut rims: Vec<_> = variants.iter().map(|p| RimPredictor::new(p).unwrap().rim().to_hex()).collect();
    rims.sort();
    rims.dedup();
    assert_eq!(rims.len(), variants.len());
}

#[test]
fn parameters_no_realm_can_have_are_named() {
    let base = RealmParameters::plain(40, HashAlgorithm::SHA_256);
    let refusals = [
        (RealmParameters { ipa_bits: 31, ..base }, "ipa_bits 31 is not in 32..=48 (more needs lpa2)"),
        (RealmParameters { ipa_bits: 49, ..base }, "ipa_bits 49 is not in 32..=48 (more needs lpa2)"),
        (RealmParameters { ipa_bits: 53, lpa2: true, ..base }, "ipa_bits 53 is not in 32..=52"),
        (RealmParameters { sve_vl: Some(16), ..base }, "sve_vl 16 is not in 0..=15"),
        (RealmParameters { num_bps: 1, ..base }, "num_bps 1 is not in 2..=64"),
        (RealmParameters { num_wps: 65, ..base }, "num_wps 65 is not in 2..=64"),
        (RealmParameters { pmu_num_ctrs: Some(32), ..base }, "pmu_num_ctrs 32 is not in 0..=31"),
    ];
    for (parameters, message) in refusals {
        let error = RimPredictor::new(&parameters).unwrap_err();
        assert_eq!(alloc::string::ToString::to_string(&error), message);
    }
}

#[test]
fn ranges_outside_the_rules_are_refused() {
    let mut predictor = plain(33);
    let top = 1 << 32;
    assert_eq!(
        predictor.init_ripas(RAM + 1, 0x1000),
        Err(StepError::Unaligned { what: "base", value: RAM + 1 })
    );
    assert_eq!(predictor.init_ripas(RAM, 0x800), Err(StepError::Unaligned { what: "size", value: 0x800 }));
    assert_eq!(predictor.init_ripas(RAM, 0), Err(StepError::Empty("size")));
    assert!(matches!(predictor.init_ripas(top - 0x1000, 0x2000), Err(StepError::BeyondProtected { .. })));
    assert!(matches!(predictor.init_ripas(!0xfff, 0x1000), Err(StepError::BeyondProtected { .. })));
    assert!(matches!(predictor.init_ripas(0x1000, !0xfff), Err(StepError::BeyondProtected { .. })));
    let mut never = |ipa, size| {
        predictor
            .populate(ipa, size, true, |_| -> Result<(), ()> { panic!("nothing may be read") })
            .unwrap_err()
    };
    assert!(matches!(never(RAM + 8, 1), PopulateError::Step(StepError::Unaligned { .. })));
    assert!(matches!(never(RAM, 0), PopulateError::Step(StepError::Empty(_))));
    assert!(matches!(never(top, 1), PopulateError::Step(StepError::BeyondProtected { .. })));
    assert!(matches!(never(0, u64::MAX), PopulateError::Step(StepError::BeyondProtected { .. })));
    populate_bytes(&mut predictor, RAM, &[0; 0x3000], true).unwrap();
    assert_eq!(
        populate_bytes(&mut predictor, RAM - 0x2000, &[0; 0x3000], true),
        Err(StepError::Populated { ipa: RAM })
    );
    assert_eq!(
        populate_bytes(&mut predictor, RAM + 0x2000, &[0; 0x2000], true),
        Err(StepError::Populated { ipa: RAM + 0x2000 })
    );
}

#[test]
fn what_reading_returned_is_passed_on() {
    let result = plain(33).populate(RAM, 0x2000, true, |_| Err("gone"));
    assert_eq!(result, Err(PopulateError::Read("gone")));
}

proptest! {
    #[test]
    fn ripas_covers_every_granule_exactly_once_however_tables_lie(
        pages in proptest::collection::vec(0_u64..4096, 0..8),
        first in 0_u64..2048,
        count in 1_u64..2048,
    ) {
        let mut predictor = plain(36);
        for page in pages {
            let level = predictor.tables.walk(RAM + page * 0x1000);
            predictor.tables.create_levels(RAM + page * 0x1000, level, 3);
        }
        let (base, end) = (RAM + first * 0x1000, RAM + (first + count) * 0x1000);
        let mut at = base;
        while at < end {
            match predictor.tables.init_ripas(at, end) {
                InitRipas::Done { top, entry_size } => {
                    prop_assert!(top > at && top <= end);
                    prop_assert!(at % entry_size == 0 && top % entry_size == 0);
                    at = top;
                }
                InitRipas::ErrorRtt { level } => {
                    let wanted = predictor.tables.find_map_level(at, end);
                    prop_assert!(level < wanted);
                    predictor.tables.create_levels(at, level, wanted);
                }
            }
        }
        prop_assert_eq!(at, end);
    }

    #[test]
    fn assigned_granules_are_found_wherever_they_are(mut pages in proptest::collection::vec(0_u64..64, 1..40)) {
        let mut tables = Tables::new(33);
        pages.sort_unstable();
        pages.dedup();
        for page in pages.iter().rev().step_by(2).chain(pages.iter().rev().skip(1).step_by(2)) {
            prop_assert_eq!(tables.first_assigned(page * 0x1000, (page + 1) * 0x1000), None);
            tables.assign(page * 0x1000);
        }
        for page in 0..64 {
            let found = tables.first_assigned(page * 0x1000, 64 * 0x1000);
            prop_assert_eq!(found, pages.iter().find(|p| **p >= page).map(|p| p * 0x1000));
        }
    }
}
