//! The console device (virtio 1.2 section 5.3): port 0 is the realm's console, further ports have names.

mod port;

use crate::Env;
use crate::virtio::function::Change;
use crate::virtio::queue::Chain;
use crate::virtio::{Broken, Device, Io, Kind, VirtioPci};
use port::Port;
use std::collections::VecDeque;

/// Features: size, more ports than one.
const F_SIZE: u32 = 0;
const F_MULTIPORT: u32 = 1;

/// Control messages.
const DEVICE_READY: u16 = 0;
const PORT_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const CONSOLE_PORT: u16 = 4;
const RESIZE: u16 = 5;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;
/// Bytes of a message's header: port, event, value.
const HEADER: usize = 8;
/// Messages to the driver that may wait; then its own are left where they are.
const MAX_WAITING: usize = 32;

/// Queues of the control messages, to the driver and from it.
const CONTROL_IN: usize = 2;
const CONTROL_OUT: usize = 3;
/// Descriptors of a queue: the driver puts a page into each of those to it at once, which all count as shared memory.
const QUEUE_IN: u16 = 16;
const QUEUE_OUT: u16 = 32;

/// A port's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortId(pub usize);

impl PortId {
    /// The console.
    pub const CONSOLE: Self = Self(0);

    /// Queue of what goes to the driver; the next one is from it. Those of the control messages are between.
    const fn input(self) -> usize {
        match self.0 {
            0 => 0,
            other => other.saturating_mul(2).saturating_add(2),
        }
    }

    const fn output(self) -> usize {
        self.input().saturating_add(1)
    }
}

/// Where a port's output goes.
pub trait Sink: Send + 'static {
    /// Takes some bytes; how many from the front. The rest waits in the realm's memory until
    /// [`VirtioPci::<Console>::resume_output`].
    fn write(&mut self, bytes: &[u8]) -> usize;
}

/// The device.
pub struct Console {
    ports: Vec<Port>,
    queue_sizes: Vec<u16>,
    /// Columns and rows.
    size: (u16, u16),
    multiport: bool,
    /// Messages to the driver.
    waiting: VecDeque<Vec<u8>>,
}

impl Console {
    /// A console, and a port for each name.
    #[must_use]
    pub fn new(console: Box<dyn Sink>, named: Vec<(&str, Box<dyn Sink>)>) -> Self {
        let named = named.into_iter().map(|(name, sink)| Port::new(Some(name), sink));
        let ports: Vec<Port> = std::iter::once(Port::new(None, console)).chain(named).collect();
        // Two queues for each port, and two for control messages.
        let queue_sizes = (0..ports.len().saturating_add(1)).flat_map(|_| [QUEUE_IN, QUEUE_OUT]).collect();
        Self { ports, queue_sizes, size: (80, 24), multiport: false, waiting: VecDeque::new() }
    }

    fn send(&mut self, port: usize, event: u16, value: u16, more: &[u8]) {
        let mut message = Vec::with_capacity(HEADER.saturating_add(more.len()));
        message.extend((port as u32).to_le_bytes());
        message.extend(event.to_le_bytes());
        message.extend(value.to_le_bytes());
        message.extend(more);
        self.waiting.push_back(message);
    }

    /// The size as a message: columns, then rows, as virtio 1.2 has it. Linux read them the other way round for years.
    fn send_size(&mut self) {
        let (columns, rows) = self.size;
        let [a, b] = columns.to_le_bytes();
        let [c, d] = rows.to_le_bytes();
        self.send(PortId::CONSOLE.0, RESIZE, 0, &[a, b, c, d]);
    }

    /// A message from the driver.
    fn receive(&mut self, message: [u8; HEADER]) {
        let [a, b, c, d, e, f, g, h] = message;
        let id = u32::from_le_bytes([a, b, c, d]) as usize;
        let (event, value) = (u16::from_le_bytes([e, f]), u16::from_le_bytes([g, h]));
        match event {
            DEVICE_READY if value == 1 => {
                for id in 0..self.ports.len() {
                    self.send(id, PORT_ADD, 1, &[]);
                }
            }
            PORT_READY if value == 1 => self.greet(id),
            PORT_OPEN => {
                if let Some(port) = self.ports.get_mut(id) {
                    port.set_open(value == 1);
                }
            }
            _ => {}
        }
    }

