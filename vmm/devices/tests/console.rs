//! The console device: one port, several ports, sizes, and both directions when one side is slow.

mod driver;

use driver::{BASIC, CONSOLE, Driver, EVENT_IDX, MULTIPORT, Machine, Ring, SIZE, VERDICT};
use realm_devices::PortId;

const VERDICT_PORT: PortId = PortId(1);
const DEVICE_READY: u16 = 0;
const PORT_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const CONSOLE_PORT: u16 = 4;
const RESIZE: u16 = 5;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;

/// A driver of several ports.
struct Ports<'a> {
    driver: Driver<'a>,
    rings: Vec<Ring<'a>>,
    /// Where messages arrive, by head.
    buffers: Vec<u64>,
}

type Message = (u32, u16, u16, Vec<u8>);

impl<'a> Ports<'a> {
    fn start(machine: &'a Machine) -> Self {
        let (driver, rings) = Driver::start(machine, CONSOLE, BASIC | EVENT_IDX | SIZE | MULTIPORT);
        let mut ports = Self { driver, rings, buffers: vec![0; 16] };
        for _ in 0..8 {
            ports.post();
        }
        ports
    }

    fn post(&mut self) {
        let buffer = self.driver.machine.allocate(64);
        let head = self.rings[2].add(&[(buffer, 64, true)]);
        self.buffers[usize::from(head)] = buffer;
        self.driver.notify(2);
    }

    fn say(&mut self, id: u32, event: u16, value: u16) {
        let machine = self.driver.machine;
        let buffer = machine.allocate(8);
        machine.poke(buffer, &id.to_le_bytes());
        machine.poke(buffer + 4, &event.to_le_bytes());
        machine.poke(buffer + 6, &value.to_le_bytes());
        self.driver.send(&mut self.rings[3], &[(buffer, 8, false)]);
        while self.rings[3].take().is_some() {}
    }

    fn hear(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Some((head, len)) = self.rings[2].take() {
            let bytes = self.driver.machine.peek(self.buffers[usize::from(head)], len as usize);
            let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
            let id = u32::from(half(0)) | u32::from(half(2)) << 16;
            messages.push((id, half(4), half(6), bytes[8..].to_vec()));
            self.post();
        }
        messages
    }

    /// Everything up to two open ports.
    fn open(machine: &'a Machine) -> Self {
        let mut ports = Self::start(machine);
        ports.say(u32::MAX, DEVICE_READY, 1);
        for id in 0..2 {
            ports.say(id, PORT_READY, 1);
            ports.say(id, PORT_OPEN, 1);
        }
        ports.hear();
        ports
    }

    fn print(&mut self, queue: usize, text: &[u8]) {
        let buffer = self.driver.machine.allocate(text.len() as u64);
        self.driver.machine.poke(buffer, text);
        self.driver.send(&mut self.rings[queue], &[(buffer, text.len() as u32, false)]);
    }
}

#[test]
fn the_configuration_has_size_and_ports() {
    let machine = Machine::new();
    let driver = Driver::probe(&machine, CONSOLE);
    assert_eq!(machine.read(driver.own.address, 4), 80 | 24 << 16);
    assert_eq!(machine.read(driver.own.address + 4, 4), 2);
    assert_eq!(machine.read(driver.own.address + 8, 8), 0);
    machine.write(driver.own.address, 4, 0);
    assert_eq!(machine.read(driver.own.address, 4), 80 | 24 << 16, "read-only");
}

#[test]
fn one_port_is_a_console_without_a_word() {
    let machine = Machine::new();
    let (driver, mut rings) = Driver::start(&machine, CONSOLE, BASIC);
    let (out, back) = (machine.allocate(8), machine.allocate(64));
    machine.poke(out, b"hello");
    driver.send(&mut rings[1], &[(out, 5, false)]);
    assert_eq!((rings[1].take(), machine.screen.text()), (Some((0, 0)), b"hello".to_vec()));
    driver.send(&mut rings[0], &[(back, 64, true)]);
    machine.take_spis();
    assert_eq!(machine.console.lock().unwrap().input(&machine.env(), PortId::CONSOLE, b"ls\n"), 3);
    assert_eq!((rings[0].take(), machine.peek(back, 3)), (Some((0, 3)), b"ls\n".to_vec()));
    assert_eq!(machine.take_spis(), [driver.spi(0)]);
}

