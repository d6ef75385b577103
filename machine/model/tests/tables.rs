//! The tables of the specification, line by line, on the model.

#[path = "tables/host.rs"]
mod host;

use host::{DRAM, Host};
use realm_abi::rmi::{
    DataFlags, HashAlgorithm, RealmParams, RecFlags, RecParams, ReturnCode, Ripas, RmiCommand, rtt_entry_size,
};
use realm_model::{Access, AccessKind, Entry, GranuleState, Outcome};

const RAM_BASE: u64 = 0x8000_0000;
const PAGE: u64 = 0x1000;
const BLOCK: u64 = 0x20_0000;
/// First unprotected IPA of a 40-bit realm.
const SHARED: u64 = 1 << 39;

fn rtt(level: i64) -> ReturnCode {
    ReturnCode::error_rtt(level)
}

/// A host, and a 40-bit realm that starts at level 0.
fn realm() -> (Host, u64) {
    let mut host = Host::new();
    let rd = host.realm(40, 0);
    (host, rd)
}

#[test]
fn rtt_destroy_follows_its_scenarios() {
    let (mut host, rd) = realm();
    host.tables(rd, RAM_BASE, 3);
    let table = host.model.realms()[&rd].rtts.tables()[&(3, RAM_BASE)].pa;
    let destroy = |ipa, level| RmiCommand::RttDestroy { rd, ipa, level };
    let out = host.ok(destroy(RAM_BASE, 3));
    assert_eq!(out[..2], [table, RAM_BASE + (1 << 30)], "nothing else is live in the level 2 table");
    assert_eq!(host.entry(rd, RAM_BASE, 3), Entry::Unassigned(Ripas::DESTROYED));
    assert_eq!(host.model.granule_state(table), Some(GranuleState::Delegated));

    let next = RAM_BASE + BLOCK;
    host.tables(rd, next, 3);
    host.fails(destroy(RAM_BASE, 3), rtt(2), [None, Some(next), None, None]);
    host.block(rd, RAM_BASE);
    host.fails(destroy(RAM_BASE, 3), rtt(2), [None, Some(RAM_BASE), None, None]);
    host.data_unknown(rd, next);
    host.fails(destroy(next, 3), rtt(3), [None, Some(next), None, None]);
    host.fails(destroy(1 << 40, 3), ReturnCode::ERROR_INPUT, [None, Some(0), None, None]);
}

#[test]
fn a_table_of_unprotected_mappings_can_be_destroyed() {
    let (mut host, rd) = realm();
    host.tables(rd, SHARED, 3);
    host.map(rd, SHARED, 3);
    host.ok(RmiCommand::RttDestroy { rd, ipa: SHARED, level: 3 });
    assert_eq!(host.entry(rd, SHARED, 3), Entry::UnassignedNs);
}

#[test]
fn unmap_unprotected_follows_its_scenarios() {
    let (mut host, rd) = realm();
    host.tables(rd, SHARED, 3);
    host.map(rd, SHARED, 3);
    let unmap = |ipa, level| RmiCommand::RttUnmapUnprotected { rd, ipa, level };
    assert_eq!(host.ok(unmap(SHARED, 3))[0], SHARED + BLOCK);
    host.fails(unmap(SHARED, 3), rtt(3), [Some(SHARED + BLOCK), None, None, None]);
    let next = SHARED + BLOCK;
    host.map(rd, next, 2);
    host.fails(unmap(next + PAGE, 3), rtt(2), [Some(next + PAGE), None, None, None]);
    host.fails(unmap(SHARED, 2), rtt(2), [Some(SHARED), None, None, None]);
    host.fails(unmap(RAM_BASE, 3), ReturnCode::ERROR_INPUT, [Some(0), None, None, None]);
}

