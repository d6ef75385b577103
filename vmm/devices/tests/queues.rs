//! Features, status, queues: the entropy device and a well-behaved driver.

mod driver;

use driver::{
    ACCESS_PLATFORM, BASIC, CONSOLE, Driver, EVENT_IDX, INDIRECT, MULTIPORT, Machine, RING_RESET, RNG, SIZE,
    VERSION_1,
};
use proptest::prelude::*;

#[test]
fn a_driver_that_would_hand_over_private_addresses_is_refused() {
    let machine = Machine::new();
    let mut driver = Driver::probe(&machine, RNG);
    assert_eq!(driver.offered(), BASIC | INDIRECT | EVENT_IDX | RING_RESET);
    assert_eq!(Driver::probe(&machine, CONSOLE).offered(), driver.offered() | SIZE | MULTIPORT);
    driver.set(0, 4, 2);
    assert_eq!(driver.get(4, 4), 0, "no more than 64 features");
    driver.add_status(3);
    for features in [0, VERSION_1, ACCESS_PLATFORM, BASIC | 1 << 35, BASIC | 1] {
        assert!(!driver.accept(features), "{features:#x}");
        driver.add_status(4);
        assert_eq!(driver.status(), 3, "and cannot go on");
    }
    assert!(driver.accept(BASIC));
    assert_eq!(driver.status(), 11);
    driver.set(12, 4, 0xffff_ffff);
    assert_eq!(driver.get(12, 4), 3, "accepted features stay");
}

#[test]
fn the_status_goes_forward_and_back_only_by_a_reset() {
    let machine = Machine::new();
    let mut driver = Driver::probe(&machine, RNG);
    driver.set(0x14, 1, 0xff);
    assert_eq!(driver.status(), 0x83, "features were not accepted, so nothing behind it");
    driver.set(0x14, 1, 0);
    assert_eq!(driver.status(), 0);
    assert!(!driver.accept(BASIC), "who has not said hello");
    driver.negotiate(BASIC);
    driver.set(0x14, 1, 1);
    assert_eq!(driver.status(), 11, "bits do not go away");
}

#[test]
fn entropy_arrives_with_every_kind_of_ring() {
    for features in [BASIC, BASIC | EVENT_IDX, BASIC | INDIRECT, BASIC | INDIRECT | EVENT_IDX] {
        let machine = Machine::new();
        let (driver, mut rings) = Driver::start(&machine, RNG, features);
        let ring = &mut rings[0];
        let (first, second) = (machine.allocate(10), machine.allocate(20));
        // More often than the ring has places, and over the end of the 16 bits of its indices.
        for round in 0..70_000_u32 {
            if features & INDIRECT != 0 && round > 300 {
                break;
            }
            assert!(driver.send(ring, &[(first, 3, true), (second, 5, true)]));
            let (_, len) = ring.take().expect("it is given back");
            assert_eq!(len, 8);
            ring.set_interrupts(true);
            let expected: Vec<u8> = (1..=8).map(|byte| (8 * round + byte) as u8).collect();
            assert_eq!([machine.peek(first, 3), machine.peek(second, 5)].concat(), expected);
        }
    }
}

#[test]
fn one_request_gets_no_more_than_4_kib() {
    let machine = Machine::new();
    let (driver, mut rings) = Driver::start(&machine, RNG, BASIC);
    let buffer = machine.allocate(0x8000);
    driver.send(&mut rings[0], &[(buffer, 0x8000, true)]);
    assert_eq!(rings[0].take(), Some((0, 4096)));
    driver.send(&mut rings[0], &[(buffer, 0, true)]);
    assert_eq!(rings[0].take(), Some((0, 0)), "nothing is nothing");
    assert!(!driver.is_broken());
}

#[test]
fn with_event_idx_a_batch_is_one_notification_and_one_interrupt() {
    let machine = Machine::new();
    let (driver, mut rings) = Driver::start(&machine, RNG, BASIC | EVENT_IDX);
    let ring = &mut rings[0];
    let buffer = machine.allocate(8);
    assert!(driver.send(ring, &[(buffer, 8, true)]));
    machine.take_spis();
    for _ in 0..8 {
        ring.add(&[(buffer, 8, true)]);
    }
    assert!(ring.wants_kick());
    ring.take();
    ring.set_interrupts(true);
    driver.notify(0);
    assert_eq!(machine.take_spis(), [driver.spi(0)]);
    assert_eq!(std::iter::from_fn(|| ring.take()).count(), 8);
    // Nobody has asked for another one since.
    driver.send(ring, &[(buffer, 8, true)]);
    assert!(ring.take().is_some() && machine.take_spis().is_empty());
}

#[test]
fn a_driver_that_adds_as_fast_as_the_device_works_does_not_keep_its_thread() {
    let machine = Machine::new();
    let (driver, mut rings) = Driver::start(&machine, CONSOLE, BASIC);
    let byte = machine.allocate(1);
    rings[1].add(&[(byte, 1, false)]);
    machine.memory.refill(rings[1].used + 2, rings[1].avail + 2);
    driver.notify(1);
    assert_eq!(machine.screen.text().len(), 256);
    assert!(machine.host.resume(&machine.env()), "there is more");
    assert_eq!(machine.screen.text().len(), 512);
    machine.memory.refill(0, 0);
    assert!(!machine.host.resume(&machine.env()));
    assert_eq!(machine.screen.text().len(), 513);
}

