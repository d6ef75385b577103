//! What passes between the worlds: counts of commands, and, if wanted, all the Host can see.

use crate::probe::log::lock;
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
    /// Calls and failures by function identifier.
    commands: BTreeMap<u64, Calls>,
    events: Vec<HostEvent>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Calls {
    all: u64,
    failed: u64,
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
        let calls = state.commands.entry(regs[0]).or_default();
        calls.all += 1;
        calls.failed += u64::from(reply[0] != 0);
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
        self.by_name(|calls| calls.all)
    }

    /// Calls of each RMI command that did not return success.
    #[must_use]
    pub fn failures(&self) -> BTreeMap<&'static str, u64> {
        self.by_name(|calls| calls.failed)
    }

    /// All RMI calls.
    #[must_use]
    pub fn total(&self) -> u64 {
        lock(&self.state).commands.values().map(|calls| calls.all).sum()
    }

    /// A count by the specification's name of the command; commands with a count of zero are left out.
    fn by_name(&self, count: impl Fn(&Calls) -> u64) -> BTreeMap<&'static str, u64> {
        let mut named = BTreeMap::new();
        for (fid, calls) in &lock(&self.state).commands {
            let name = RmiCommand::from_regs(&[*fid, 0, 0, 0, 0, 0, 0, 0]).name().unwrap_or("other");
            if count(calls) > 0 {
                *named.entry(name).or_insert(0) += count(calls);
            }
        }
        named
    }

    /// Everything the Host saw, in order; nothing unless the machine records it.
    #[must_use]
    pub fn events(&self) -> Vec<HostEvent> {
        lock(&self.state).events.clone()
    }
}
