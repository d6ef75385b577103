//! What passes between the worlds: counts of commands, and, if wanted, all the Host can see.

use crate::log::lock;
use realm_abi::rmi::RmiCommand;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Something the Host can see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostEvent {
    /// A secure monitor call: X0 to X7, and X0 to X4 after it.
    Smc {
        /// In.
        regs: [u64; 8],
        /// Out.
        reply: [u64; 5],
    },
    /// The RMM wrote Non-secure memory.
    NsWrite {
        /// Where.
        pa: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// A granule became Non-secure with this content (SHA-256).
    Returned {
        /// Which.
        pa: u64,
        /// Hash of its content.
        content: [u8; 32],
    },
}

#[derive(Debug, Default)]
struct State {
    commands: BTreeMap<&'static str, u64>,
    failures: BTreeMap<&'static str, u64>,
    events: Vec<HostEvent>,
}

/// The record of one machine.
#[derive(Debug)]
pub struct Trace {
    full: bool,
    state: Mutex<State>,
}

impl Trace {
    pub(crate) fn new(full: bool) -> Self {
        Self { full, state: Mutex::default() }
    }

    /// Whether everything the Host can see is kept.
    pub(crate) const fn is_full(&self) -> bool {
        self.full
    }

    pub(crate) fn smc(&self, regs: [u64; 8], reply: [u64; 5]) {
        let mut state = lock(&self.state);
        let name = RmiCommand::from_regs(&regs).name().unwrap_or("other");
        *state.commands.entry(name).or_insert(0) += 1;
        if reply[0] != 0 {
            *state.failures.entry(name).or_insert(0) += 1;
        }
        if self.full {
            state.events.push(HostEvent::Smc { regs, reply });
        }
    }

    pub(crate) fn ns_write(&self, pa: u64, bytes: &[u8]) {
        if self.full {
            lock(&self.state).events.push(HostEvent::NsWrite { pa, bytes: bytes.to_vec() });
        }
    }

    pub(crate) fn returned(&self, pa: u64, content: &[u8]) {
        if self.full {
            let content = Sha256::digest(content).into();
            lock(&self.state).events.push(HostEvent::Returned { pa, content });
        }
    }

    /// Calls of each RMI command, by the specification's name; "other" for what is none.
    #[must_use]
    pub fn commands(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.state).commands.clone()
    }

    /// Calls of each RMI command that did not return success.
    #[must_use]
    pub fn failures(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.state).failures.clone()
    }

    /// All RMI calls.
    #[must_use]
    pub fn total(&self) -> u64 {
        lock(&self.state).commands.values().sum()
    }

    /// Everything the Host saw, in order; nothing unless the machine records it.
    #[must_use]
    pub fn events(&self) -> Vec<HostEvent> {
        lock(&self.state).events.clone()
    }
}
