//! What cannot be unless the RMM is broken stops it, before anything that is in use is given away.

use super::*;
use crate::platform::Broken;
use std::format;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::string::String;

/// The command ends with the RMM stopped for this reason.
#[track_caller]
fn stops(w: &World<'_>, command: RmiCommand, why: Broken) {
    let end = catch_unwind(AssertUnwindSafe(|| w.run(command)));
    let said = end.expect_err("the RMM goes on").downcast::<String>().expect("a message");
    assert_eq!(*said, format!("the RMM stops: {why:?}"), "{command:?}");
}

/// Changes a count behind the RMM's back.
fn miscount(w: &World<'_>, pa: u64, change: i32) {
    w.rmm.granules().lock(pa, w.state(pa)).unwrap().count(change).unwrap();
}

#[test]
fn a_table_with_fewer_live_entries_than_none_frees_nothing() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    let rtt = w.tables(rd, 0, 3);
    let data = w.data(rd, 0);
    miscount(&w, rtt, -1);
    stops(&w, RmiCommand::DataDestroy { rd, ipa: 0 }, Broken::Count);
    assert_eq!(w.state(data), GranuleState::Data);
}

#[test]
fn a_table_with_more_live_entries_than_fit_takes_no_more() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    let rtt = w.tables(rd, 0, 3);
    miscount(&w, rtt, 0xffff);
    stops(&w, RmiCommand::DataCreateUnknown { rd, data: w.delegated(), ipa: 0 }, Broken::Count);
}

#[test]
fn a_folded_table_with_another_count_than_its_entries_is_not_given_away() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    let rtt = w.tables(rd, 0, 3);
    miscount(&w, rtt, 512);
    stops(&w, RmiCommand::RttFold { rd, ipa: 0, level: 3 }, Broken::Count);
    assert_eq!(w.state(rtt), GranuleState::Rtt);
}

#[test]
fn a_realm_with_fewer_recs_than_it_has_does_not_go_on() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    let rec = w.rec_with(rd, 0, |_| ());
    miscount(&w, rd, -1);
    stops(&w, RmiCommand::RecDestroy { rec }, Broken::Count);
}

#[test]
fn an_auxiliary_granule_that_is_something_else_is_not_given_away() {
    let entries = entries();
    let w = World::new(&entries);
    let rec = w.rec_with(w.realm(), 0, |_| ());
    let content = w.rec(rec);
    let [aux, ..] = content.aux() else { panic!("no auxiliary granule") };
    w.rmm.granules().lock(*aux, GranuleState::RecAux).unwrap().set_state(GranuleState::Data);
    stops(&w, RmiCommand::RecDestroy { rec }, Broken::State);
    assert_eq!((w.state(*aux), w.state(rec)), (GranuleState::Data, GranuleState::Rec));
}

#[test]
fn a_vmid_nobody_has_is_not_given_back() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    assert!(w.rmm.vmids.give_back(1));
    stops(&w, RmiCommand::RealmDestroy { rd }, Broken::Vmid);
}
