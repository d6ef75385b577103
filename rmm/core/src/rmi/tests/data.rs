use super::*;
use crate::platform::TlbScope;

const RAM_TOP: u64 = 1 << 32;

fn create(rd: u64, data: u64, ipa: u64) -> RmiCommand {
    RmiCommand::DataCreate { rd, data, ipa, src: SOURCE, flags: DataFlags::MEASURE }
}

fn create_unknown(rd: u64, data: u64, ipa: u64) -> RmiCommand {
    RmiCommand::DataCreateUnknown { rd, data, ipa }
}

#[test]
fn created_data_is_a_measured_copy_and_is_ram() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.tables(rd, 0, 3);
    w.machine().host_write(SOURCE, &[0xa5; 4096]);
    let (data, rim) = (w.delegated(), w.rim(rd));
    w.ok(create(rd, data, 0x3000));
    assert_eq!((w.state(data), w.machine().content(data)), (GranuleState::Data, [0xa5; 4096]));
    assert_eq!(w.entry(rd, 0x3000, 3), (3, RttEntryState::ASSIGNED, data, Ripas::RAM));
    assert_ne!(w.rim(rd), rim);
}

#[test]
#[cfg_attr(miri, ignore = "the hash is another one under Miri")]
fn the_rim_follows_the_known_answers() {
    // The IPA space of the known answers is 48 bits, which changes nothing but the initial value.
    let known = [
        ("25061e2b", "77d41ad5"), // INIT_RIPAS of one 2 MiB entry
        ("b2352566", "c4a61aac"), // measured data
        ("9bc01236", "bb6225fe"), // unmeasured data
    ];
    for (algorithm, pick) in [(HashAlgorithm::SHA_256, 0), (HashAlgorithm::SHA_512, 1)] {
        let entries = entries();
        let w = World::new(&entries);
        let rd = w.realm_with(1, |params| {
            (params.s2sz, params.rtt_level_start, params.hash_algo) = (48, 0, algorithm);
        });
        let base = 0x8000_0000;
        for (level, ipa) in [(1, 0), (2, base)] {
            let rtt = w.delegated();
            w.ok(RmiCommand::RttCreate { rd, rtt, ipa, level });
        }
        let mut rims = Vec::new();
        w.ok(RmiCommand::RttInitRipas { rd, base, top: base + 0x20_0000 });
        rims.push(w.rim(rd));
        let rtt = w.delegated();
        w.ok(RmiCommand::RttCreate { rd, rtt, ipa: base, level: 3 });
        w.machine().host_write(SOURCE, &[0xa5; 4096]);
        for (ipa, flags) in [(base, DataFlags::MEASURE), (base + 0x1000, DataFlags::NO_MEASURE)] {
            let data = w.delegated();
            w.ok(RmiCommand::DataCreate { rd, data, ipa, src: SOURCE, flags });
            rims.push(w.rim(rd));
        }
        for (rim, answers) in rims.iter().zip(known) {
            let begin = std::format!("{:02x}{:02x}{:02x}{:02x}", rim[0], rim[1], rim[2], rim[3]);
            assert_eq!(begin, if pick == 0 { answers.0 } else { answers.1 });
        }
    }
}

#[test]
fn unknown_data_is_zeros_unmeasured_and_keeps_its_ripas() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.tables(rd, 0, 3);
    w.ok(RmiCommand::RttInitRipas { rd, base: 0, top: 0x1000 });
    let rim = w.rim(rd);
    let [ram, empty] = [w.fresh(), w.fresh()];
    for (data, ipa, ripas) in [(ram, 0, Ripas::RAM), (empty, 0x1000, Ripas::EMPTY)] {
        w.machine().host_write(data, &[0x77; 4096]);
        w.ok(RmiCommand::GranuleDelegate { addr: data });
        w.ok(create_unknown(rd, data, ipa));
        assert_eq!((w.state(data), w.machine().content(data)), (GranuleState::Data, [0; 4096]));
        assert_eq!(w.entry(rd, ipa, 3), (3, RttEntryState::ASSIGNED, data, ripas));
    }
    assert_eq!(w.rim(rd), rim);
}

#[test]
fn src_align_src_bound_src_pas_the_source_must_be_non_secure_memory() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.tables(rd, 0, 3);
    let data = w.delegated();
    for src in [SOURCE + 8, OUTSIDE, data, w.delegated(), rd] {
        w.fails(RmiCommand::DataCreate { rd, data, ipa: 0, src, flags: DataFlags::MEASURE }, INPUT);
    }
    w.machine().faulty.lock().unwrap().insert(SOURCE);
    w.fails(create(rd, data, 0), INPUT);
}

#[test]
fn flags_other_than_measure_are_refused() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.tables(rd, 0, 3);
    let data = w.delegated();
    for flags in [2, 3, u64::MAX] {
        w.fails(RmiCommand::DataCreate { rd, data, ipa: 0, src: SOURCE, flags: DataFlags(flags) }, INPUT);
    }
}

#[test]
fn data_align_data_bound_data_state_the_granule_must_be_delegated() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    let used = w.data(rd, 0);
    for data in [w.delegated() + 8, OUTSIDE, w.fresh(), used, rd] {
        w.fails(create(rd, data, 0x1000), INPUT);
        w.fails(create_unknown(rd, data, 0x1000), INPUT);
    }
}