#[test]
fn data_destroy_follows_its_scenarios() {
    let (mut host, rd) = realm();
    let data = host.block(rd, RAM_BASE);
    let destroy = |ipa| RmiCommand::DataDestroy { rd, ipa };
    host.fails(destroy(RAM_BASE + PAGE), rtt(2), [None, Some(RAM_BASE + PAGE), None, None]);
    let table = host.granule();
    host.ok(RmiCommand::RttCreate { rd, rtt: table, ipa: RAM_BASE, level: 3 });
    assert_eq!(host.ok(destroy(RAM_BASE + PAGE))[..2], [data + PAGE, RAM_BASE + 2 * PAGE]);
    host.fails(destroy(RAM_BASE + PAGE), rtt(3), [None, Some(RAM_BASE + 2 * PAGE), None, None]);
    host.fails(destroy(RAM_BASE + BLOCK), rtt(2), [None, Some(RAM_BASE + (1 << 30)), None, None]);
    host.fails(destroy(SHARED), ReturnCode::ERROR_INPUT, [None, Some(0), None, None]);
    host.fails(destroy(RAM_BASE + 1), ReturnCode::ERROR_INPUT, [None, Some(0), None, None]);
}

#[test]
fn read_entry_reports_each_state() {
    let (mut host, rd) = realm();
    let read = |ipa, level: i64| RmiCommand::RttReadEntry { rd, ipa, level };
    assert_eq!(host.ok(read(RAM_BASE, 3)), [0, 0, 0, 0]);
    host.tables(rd, RAM_BASE, 3);
    host.ok(RmiCommand::RttInitRipas { rd, base: RAM_BASE, top: RAM_BASE + PAGE });
    assert_eq!(host.ok(read(RAM_BASE, 3)), [3, 0, 0, 1]);
    let data = host.data_unknown(rd, RAM_BASE);
    assert_eq!(host.ok(read(RAM_BASE, 3)), [3, 1, data, 1]);
    host.ok(RmiCommand::DataDestroy { rd, ipa: RAM_BASE });
    let data = host.data_unknown(rd, RAM_BASE);
    assert_eq!(
        host.ok(read(RAM_BASE, 3)),
        [3, 1, data, 2],
        "the address is there also when the RIPAS is DESTROYED"
    );
    let table = host.model.realms()[&rd].rtts.tables()[&(3, RAM_BASE)].pa;
    assert_eq!(host.ok(read(RAM_BASE, 2))[..3], [2, 2, table]);
    assert_eq!(host.ok(read(SHARED, 1)), [0, 0, 0, 0]);
    host.tables(rd, SHARED, 3);
    host.map(rd, SHARED, 3);
    assert_eq!(host.ok(read(SHARED, 3)), [3, 1, DRAM | 0xd8, 0]);
    host.fails(read(RAM_BASE + PAGE, 2), ReturnCode::ERROR_INPUT, [None; 4]);
    host.fails(read(1 << 40, 3), ReturnCode::ERROR_INPUT, [None; 4]);
    host.fails(read(RAM_BASE, 4), ReturnCode::ERROR_INPUT, [None; 4]);
    host.fails(read(RAM_BASE, -1), ReturnCode::ERROR_INPUT, [None; 4]);
}

#[test]
fn each_command_has_its_effect_on_hipas_and_ripas() {
    use Ripas as R;
    // DATA_CREATE, DATA_CREATE_UNKNOWN, then DATA_DESTROY, from each RIPAS.
    for before in [R::EMPTY, R::RAM, R::DESTROYED] {
        for known in [true, false] {
            let (mut host, rd) = realm();
            host.tables(rd, RAM_BASE, 3);
            host.set_ripas(rd, RAM_BASE, before);
            let pa = if known {
                host.data(rd, RAM_BASE, 1, DataFlags::MEASURE)
            } else {
                host.data_unknown(rd, RAM_BASE)
            };
            let ripas = if known { R::RAM } else { before };
            assert_eq!(host.entry(rd, RAM_BASE, 3), Entry::Assigned { pa, ripas });
            host.ok(RmiCommand::DataDestroy { rd, ipa: RAM_BASE });
            let after = if ripas == R::EMPTY { R::EMPTY } else { R::DESTROYED };
            assert_eq!(host.entry(rd, RAM_BASE, 3), Entry::Unassigned(after));
        }
    }
}

