//! The devices of a realm, in the unprotected half of its address space (payloads/realm-guest relies on each): a port to
//! print to, bytes that keep what is written, and a port by which the realm asks its host for something.

use alloc::string::String;
use alloc::vec::Vec;
use realm_el2::uart;

/// A store of a byte prints it.
const PRINT: u64 = 0x100_0000;
/// Bytes that keep what is written.
const SCRATCH: u64 = 0x100_1000;
const SCRATCH_SIZE: usize = 0x1000;
/// A store of 8 bytes is a request, a load its result.
const CONTROL: u64 = 0x100_2000;

/// Lines longer than this are cut.
const MAX_LINE: usize = 400;

/// What a realm asks its host for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Make a page of the protected half shared.
    MakeShared(u64),
    /// Make it private.
    MakePrivate(u64),
    /// Raise or lower the line of a shared interrupt.
    Line(u32, bool),
    /// Fill the shared page behind an address with a pattern.
    Fill(u64),
    /// Add up its bytes.
    Sum(u64),
    /// Cut so many entries short.
    Preempt(u64),
}

impl Request {
    fn of(value: u64) -> Option<Self> {
        let argument = value & ((1 << 56) - 1);
        Some(match value >> 56 {
            1 => Self::MakeShared(argument),
            2 => Self::MakePrivate(argument),
            3 => Self::Line(argument as u32, true),
            4 => Self::Line(argument as u32, false),
            5 => Self::Fill(argument),
            6 => Self::Sum(argument),
            7 => Self::Preempt(argument),
            _ => return None,
        })
    }
}

/// What an access comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It is done; the value of a load.
    Done(u64),
    /// The realm asks for something; its answer is set by [`Devices::answer`].
    Request(Request),
    /// There is nothing.
    Absent,
}

/// The devices of one realm.
pub struct Devices {
    line: String,
    scratch: Vec<u8>,
    answer: u64,
}

impl Devices {
    /// Devices nobody has used.
    pub fn new() -> Self {
        Self { line: String::new(), scratch: alloc::vec![0; SCRATCH_SIZE], answer: 0 }
    }

    /// A store of the first `len` bytes of `data`.
    pub fn store(&mut self, address: u64, data: [u8; 8], len: usize) -> Access {
        match address {
            PRINT => self.print(data[0]),
            CONTROL if len == 8 => {
                return Request::of(u64::from_le_bytes(data)).map_or(Access::Absent, Access::Request);
            }
            _ => match self.scratch(address, len) {
                Some(bytes) => bytes.copy_from_slice(&data[..len]),
                None => return Access::Absent,
            },
        }
        Access::Done(0)
    }

    /// A load of `len` bytes.
    pub fn load(&mut self, address: u64, len: usize) -> Access {
        if address == CONTROL && len == 8 {
            return Access::Done(self.answer);
        }
        let mut value = [0; 8];
        match self.scratch(address, len) {
            Some(bytes) => value[..len].copy_from_slice(bytes),
            None => return Access::Absent,
        }
        Access::Done(u64::from_le_bytes(value))
    }

    /// What a load from the control port gives from now on.
    pub const fn answer(&mut self, value: u64) {
        self.answer = value;
    }

    fn scratch(&mut self, address: u64, len: usize) -> Option<&mut [u8]> {
        let start = usize::try_from(address.checked_sub(SCRATCH)?).ok()?;
        self.scratch.get_mut(start..start.checked_add(len)?)
    }

    fn print(&mut self, byte: u8) {
        if byte == b'\n' {
            uart::line(core::mem::take(&mut self.line));
        } else if self.line.len() < MAX_LINE {
            self.line.push(if byte.is_ascii_graphic() || byte == b' ' { byte.into() } else { '?' });
        }
    }
}