#[test]
fn ports_are_added_named_and_opened() {
    let machine = Machine::new();
    let mut ports = Ports::start(&machine);
    assert!(ports.hear().is_empty());
    ports.say(u32::MAX, DEVICE_READY, 1);
    assert_eq!(ports.hear(), [(0, PORT_ADD, 1, vec![]), (1, PORT_ADD, 1, vec![])]);
    ports.say(0, PORT_READY, 1);
    let size = vec![80, 0, 24, 0];
    assert_eq!(ports.hear(), [(0, CONSOLE_PORT, 1, vec![]), (0, RESIZE, 0, size), (0, PORT_OPEN, 1, vec![])]);
    ports.say(1, PORT_READY, 1);
    assert_eq!(ports.hear(), [(1, PORT_NAME, 1, VERDICT.into()), (1, PORT_OPEN, 1, vec![])]);
    let is_open = |port| machine.console.lock().unwrap().is_open(port);
    assert!(!is_open(VERDICT_PORT));
    ports.say(1, PORT_OPEN, 1);
    assert!(is_open(VERDICT_PORT) && !is_open(PortId::CONSOLE));
    ports.say(1, PORT_OPEN, 0);
    assert!(!is_open(VERDICT_PORT));
    assert!(!ports.driver.is_broken());
}

#[test]
fn each_port_has_its_own_output() {
    let machine = Machine::new();
    let mut ports = Ports::open(&machine);
    ports.print(1, b"login: ");
    ports.print(5, b"0\n");
    assert_eq!((machine.screen.text(), machine.verdict.text()), (b"login: ".to_vec(), b"0\n".to_vec()));
}

#[test]
fn input_waits_until_somebody_has_opened_the_port() {
    let machine = Machine::new();
    let mut ports = Ports::start(&machine);
    let buffer = machine.allocate(64);
    ports.driver.send(&mut ports.rings[0], &[(buffer, 64, true)]);
    assert_eq!(machine.console.lock().unwrap().input(&machine.env(), PortId::CONSOLE, b"early"), 5);
    assert_eq!(ports.rings[0].take(), None);
    ports.say(0, PORT_OPEN, 1);
    assert_eq!((ports.rings[0].take(), machine.peek(buffer, 5)), (Some((0, 5)), b"early".to_vec()));
}

#[test]
fn input_that_nobody_takes_fills_a_bounded_queue() {
    let machine = Machine::new();
    let (driver, mut rings) = Driver::start(&machine, CONSOLE, BASIC);
    let input = |bytes: &[u8]| machine.console.lock().unwrap().input(&machine.env(), PortId::CONSOLE, bytes);
    let text: Vec<u8> = (0..5000_u32).map(|byte| byte as u8).collect();
    assert_eq!(input(&text), 4096);
    assert_eq!(input(b"x"), 0);
    let buffer = machine.allocate(4096);
    driver.send(&mut rings[0], &[(buffer, 100, true)]);
    assert_eq!((rings[0].take(), machine.peek(buffer, 100)), (Some((0, 100)), text[..100].to_vec()));
    assert_eq!(input(&text[4096..]), 100, "there is room again");
    driver.send(&mut rings[0], &[(buffer, 4000, true), (buffer + 4000, 96, true)]);
    assert_eq!((rings[0].take().unwrap().1, machine.peek(buffer, 4096)), (4096, text[100..4196].to_vec()));
    assert_eq!(input(b""), 0);
    assert_eq!(machine.console.lock().unwrap().input(&machine.env(), PortId(2), b"x"), 0, "no such port");
}

