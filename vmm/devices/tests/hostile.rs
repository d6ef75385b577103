//! Drivers that break the rules: the device says so, nothing else happens.

mod driver;

use driver::{
    BASIC, CONSOLE, Driver, EVENT_IDX, INDIRECT, MULTIPORT, Machine, RAM, RING_RESET, RNG, Ring, WINDOWS,
};
use proptest::prelude::*;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const TABLE: u16 = 4;

/// Puts descriptors into the table of the entropy device's queue, makes the first one available, and expects the device to
/// say that it needs a reset, by an interrupt of its configuration; the chain is not given back.
fn breaks(features: u64, work: impl FnOnce(&Machine, &mut Ring<'_>)) {
    let machine = Machine::new();
    let (driver, mut rings) = Driver::start(&machine, RNG, features);
    work(&machine, &mut rings[0]);
    driver.notify(0);
    assert!(driver.is_broken());
    assert_eq!(machine.take_spis(), [driver.config_spi()]);
    assert_eq!((rings[0].take(), machine.read(driver.isr, 1)), (None, 2));
    driver.notify(0);
    assert!(machine.take_spis().is_empty(), "it is told once");
    // After a reset all is well.
    let (driver, mut rings) = Driver::start(&machine, RNG, BASIC);
    let buffer = machine.allocate(8);
    driver.send(&mut rings[0], &[(buffer, 8, true)]);
    assert_eq!(rings[0].take(), Some((0, 8)));
}

fn chain(descriptors: &[(u64, u32, u16, u16)]) -> impl FnOnce(&Machine, &mut Ring<'_>) + use<> {
    let descriptors = descriptors.to_vec();
    move |_, ring| {
        for (index, (address, len, flags, next)) in (0..).zip(descriptors) {
            ring.write_descriptor(ring.descriptors, index, address, len, flags, next);
        }
        ring.publish(0);
    }
}

#[test]
fn a_chain_that_loops_is_broken() {
    let here = RAM.base | RAM.alias_bit;
    breaks(BASIC, chain(&[(here, 8, NEXT | WRITE, 0)]));
    breaks(BASIC, chain(&[(here, 8, NEXT | WRITE, 1), (here, 8, NEXT | WRITE, 0)]));
}

#[test]
fn a_buffer_outside_of_ram_is_broken() {
    let end = RAM.base + RAM.size;
    for (address, len) in [
        (0, 8),
        (RAM.base - 1, 1),
        (RAM.base - 4, 8),
        (end - 4, 8),
        (end, 1),
        ((end - 4) | RAM.alias_bit, 8),
        (RAM.base | RAM.alias_bit << 1, 8),
        (WINDOWS.memory_base, 8),
        (u64::MAX, 8),
        (u64::MAX - 7, 8),
        (RAM.base, u32::MAX),
        (RAM.base, RAM.size as u32 + 1),
    ] {
        breaks(BASIC, chain(&[(address, len, WRITE, 0)]));
    }
}

#[test]
fn a_descriptor_outside_of_its_table_is_broken() {
    let here = RAM.base | RAM.alias_bit;
    breaks(BASIC, chain(&[(here, 8, NEXT | WRITE, 16)]));
    breaks(BASIC, chain(&[(here, 8, NEXT | WRITE, 0xffff)]));
    breaks(BASIC, |_, ring| ring.publish(16));
    breaks(BASIC, |_, ring| ring.publish(0xffff));
}

#[test]
fn what_is_read_comes_before_what_is_written() {
    let here = RAM.base | RAM.alias_bit;
    breaks(BASIC, chain(&[(here, 8, NEXT | WRITE, 1), (here, 8, 0, 0)]));
}

#[test]
fn an_index_too_far_ahead_is_broken() {
    for index in [17_u16, 0x8000, 0xffff] {
        breaks(BASIC, |machine, ring| {
            // All of them could be done.
            for descriptor in 0..16 {
                ring.write_descriptor(ring.descriptors, descriptor, RAM.base + 0x8_0000, 8, WRITE, 0);
            }
            machine.poke(ring.avail + 2, &index.to_le_bytes());
        });
    }
}

#[test]
fn an_indirect_table_is_where_it_may_be_and_of_a_size_it_may_have() {
    let table = 0x8008_0000 | RAM.alias_bit;
    breaks(BASIC, chain(&[(table, 16, TABLE, 0)]));
    for (len, flags) in
        [(0, TABLE), (8, TABLE), (24, TABLE), (16 * 17, TABLE), (!15, TABLE), (16, TABLE | NEXT)]
    {
        breaks(BASIC | INDIRECT, chain(&[(table, len, flags, 1)]));
    }
    breaks(BASIC | INDIRECT, chain(&[(RAM.base + RAM.size - 16, 32, TABLE, 0)]));
    // A table in a table, a loop in one, a way out of one.
    for (flags, next) in [(TABLE, 0), (NEXT | WRITE, 0), (NEXT | WRITE, 2)] {
        breaks(BASIC | INDIRECT, |machine, ring| {
            ring.write_descriptor(table, 0, RAM.base + 0x8_0000, 16, flags, next);
            for index in 1..4 {
                ring.write_descriptor(table, index, RAM.base + 0x8_0000, 16, WRITE, 0);
            }
            ring.write_descriptor(ring.descriptors, 0, table, 32, TABLE, 0);
            ring.publish(0);
            assert_eq!(machine.peek(ring.descriptors + 12, 2), [4, 0]);
        });
    }
}

#[test]
fn a_queue_that_is_not_in_ram_or_not_aligned_cannot_be_enabled() {
    let end = RAM.base + RAM.size;
    for (offset, address) in [
        (0x20, 0),
        (0x20, RAM.base + 8),
        (0x20, end - 16 * 15),
        (0x28, RAM.base + 1),
        (0x28, end - 36),
        (0x30, RAM.base + 2),
        (0x30, end - 132),
        (0x30, !3),
    ] {
        let machine = Machine::new();
        let mut driver = Driver::probe(&machine, RNG);
        driver.negotiate(BASIC);
        for place in [0x20, 0x28, 0x30] {
            driver.set(place, 8, if place == offset { address } else { RAM.base | RAM.alias_bit });
        }
        driver.set(0x1c, 2, 1);
        assert_eq!((driver.get(0x1c, 2), driver.is_broken()), (0, true), "{offset:#x} {address:#x}");
        assert!(machine.take_spis().is_empty(), "the driver is not up");
    }
}

#[test]
fn nothing_works_out_of_order() {
    let machine = Machine::new();
    let mut driver = Driver::probe(&machine, RNG);
    let buffer = machine.allocate(8);
    // A queue before the features.
    driver.queue(0);
    assert_eq!(driver.get(0x1c, 2), 0);
    driver.negotiate(BASIC);
    // A notification before the driver is ready.
    let mut ring = driver.queue(0);
    ring.add(&[(buffer, 8, true)]);
    driver.notify(0);
    assert_eq!(ring.take(), None);
    driver.add_status(4);
    assert_eq!(ring.take(), Some((0, 8)), "then it is looked at");
    // A reset in between, and ready at once.
    driver.set(0x14, 1, 0);
    driver.set(0x14, 1, 0xf);
    assert_eq!(driver.status(), 3);
    driver.notify(0);
    assert_eq!(ring.take(), None);
}

#[test]
fn a_control_message_that_does_not_fit_is_broken() {
    let machine = Machine::new();
    let (driver, mut rings) = Driver::start(&machine, CONSOLE, BASIC | MULTIPORT);
    let (small, message) = (machine.allocate(8), machine.allocate(8));
    driver.send(&mut rings[2], &[(small, 7, true)]);
    machine.poke(message, &[0xff, 0xff, 0xff, 0xff, 0, 0, 1, 0]);
    driver.send(&mut rings[3], &[(message, 8, false)]);
    assert!(driver.is_broken());
}

#[test]
fn each_descriptor_and_each_byte_is_read_once() {
    let machine = Machine::new();
    let (driver, mut rings) = Driver::start(&machine, CONSOLE, BASIC | INDIRECT);
    let text = machine.allocate(64);
    let head = rings[1].add(&[(text, 3, false), (text + 8, 0, false), (text + 16, 5, false)]);
    let table =
        u64::from_le_bytes(machine.peek(rings[1].descriptors + 16 * u64::from(head), 8).try_into().unwrap());
    machine.memory.take_reads();
    driver.notify(1);
    let mut reads = machine.memory.take_reads();
    let direct = rings[1].descriptors + 16 * u64::from(head);
    for (place, len) in [(direct, 16), (table, 48), (text, 3), (text + 16, 5), (rings[1].avail + 4, 2)] {
        for byte in (place..place + len).map(|byte| byte & !RAM.alias_bit) {
            assert_eq!(reads.iter().filter(|read| **read == byte).count(), 1, "{byte:#x}");
            reads.retain(|read| *read != byte);
        }
    }
    // What is left: the flags and index of each available ring.
    let heads = rings.iter().map(|ring| (ring.avail & !RAM.alias_bit)..(ring.avail & !RAM.alias_bit) + 4);
    assert!(reads.iter().all(|read| heads.clone().any(|head| head.contains(read))));
}

#[test]
fn one_broken_device_leaves_the_other_alone() {
    let machine = Machine::new();
    let (console, mut output) = Driver::start(&machine, CONSOLE, BASIC);
    let (rng, mut rings) = Driver::start(&machine, RNG, BASIC);
    rings[0].publish(99);
    rng.notify(0);
    assert!(rng.is_broken() && !console.is_broken());
    let text = machine.allocate(2);
    machine.poke(text, b"ok");
    console.send(&mut output[1], &[(text, 2, false)]);
    assert_eq!(machine.screen.text(), b"ok");
}

/// What a realm can do: an access anywhere, with some bias to where something is.
#[derive(Clone, Debug)]
enum Action {
    Read(u64, usize),
    Write(u64, usize, u64),
    Memory(u64, Vec<u8>),
    Type(Vec<u8>),
    Resize(u16, u16),
    Resume,
}

fn place() -> impl Strategy<Value = u64> {
    let config = (0_u64..3, 0_u64..0x110).prop_map(|(device, register)| Machine::config(device, register));
    let memory = (
        0_u64..2,
        prop_oneof![
            0_u64..0x40,
            0x1000_u64..0x1004,
            0x2000_u64..0x2010,
            0x3000_u64..0x3020,
            0x4000_u64..0x4080,
            0x4800_u64..0x4808,
            0_u64..0x8000
        ],
    )
        .prop_map(|(device, offset)| WINDOWS.memory_base + 0x8000 * device + offset);
    prop_oneof![2 => config, 6 => memory, 1 => (0_u64..0x1000_0000).prop_map(|offset| WINDOWS.memory_base + offset)]
}

fn value() -> impl Strategy<Value = u64> {
    let address = (0_u64..0x400).prop_map(|page| (RAM.base + (page << 8)) | RAM.alias_bit);
    prop_oneof![0_u64..16, address, any::<u64>(), Just(u64::MAX), Just(0xf), Just(BASIC >> 32)]
}

fn size() -> impl Strategy<Value = usize> {
    prop::sample::select(vec![1_usize, 2, 4, 8])
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => (place(), size()).prop_map(|(place, size)| Action::Read(place, size)),
        9 => (place(), size(), value()).prop_map(|(place, size, value)| Action::Write(place, size, value)),
        3 => (0_u64..0x400, proptest::collection::vec(any::<u8>(), 1..64))
            .prop_map(|(page, bytes)| Action::Memory(RAM.base + (page << 8), bytes)),
        1 => proptest::collection::vec(any::<u8>(), 0..300).prop_map(Action::Type),
        1 => (any::<u16>(), any::<u16>()).prop_map(|(columns, rows)| Action::Resize(columns, rows)),
        1 => Just(Action::Resume),
    ]
}

