use super::*;
use crate::platform::TlbScope;

const SHARED: u64 = 1 << 32;

fn create(rd: u64, rtt: u64, ipa: u64, level: i64) -> RmiCommand {
    RmiCommand::RttCreate { rd, rtt, ipa, level }
}

fn destroy(rd: u64, ipa: u64, level: i64) -> RmiCommand {
    RmiCommand::RttDestroy { rd, ipa, level }
}

fn fold(rd: u64, ipa: u64, level: i64) -> RmiCommand {
    RmiCommand::RttFold { rd, ipa, level }
}

/// A world with room for a full page table.
fn large_entries() -> Vec<GranuleEntry> {
    (0..600).map(|_| GranuleEntry::default()).collect()
}

/// A realm whose first 2 MiB are RAM on contiguous granules from an aligned address; the RD, that address and the page
/// table.
fn full_table(w: &World<'_>) -> (u64, u64, u64) {
    let rd = w.realm();
    let table = w.tables(rd, 0, 3);
    w.ok(RmiCommand::RttInitRipas { rd, base: 0, top: 0x20_0000 });
    let first = FakePlatform::granule(0).next_multiple_of(0x20_0000);
    // The fake's memory begins at a multiple of 2 MiB whose first granules are in use: the block lies in between.
    assert_eq!(first, FakePlatform::granule(0));
    (rd, first, table)
}

#[test]
fn a_new_table_says_what_its_parent_entry_said() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.tables(rd, 0, 2);
    w.ok(RmiCommand::RttInitRipas { rd, base: 0, top: 0x20_0000 });
    let table = w.tables(rd, 0, 3);
    assert_eq!(w.state(table), GranuleState::Rtt);
    assert_eq!(w.entry(rd, 0, 2), (2, RttEntryState::TABLE, table, Ripas::EMPTY));
    for ipa in [0, 0x1f_f000] {
        assert_eq!(w.entry(rd, ipa, 3), (3, RttEntryState::UNASSIGNED, 0, Ripas::RAM));
    }
    w.tables(rd, SHARED, 2);
    assert_eq!(w.entry(rd, SHARED, 2), (2, RttEntryState::UNASSIGNED, 0, Ripas::EMPTY));
    w.ok(RmiCommand::RttMapUnprotected { rd, ipa: SHARED, level: 2, desc: UnprotectedDesc::normal_rw(0) });
}

#[test]
fn a_block_unfolds_by_break_before_make_into_its_pages() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    let desc = UnprotectedDesc::normal_rw(3 << 30);
    w.ok(RmiCommand::RttMapUnprotected { rd, ipa: SHARED, level: 1, desc });
    w.machine().take_invalidations();
    let rtt = w.delegated();
    w.ok(create(rd, rtt, SHARED, 2));
    assert_eq!(w.machine().take_invalidations(), [(1, TlbScope::Range { base: SHARED, size: 1 << 30 })]);
    for index in [0, 1, 511] {
        let (level, state, found, _) = w.entry(rd, SHARED + (index << 21), 2);
        assert_eq!((level, state), (2, RttEntryState::ASSIGNED));
        assert_eq!(found, UnprotectedDesc::normal_rw((3 << 30) + (index << 21)).0);
    }
    // And folds again to the same block.
    assert_eq!(w.ok(fold(rd, SHARED, 2)), [rtt, 0, 0, 0]);
    assert_eq!(w.machine().take_invalidations(), [(1, TlbScope::Range { base: SHARED, size: 1 << 30 })]);
    assert_eq!(w.entry(rd, SHARED, 1), (1, RttEntryState::ASSIGNED, desc.0, Ripas::EMPTY));
    assert_eq!((w.state(rtt), w.machine().content(rtt)), (GranuleState::Delegated, [0; 4096]));
}

#[test]
fn level_bound_only_levels_below_the_start_have_tables() {
    let entries = entries();
    let w = World::new(&entries);
    let (rd, rtt) = (w.realm(), w.delegated());
    for level in [1, 0, -1, 4, i64::MIN, i64::MAX] {
        w.fails(create(rd, rtt, 0, level), INPUT);
        w.fails(destroy(rd, 0, level), INPUT);
        w.fails(fold(rd, 0, level), INPUT);
    }
}

