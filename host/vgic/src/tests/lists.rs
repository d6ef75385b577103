//! The rules of list registers, one by one.

use super::{DIST, Gic, OPEN, SGI, redist};
use crate::lr::Lr;
use realm_host::irqchip::{GicExit, GicRegister, Irqchip};
use std::vec::Vec;

pub const PENDING: u64 = 1 << 62;
pub const ACTIVE: u64 = 1 << 63;
const STATE: u64 = PENDING | ACTIVE;
pub const EOI: u64 = 1 << 41;
const HW: u64 = 1 << 61;
/// ICH_HCR_EL2.
const LRENPIE: u64 = 1 << 2;
const NPIE: u64 = 1 << 3;
const VGRP0EIE: u64 = 1 << 4;
const VGRP0DIE: u64 = 1 << 5;
pub const VGRP1EIE: u64 = 1 << 6;
const VGRP1DIE: u64 = 1 << 7;
const TDIR: u64 = 1 << 14;

/// Group 1, priority 0xa0, this state.
pub const fn lr(intid: u32, state: u64) -> u64 {
    state | 1 << 60 | 0xa0 << 48 | intid as u64
}

/// A GIC with one vCPU, which has not run, on which these are enabled.
pub fn fresh(enabled: &[u32]) -> Gic {
    let gic = Gic::awake(1, 96);
    for intid in enabled {
        gic.enable(0, *intid);
    }
    gic
}

/// One whose vCPU takes both groups.
pub fn gic(enabled: &[u32]) -> Gic {
    let gic = fresh(enabled);
    gic.back(&[]);
    gic
}

pub fn send(gic: &Gic, sgi: u32) {
    gic.chip.write_register(0, GicRegister::Sgi1r, u64::from(sgi) << 24 | 1, &gic.woken);
}

/// What the next entry has in its list registers.
pub fn next(gic: &Gic, lrs: usize) -> Vec<u64> {
    let entry = gic.flush(0, lrs);
    assert!(entry.lrs[lrs..].iter().all(|lr| *lr == 0));
    let used = entry.lrs.iter().take_while(|lr| **lr != 0).count();
    assert!(entry.lrs[used..].iter().all(|lr| *lr == 0));
    entry.lrs[..used].to_vec()
}

#[test]
fn what_is_enabled_and_pending_is_in_a_list_register_and_nothing_else() {
    let gic = gic(&[27, 40]);
    assert!(next(&gic, 4).is_empty());
    for intid in [26, 27, 40, 41] {
        gic.line(intid, true);
    }
    assert!(gic.chip.pending(0));
    assert_eq!(next(&gic, 4), [lr(27, PENDING | EOI), lr(40, PENDING | EOI)]);
    gic.write(DIST, 4, 1);
    gic.back(&[lr(27, PENDING | EOI), lr(40, PENDING | EOI)]);
    assert!(!gic.chip.pending(0), "Group 1 is off");
    assert!(next(&gic, 4).is_empty());
    gic.write(DIST, 4, 2);
    assert_eq!(next(&gic, 4).len(), 2);
}

#[test]
fn group_and_priority_are_the_interrupts_own() {
    let gic = gic(&[27, 3]);
    gic.write(redist(0) + SGI + 0x80, 4, 1 << 3);
    gic.priority(27, 0x13);
    gic.line(27, true);
    send(&gic, 3);
    assert_eq!(next(&gic, 4), [PENDING | EOI | 0x10 << 48 | 27, lr(3, PENDING)]);
}

#[test]
fn a_level_asks_for_its_end_and_hw_is_never_set() {
    let gic = gic(&[1, 26, 27, 40, 41]);
    gic.make_edge(26);
    gic.make_edge(41);
    send(&gic, 1);
    for intid in [26, 27, 40, 41] {
        gic.line(intid, true);
    }
    let lists = next(&gic, 8);
    let asked: Vec<_> = lists.iter().map(|lr| (lr & 0xffff, lr & EOI != 0)).collect();
    assert_eq!(asked, [(1, false), (26, false), (27, true), (40, true), (41, false)]);
    assert!(lists.iter().all(|lr| lr & HW == 0));
}

