//! What realms and their RIPAS requests see of the tables; the commands are tested where they are.

use super::*;
use crate::granule::Exclusive;
use crate::platform::TlbScope;
use crate::realm::RealmDescriptor;
use crate::rmi::tests::{World, entries};
use proptest::strategy::Strategy;
use realm_abi::rmi::{ReturnCode, Ripas, RmiCommand};

const SHARED: u64 = 1 << 32;

fn stage2(w: &World<'_>, rd: u64) -> Stage2 {
    let mut rd = w.rmm.granules.lock(rd, crate::granule::GranuleState::Rd).unwrap();
    rd.with(w.machine(), |rd: &mut RealmDescriptor| rd.stage2())
}

/// A realm with a page table at 0: page 0 is RAM with memory, 1 is RAM without, 2 is EMPTY with memory, 3 was destroyed,
/// the others are EMPTY. The RD, its stage 2, and the granule of page 0.
fn four_pages(w: &World<'_>) -> (u64, Stage2, u64) {
    let rd = w.realm();
    let data = w.data(rd, 0);
    w.ok(RmiCommand::RttInitRipas { rd, base: 0x1000, top: 0x2000 });
    let empty = w.delegated();
    w.ok(RmiCommand::DataCreateUnknown { rd, data: empty, ipa: 0x2000 });
    w.data(rd, 0x3000);
    w.ok(RmiCommand::DataDestroy { rd, ipa: 0x3000 });
    w.machine().take_invalidations();
    (rd, stage2(w, rd), data)
}

#[test]
fn only_ram_with_memory_is_reached() {
    let entries = entries();
    let w = World::new(&entries);
    let (_, stage2, data) = four_pages(&w);
    let reach = |ipa| translate(&w.rmm, &stage2, ipa).map(|granule| granule.pa());
    assert_eq!(reach(0x123), Ok(data));
    assert_eq!(reach(0x1000), Err(Translate::NotMapped { level: 3 }));
    assert_eq!(reach(0x2000), Err(Translate::Empty));
    assert_eq!(reach(0x3000), Err(Translate::NotMapped { level: 3 }));
    assert_eq!(reach(0x20_0000), Err(Translate::Empty));
    assert_eq!(reach(1 << 30), Err(Translate::Empty));
    for ipa in [SHARED, SHARED << 1, u64::MAX] {
        assert_eq!(reach(ipa), Err(Translate::NotProtected));
    }
}

#[test]
fn ram_without_a_table_is_not_mapped_at_the_level_reached() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.ok(RmiCommand::RttInitRipas { rd, base: 0, top: 1 << 30 });
    let stage2 = stage2(&w, rd);
    assert_eq!(translate(&w.rmm, &stage2, 0).unwrap_err(), Translate::NotMapped { level: 1 });
}

#[test]
fn a_range_is_reported_up_to_the_first_other_ripas() {
    let entries = entries();
    let w = World::new(&entries);
    let (_, stage2, _) = four_pages(&w);
    let get = |base, top| common_ripas(&w.rmm, &stage2, base, top).unwrap();
    assert_eq!(get(0, 0x10_0000), (0x2000, Ripas::RAM));
    assert_eq!(get(0, 0x1000), (0x1000, Ripas::RAM));
    assert_eq!(get(0x2000, 0x10_0000), (0x3000, Ripas::EMPTY));
    assert_eq!(get(0x3000, 0x10_0000), (0x4000, Ripas::DESTROYED));
    // To the end of the table, or of the range within a larger entry.
    assert_eq!(get(0x4000, 1 << 30), (0x20_0000, Ripas::EMPTY));
    assert_eq!(get((1 << 30) + 0x1000, (1 << 30) + 0x5000), ((1 << 30) + 0x5000, Ripas::EMPTY));
}

#[test]
fn ram_made_empty_is_forgotten_and_comes_back_without_loss() {
    let entries = entries();
    let w = World::new(&entries);
    let (rd, stage2, data) = four_pages(&w);
    assert_eq!(set_ripas(&w.rmm, &stage2, (0, 0x2000), Ripas::EMPTY, false), Ok(0x2000));
    assert_eq!(w.machine().take_invalidations(), [(1, TlbScope::Range { base: 0, size: 0x2000 })]);
    assert_eq!(translate(&w.rmm, &stage2, 0).unwrap_err(), Translate::Empty);
    // Invalid to valid needs no invalidation.
    assert_eq!(set_ripas(&w.rmm, &stage2, (0, 0x1000), Ripas::RAM, false), Ok(0x1000));
    assert!(w.machine().take_invalidations().is_empty());
    assert_eq!(w.entry(rd, 0, 3).2, data);
    assert_eq!(w.entry(rd, 0x1000, 3).3, Ripas::EMPTY);
}