#[test]
fn ipa_align_ipa_bound_a_table_covers_an_aligned_range_of_the_ipa_space() {
    let entries = entries();
    let w = World::new(&entries);
    let (rd, rtt) = (w.realm(), w.delegated());
    for (ipa, level) in [(0x1000, 2), (0x20_0000, 2), (0x1000, 3), (1 << 33, 2), (u64::MAX << 30, 2)] {
        w.fails(create(rd, rtt, ipa, level), INPUT);
        w.fails(destroy(rd, ipa, level), INPUT);
        w.fails(fold(rd, ipa, level), INPUT);
    }
}

#[test]
fn rtt_align_rtt_bound_rtt_state_the_table_must_be_delegated() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    let used = w.tables(rd, 0, 2);
    for rtt in [w.delegated() + 8, OUTSIDE, w.fresh(), used, rd] {
        w.fails(create(rd, rtt, 1 << 30, 2), INPUT);
    }
}

#[test]
fn rtt_walk_a_table_needs_the_one_above() {
    let entries = entries();
    let w = World::new(&entries);
    let (rd, rtt) = (w.realm(), w.delegated());
    w.fails(create(rd, rtt, 0, 3), rtt_error(1));
    w.fails_with(destroy(rd, 0, 3), rtt_error(1), [0, 512 << 30, 0, 0]);
    w.fails(fold(rd, 0, 3), rtt_error(1));
}

#[test]
fn rtte_state_there_is_one_table_for_a_range() {
    let entries = entries();
    let w = World::new(&entries);
    let (rd, rtt) = (w.realm(), w.delegated());
    w.tables(rd, 0, 2);
    w.fails(create(rd, rtt, 0, 2), rtt_error(1));
    w.fails(fold(rd, 1 << 30, 2), rtt_error(1));
}

#[test]
fn rtte_state_destroying_no_table_tells_where_to_go_on() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.tables(rd, 2 << 30, 2);
    w.fails_with(destroy(rd, 0, 2), rtt_error(1), [0, 2 << 30, 0, 0]);
    // A block in the way is where to stop.
    w.ok(RmiCommand::RttMapUnprotected { rd, ipa: SHARED, level: 1, desc: UnprotectedDesc::normal_rw(0) });
    w.fails_with(destroy(rd, SHARED, 2), rtt_error(1), [0, SHARED, 0, 0]);
    w.fails_with(destroy(rd, SHARED + 0x20_0000, 3), rtt_error(1), [0, INPUT_TOP, 0, 0]);
}

/// A block found above the named level: the address itself.
const INPUT_TOP: u64 = SHARED + 0x20_0000;

#[test]
fn a_destroyed_table_comes_back_wiped_and_leaves_destroyed() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    let table = w.tables(rd, 0, 2);
    w.tables(rd, 3 << 30, 2);
    w.machine().take_invalidations();
    assert_eq!(w.ok(destroy(rd, 0, 2)), [table, 3 << 30, 0, 0]);
    assert_eq!((w.state(table), w.machine().content(table)), (GranuleState::Delegated, [0; 4096]));
    assert_eq!(w.entry(rd, 0, 1), (1, RttEntryState::UNASSIGNED, 0, Ripas::DESTROYED));
    assert_eq!(w.machine().take_invalidations(), [(1, TlbScope::Range { base: 0, size: 0x1000 })]);
}

#[test]
fn an_unprotected_table_is_destroyed_with_its_mappings() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.tables(rd, SHARED, 2);
    w.ok(RmiCommand::RttMapUnprotected { rd, ipa: SHARED, level: 2, desc: UnprotectedDesc::normal_rw(0) });
    w.machine().take_invalidations();
    w.ok(destroy(rd, SHARED, 2));
    assert_eq!(w.machine().take_invalidations(), [(1, TlbScope::Range { base: SHARED, size: 1 << 30 })]);
    // UNASSIGNED_NS: it can be mapped again.
    w.ok(RmiCommand::RttMapUnprotected { rd, ipa: SHARED, level: 1, desc: UnprotectedDesc::normal_rw(0) });
}

