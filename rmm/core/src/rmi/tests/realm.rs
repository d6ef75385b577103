use super::*;
use crate::platform::TlbScope;
use crate::rtt::Stage2;

/// REALM_CREATE on fresh granules with these parameters must fail with INPUT.
#[track_caller]
fn refuses(w: &World<'_>, change: impl FnOnce(&mut RealmParams)) {
    let rd = w.delegated();
    w.put_params(w.delegated(), change);
    w.fails(RmiCommand::RealmCreate { rd, params_ptr: PARAMS }, INPUT);
}

#[test]
fn a_created_realm_has_its_granules_and_its_initial_entries() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.delegated();
    let root = w.delegated_run(2);
    w.put_params(root, |params| (params.s2sz, params.rtt_num_start) = (40, 2));
    w.ok(RmiCommand::RealmCreate { rd, params_ptr: PARAMS });
    assert_eq!(w.state(rd), GranuleState::Rd);
    assert_eq!([root, root + 4096].map(|pa| w.state(pa)), [GranuleState::Rtt; 2]);
    for (ipa, ns) in
        [(0, 0), ((1 << 39) - (1 << 30), 0), (1 << 39, 1 << 55), ((1 << 40) - (1 << 30), 1 << 55)]
    {
        assert_eq!(w.entry(rd, ipa, 1), (1, RttEntryState::UNASSIGNED, 0, Ripas::EMPTY));
        let (index, offset) = ((ipa >> 39), (ipa >> 30) as usize % 512 * 8);
        let content = w.machine().content(root + index * 4096);
        assert_eq!(content[offset..offset + 8], u64::to_le_bytes(ns), "{ipa:#x}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "the hash is another one under Miri")]
fn the_initial_rim_is_the_known_one_and_the_rems_are_zero() {
    let entries = entries();
    let w = World::new(&entries);
    let create = |hash_algo, vmid| {
        w.realm_with(1, |params| {
            (params.s2sz, params.rtt_level_start, params.hash_algo, params.vmid) = (48, 0, hash_algo, vmid);
        })
    };
    let sha256 = w.rim(create(HashAlgorithm::SHA_256, 1));
    assert_eq!(sha256[..4], [0x67, 0x39, 0xdf, 0xb2]);
    assert_eq!(sha256[32..], [0; 32]);
    let rd = create(HashAlgorithm::SHA_512, 2);
    assert_eq!(w.rim(rd)[..4], [0x79, 0x9e, 0x43, 0x40]);
    assert_eq!(w.machine().content(rd)[64..320], [0; 256]);
}

#[test]
fn params_align_params_bound_params_pas_parameters_must_be_non_secure_memory() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.delegated();
    w.put_params(w.delegated(), |_| ());
    for params_ptr in [PARAMS + 8, OUTSIDE, w.delegated()] {
        w.fails(RmiCommand::RealmCreate { rd, params_ptr }, INPUT);
    }
    w.machine().faulty.lock().unwrap().insert(PARAMS);
    w.fails(RmiCommand::RealmCreate { rd, params_ptr: PARAMS }, INPUT);
}

#[test]
fn params_valid_reserved_encodings_are_refused() {
    let entries = entries();
    let w = World::new(&entries);
    refuses(&w, |params| params.hash_algo = HashAlgorithm(2));
    refuses(&w, |params| params.num_bps = 0);
    refuses(&w, |params| params.num_wps = 0);
}

#[test]
fn params_supp_features_the_machine_lacks_are_refused() {
    let entries = entries();
    let w = World::new(&entries);
    refuses(&w, |params| params.flags = 1 << 0);
    refuses(&w, |params| params.flags = 1 << 1);
    refuses(&w, |params| (params.flags, params.pmu_num_ctrs) = (1 << 2, 7));
    refuses(&w, |params| params.num_bps = 6);
    refuses(&w, |params| params.num_wps = 4);
    refuses(&w, |params| (params.s2sz, params.rtt_level_start) = (49, 0));
    // A PMU without event counters takes FEAT_HPMN0.
    refuses(&w, |params| (params.flags, params.pmu_num_ctrs) = (1 << 2, 0));
}

#[test]
fn a_realm_gets_the_features_the_machine_has() {
    let entries = entries();
    let w = World::with(&entries, |machine| {
        machine.features.sve_vl = Some(3);
        machine.features.hpmn0 = true;
    });
    refuses(&w, |params| (params.flags, params.sve_vl) = (1 << 1, 4));
    w.realm_with(1, |params| (params.flags, params.sve_vl, params.vmid) = (1 << 1 | 1 << 2, 3, 1));
    // What a flag switches off is not looked at.
    w.realm_with(1, |params| (params.sve_vl, params.pmu_num_ctrs, params.vmid) = (200, 200, 2));
}

#[test]
fn alias_the_rd_cannot_be_one_of_the_tables() {
    let entries = entries();
    let w = World::new(&entries);
    let root = w.delegated_run(2);
    w.put_params(root, |params| (params.s2sz, params.rtt_num_start) = (40, 2));
    for rd in [root, root + 4096] {
        w.fails(RmiCommand::RealmCreate { rd, params_ptr: PARAMS }, INPUT);
    }
}

#[test]
fn rd_align_rd_bound_rd_state_the_rd_must_be_delegated() {
    let entries = entries();
    let w = World::new(&entries);
    w.put_params(w.delegated(), |_| ());
    let live = w.realm_with(1, |params| params.vmid = 9);
    w.put_params(w.delegated(), |_| ());
    for rd in [w.delegated() + 8, OUTSIDE, w.fresh(), live] {
        w.fails(RmiCommand::RealmCreate { rd, params_ptr: PARAMS }, INPUT);
    }
}

#[test]
fn rtt_align_the_tables_must_be_aligned_to_their_size() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.delegated();
    let root = w.delegated_run(2) + 4096;
    w.delegated();
    w.put_params(root, |params| (params.s2sz, params.rtt_num_start) = (40, 2));
    w.fails(RmiCommand::RealmCreate { rd, params_ptr: PARAMS }, INPUT);
    refuses(&w, |params| params.rtt_base += 8);
}