    /// Says what a port is that the driver has made.
    fn greet(&mut self, id: usize) {
        let Some(port) = self.ports.get_mut(id) else { return };
        port.set_ready();
        match port.name().map(|name| name.as_bytes().to_vec()) {
            Some(name) => self.send(id, PORT_NAME, 1, &name),
            None => {
                self.send(id, CONSOLE_PORT, 1, &[]);
                self.send_size();
            }
        }
        self.send(id, PORT_OPEN, 1, &[]);
    }

    fn control(&mut self, io: &mut Io<'_>) -> Result<(), Broken> {
        loop {
            self.deliver(io)?;
            if self.waiting.len() >= MAX_WAITING {
                return Ok(());
            }
            let Some(chain) = io.pop(CONTROL_OUT)? else { return Ok(()) };
            let mut message = [0; HEADER];
            // Less than a header is no message.
            if chain.read(io.dma(), 0, &mut message)? == HEADER {
                self.receive(message);
            }
            io.push(CONTROL_OUT, &chain, 0)?;
        }
    }

    /// Hands waiting messages to the driver.
    fn deliver(&mut self, io: &mut Io<'_>) -> Result<(), Broken> {
        while let Some(message) = self.waiting.front() {
            let Some(chain) = io.pop(CONTROL_IN)? else { break };
            let written = give(io, CONTROL_IN, &chain, message)?;
            if written < message.len() {
                return Err(Broken("a control message does not fit"));
            }
            self.waiting.pop_front();
        }
        Ok(())
    }
}

/// Writes to a chain and gives it back; how much fitted.
fn give(io: &mut Io<'_>, queue: usize, chain: &Chain, bytes: &[u8]) -> Result<usize, Broken> {
    let written = chain.write(io.dma(), bytes)?;
    io.push(queue, chain, written)?;
    Ok(written as usize)
}

impl Device for Console {
    fn kind(&self) -> Kind {
        Kind { id: 3, class: [0x07, 0x80, 0] }
    }

    fn features(&self) -> u64 {
        1 << F_SIZE | 1 << F_MULTIPORT
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn config(&self) -> Vec<u8> {
        let (columns, rows) = self.size;
        let mut config = Vec::with_capacity(8);
        config.extend(columns.to_le_bytes());
        config.extend(rows.to_le_bytes());
        config.extend((self.ports.len() as u32).to_le_bytes());
        config
    }

    fn negotiated(&mut self, features: u64) {
        self.multiport = features >> F_MULTIPORT & 1 != 0;
    }

    fn process(&mut self, io: &mut Io<'_>) -> Result<(), Broken> {
        if self.multiport {
            self.control(io)?;
        }
        let multiport = self.multiport;
        // Without the feature there is one port, which is open.
        let ports = self.ports.iter_mut().take(if multiport { usize::MAX } else { 1 });
        for (id, port) in ports.enumerate() {
            port.output(io, PortId(id).output())?;
            if port.is_open() || !multiport {
                port.input(io, PortId(id).input())?;
            }
        }
        Ok(())
    }

    fn queue_reset(&mut self, index: usize) {
        for (id, port) in self.ports.iter_mut().enumerate() {
            if PortId(id).output() == index {
                port.forget_output();
            }
        }
    }

    fn reset(&mut self) {
        self.multiport = false;
        self.waiting.clear();
        self.ports.iter_mut().for_each(Port::reset);
    }
}

impl VirtioPci<Console> {
    /// Input for a port, as much as there is room for; how much that was.
    pub fn input(&mut self, env: &Env<'_>, port: PortId, bytes: &[u8]) -> usize {
        self.with(env, |console| {
            (console.ports.get_mut(port.0).map_or(0, |port| port.receive(bytes)), Change::None)
        })
    }

    /// The console's size.
    pub fn resize(&mut self, env: &Env<'_>, columns: u16, rows: u16) {
        self.with(env, |console| {
            console.size = (columns, rows);
            // One that waits is late, and not sent twice.
            let is_size = |message: &Vec<u8>| message.get(4..6) == Some(&RESIZE.to_le_bytes());
            let told = console.ports.first().is_some_and(Port::is_ready);
            console.waiting.retain(|message| !is_size(message));
            if console.multiport && told {
                console.send_size();
            }
            ((), Change::Config)
        });
    }

    /// Sinks take output again.
    pub fn resume_output(&mut self, env: &Env<'_>) {
        self.with(env, |_| ((), Change::None));
    }

    /// Whether the driver has opened a port.
    #[must_use]
    pub fn is_open(&self, port: PortId) -> bool {
        self.device().ports.get(port.0).is_some_and(Port::is_open)
    }
}