#[test]
fn a_chain_that_comes_while_the_device_asks_to_be_notified_is_seen() {
    let machine = Machine::new();
    let (driver, mut rings) = Driver::start(&machine, CONSOLE, BASIC | EVENT_IDX);
    let byte = machine.allocate(1);
    rings[1].add(&[(byte, 1, false)]);
    // The driver has looked at the event just before, so it does not notify.
    machine.memory.refill(rings[1].used + 4 + 8 * 32, rings[1].avail + 2);
    driver.notify(1);
    assert_eq!(machine.screen.text().len(), 256);
}

#[test]
fn a_reset_forgets_everything() {
    let machine = Machine::new();
    let (driver, mut rings) = Driver::start(&machine, RNG, BASIC);
    driver.set(0x14, 1, 0);
    assert_eq!((driver.status(), driver.get(0x10, 2)), (0, 0xffff));
    driver.set(0x16, 2, 0);
    assert_eq!((driver.get(0x1c, 2), driver.get(0x1a, 2), driver.get(0x20, 8)), (0, 0xffff, 0));
    let buffer = machine.allocate(8);
    driver.send(&mut rings[0], &[(buffer, 8, true)]);
    assert_eq!(rings[0].take(), None);
    let (driver, mut rings) = Driver::start(&machine, RNG, BASIC);
    driver.send(&mut rings[0], &[(buffer, 8, true)]);
    assert_eq!(rings[0].take(), Some((0, 8)));
}

#[test]
fn one_queue_can_be_reset_and_come_back_elsewhere() {
    let machine = Machine::new();
    let (driver, mut rings) = Driver::start(&machine, RNG, BASIC | RING_RESET);
    let buffer = machine.allocate(8);
    driver.send(&mut rings[0], &[(buffer, 8, true)]);
    driver.set(0x16, 2, 0);
    driver.set(0x3a, 2, 1);
    assert_eq!((driver.get(0x3a, 2), driver.get(0x1c, 2)), (0, 0));
    driver.send(&mut rings[0], &[(buffer, 8, true)]);
    assert_eq!((rings[0].take(), rings[0].take()), (Some((0, 8)), None), "only from before");
    let mut ring = driver.queue(0);
    driver.send(&mut ring, &[(buffer, 8, true)]);
    assert_eq!(ring.take(), Some((0, 8)));

    let (driver, _) = Driver::start(&machine, RNG, BASIC);
    driver.set(0x3a, 2, 1);
    assert_eq!(driver.get(0x1c, 2), 1, "only where that was agreed on");
}

#[test]
fn a_queue_in_use_cannot_be_changed() {
    let machine = Machine::new();
    let (driver, rings) = Driver::start(&machine, RNG, BASIC);
    for (offset, len) in [(0x18, 2), (0x20, 4), (0x24, 4), (0x28, 4), (0x30, 8), (0x1c, 2)] {
        driver.set(offset, len, 0);
    }
    assert_eq!((driver.get(0x18, 2), driver.get(0x1c, 2)), (16, 1));
    assert_eq!((driver.get(0x20, 8), driver.get(0x30, 8)), (rings[0].descriptors, rings[0].used));
}

#[test]
fn a_queue_may_be_smaller_but_not_of_any_size() {
    let machine = Machine::new();
    let mut driver = Driver::probe(&machine, RNG);
    driver.negotiate(BASIC);
    for (size, expected) in [(0, 16), (3, 16), (32, 16), (0x8000, 16), (4, 4), (1, 1)] {
        driver.set(0x18, 2, size);
        assert_eq!(driver.get(0x18, 2), expected, "{size}");
    }
    driver.set(0x16, 2, 1);
    assert_eq!(
        (driver.get(0x18, 2), driver.get(0x1c, 2), driver.get(0x1e, 2)),
        (0, 0, 0),
        "there is no second"
    );
}

proptest! {
    /// Whatever pieces chains are made of, in whatever batches: bytes come out as they went in.
    #[test]
    fn output_is_what_was_written(
        chains in proptest::collection::vec(proptest::collection::vec(0_u32..50, 1..4), 1..40),
        batch in 1_usize..9, features in prop::sample::select(vec![BASIC, BASIC | EVENT_IDX, BASIC | INDIRECT, BASIC | INDIRECT | EVENT_IDX]),
        room in 1_usize..200,
    ) {
        let machine = Machine::new();
        let (driver, mut rings) = Driver::start(&machine, CONSOLE, features);
        let ring = &mut rings[1];
        let (mut expected, mut next) = (Vec::new(), 0_u8);
        machine.screen.set_room(room);
        for some in chains.chunks(batch) {
            for chain in some {
                let pieces: Vec<(u64, u32, bool)> = chain.iter().map(|len| {
                    let bytes: Vec<u8> = (0..*len).map(|_| { next = next.wrapping_add(1); next }).collect();
                    let place = machine.allocate(u64::from(*len) + 1);
                    machine.poke(place, &bytes);
                    expected.extend(bytes);
                    (place, *len, false)
                }).collect();
                ring.add(&pieces);
            }
            if ring.wants_kick() {
                driver.notify(1);
            }
            while ring.room() < 24 {
                machine.screen.set_room(room);
                machine.console.lock().unwrap().resume_output(&machine.env());
                while ring.take().is_some() {}
            }
        }
        for _ in 0..expected.len() {
            machine.screen.set_room(room);
            machine.console.lock().unwrap().resume_output(&machine.env());
        }
        while ring.take().is_some() {}
        prop_assert_eq!(ring.room(), 32, "all is given back");
        prop_assert_eq!(machine.screen.text(), expected);
    }
}