#[test]
fn a_level_that_is_still_high_after_its_end_comes_again_and_one_that_is_low_does_not() {
    for intid in [27, 40] {
        let gic = gic(&[intid]);
        gic.line(intid, true);
        assert_eq!(next(&gic, 4), [lr(intid, PENDING | EOI)]);
        gic.back(&[lr(intid, ACTIVE | EOI)]);
        assert!(!gic.chip.pending(0), "active");
        assert_eq!(next(&gic, 4), [lr(intid, ACTIVE | EOI)], "not pending while it is active");
        // Its end: State 0, EOI left as it was.
        gic.back(&[lr(intid, EOI)]);
        assert!(gic.chip.pending(0));
        assert_eq!(next(&gic, 4), [lr(intid, PENDING | EOI)]);
        gic.back(&[lr(intid, ACTIVE | EOI)]);
        gic.line(intid, false);
        assert_eq!(next(&gic, 4), [lr(intid, ACTIVE | EOI)]);
        gic.back(&[lr(intid, EOI)]);
        assert!(!gic.chip.pending(0));
        assert!(next(&gic, 4).is_empty(), "a list register whose State is invalid never goes back");
    }
}

#[test]
fn a_level_that_goes_low_is_withdrawn() {
    for intid in [27, 40] {
        let gic = gic(&[intid]);
        gic.line(intid, true);
        next(&gic, 4);
        gic.woken();
        gic.line(intid, false);
        assert_eq!(gic.woken(), [0].into(), "who has it is to give it back");
        gic.back(&[lr(intid, PENDING | EOI)]);
        assert!(next(&gic, 4).is_empty());
        gic.back(&[]);
        assert!(!gic.chip.pending(0));
    }
}

#[test]
fn one_that_is_disabled_or_cleared_is_withdrawn_and_an_edge_is_kept_only_if_it_was_not_cleared() {
    for (intid, base) in [(26, redist(0) + SGI), (41, DIST + 4)] {
        let bit = 1 << (intid % 32);
        for (register, kept) in [(0x180, bit), (0x280, 0)] {
            let gic = gic(&[intid]);
            gic.make_edge(intid);
            gic.line(intid, true);
            assert_eq!(next(&gic, 4), [lr(intid, PENDING)]);
            gic.woken();
            gic.write(base + register, 4, bit);
            assert_eq!(gic.woken(), [0].into());
            gic.back(&[lr(intid, PENDING)]);
            assert!(next(&gic, 4).is_empty());
            assert_eq!(gic.read(base + 0x200, 4), kept);
        }
    }
}

#[test]
fn an_edge_is_taken_once_and_one_that_comes_while_it_is_active_once_more() {
    for intid in [2, 26, 41] {
        let gic = gic(&[intid]);
        let edge = || {
            if intid < 16 {
                send(&gic, intid);
            } else {
                gic.line(intid, false);
                gic.line(intid, true);
            }
        };
        if intid >= 16 {
            gic.make_edge(intid);
        }
        edge();
        edge();
        assert_eq!(next(&gic, 4), [lr(intid, PENDING)]);
        gic.back(&[lr(intid, ACTIVE)]);
        assert_eq!(next(&gic, 4), [lr(intid, ACTIVE)]);
        gic.woken();
        edge();
        assert_eq!(gic.woken(), [0].into());
        gic.back(&[lr(intid, ACTIVE)]);
        assert_eq!(next(&gic, 4), [lr(intid, ACTIVE | PENDING)]);
        // The guest ends the first and takes the second without an exit.
        gic.back(&[lr(intid, ACTIVE)]);
        assert_eq!(next(&gic, 4), [lr(intid, ACTIVE)]);
        gic.back(&[0]);
        assert!(next(&gic, 4).is_empty());
    }
}

#[test]
fn an_edge_that_is_cleared_after_it_came_again_is_cleared() {
    for (intid, base) in [(26, redist(0) + SGI), (41, DIST + 4)] {
        let gic = gic(&[intid]);
        gic.make_edge(intid);
        gic.line(intid, true);
        next(&gic, 4);
        gic.line(intid, false);
        gic.line(intid, true);
        gic.write(base + 0x280, 4, 1 << (intid % 32));
        gic.back(&[lr(intid, ACTIVE)]);
        assert_eq!((next(&gic, 4), gic.read(base + 0x200, 4)), ([lr(intid, ACTIVE)].into(), 0));
    }
}

