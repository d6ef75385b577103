//! vCPUs and a person at the same time: nothing that waits is forgotten.

mod driver;

use driver::{BASIC, CONSOLE, Driver, EVENT_IDX, Machine, Ring};
use realm_devices::PortId;
use std::thread::{scope, yield_now};

const BYTES: usize = 20_000;

fn text() -> Vec<u8> {
    (0..BYTES).map(|place| (place % 251) as u8).collect()
}

/// Sleeps, as a driver does, until the queue's interrupt, which it asks for first. Whoever has to interrupt and does not
/// lets it sleep for ever.
fn sleep(machine: &Machine, ring: &mut Ring<'_>, spi: u32) -> (u16, u32) {
    loop {
        machine.forget_spi(spi);
        ring.set_interrupts(true);
        if let Some(used) = ring.take() {
            return used;
        }
        while !machine.has_spi(spi) {
            yield_now();
        }
    }
}

/// Goes on with what a device left, as a VMM does.
fn settle(machine: &Machine) {
    while machine.host.resume(&machine.env()) {}
}

/// Makes a chain available and notifies only if the device has asked for that.
fn send(driver: &Driver<'_>, ring: &mut Ring<'_>, buffer: (u64, u32, bool)) -> u16 {
    let head = ring.add(&[buffer]);
    if ring.wants_kick() {
        driver.notify(ring.index);
        settle(driver.machine);
    }
    head
}

/// Writes everything in pieces of up to 7 bytes.
fn print(driver: &Driver<'_>, ring: &mut Ring<'_>) {
    let machine = driver.machine;
    let places: Vec<u64> = (0..ring.size).map(|_| machine.allocate(8)).collect();
    let mut sent = 0;
    let text = text();
    while sent < text.len() {
        for &place in &places {
            let piece = &text[sent..text.len().min(sent + 1 + sent % 7)];
            machine.poke(place, piece);
            sent += piece.len();
            send(driver, ring, (place, piece.len() as u32, false));
        }
        while ring.room() < ring.size.into() {
            sleep(machine, ring, driver.spi(1));
        }
    }
}

/// Reads everything into buffers of 5 bytes.
fn listen(driver: &Driver<'_>, ring: &mut Ring<'_>) -> Vec<u8> {
    let machine = driver.machine;
    let mut places = vec![0; ring.size.into()];
    let post = |ring: &mut Ring<'_>, places: &mut [u64], place: u64| {
        let head = send(driver, ring, (place, 5, true));
        places[usize::from(head)] = place;
    };
    for _ in 0..ring.size {
        let place = machine.allocate(8);
        post(ring, &mut places, place);
    }
    let mut heard = Vec::new();
    while heard.len() < BYTES {
        let (head, len) = sleep(machine, ring, driver.spi(0));
        let place = places[usize::from(head)];
        heard.extend(machine.peek(place, len as usize));
        post(ring, &mut places, place);
    }
    heard
}

#[test]
fn both_directions_at_once_lose_nothing() {
    for features in [BASIC, BASIC | EVENT_IDX] {
        let machine = Machine::new();
        let (driver, mut rings) = Driver::start(&machine, CONSOLE, features);
        let mut rings = rings.drain(..2);
        let (mut input, mut output) = (rings.next().unwrap(), rings.next().unwrap());
        let driver = &driver;
        let heard = scope(|scope| {
            scope.spawn(|| {
                let text = text();
                let mut rest = &text[..];
                while !rest.is_empty() {
                    let some = &rest[..rest.len().min(300)];
                    let taken = machine.console.lock().unwrap().input(&machine.env(), PortId::CONSOLE, some);
                    rest = &rest[taken..];
                    settle(&machine);
                    yield_now();
                }
            });
            // A sink that is full now and then, and somebody who makes room.
            scope.spawn(|| {
                while machine.screen.text().len() < BYTES {
                    machine.screen.set_room(100);
                    machine.console.lock().unwrap().resume_output(&machine.env());
                    settle(&machine);
                    yield_now();
                }
            });
            scope.spawn(|| print(driver, &mut output));
            listen(driver, &mut input)
        });
        assert_eq!(heard, text());
        assert_eq!(machine.screen.text(), text());
        assert!(!driver.is_broken());
    }
}