#[test]
fn bound2_a_realm_without_lpa2_has_no_granule_above_48_bits() {
    let entries: Vec<_> = entries().into_iter().chain(super::entries()).collect();
    let mut machine = FakePlatform::new(GRANULES);
    (machine.features.lpa2, machine.features.pa_bits) = (true, 52);
    let low = machine.bank();
    let high = crate::granule::Bank { base: 1 << 48 | low.base, ..low };
    let rmm = Rmm::new(machine, &[low, high], &entries).unwrap();
    let run = |command| rmm.run_command(command).code;
    let delegated = |addr| {
        assert!(run(RmiCommand::GranuleDelegate { addr }).is_success());
        addr
    };
    let [rd, root] = [2, 3].map(|index| delegated(FakePlatform::granule(index)));
    let [rtt, high_root] = [4, 5].map(|index| delegated(1 << 48 | FakePlatform::granule(index)));
    let create = |root, flags| {
        let mut params = default_params(root);
        params.flags = flags;
        rmm.platform().host_write(PARAMS, params.as_bytes());
        run(RmiCommand::RealmCreate { rd, params_ptr: PARAMS })
    };
    assert_eq!(create(high_root, 0), INPUT);
    assert_eq!(create(root, 0), ReturnCode::SUCCESS);
    assert_eq!(run(RmiCommand::RttCreate { rd, rtt, ipa: 0, level: 2 }), INPUT);
    assert_eq!(run(RmiCommand::DataCreateUnknown { rd, data: rtt, ipa: 0 }), INPUT);
    assert_eq!(run(RmiCommand::RealmDestroy { rd }), ReturnCode::SUCCESS);
    assert_eq!(create(high_root, 1), ReturnCode::SUCCESS);
    assert_eq!(run(RmiCommand::RttCreate { rd, rtt, ipa: 0, level: 2 }), ReturnCode::SUCCESS);
}

#[test]
fn rtt_num_level_width_level_and_number_of_tables_must_agree() {
    let entries = entries();
    let w = World::new(&entries);
    for (s2sz, rtt_level_start, rtt_num_start) in [
        (31, 1, 1),
        (33, 0, 1),
        (33, 2, 1),
        (33, 3, 1),
        (33, 1, 2),
        (33, 1, 0),
        (44, 1, 32),
        (33, 4, 1),
        (33, -2, 1),
    ] {
        refuses(&w, |params| {
            (params.s2sz, params.rtt_level_start, params.rtt_num_start) =
                (s2sz, rtt_level_start, rtt_num_start);
        });
    }
    // Level -1 is LPA2's.
    refuses(&w, |params| (params.s2sz, params.rtt_level_start) = (48, -1));
}

