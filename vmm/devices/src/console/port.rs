//! One port: bytes in both directions, each waiting where it came from if the other side is slow.

use super::{Sink, give};
use crate::virtio::queue::Chain;
use crate::virtio::{Broken, Io};
use std::collections::VecDeque;

/// Bytes of input kept for a driver that has no buffer for them.
const MAX_INPUT: usize = 4096;
/// Bytes of output copied at once.
const PIECE: usize = 4096;

/// A port.
pub struct Port {
    name: Option<String>,
    sink: Box<dyn Sink>,
    input: VecDeque<u8>,
    /// Output of which some bytes were taken.
    started: Option<(Chain, u64)>,
    /// The driver has made the port; somebody there has opened it.
    ready: bool,
    open: bool,
}

impl Port {
    pub fn new(name: Option<&str>, sink: Box<dyn Sink>) -> Self {
        let (name, input) = (name.map(str::to_owned), VecDeque::new());
        Self { name, sink, input, started: None, ready: false, open: false }
    }

    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    pub const fn set_ready(&mut self) {
        self.ready = true;
    }

    pub const fn is_ready(&self) -> bool {
        self.ready
    }

    pub const fn set_open(&mut self, open: bool) {
        self.open = open;
    }

    pub const fn is_open(&self) -> bool {
        self.open
    }

    /// Takes input, as much as there is room for; how much that was.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let room = MAX_INPUT.saturating_sub(self.input.len()).min(bytes.len());
        self.input.extend(bytes.iter().take(room));
        room
    }

    /// Hands output on until the sink takes no more.
    pub fn output(&mut self, io: &mut Io<'_>, queue: usize) -> Result<(), Broken> {
        loop {
            let (chain, mut done) = match self.started.take() {
                Some(started) => started,
                None => match io.pop(queue)? {
                    Some(chain) => (chain, 0),
                    None => return Ok(()),
                },
            };
            let mut piece = [0; PIECE];
            loop {
                let len = chain.read(io.dma(), done, &mut piece)?;
                let Some(bytes) = piece.get(..len).filter(|bytes| !bytes.is_empty()) else { break };
                let taken = self.sink.write(bytes).min(len);
                done = done.saturating_add(taken as u64);
                if taken < len {
                    self.started = Some((chain, done));
                    return Ok(());
                }
            }
            io.push(queue, &chain, 0)?;
        }
    }

    /// Hands input to the driver until one of both runs out.
    pub fn input(&mut self, io: &mut Io<'_>, queue: usize) -> Result<(), Broken> {
        while !self.input.is_empty() {
            let Some(chain) = io.pop(queue)? else { break };
            let written = give(io, queue, &chain, self.input.make_contiguous())?;
            self.input.drain(..written.min(self.input.len()));
        }
        Ok(())
    }

    pub fn forget_output(&mut self) {
        self.started = None;
    }

    /// The device was reset. What was typed stays.
    pub fn reset(&mut self) {
        (self.started, self.ready, self.open) = (None, false, false);
    }
}