#[test]
fn rtt_live_a_table_with_data_or_tables_is_not_destroyed() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.data(rd, 0);
    w.machine().take_invalidations();
    w.fails_with(destroy(rd, 0, 3), rtt_error(3), [0, 0, 0, 0]);
    w.data(rd, 1 << 30);
    w.machine().take_invalidations();
    w.fails_with(destroy(rd, 1 << 30, 2), rtt_error(2), [0, 1 << 30, 0, 0]);
}

#[test]
fn an_unassigned_table_folds_into_its_ripas() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    let table = w.tables(rd, 0, 2);
    w.ok(RmiCommand::RttInitRipas { rd, base: 0, top: 1 << 30 });
    assert_eq!(w.ok(fold(rd, 0, 2)), [table, 0, 0, 0]);
    assert_eq!(w.entry(rd, 0, 1), (1, RttEntryState::UNASSIGNED, 0, Ripas::RAM));
    w.ok(RmiCommand::RealmDestroy { rd });
}

#[test]
fn rtt_homo_a_table_of_different_entries_does_not_fold() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.tables(rd, 0, 3);
    w.fails(fold(rd, 0, 2), rtt_error(2));
    w.ok(RmiCommand::RttInitRipas { rd, base: 0x1f_f000, top: 0x20_0000 });
    w.fails(fold(rd, 0, 3), rtt_error(3));
    let shared_table = w.tables(rd, SHARED, 2);
    w.ok(RmiCommand::RttMapUnprotected { rd, ipa: SHARED, level: 2, desc: UnprotectedDesc::normal_rw(0) });
    w.fails(fold(rd, SHARED, 2), rtt_error(2));
    w.ok(RmiCommand::RttUnmapUnprotected { rd, ipa: SHARED, level: 2 });
    assert_eq!(w.ok(fold(rd, SHARED, 2)), [shared_table, 0, 0, 0]);
}

#[test]
fn a_full_contiguous_table_folds_into_a_block_and_unfolds_again() {
    let entries: Vec<GranuleEntry> = (0..1024 + 64).map(|_| GranuleEntry::default()).collect();
    let w = World::new(&entries);
    let (rd, first, table) = full_table(&w);
    // The second 2 MiB of memory, behind the granules in use.
    let block = first + 0x20_0000;
    for offset in (0..0x20_0000).step_by(0x1000) {
        w.ok(RmiCommand::GranuleDelegate { addr: block + offset });
        w.ok(RmiCommand::DataCreateUnknown { rd, data: block + offset, ipa: offset });
    }
    w.machine().take_invalidations();
    assert_eq!(w.ok(fold(rd, 0, 3)), [table, 0, 0, 0]);
    assert_eq!(w.machine().take_invalidations(), [(1, TlbScope::Range { base: 0, size: 0x20_0000 })]);
    assert_eq!(w.entry(rd, 0x20_0000 - 0x1000, 3).0, 2);
    assert_eq!(w.entry(rd, 0, 2), (2, RttEntryState::ASSIGNED, block, Ripas::RAM));

    // A page of a block is not destroyed: the block is where to stop.
    w.fails_with(RmiCommand::DataDestroy { rd, ipa: 0x3000 }, rtt_error(2), [0, 0x3000, 0, 0]);
    // The level 2 table holds a live block.
    w.fails_with(destroy(rd, 0, 2), rtt_error(2), [0; 4]);

    w.ok(create(rd, table, 0, 3));
    assert_eq!(w.machine().take_invalidations(), [(1, TlbScope::Range { base: 0, size: 0x20_0000 })]);
    for offset in (0..0x20_0000).step_by(0x1000) {
        // Behind each page the next is live; the last is the table's last.
        let destroyed = w.ok(RmiCommand::DataDestroy { rd, ipa: offset });
        assert_eq!(destroyed[..2], [block + offset, offset + 0x1000]);
    }
    assert_eq!(w.ok(destroy(rd, 0, 3))[0], table);
}