fn act(machine: &Machine, actions: Vec<Action>) {
    for action in actions {
        match action {
            Action::Read(place, size) => {
                machine.host.read(place, &mut [0; 8][..size]);
            }
            Action::Write(place, size, value) => {
                machine.host.write(&machine.env(), place, &value.to_le_bytes()[..size]);
            }
            Action::Memory(place, bytes) => machine.poke(place, &bytes),
            Action::Type(bytes) => {
                machine.console.lock().unwrap().input(&machine.env(), realm_devices::PortId::CONSOLE, &bytes);
            }
            Action::Resize(columns, rows) => {
                machine.console.lock().unwrap().resize(&machine.env(), columns, rows)
            }
            Action::Resume => {
                machine.host.resume(&machine.env());
            }
        }
        for spi in machine.take_spis() {
            assert!((64..128).contains(&spi), "only interrupts of the frame");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_accesses_of_a_fresh_machine_are_survived(actions in proptest::collection::vec(action(), 1..200)) {
        act(&Machine::new(), actions);
    }

    /// The same with both devices up and rings at addresses that the actions write to.
    #[test]
    fn any_accesses_of_devices_at_work_are_survived(
        actions in proptest::collection::vec(action(), 1..200), features in any::<u8>(),
    ) {
        let machine = Machine::new();
        let choice = |bit: u8, feature: u64| if features >> bit & 1 == 1 { feature } else { 0 };
        let features = BASIC | choice(0, INDIRECT) | choice(1, EVENT_IDX) | choice(2, RING_RESET);
        let (_, mut rings) = Driver::start(&machine, CONSOLE, features | choice(3, MULTIPORT));
        Driver::start(&machine, RNG, features);
        let buffer = machine.allocate(64);
        rings[0].add(&[(buffer, 64, true)]);
        rings[1].add(&[(buffer, 64, false)]);
        act(&machine, actions);
        // Whatever was done, the function can be found and brought up again.
        machine.write(Machine::config(RNG, 0x10), 4, WINDOWS.memory_base + 0x10_0000);
        machine.write(Machine::config(RNG, 0x14), 4, WINDOWS.memory_base + 0x10_4000);
        let (driver, mut rings) = Driver::start(&machine, RNG, BASIC);
        driver.send(&mut rings[0], &[(buffer, 8, true)]);
        prop_assert_eq!(rings[0].take().map(|(_, len)| len), Some(8));
    }
}
