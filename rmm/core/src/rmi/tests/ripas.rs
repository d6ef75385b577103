use super::*;
use crate::granule::GranuleGuard;
use crate::rec::{Pending, Rec, RipasChange};
use realm_abi::rmi::RecParams;

fn init(rd: u64, base: u64, top: u64) -> RmiCommand {
    RmiCommand::RttInitRipas { rd, base, top }
}

#[test]
fn init_ripas_makes_entries_ram_and_measures_each() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.tables(rd, 0, 2);
    let rim = w.rim(rd);
    // Three entries of 2 MiB; the rest of a fourth is smaller than an entry.
    assert_eq!(w.ok(init(rd, 0x20_0000, 0x80_1000)), [0x80_0000, 0, 0, 0]);
    let ripas = [0, 0x20_0000, 0x60_0000, 0x80_0000].map(|ipa| w.entry(rd, ipa, 2).3);
    assert_eq!(ripas, [Ripas::EMPTY, Ripas::RAM, Ripas::RAM, Ripas::EMPTY]);
    assert_ne!(w.rim(rd), rim);

    // The same in two calls is the same measurement, as it is once for each entry.
    let other = w.realm_with(1, |params| params.vmid = 2);
    w.tables(other, 0, 2);
    w.ok(init(other, 0x20_0000, 0x40_0000));
    w.ok(init(other, 0x40_0000, 0x80_0000));
    assert_eq!(w.rim(rd), w.rim(other));
}

#[test]
fn init_ripas_stops_at_tables_and_at_the_end_of_its_own() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.tables(rd, 0x40_0000, 3);
    assert_eq!(w.ok(init(rd, 0, 1 << 30))[0], 0x40_0000);
    assert_eq!(w.ok(init(rd, 0x40_0000, 1 << 30))[0], 0x60_0000);
    assert_eq!(w.ok(init(rd, 0x60_0000, 2 << 30))[0], 1 << 30);
}

#[test]
fn init_ripas_passes_over_assigned_memory_which_becomes_ram() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.tables(rd, 0, 3);
    let data = w.delegated();
    w.ok(RmiCommand::DataCreateUnknown { rd, data, ipa: 0x1000 });
    assert_eq!(w.ok(init(rd, 0, 0x3000))[0], 0x3000);
    assert_eq!(w.entry(rd, 0x1000, 3), (3, RttEntryState::ASSIGNED, data, Ripas::RAM));
}

#[test]
fn size_valid_top_bound_top_gran_align_the_range_must_be_protected_granules() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.tables(rd, 0, 3);
    let half = 1 << 32;
    for (base, top) in [
        (0x1000, 0x1000),
        (0x2000, 0x1000),
        (0, 0),
        (0, half + 0x1000),
        (half, half + 0x1000),
        (0, !0xfff),
        (0, 0x1800),
        (0, 0x800),
        (half + 1, half + 0x800),
    ] {
        w.fails(init(rd, base, top), INPUT);
    }
    assert_eq!(w.ok(init(rd, 3 << 30, half))[0], half);
}

#[test]
fn realm_state_ripas_is_initialised_before_activation() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.activate(rd);
    w.fails(init(rd, 0, 1 << 30), REALM);
}

#[test]
fn base_align_the_base_must_begin_an_entry() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.fails(init(rd, 0x1000, 1 << 30), rtt_error(1));
    w.tables(rd, 0, 2);
    w.fails(init(rd, 0x1000, 1 << 30), rtt_error(2));
    w.tables(rd, 0, 3);
    w.fails(init(rd, 8, 0x1000), rtt_error(3));
}

#[test]
fn rtte_state_the_first_entry_must_be_unassigned() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.data(rd, 0);
    w.fails(init(rd, 0, 0x2000), rtt_error(3));
}

#[test]
fn no_progress_a_range_smaller_than_the_entry_needs_a_table() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.fails(init(rd, 0, 0x1000), rtt_error(1));
    w.tables(rd, 0, 2);
    w.fails(init(rd, 0, 0x1000), rtt_error(2));
}

fn set(rd: u64, rec: u64, base: u64, top: u64) -> RmiCommand {
    RmiCommand::RttSetRipas { rd, rec, base, top }
}

fn lock<'a>(w: &World<'a>, rec: u64) -> GranuleGuard<'a> {
    w.rmm.granules.lock(rec, GranuleState::Rec).unwrap()
}