#[test]
fn an_edge_that_comes_after_the_acknowledgement_and_before_the_exit_is_not_lost() {
    for intid in [26, 41] {
        let gic = gic(&[intid]);
        gic.make_edge(intid);
        gic.line(intid, true);
        next(&gic, 4);
        gic.line(intid, false);
        gic.line(intid, true);
        gic.back(&[lr(intid, ACTIVE)]);
        assert_eq!(next(&gic, 4), [lr(intid, ACTIVE | PENDING)]);
        // Nor is there one more if it was not acknowledged.
        gic.back(&[0]);
        gic.line(intid, false);
        gic.line(intid, true);
        next(&gic, 4);
        gic.line(intid, false);
        gic.line(intid, true);
        gic.back(&[lr(intid, PENDING)]);
        next(&gic, 4);
        gic.back(&[0]);
        assert!(next(&gic, 4).is_empty());
    }
}

#[test]
fn one_that_is_active_and_pending_again_but_disabled_is_only_active() {
    let gic = gic(&[2]);
    send(&gic, 2);
    next(&gic, 4);
    gic.back(&[lr(2, ACTIVE)]);
    send(&gic, 2);
    assert_eq!(next(&gic, 4), [lr(2, ACTIVE | PENDING)]);
    gic.back(&[lr(2, ACTIVE | PENDING)]);
    gic.write(redist(0) + SGI + 0x180, 4, 1 << 2);
    assert_eq!(next(&gic, 4)[0] & STATE, ACTIVE);
    gic.back(&[lr(2, ACTIVE)]);
    gic.write(redist(0) + SGI + 0x100, 4, 1 << 2);
    gic.write(redist(0) + 0x14, 4, 2);
    assert_eq!(next(&gic, 4)[0] & STATE, ACTIVE, "asleep");
}

#[test]
fn with_too_few_list_registers_the_highest_priorities_are_in_and_npie_tells_when_there_is_room() {
    let intids = [40, 41, 42, 43, 44];
    let gic = gic(&intids);
    for (intid, priority) in intids.into_iter().zip([0x50, 0x20, 0x90, 0x20, 0x10]) {
        gic.priority(intid, priority);
        gic.line(intid, true);
    }
    let entry = gic.flush(0, 2);
    let order: Vec<_> = entry.lrs.iter().map(|lr| lr & 0xffff).filter(|intid| *intid != 0).collect();
    assert_eq!(order, [44, 41]);
    assert_eq!(entry.hcr, TDIR | NPIE | VGRP0DIE | VGRP1DIE, "these could be in the way");
    gic.back(&[0, 0]);
    for intid in [44, 41] {
        gic.line(intid, false);
    }
    let entry = gic.flush(0, 3);
    let order: Vec<_> = entry.lrs.iter().map(|lr| lr & 0xffff).filter(|intid| *intid != 0).collect();
    assert_eq!(order, [43, 40, 42]);
    assert_eq!(entry.hcr, TDIR, "there is room for all");
}

#[test]
fn what_can_be_taken_goes_before_what_is_active_and_ends_that_are_counted_are_those_of_the_highest_priority()
{
    let gic = gic(&[40, 41, 42, 3]);
    gic.priority(40, 0x80);
    gic.priority(41, 0x60);
    gic.priority(42, 0x40);
    gic.priority(3, 0x20);
    // 40, preempted by 41, preempted by 42.
    let mut active = Vec::new();
    for (intid, priority) in [(40, 0x80), (41, 0x60), (42, 0x40)] {
        gic.line(intid, true);
        assert!(next(&gic, 4).iter().any(|lr| lr & 0xffff == u64::from(intid)));
        active.insert(0, 1 << 60 | priority << 48 | EOI | u64::from(intid));
        let left: Vec<_> = active.iter().map(|lr| lr | ACTIVE).collect();
        gic.line(intid, false);
        // The new one was first, being the only pending one.
        gic.back(&left);
    }
    send(&gic, 3);
    let entry = gic.flush(0, 2);
    assert_eq!(entry.lrs[0] & (STATE | 0xffff), PENDING | 3);
    assert_eq!(entry.lrs[1] & (STATE | 0xffff), ACTIVE | 42, "of the active ones the highest priority");
    assert_eq!(entry.hcr, TDIR | LRENPIE);
    // It takes 3 and ends it, ends 42, and ends 41, which is in none.
    gic.back_counting(&[0, lr(42, EOI)], 1);
    assert_eq!(gic.read(DIST + 0x304, 4), 1 << 8, "40 is left");
    let entry = gic.flush(0, 0);
    assert_eq!((entry.hcr, entry.lrs), (TDIR | LRENPIE, [0; 16]));
    gic.back_counting(&[], 7);
    assert_eq!(gic.read(DIST + 0x304, 4), 0, "more ends than there is to end are no harm");
}