#[test]
fn destroyed_is_left_only_by_permission() {
    let entries = entries();
    let w = World::new(&entries);
    let (rd, stage2, _) = four_pages(&w);
    let set = |base, destroyed| set_ripas(&w.rmm, &stage2, (base, 0x8000), Ripas::RAM, destroyed);
    assert_eq!(set(0x2000, false), Ok(0x3000));
    assert_eq!(set(0x3000, false), Err(ReturnCode::error_rtt(3)));
    assert_eq!(w.entry(rd, 0x3000, 3).3, Ripas::DESTROYED);
    assert_eq!(set(0x3000, true), Ok(0x8000));
    assert_eq!(w.entry(rd, 0x3000, 3).3, Ripas::RAM);
}

#[test]
fn base_align_no_progress_hold_only_where_the_ripas_differs() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.tables(rd, 0, 2);
    w.ok(RmiCommand::RttInitRipas { rd, base: 0, top: 0x20_0000 });
    let stage2 = stage2(&w, rd);
    let set = |base, top, ripas| set_ripas(&w.rmm, &stage2, (base, top), ripas, false);
    let failed = Err(ReturnCode::error_rtt(2));
    // base_align
    assert_eq!(set(0x1000, 0x40_0000, Ripas::EMPTY), failed);
    assert_eq!(set(0x1000, 0x5000, Ripas::RAM), Ok(0x5000));
    assert_eq!(set(0x1000, 0x50_0000, Ripas::RAM), Ok(0x40_0000));
    // no_progress
    assert_eq!(set(0x60_0000, 0x60_1000, Ripas::RAM), failed);
    assert_eq!(set(0x60_0000, 0x60_1000, Ripas::EMPTY), Ok(0x60_1000));
    // A table below stops the scan.
    w.tables(rd, 0x80_0000, 3);
    assert_eq!(set(0x40_0000, 1 << 30, Ripas::RAM), Ok(0x80_0000));
}

proptest::proptest! {
    #[test]
    fn every_entry_is_read_as_it_was_written(
        pa in (0..1_u64 << 40).prop_map(|granule| granule << 12),
        attributes in 0..8_u64, access in 0..4_u64, ripas in 0..3_u8, level in 1..=3_i64, lpa2: bool,
    ) {
        let size = realm_abi::rmi::rtt_entry_size(level).unwrap();
        let block = (if lpa2 { pa } else { pa & 0xffff_ffff_ffff }) / size * size;
        let high = if lpa2 { block >> 50 << 8 } else { 0 };
        let desc = (block & 0x3_ffff_ffff_ffff) | high | attributes << 2 | access << 6;
        let ripas = Ripas(ripas);
        let states = [
            Rtte::Unassigned { ripas },
            Rtte::Assigned { ripas, pa: block },
            Rtte::UnassignedNs,
            Rtte::AssignedNs { desc },
        ];
        for entry in states {
            let word = entry.encode(level, lpa2);
            proptest::prop_assert_eq!(Rtte::decode(word, level, lpa2), entry);
            // The MMU maps exactly what is accessible.
            proptest::prop_assert_eq!(word & 1 == 1, entry.is_mapping());
        }
        if level < 3 {
            let table = Rtte::Table { pa: block };
            proptest::prop_assert_eq!(Rtte::decode(table.encode(level, lpa2), level, lpa2), table);
        }
    }
}

#[test]
fn ps_has_more_than_48_bits_only_with_lpa2() {
    let stage2 = |lpa2| Stage2 { base: 0, level_start: 1, num_start: 1, ipa_width: 33, vmid: 0, lpa2 };
    for (pa_bits, lpa2, ps) in [(44, false, 4), (48, false, 5), (52, false, 5), (48, true, 5), (52, true, 6)]
    {
        assert_eq!(stage2(lpa2).vtcr(pa_bits, true) >> 16 & 7, ps, "{pa_bits} bits, LPA2 {lpa2}");
    }
}