#[test]
fn unfolding_and_folding_change_nothing() {
    let (mut host, rd) = realm();
    let data = host.block(rd, RAM_BASE);
    let block = Entry::Assigned { pa: data, ripas: Ripas::EMPTY };
    assert_eq!(host.entry(rd, RAM_BASE, 3), block);
    let table = host.granule();
    host.ok(RmiCommand::RttCreate { rd, rtt: table, ipa: RAM_BASE, level: 3 });
    let third = Entry::Assigned { pa: data + 2 * PAGE, ripas: Ripas::EMPTY };
    assert_eq!(host.entry(rd, RAM_BASE + 2 * PAGE, 3), third);
    assert_eq!(host.ok(RmiCommand::RttFold { rd, ipa: RAM_BASE, level: 3 })[0], table);
    assert_eq!(host.entry(rd, RAM_BASE, 3), block);
}

#[test]
fn a_table_that_is_not_homogeneous_does_not_fold() {
    let (mut host, rd) = realm();
    let fold = |ipa, level| RmiCommand::RttFold { rd, ipa, level };
    host.tables(rd, RAM_BASE, 3);
    host.fails(fold(RAM_BASE, 2), rtt(2), [None; 4]);
    host.ok(RmiCommand::RttInitRipas { rd, base: RAM_BASE, top: RAM_BASE + PAGE });
    host.fails(fold(RAM_BASE, 3), rtt(3), [None; 4]);
    host.ok(RmiCommand::RttInitRipas { rd, base: RAM_BASE, top: RAM_BASE + BLOCK });
    host.ok(fold(RAM_BASE, 3));
    assert_eq!(host.entry(rd, RAM_BASE, 3), Entry::Unassigned(Ripas::RAM));
    // Scattered memory.
    host.tables(rd, RAM_BASE, 3);
    for i in 0..512 {
        let _gap = host.granule();
        host.data_unknown(rd, RAM_BASE + i * PAGE);
    }
    host.fails(fold(RAM_BASE, 3), rtt(3), [None; 4]);
    host.fails(fold(RAM_BASE + BLOCK, 3), rtt(2), [None; 4]);
}

#[test]
fn a_realm_sees_what_the_table_of_accesses_says() {
    use AccessKind::{Fetch, Read, Write};
    let (mut host, rd) = realm();
    host.tables(rd, RAM_BASE, 3);
    host.tables(rd, SHARED, 3);
    host.map(rd, SHARED, 3);
    let exit = Access::Exit { level: 3, permission: false };
    for (i, ripas) in (0..).zip([Ripas::EMPTY, Ripas::RAM, Ripas::DESTROYED]) {
        let (without, with) = (RAM_BASE + 2 * i * PAGE, RAM_BASE + (2 * i + 1) * PAGE);
        host.set_ripas(rd, without, ripas);
        host.set_ripas(rd, with, ripas);
        let data = host.data_unknown(rd, with);
        for kind in [Read, Write, Fetch] {
            let access = |ipa| host.model.realms()[&rd].access(ipa, kind);
            let (a, b) = match ripas {
                Ripas::EMPTY => (Access::External, Access::External),
                Ripas::RAM => (exit, Access::Data(data + 8)),
                _ => (exit, exit),
            };
            assert_eq!((access(without), access(with + 8)), (a, b), "{ripas} {kind:?}");
        }
    }
    let access = |ipa, kind| host.model.realms()[&rd].access(ipa, kind);
    assert_eq!(access(SHARED + 8, Write), Access::Ns(DRAM + 8));
    assert_eq!(access(SHARED + PAGE, Read), exit);
    assert_eq!(access(SHARED, Fetch), Access::External);
    assert_eq!(access(1 << 40, Read), Access::AddressSize);
}