#[test]
fn rtt_homo_a_full_table_of_memory_out_of_order_does_not_fold() {
    let entries: Vec<GranuleEntry> = (0..1024 + 64).map(|_| GranuleEntry::default()).collect();
    let w = World::new(&entries);
    let (rd, first, _) = full_table(&w);
    let block = first + 0x20_0000;
    for page in 0..512_u64 {
        let (data, ipa) = (block + page * 0x1000, (page ^ 1) * 0x1000);
        w.ok(RmiCommand::GranuleDelegate { addr: data });
        w.ok(RmiCommand::DataCreateUnknown { rd, data, ipa });
    }
    w.fails(fold(rd, 0, 3), rtt_error(3));
}

#[test]
fn rtt_homo_contiguous_memory_that_is_not_aligned_does_not_fold() {
    let entries = large_entries();
    let w = World::new(&entries);
    let (rd, first, _) = full_table(&w);
    let block = first + 64 * 0x1000;
    for offset in (0..0x20_0000).step_by(0x1000) {
        w.ok(RmiCommand::GranuleDelegate { addr: block + offset });
        w.ok(RmiCommand::DataCreateUnknown { rd, data: block + offset, ipa: offset });
    }
    w.fails(fold(rd, 0, 3), rtt_error(3));
}

#[test]
fn read_entry_refuses_levels_and_addresses_that_are_not_there() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    for (ipa, level) in [(0, 0), (0, 4), (0, i64::MIN), (0x1000, 2), (8, 3), (1 << 33, 1), (1 << 63, 1)] {
        w.fails(RmiCommand::RttReadEntry { rd, ipa, level }, INPUT);
    }
}

#[test]
fn read_entry_reports_the_address_of_destroyed_memory() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.tables(rd, 0, 2);
    // DESTROYED at the 2 MiB entry, then memory behind a page of it.
    let table = w.tables(rd, 0, 3);
    assert_eq!(w.ok(destroy(rd, 0, 3))[0], table);
    w.ok(create(rd, table, 0, 3));
    let data = w.delegated();
    w.ok(RmiCommand::DataCreateUnknown { rd, data, ipa: 0 });
    assert_eq!(w.entry(rd, 0, 3), (3, RttEntryState::ASSIGNED, data, Ripas::DESTROYED));
}

#[test]
fn with_lpa2_walks_start_at_level_minus_1_and_descriptors_hold_52_bits() {
    let entries = entries();
    let w = World::with(&entries, |machine| {
        machine.features.lpa2 = true;
        machine.features.pa_bits = 52;
    });
    let rd = w.realm_with(1, |params| (params.flags, params.s2sz, params.rtt_level_start) = (1, 52, -1));
    let shared = 1 << 51;
    assert_eq!(w.entry(rd, shared, -1), (-1, RttEntryState::UNASSIGNED, 0, Ripas::EMPTY));
    // A table ends after 512 entries, also that of level -1 of which 16 are in the IPA space.
    w.fails_with(destroy(rd, 0, 0), rtt_error(-1), [0, 1 << 57, 0, 0]);
    for level in [0, 1] {
        let rtt = w.delegated();
        w.ok(create(rd, rtt, shared, level));
    }
    // PA 51:50 in bits 9:8, no shareability in the descriptor.
    let desc = 0b11 << 8 | 0b11 << 48 | UnprotectedDesc::normal_rw(1 << 30).0;
    w.ok(RmiCommand::RttMapUnprotected { rd, ipa: shared, level: 1, desc: UnprotectedDesc(desc) });
    assert_eq!(w.entry(rd, shared, 1), (1, RttEntryState::ASSIGNED, desc, Ripas::EMPTY));
    let rtt = w.delegated();
    w.ok(create(rd, rtt, shared, 2));
    assert_eq!(w.entry(rd, shared + (5 << 21), 2).2, desc + (5 << 21));
    assert_eq!(w.ok(fold(rd, shared, 2)), [rtt, 0, 0, 0]);
}
