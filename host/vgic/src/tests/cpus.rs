//! Which vCPU gets an interrupt, and what wakes one.

use super::lists::{ACTIVE, EOI, PENDING, VGRP1EIE, fresh, gic, lr, next, send};
use super::{DIST, Gic, OPEN, redist};
use realm_host::irqchip::{GicExit, Irqchip};

#[test]
fn an_edge_that_is_active_here_and_to_be_pending_elsewhere_asks_for_its_end() {
    for (route, other) in [(1, [1].into()), (1 << 31, [0, 1].into())] {
        let gic = Gic::awake(2, 64);
        gic.enable(0, 41);
        gic.make_edge(41);
        gic.line(41, true);
        gic.back(&[]);
        gic.flush(0, 4);
        gic.back(&[lr(41, ACTIVE)]);
        gic.line(41, false);
        gic.line(41, true);
        gic.write(DIST + 0x6000 + 41 * 8, 8, route);
        assert_eq!(gic.flush(0, 4).lrs[0], lr(41, ACTIVE | EOI));
        gic.woken();
        gic.back(&[lr(41, EOI)]);
        assert_eq!(gic.woken(), other);
        assert!(gic.chip.pending(1));
    }
}

#[test]
fn a_shared_interrupt_is_in_the_list_registers_of_one_vcpu_and_moves_with_its_route() {
    let gic = Gic::awake(2, 64);
    gic.enable(0, 40);
    gic.line(40, true);
    assert_eq!(gic.flush(0, 4).lrs[0] & 0xffff, 40);
    assert_eq!(gic.flush(1, 4).lrs[0], 0);
    gic.woken();
    gic.write(DIST + 0x6000 + 40 * 8, 8, 1);
    assert!(gic.woken().contains(&0), "who has it is to give it back");
    assert_eq!(gic.flush(1, 4).lrs[0], 0, "not before");
    gic.back(&[lr(40, PENDING | EOI)]);
    assert_eq!(gic.woken(), [1].into());
    assert_eq!((gic.flush(0, 4).lrs[0], gic.flush(1, 4).lrs[0] & 0xffff), (0, 40));
    // While it is active it stays where it is active.
    let mut exit = GicExit { vmcr: Some(OPEN), ..GicExit::default() };
    exit.lrs[0] = lr(40, ACTIVE | EOI);
    gic.sync(1, &exit);
    gic.write(DIST + 0x6000 + 40 * 8, 8, 0);
    assert_eq!((gic.flush(0, 4).lrs[0], gic.flush(1, 4).lrs[0]), (0, lr(40, ACTIVE | EOI)));
    gic.woken();
    exit.lrs[0] = lr(40, EOI);
    gic.sync(1, &exit);
    assert_eq!(gic.woken(), [0].into(), "its line is high, and it is for vCPU 0 now");
}

#[test]
fn one_for_any_vcpu_is_taken_by_one_that_takes_its_group() {
    let gic = Gic::awake(3, 64);
    gic.enable(0, 40);
    gic.write(DIST + 0x6000 + 40 * 8, 8, 1 << 31);
    gic.woken();
    gic.line(40, true);
    assert_eq!(gic.woken(), [0, 1, 2].into());
    let entry = gic.flush(0, 4);
    assert_eq!((entry.lrs[0], entry.hcr & VGRP1EIE), (0, VGRP1EIE), "it is told when it would take it");
    gic.sync(0, &GicExit { vmcr: Some(1), ..GicExit::default() });
    assert_eq!(gic.flush(0, 4).lrs[0], 0, "it takes Group 0 alone");
    gic.sync(1, &GicExit { vmcr: Some(OPEN), ..GicExit::default() });
    let entry = gic.flush(1, 4);
    assert_eq!((entry.lrs[0] & 0xffff, entry.hcr & VGRP1EIE), (40, 0));
    gic.sync(2, &GicExit { vmcr: Some(OPEN), ..GicExit::default() });
    assert_eq!(gic.flush(2, 4).lrs[0], 0);
    gic.woken();
    let mut exit = GicExit { vmcr: Some(OPEN), ..GicExit::default() };
    exit.lrs[0] = lr(40, PENDING | EOI);
    gic.sync(1, &exit);
    assert_eq!(gic.woken(), [0, 1, 2].into(), "who gave it back may not come for it again");
    assert_eq!(gic.flush(2, 4).lrs[0] & 0xffff, 40);
}

#[test]
fn a_sleeping_redistributor_holds_back_what_is_pending_and_asks_to_be_woken() {
    let gic = gic(&[27, 40]);
    gic.line(40, true);
    next(&gic, 4);
    gic.back(&[lr(40, ACTIVE | EOI)]);
    gic.line(27, true);
    gic.write(redist(0) + 0x14, 4, 2);
    assert_eq!(gic.read(redist(0) + 0x14, 4), 6);
    assert_eq!(next(&gic, 4), [lr(40, ACTIVE | EOI)]);
    // Software that lets it sleep turns the groups off before: an interrupt wakes it all the same.
    let mut exit = GicExit { vmcr: Some(0), ..GicExit::default() };
    exit.lrs[0] = lr(40, ACTIVE | EOI);
    gic.sync(0, &exit);
    assert!(gic.chip.pending(0));
    gic.line(27, false);
    assert!(!gic.chip.pending(0));
    gic.line(27, true);
    gic.woken();
    gic.write(redist(0) + 0x14, 4, 0);
    assert_eq!(gic.woken(), [0].into());
    assert_eq!(next(&gic, 4).len(), 2);
}

#[test]
fn a_wait_ends_by_what_the_cpu_interface_passes_on() {
    for (intid, line) in [(27, true), (40, true), (2, false)] {
        let gic = fresh(&[intid]);
        if line {
            gic.line(intid, true);
        } else {
            send(&gic, intid);
        }
        assert!(gic.chip.pending(0), "before it ran");
        // Priority 0xa0, Group 1.
        for (vmcr, ends) in [
            (OPEN, true),
            (0xff00_0002, true),
            (0xff00_0001, false),
            (0xa800_0003, true),
            (0xa000_0003, false),
            (0, false),
        ] {
            gic.sync(0, &GicExit { vmcr: Some(vmcr), ..GicExit::default() });
            assert_eq!(gic.chip.pending(0), ends, "{vmcr:#x}");
        }
    }
}

#[test]
fn one_that_a_register_makes_active_is_active_where_it_would_go() {
    let gic = Gic::awake(2, 64);
    gic.write(DIST + 0x6000 + 40 * 8, 8, 1);
    gic.write(DIST + 0x304, 4, 1 << 8);
    assert_eq!((gic.flush(0, 4).lrs[0], gic.flush(1, 4).lrs[0]), (0, lr(40, ACTIVE | EOI)));
}
