use super::*;
use crate::platform::TlbScope;

const SHARED: u64 = 1 << 32;

fn map(rd: u64, ipa: u64, level: i64, desc: u64) -> RmiCommand {
    RmiCommand::RttMapUnprotected { rd, ipa, level, desc: UnprotectedDesc(desc) }
}

fn unmap(rd: u64, ipa: u64, level: i64) -> RmiCommand {
    RmiCommand::RttUnmapUnprotected { rd, ipa, level }
}

/// The descriptor in the table at `table`.
fn descriptor(w: &World<'_>, table: u64, index: usize) -> u64 {
    u64::from_le_bytes(w.machine().content(table)[index * 8..index * 8 + 8].try_into().unwrap())
}

#[test]
fn a_mapping_is_what_the_host_said_plus_what_the_rmm_must() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    let table = w.tables(rd, SHARED, 3);
    for (index, (memattr, shareability)) in
        [(0b110, 0b11), (0b111, 0b11), (0b101, 0b10), (0b000, 0b10)].into_iter().enumerate()
    {
        let (ipa, desc) = (SHARED + index as u64 * 4096, 0x1234_5000 | memattr << 2 | 0b01 << 6);
        w.ok(map(rd, ipa, 3, desc));
        assert_eq!(w.entry(rd, ipa, 3), (3, RttEntryState::ASSIGNED, desc, Ripas::EMPTY));
        // Page, AF, SH, NS, XN = 0b10.
        let expected = desc | 0b11 | 1 << 10 | shareability << 8 | 1 << 55 | 0b10 << 53;
        assert_eq!(descriptor(&w, table, index), expected);
    }
}

#[test]
fn blocks_map_at_levels_1_and_2() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    let table = w.tables(rd, SHARED, 2);
    w.ok(map(rd, SHARED + (1 << 30), 1, UnprotectedDesc::normal_rw(1 << 30).0));
    w.ok(map(rd, SHARED, 2, UnprotectedDesc::normal_rw(1 << 21).0));
    assert_eq!(descriptor(&w, table, 0) & 0b11, 0b01);
}

#[test]
fn attr_valid_bits_that_are_not_the_hosts_are_refused() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.tables(rd, SHARED, 3);
    let reserved = [0, 1, 5, 8, 9, 10, 11].into_iter().chain(48..64);
    for desc in reserved.map(|bit| 1_u64 << bit).chain([0b100 << 2]) {
        w.fails(map(rd, SHARED, 3, desc), INPUT);
    }
}

#[test]
fn level_bound_only_blocks_and_pages_map() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    for level in [0, -1, 4, i64::MAX, i64::MIN] {
        w.fails(map(rd, SHARED, level, 0), INPUT);
        w.fails(unmap(rd, SHARED, level), INPUT);
    }
}

#[test]
fn addr_align_the_address_must_fit_the_level() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.tables(rd, SHARED, 2);
    w.fails(map(rd, SHARED, 2, 0x1000), INPUT);
    w.fails(map(rd, SHARED + (1 << 30), 1, 0x20_0000), INPUT);
}

#[test]
fn ipa_align_ipa_bound_the_address_must_be_unprotected() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    for (ipa, level) in
        [(SHARED + 8, 3), (SHARED + 0x1000, 2), (0, 1), (SHARED - 0x1000, 3), (SHARED << 1, 1)]
    {
        w.fails(map(rd, ipa, level, 0), INPUT);
        w.fails(unmap(rd, ipa, level), INPUT);
    }
}

#[test]
fn rtt_walk_mapping_needs_its_table() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.fails(map(rd, SHARED, 3, 0), rtt_error(1));
    w.tables(rd, SHARED, 2);
    w.fails(map(rd, SHARED, 3, 0), rtt_error(2));
}

#[test]
fn rtte_state_nothing_is_mapped_over() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.tables(rd, SHARED, 3);
    w.ok(map(rd, SHARED, 3, 0));
    w.fails(map(rd, SHARED, 3, 0), rtt_error(3));
    w.fails(map(rd, SHARED, 2, 0), rtt_error(2));
}

#[test]
fn an_unmapped_page_is_forgotten_and_top_is_the_next_mapping() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.tables(rd, SHARED, 3);
    for ipa in [SHARED, SHARED + 0x8000] {
        w.ok(map(rd, ipa, 3, 0));
    }
    w.machine().take_invalidations();
    assert_eq!(w.ok(unmap(rd, SHARED, 3)), [SHARED + 0x8000, 0, 0, 0]);
    assert_eq!(w.machine().take_invalidations(), [(1, TlbScope::Range { base: SHARED, size: 0x1000 })]);
    assert_eq!(w.entry(rd, SHARED, 3), (3, RttEntryState::UNASSIGNED, 0, Ripas::EMPTY));
    assert_eq!(w.ok(unmap(rd, SHARED + 0x8000, 3)), [SHARED + 0x20_0000, 0, 0, 0]);
}

#[test]
fn rtt_walk_rtte_state_unmapping_what_is_not_mapped_tells_where_to_go_on() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    let next = SHARED + (1 << 30);
    w.tables(rd, next, 3);
    // Nothing there, up to the table that covers the next GiB.
    w.fails_with(unmap(rd, SHARED, 3), rtt_error(1), [next, 0, 0, 0]);
    w.fails_with(unmap(rd, SHARED, 1), rtt_error(1), [next, 0, 0, 0]);
    // A table where a block was named: go down.
    w.fails_with(unmap(rd, next, 2), rtt_error(2), [next, 0, 0, 0]);
    // A block where a page was named: go up, from the address itself.
    w.ok(map(rd, SHARED, 1, 0));
    w.fails_with(unmap(rd, SHARED + 0x3000, 3), rtt_error(1), [SHARED + 0x3000, 0, 0, 0]);
}