#[test]
fn every_width_has_the_starting_levels_of_the_specification() {
    // RMM 1.0, start levels by IPA width: (one table, several tables).
    let rows: [(i64, core::ops::RangeInclusive<u8>, core::ops::RangeInclusive<u8>); 5] = [
        (-1, 49..=52, 0..=0),
        (0, 40..=48, 49..=52),
        (1, 31..=39, 40..=43),
        (2, 22..=30, 31..=34),
        (3, 13..=21, 22..=25),
    ];
    for (level, one, several) in rows {
        for width in 10..=60 {
            let expected = match width {
                _ if one.contains(&width) => Some(1),
                _ if several.contains(&width) => Some(1 << (width - one.end())),
                _ => None,
            };
            assert_eq!(
                Stage2::tables_at_start(width, level, true),
                expected,
                "{width} bits at level {level}"
            );
            let expected = expected.filter(|_| level >= 0 && width <= 48);
            assert_eq!(
                Stage2::tables_at_start(width, level, false),
                expected,
                "{width} bits at level {level}"
            );
        }
    }
}

#[test]
fn rtt_state_every_table_must_be_delegated() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.delegated();
    let root = w.delegated_run(4);
    w.put_params(root, |params| (params.s2sz, params.rtt_num_start) = (41, 4));
    for addr in (0..4).map(|i| root + i * 4096) {
        w.ok(RmiCommand::GranuleUndelegate { addr });
        w.fails(RmiCommand::RealmCreate { rd, params_ptr: PARAMS }, INPUT);
        w.ok(RmiCommand::GranuleDelegate { addr });
    }
    w.ok(RmiCommand::RealmCreate { rd, params_ptr: PARAMS });
    refuses(&w, |params| params.rtt_base = OUTSIDE);
}

#[test]
fn vmid_valid_a_vmid_in_use_or_out_of_range_is_refused() {
    let entries = entries();
    let w = World::with(&entries, |machine| machine.features.vmid16 = false);
    let rd = w.realm_with(1, |params| params.vmid = 255);
    refuses(&w, |params| params.vmid = 255);
    refuses(&w, |params| params.vmid = 256);
    w.ok(RmiCommand::RealmDestroy { rd });
    w.realm_with(1, |params| params.vmid = 255);
}

#[test]
fn a_refused_create_does_not_keep_the_vmid() {
    let entries = entries();
    let w = World::new(&entries);
    refuses(&w, |params| params.rtt_base = OUTSIDE);
    w.realm();
}

#[test]
fn realm_state_only_a_new_realm_is_activated() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.activate(rd);
    w.fails(RmiCommand::RealmActivate { rd }, REALM);
}

#[test]
fn a_destroyed_realm_gives_its_granules_back_wiped_and_its_vmid_forgotten() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.delegated();
    let root = w.delegated();
    w.put_params(root, |params| params.vmid = 77);
    w.ok(RmiCommand::RealmCreate { rd, params_ptr: PARAMS });
    w.activate(rd);
    // Unprotected mappings in the root do not make the realm live.
    w.ok(RmiCommand::RttMapUnprotected {
        rd,
        ipa: 1 << 32,
        level: 1,
        desc: UnprotectedDesc::normal_rw(1 << 30),
    });
    w.machine().take_invalidations();
    w.ok(RmiCommand::RealmDestroy { rd });
    assert_eq!(w.machine().take_invalidations(), [(77, TlbScope::All)]);
    for pa in [rd, root] {
        assert_eq!((w.state(pa), w.machine().content(pa)), (GranuleState::Delegated, [0; 4096]));
        w.ok(RmiCommand::GranuleUndelegate { addr: pa });
    }
}

#[test]
fn realm_live_a_realm_with_tables_is_not_destroyed() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.tables(rd, 0, 2);
    w.fails(RmiCommand::RealmDestroy { rd }, REALM);
    w.ok(RmiCommand::RttDestroy { rd, ipa: 0, level: 2 });
    w.ok(RmiCommand::RealmDestroy { rd });
}

#[test]
fn realm_live_counts_every_concatenated_root() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm_with(2, |params| (params.s2sz, params.rtt_num_start) = (40, 2));
    let rtt = w.delegated();
    w.ok(RmiCommand::RttCreate { rd, rtt, ipa: 1 << 39, level: 2 });
    w.fails(RmiCommand::RealmDestroy { rd }, REALM);
    w.ok(RmiCommand::RttDestroy { rd, ipa: 1 << 39, level: 2 });
    w.ok(RmiCommand::RealmDestroy { rd });
}