#[test]
fn a_group_that_the_guest_does_not_take_is_in_nobodys_way_and_its_turning_on_is_told() {
    let gic = gic(&[40, 41, 42]);
    // 40 is in Group 0, of the highest priority.
    gic.write(DIST + 0x84, 4, 0xffff_ffff & !(1 << 8));
    gic.priority(40, 0x10);
    gic.line(40, true);
    gic.line(41, true);
    gic.sync(0, &GicExit { vmcr: Some(0xff00_0002), ..GicExit::default() });
    let entry = gic.flush(0, 1);
    assert_eq!((entry.lrs[0], entry.hcr), (lr(41, PENDING | EOI), TDIR | VGRP0EIE));
    // With room for both it is in: it is there when its group is turned on.
    let entry = gic.flush(0, 2);
    assert_eq!((entry.lrs[1] & 0xffff, entry.hcr), (40, TDIR));
    gic.line(42, true);
    assert_eq!(gic.flush(0, 1).hcr, TDIR | NPIE | VGRP0EIE | VGRP1DIE);
    // Before its first run a vCPU takes nothing: the RMM makes it so.
    let gic = fresh(&[40, 41]);
    gic.line(40, true);
    gic.line(41, true);
    assert_eq!(gic.flush(0, 1).hcr, TDIR | VGRP0EIE | VGRP1EIE);
}

#[test]
fn a_counted_end_is_not_that_of_one_which_a_register_made_active() {
    let gic = gic(&[40, 41]);
    gic.priority(40, 0x20);
    gic.write(DIST + 0x304, 4, 1 << 8);
    gic.line(41, true);
    assert_eq!(next(&gic, 1), [lr(41, PENDING | EOI)]);
    gic.back(&[lr(41, ACTIVE | EOI)]);
    gic.line(41, false);
    assert_eq!(next(&gic, 1)[0] & 0xffff, 40);
    gic.back_counting(&[ACTIVE | EOI | 1 << 60 | 0x20 << 48 | 40], 1);
    assert_eq!(gic.read(DIST + 0x304, 4), 1 << 8, "41 has ended");
}

#[test]
fn with_split_ends_nothing_is_counted_and_dir_deactivates_wherever_it_is_written() {
    let gic = Gic::awake(2, 64);
    gic.enable(0, 40);
    gic.enable(0, 27);
    let split = |lrs: &[u64], vcpu, eois: u64| {
        let mut exit = GicExit { hcr: eois << 27, vmcr: Some(OPEN | 1 << 9), ..GicExit::default() };
        exit.lrs[..lrs.len()].copy_from_slice(lrs);
        gic.sync(vcpu, &exit);
    };
    split(&[], 1, 0);
    gic.line(27, true);
    gic.line(40, true);
    assert_eq!(gic.flush(0, 4).hcr & TDIR, TDIR, "DIR is trapped");
    split(&[lr(27, ACTIVE | EOI), lr(40, ACTIVE | EOI)], 0, 2);
    assert_eq!((gic.read(DIST + 0x304, 4), gic.read(redist(0) + SGI + 0x300, 4)), (1 << 8, 1 << 27));
    // Nor is it for those that are in none.
    gic.flush(0, 0);
    split(&[], 0, 2);
    assert_eq!((gic.read(DIST + 0x304, 4), gic.read(redist(0) + SGI + 0x300, 4)), (1 << 8, 1 << 27));
    let dir = |vcpu, intid| gic.chip.write_register(vcpu, GicRegister::Dir, intid, &gic.woken);
    dir(1, 27);
    assert_eq!(gic.read(redist(0) + SGI + 0x300, 4), 1 << 27, "a private one is one's own");
    gic.woken();
    dir(1, 40);
    assert_eq!(gic.read(DIST + 0x304, 4), 0);
    assert_eq!(gic.woken(), [0].into(), "its line is high: it comes again");
    dir(0, 27);
    assert_eq!(gic.read(redist(0) + SGI + 0x300, 4), 0);
    for special in [1019, 1020, 1023, 0xff_ffff, u64::MAX] {
        dir(0, special);
    }
    // Where EOIs deactivate, DIR does nothing.
    gic.flush(0, 4);
    gic.back(&[lr(27, ACTIVE | EOI), lr(40, ACTIVE | EOI)]);
    dir(0, 40);
    assert_eq!(gic.read(DIST + 0x304, 4), 1 << 8);
}