#[test]
fn ipa_align_ipa_bound_data_needs_a_protected_page_address() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.tables(rd, 0, 3);
    let data = w.delegated();
    for ipa in [8, RAM_TOP, RAM_TOP << 1, !0xfff] {
        w.fails(create(rd, data, ipa), INPUT);
        w.fails(create_unknown(rd, data, ipa), INPUT);
        w.fails(RmiCommand::DataDestroy { rd, ipa }, INPUT);
    }
}

#[test]
fn realm_state_an_active_realm_takes_unknown_data_only() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.tables(rd, 0, 3);
    w.activate(rd);
    let data = w.delegated();
    w.fails(create(rd, data, 0), REALM);
    w.ok(create_unknown(rd, data, 0));
}

#[test]
fn rtt_walk_data_needs_a_page_table() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    let data = w.delegated();
    for level in [1, 2] {
        w.fails(create(rd, data, 0), rtt_error(level));
        w.fails(create_unknown(rd, data, 0), rtt_error(level));
        w.tables(rd, 0, level + 1);
    }
    w.ok(create_unknown(rd, data, 0));
}

#[test]
fn rtte_state_a_page_is_assigned_once() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.data(rd, 0);
    let data = w.delegated();
    w.fails(create(rd, data, 0), rtt_error(3));
    w.fails(create_unknown(rd, data, 0), rtt_error(3));
}

#[test]
fn destroyed_ram_is_wiped_forgotten_and_destroyed() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.machine().host_write(SOURCE, &[0xa5; 4096]);
    let data = w.data(rd, 0x5000);
    let next = w.data(rd, 0x9000);
    w.machine().take_invalidations();
    assert_eq!(w.ok(RmiCommand::DataDestroy { rd, ipa: 0x5000 }), [data, 0x9000, 0, 0]);
    assert_eq!(w.machine().take_invalidations(), [(1, TlbScope::Range { base: 0x5000, size: 0x1000 })]);
    assert_eq!((w.state(data), w.machine().content(data)), (GranuleState::Delegated, [0; 4096]));
    assert_eq!(w.entry(rd, 0x5000, 3), (3, RttEntryState::UNASSIGNED, 0, Ripas::DESTROYED));
    // Behind the last one the table ends.
    assert_eq!(w.ok(RmiCommand::DataDestroy { rd, ipa: 0x9000 }), [next, 0x20_0000, 0, 0]);
}

#[test]
fn destroyed_empty_memory_stays_empty_and_was_never_mapped() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.tables(rd, 0, 3);
    let data = w.delegated();
    w.ok(create_unknown(rd, data, 0));
    w.machine().take_invalidations();
    assert_eq!(w.ok(RmiCommand::DataDestroy { rd, ipa: 0 })[0], data);
    assert!(w.machine().take_invalidations().is_empty());
    assert_eq!(w.entry(rd, 0, 3), (3, RttEntryState::UNASSIGNED, 0, Ripas::EMPTY));
}

#[test]
fn rtt_walk_destroying_where_no_table_is_tells_where_to_go_on() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.tables(rd, 3 << 30, 2);
    let destroy = RmiCommand::DataDestroy { rd, ipa: 0x1000 };
    w.fails_with(destroy, rtt_error(1), [0, 3 << 30, 0, 0]);
    w.fails_with(RmiCommand::DataDestroy { rd, ipa: 3 << 30 }, rtt_error(2), [0, 4 << 30, 0, 0]);
}

#[test]
fn rtte_state_destroying_an_unassigned_page_tells_where_to_go_on() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.data(rd, 0x7000);
    w.machine().take_invalidations();
    w.fails_with(RmiCommand::DataDestroy { rd, ipa: 0x1000 }, rtt_error(3), [0, 0x7000, 0, 0]);
    w.fails_with(RmiCommand::DataDestroy { rd, ipa: 0x8000 }, rtt_error(3), [0, 0x20_0000, 0, 0]);
}

#[test]
fn where_to_go_on_is_right_in_whatever_order_pages_come_and_go() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.tables(rd, 0, 3);
    // Both ends of groups of entries and of the table.
    let pages = [0_u64, 15, 16, 17, 200, 255, 256, 495, 496, 511];
    let mut live = std::collections::BTreeSet::new();
    // Every page comes and goes several times, in an order that is far from theirs.
    for step in 0..120 {
        let page = pages[step * 7 % pages.len()];
        let ipa = page * 0x1000;
        if (step / 3) % 2 == 0 {
            if live.insert(page) {
                let data = w.delegated();
                w.ok(create_unknown(rd, data, ipa));
            }
        } else {
            let existed = live.remove(&page);
            let top = live.range(page..).next().copied().unwrap_or(512) * 0x1000;
            let destroy = RmiCommand::DataDestroy { rd, ipa };
            if existed {
                let [data, found, ..] = w.ok(destroy);
                assert_eq!(found, top, "step {step}, page {page}");
                w.ok(RmiCommand::GranuleUndelegate { addr: data });
            } else {
                w.fails_with(destroy, rtt_error(3), [0, top, 0, 0]);
            }
        }
    }
}