/// The steps of the known answers.
fn known_answers(hash: HashAlgorithm, expected: [&str; 5]) {
    let mut host = Host::new();
    let mut params = RealmParams::default();
    (params.s2sz, params.num_bps, params.num_wps, params.hash_algo) = (48, 1, 1, hash);
    let rd = host.realm_of(params, 0);
    let check = |host: &Host, step: usize| {
        let rim = host.model.realms()[&rd].measurements[0];
        let hex: String = rim.iter().take(expected[step].len() / 2).map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, expected[step], "{hash}, step {step}");
    };
    check(&host, 0);
    host.tables(rd, RAM_BASE, 2);
    host.ok(RmiCommand::RttInitRipas { rd, base: RAM_BASE, top: RAM_BASE + BLOCK });
    check(&host, 1);
    host.tables(rd, RAM_BASE, 3);
    host.data(rd, RAM_BASE, 0xa5, DataFlags::MEASURE);
    check(&host, 2);
    host.data(rd, RAM_BASE + PAGE, 0xa5, DataFlags::NO_MEASURE);
    check(&host, 3);
    let mut rec = RecParams::default();
    rec.flags = RecFlags::RUNNABLE.bits();
    rec.pc = RAM_BASE;
    rec.gprs = std::array::from_fn(|i| i as u64);
    host.rec(rd, &rec);
    check(&host, 4);
    rec.flags = 0;
    host.rec(rd, &rec);
    check(&host, 4);
}

#[test]
fn the_rim_gives_the_known_answers_for_sha256() {
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
fn the_rim_gives_the_known_answers_for_sha512() {
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
fn init_ripas_needs_an_entry_that_fits_the_range() {
    let (mut host, rd) = realm();
    let init = |base, top| RmiCommand::RttInitRipas { rd, base, top };
    host.fails(init(RAM_BASE, RAM_BASE + BLOCK), rtt(0), [None; 4]);
    host.tables(rd, RAM_BASE, 2);
    assert_eq!(host.ok(init(RAM_BASE, RAM_BASE + BLOCK + PAGE))[0], RAM_BASE + BLOCK, "whole entries only");
    host.fails(init(RAM_BASE + BLOCK, RAM_BASE + BLOCK + PAGE), rtt(2), [None; 4]);
    host.fails(init(RAM_BASE + BLOCK, RAM_BASE), ReturnCode::ERROR_INPUT, [None; 4]);
    host.fails(init(RAM_BASE, SHARED + PAGE), ReturnCode::ERROR_INPUT, [None; 4]);
    host.tables(rd, RAM_BASE + BLOCK, 3);
    assert_eq!(host.ok(init(RAM_BASE, RAM_BASE + 4 * BLOCK))[0], RAM_BASE + BLOCK, "up to the table");
    host.ok(RmiCommand::RealmActivate { rd });
    host.fails(init(RAM_BASE, RAM_BASE + BLOCK), ReturnCode::ERROR_REALM, [None; 4]);
}

#[test]
fn a_realm_with_recs_or_tables_stays() {
    let (mut host, rd) = realm();
    let destroy = RmiCommand::RealmDestroy { rd };
    let rec = host.rec(rd, &RecParams::default());
    host.fails(destroy, ReturnCode::ERROR_REALM, [None; 4]);
    host.ok(RmiCommand::RecDestroy { rec });
    host.tables(rd, RAM_BASE, 1);
    host.fails(destroy, ReturnCode::ERROR_REALM, [None; 4]);
    host.ok(RmiCommand::RttDestroy { rd, ipa: 0, level: 1 });
    host.ok(destroy);
    assert_eq!(host.model.granule_state(rd), Some(GranuleState::Delegated));
    host.fails(destroy, ReturnCode::ERROR_INPUT, [None; 4]);
}

#[test]
fn a_wrong_level_is_refused_whatever_its_size() {
    let (mut host, rd) = realm();
    for level in [i64::MIN, -2, -1, 0, 4, i64::MAX] {
        assert!(rtt_entry_size(level).is_none() || (-1..=0).contains(&level));
        let table = host.granule();
        for command in [
            RmiCommand::RttCreate { rd, rtt: table, ipa: 0, level },
            RmiCommand::RttDestroy { rd, ipa: 0, level },
            RmiCommand::RttFold { rd, ipa: 0, level },
            RmiCommand::RttUnmapUnprotected { rd, ipa: SHARED, level },
        ] {
            host.fails(
                command,
                ReturnCode::ERROR_INPUT,
                [None, None, None, None].map(|_: Option<u64>| Some(0)),
            );
        }
    }
    assert!(matches!(host.call(RmiCommand::RttDestroy { rd, ipa: 0, level: 1 }), Outcome::Failure(_)));
}