#[test]
fn what_others_decide_while_it_is_in_a_list_register_holds() {
    let gic = gic(&[40]);
    gic.line(40, true);
    next(&gic, 4);
    gic.back(&[lr(40, ACTIVE | EOI)]);
    gic.line(40, false);
    next(&gic, 4);
    gic.woken();
    gic.write(DIST + 0x384, 4, 1 << 8);
    assert_eq!(gic.woken(), [0].into());
    gic.back(&[lr(40, ACTIVE | EOI)]);
    assert!(next(&gic, 4).is_empty(), "it was made inactive");
    gic.back(&[]);
    gic.line(40, true);
    next(&gic, 4);
    gic.write(DIST + 0x304, 4, 1 << 8);
    gic.back(&[lr(40, PENDING | EOI)]);
    assert_eq!(next(&gic, 4), [lr(40, ACTIVE | EOI)], "it was made active");
}

#[test]
fn a_vcpu_that_did_not_run_leaves_everything_as_it_was() {
    let gic = fresh(&[40, 41]);
    gic.make_edge(41);
    gic.line(40, true);
    gic.line(41, true);
    let lists = next(&gic, 4);
    let mut exit = GicExit { hcr: TDIR, ..GicExit::default() };
    exit.lrs[..2].copy_from_slice(&lists);
    gic.sync(0, &exit);
    assert!(gic.chip.pending(0), "nothing is known of its CPU interface yet");
    assert_eq!(next(&gic, 4), lists);
    // Nor is anything lost if nobody says how it went.
    assert_eq!(next(&gic, 4), lists);
}

#[test]
fn a_list_register_that_comes_back_with_another_interrupt_counts_as_untouched() {
    let gic = gic(&[40]);
    gic.line(40, true);
    let lists = next(&gic, 4);
    gic.back(&[ACTIVE | 50, ACTIVE | 51]);
    assert_eq!((next(&gic, 4), gic.read(DIST + 0x304, 4)), (lists, 0));
}

#[test]
fn maintenance_is_silent_right_after_an_entry() {
    let gic = gic(&[40, 41, 27]);
    for intid in [27, 40, 41] {
        gic.line(intid, true);
    }
    for lrs in 1..4 {
        let entry = gic.flush(0, lrs);
        assert!(entry.lrs[..lrs].iter().all(|lr| lr & STATE == PENDING));
        let mut exit = GicExit { vmcr: Some(OPEN), ..GicExit::default() };
        exit.lrs = entry.lrs.map(|lr| if lr == 0 { 0 } else { lr & !STATE });
        gic.sync(0, &exit);
        assert!(gic.flush(0, lrs).lrs.iter().all(|lr| *lr == 0 || lr & STATE != 0));
    }
}

#[test]
fn a_list_register_can_say_what_it_holds() {
    let lr = Lr::new(1019, 0xf8, true, true, Lr::ACTIVE);
    assert_eq!(lr.0, 1 << 63 | 1 << 60 | 0xf8 << 48 | 1 << 41 | 1019);
    assert_eq!((lr.intid(), lr.is_pending(), lr.is_active(), lr.is_empty()), (1019, false, true, false));
}