/// A REC of `rd` that has asked for `[0x1000, 0x9000)` to become `ripas`, also where it was DESTROYED.
fn asking(w: &World<'_>, rd: u64, ripas: Ripas) -> u64 {
    let rec = w.delegated();
    let [count, ..] = w.ok(RmiCommand::RecAuxCount { rd });
    let mut params = RecParams::default();
    params.num_aux = count;
    for aux in &mut params.aux[..count as usize] {
        *aux = w.delegated();
    }
    w.machine().host_write(PARAMS, params.as_bytes());
    w.ok(RmiCommand::RecCreate { rd, rec, params_ptr: PARAMS });
    let change = RipasChange { addr: 0x1000, top: 0x9000, ripas, destroyed: true };
    lock(w, rec).with(w.machine(), |rec: &mut Rec| rec.set_pending(Pending::RipasChange(change)));
    rec
}

#[test]
fn set_ripas_gives_the_realm_what_it_asked_for_and_remembers_how_far() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.tables(rd, 0, 3);
    let rec = asking(&w, rd, Ripas::RAM);
    assert_eq!(w.ok(set(rd, rec, 0x1000, 0x4000)), [0x4000, 0, 0, 0]);
    assert_eq!([0, 0x1000, 0x3000, 0x4000].map(|ipa| w.entry(rd, ipa, 3).3.0), [0, 1, 1, 0]);
    // It goes on from there, and not from anywhere else.
    w.fails(set(rd, rec, 0x1000, 0x9000), INPUT);
    assert_eq!(w.ok(set(rd, rec, 0x4000, 0x9000)), [0x9000, 0, 0, 0]);
    w.fails(set(rd, rec, 0x9000, 0xa000), INPUT);
}

#[test]
fn rec_align_rec_bound_rec_gran_state_set_ripas_needs_a_rec() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.tables(rd, 0, 3);
    let rec = asking(&w, rd, Ripas::RAM);
    for not_rec in [rec + 8, OUTSIDE, w.delegated(), w.fresh(), rd] {
        w.fails(set(rd, not_rec, 0x1000, 0x9000), INPUT);
    }
    for not_rd in [rd + 8, OUTSIDE, w.delegated(), rec] {
        w.fails(set(not_rd, rec, 0x1000, 0x9000), INPUT);
    }
}

#[test]
fn rec_state_a_running_rec_cannot_be_answered() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.tables(rd, 0, 3);
    let rec = asking(&w, rd, Ripas::RAM);
    lock(&w, rec).count(1).unwrap();
    w.fails(set(rd, rec, 0x1000, 0x9000), ReturnCode::ERROR_REC);
}

#[test]
fn rec_owner_the_rec_must_be_the_realms() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    let other = w.realm_with(1, |params| params.vmid = 2);
    let rec = asking(&w, rd, Ripas::RAM);
    w.fails(set(other, rec, 0x1000, 0x9000), ReturnCode::ERROR_REC);
}

#[test]
fn size_valid_base_bound_top_bound_top_gran_align_the_range_must_be_what_was_asked_for() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.tables(rd, 0, 3);
    let rec = asking(&w, rd, Ripas::RAM);
    let ranges =
        [(0x1000, 0x1000), (0x1000, 0), (0, 0x9000), (0x2000, 0x9000), (0x1000, 0xa000), (0x1000, 0x1800)];
    for (base, top) in ranges {
        w.fails(set(rd, rec, base, top), INPUT);
    }
    // Without a request there is no range at all.
    lock(&w, rec).with(w.machine(), |rec: &mut Rec| rec.set_pending(Pending::Nothing));
    w.fails(set(rd, rec, 0x1000, 0x9000), INPUT);
    w.fails(set(rd, rec, 0, 0x1000), INPUT);
}

#[test]
fn base_align_no_progress_set_ripas_needs_a_table_that_fits() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    let rec = asking(&w, rd, Ripas::RAM);
    w.fails(set(rd, rec, 0x1000, 0x9000), rtt_error(1));
    w.tables(rd, 0, 2);
    w.fails(set(rd, rec, 0x1000, 0x9000), rtt_error(2));
    // What is EMPTY already needs none.
    let other = w.realm_with(1, |params| params.vmid = 2);
    let rec = asking(&w, other, Ripas::EMPTY);
    assert_eq!(w.ok(set(other, rec, 0x1000, 0x9000))[0], 0x9000);
}