#[test]
fn output_waits_in_the_realm_while_the_sink_is_full() {
    let machine = Machine::new();
    let mut ports = Ports::open(&machine);
    machine.screen.set_room(3);
    ports.print(1, b"0123456789");
    ports.print(1, b"abc");
    machine.take_spis();
    assert_eq!((machine.screen.text(), ports.rings[1].take()), (b"012".to_vec(), None));
    ports.print(5, b"7");
    assert_eq!(machine.verdict.text(), b"7", "the other port goes on");
    machine.screen.set_room(8);
    machine.console.lock().unwrap().resume_output(&machine.env());
    assert_eq!(machine.screen.text(), b"0123456789a");
    assert!(ports.rings[1].take().is_some() && ports.rings[1].take().is_none());
    machine.screen.set_room(9);
    machine.console.lock().unwrap().resume_output(&machine.env());
    assert_eq!(machine.screen.text(), b"0123456789abc");
    assert!(ports.rings[1].take().is_some());
}

#[test]
fn a_reset_drops_output_that_waits() {
    let machine = Machine::new();
    let (driver, mut rings) = Driver::start(&machine, CONSOLE, BASIC);
    let out = machine.allocate(8);
    machine.poke(out, b"old line");
    machine.screen.set_room(3);
    driver.send(&mut rings[1], &[(out, 8, false)]);
    driver.set(0x14, 1, 0);
    machine.screen.set_room(100);
    machine.console.lock().unwrap().resume_output(&machine.env());
    let (driver, mut rings) = Driver::start(&machine, CONSOLE, BASIC);
    machine.poke(out, b"new line");
    driver.send(&mut rings[1], &[(out, 8, false)]);
    assert_eq!(machine.screen.text(), b"oldnew line");
}

#[test]
fn a_new_size_is_told_both_ways() {
    let machine = Machine::new();
    let mut ports = Ports::open(&machine);
    let generation = ports.driver.get(0x15, 1);
    machine.take_spis();
    machine.console.lock().unwrap().resize(&machine.env(), 132, 50);
    assert_eq!(ports.hear(), [(0, RESIZE, 0, vec![132, 0, 50, 0])]);
    assert_eq!(machine.read(ports.driver.own.address, 4), 132 | 50 << 16);
    assert_ne!(ports.driver.get(0x15, 1), generation);
    assert!(machine.take_spis().contains(&ports.driver.config_spi()));
    assert_eq!(machine.read(ports.driver.isr, 1), 2);
}

#[test]
fn sizes_that_nobody_reads_do_not_pile_up() {
    let machine = Machine::new();
    let mut ports = Ports::open(&machine);
    // The buffers for messages are used up.
    for columns in 0..100 {
        machine.console.lock().unwrap().resize(&machine.env(), columns, 1);
    }
    let sizes: Vec<u8> = ports.hear().iter().map(|(_, _, _, more)| more[0]).collect();
    assert_eq!(sizes, [0, 1, 2, 3, 4, 5, 6, 7, 99]);
}

#[test]
fn messages_of_the_driver_wait_while_it_takes_none() {
    let machine = Machine::new();
    let mut ports = Ports::start(&machine);
    let buffer = machine.allocate(8);
    machine.poke(buffer, &[0, 0, 0, 0, 3, 0, 1, 0]);
    for _ in 0..30 {
        ports.rings[3].add(&[(buffer, 8, false)]);
    }
    ports.driver.notify(3);
    let given_back = std::iter::from_fn(|| ports.rings[3].take()).count();
    // 8 messages fit the driver's buffers, up to 34 wait; three for each of its own.
    assert_eq!(given_back, 14);
    let mut heard = 0;
    loop {
        let some = ports.hear().len();
        heard += some;
        if some == 0 {
            break;
        }
    }
    assert_eq!((heard, std::iter::from_fn(|| ports.rings[3].take()).count()), (90, 16));
}

#[test]
fn messages_that_mean_nothing_are_ignored() {
    let machine = Machine::new();
    let mut ports = Ports::start(&machine);
    for (id, event, value) in
        [(2, PORT_READY, 1), (u32::MAX, PORT_OPEN, 1), (0, 99, 1), (0, PORT_READY, 0), (0, DEVICE_READY, 0)]
    {
        ports.say(id, event, value);
    }
    let short = machine.allocate(8);
    ports.driver.send(&mut ports.rings[3], &[(short, 7, false)]);
    assert!(ports.rings[3].take().is_some());
    assert!(ports.hear().is_empty() && !ports.driver.is_broken());
}
