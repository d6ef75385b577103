//! Flattened device trees (Devicetree Specification 0.4, chapter 5): what the board says of itself, and what is changed
//! before the Non-secure world reads it.

mod edit;
#[cfg(test)]
mod tests;

pub use edit::{EditError, edit};

use crate::range::Range;

/// Most banks of memory the monitor handles.
pub const MAX_BANKS: usize = 8;

const MAGIC: u32 = 0xd00d_feed;
const HEADER_SIZE: usize = 40;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// Why a device tree cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeError {
    /// It does not begin as a device tree does.
    Magic,
    /// A block or value lies outside the tree, or the structure is broken.
    Broken,
    /// There are more than [`MAX_BANKS`] banks of memory, or none.
    Banks,
    /// There is no CPU.
    Cpus,
}

/// An element of a tree's structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Begin { name: &'a [u8] },
    End,
    Prop { name: &'a [u8], name_offset: u32, value: &'a [u8] },
}

/// A device tree in memory.
#[derive(Clone, Copy, Debug)]
pub struct Tree<'a> {
    structure: &'a [u8],
    strings: &'a [u8],
    reservations: &'a [u8],
    boot_cpu: u32,
}

/// What the monitor needs to know of the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Board {
    banks: [Range; MAX_BANKS],
    bank_count: usize,
    /// How many CPUs there are.
    pub cpus: usize,
}

impl Board {
    /// A board with this memory, in ascending order, and so many CPUs; `None` for more than [`MAX_BANKS`] banks.
    #[must_use]
    pub fn new(banks: &[Range], cpus: usize) -> Option<Self> {
        let mut board = Self { banks: [Range::new(0, 0); MAX_BANKS], bank_count: banks.len(), cpus };
        board.banks.get_mut(..banks.len())?.copy_from_slice(banks);
        Some(board)
    }

    /// The memory, in ascending order.
    #[must_use]
    pub fn banks(&self) -> &[Range] {
        self.banks.get(..self.bank_count).unwrap_or(&[])
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

/// The string at the start of `bytes`, without its terminator.
fn string(bytes: &[u8]) -> Option<&[u8]> {
    bytes.split(|&byte| byte == 0).next().filter(|text| text.len() < bytes.len())
}

impl<'a> Tree<'a> {
    /// Finds the blocks of a tree.
    ///
    /// # Errors
    /// [`TreeError::Magic`] or [`TreeError::Broken`].
    pub fn new(bytes: &'a [u8]) -> Result<Self, TreeError> {
        if u32_at(bytes, 0) != Some(MAGIC) {
            return Err(TreeError::Magic);
        }
        let field = |at| u32_at(bytes, at).and_then(|value| usize::try_from(value).ok());
        let block = |offset, size| {
            let start = field(offset)?;
            bytes.get(start..start.checked_add(field(size)?)?)
        };
        let found = || {
            // The reservations end with an entry of zeros.
            let reservations = bytes.get(field(16)?..)?;
            let count = reservations.chunks_exact(16).position(|entry| entry.iter().all(|&b| b == 0))?;
            Some(Self {
                structure: block(8, 36)?,
                strings: block(12, 32)?,
                reservations: reservations.get(..count.checked_add(1)?.checked_mul(16)?)?,
                boot_cpu: u32_at(bytes, 28)?,
            })
        };
        found().ok_or(TreeError::Broken)
    }

    const fn tokens(&self) -> Tokens<'a> {
        Tokens { tree: *self, at: 0, broken: false }
    }

    /// What the board says of its memory and CPUs.
    ///
    /// # Errors
    /// See [`TreeError`].
    pub fn board(&self) -> Result<Board, TreeError> {
        let mut board = Board { banks: [Range::new(0, 0); MAX_BANKS], bank_count: 0, cpus: 0 };
        let mut tokens = self.tokens();
        let mut depth = 0_usize;
        let mut in_cpus = false;
        let mut cells = (2, 2);
        while let Some(token) = tokens.next() {
            match token {
                Token::Begin { name } => {
                    depth = depth.saturating_add(1);
                    match depth {
                        2 => {
                            in_cpus = name == b"cpus";
                            if let Some(reg) = tokens.enabled_memory() {
                                board.add_banks(reg, cells)?;
                            }
                        }
                        3 if in_cpus && name.starts_with(b"cpu@") => {
                            board.cpus = board.cpus.saturating_add(1);
                        }
                        _ => {}
                    }
                }
                Token::End => depth = depth.saturating_sub(1),
                Token::Prop { name: b"#address-cells", value, .. } if depth == 1 => {
                    cells.0 = u32_at(value, 0).ok_or(TreeError::Broken)?;
                }
                Token::Prop { name: b"#size-cells", value, .. } if depth == 1 => {
                    cells.1 = u32_at(value, 0).ok_or(TreeError::Broken)?;
                }
                Token::Prop { .. } => {}
            }
        }
        if tokens.broken {
            return Err(TreeError::Broken);
        }
        if board.bank_count == 0 {
            return Err(TreeError::Banks);
        }
        if board.cpus == 0 {
            return Err(TreeError::Cpus);
        }
        Ok(board)
    }
}

impl Board {
    /// Takes a bank out; the last one takes its place.
    fn remove(&mut self, at: usize) -> Range {
        let mut last = Range::new(0, 0);
        self.bank_count = self.bank_count.saturating_sub(1);
        if let Some(slot) = self.banks.get_mut(self.bank_count) {
            core::mem::swap(slot, &mut last);
        }
        match self.banks.get_mut(at) {
            Some(slot) if at < self.bank_count => core::mem::replace(slot, last),
            _ => last,
        }
    }

    fn add_banks(&mut self, reg: &[u8], cells: (u32, u32)) -> Result<(), TreeError> {
        let (address, size) = (cell_bytes(cells.0)?, cell_bytes(cells.1)?);
        let entry = address.saturating_add(size);
        for bytes in reg.chunks(entry) {
            let base = number(bytes.get(..address).ok_or(TreeError::Broken)?);
            let size = number(bytes.get(address..entry).ok_or(TreeError::Broken)?);
            if size == 0 {
                continue;
            }
            let mut bank = Range::new(base, size);
            // Nodes of memory next to each other are one bank, however many there are.
            while let Some(at) = self.banks().iter().position(|other| other.touches(bank)) {
                bank = bank.with(self.remove(at));
            }
            *self.banks.get_mut(self.bank_count).ok_or(TreeError::Banks)? = bank;
            self.bank_count = self.bank_count.saturating_add(1);
        }
        self.banks.get_mut(..self.bank_count).unwrap_or(&mut []).sort_unstable_by_key(|bank| bank.base);
        Ok(())
    }
}

/// Bytes of an address or size of one or two cells.
const fn cell_bytes(cells: u32) -> Result<usize, TreeError> {
    match cells {
        1 => Ok(4),
        2 => Ok(8),
        _ => Err(TreeError::Broken),
    }
}

/// A big-endian number.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// Reads a structure block; stops where it is broken.
#[derive(Clone, Debug)]
struct Tokens<'a> {
    tree: Tree<'a>,
    at: usize,
    broken: bool,
}

impl<'a> Tokens<'a> {
    fn read(&mut self) -> Option<Option<Token<'a>>> {
        loop {
            let kind = u32_at(self.tree.structure, self.at)?;
            self.at = self.at.checked_add(4)?;
            return Some(Some(match kind {
                BEGIN_NODE => {
                    let name = string(self.tree.structure.get(self.at..)?)?;
                    self.at = self.at.checked_add(name.len())?.checked_add(1)?.checked_next_multiple_of(4)?;
                    Token::Begin { name }
                }
                END_NODE => Token::End,
                PROP => {
                    let size = usize::try_from(u32_at(self.tree.structure, self.at)?).ok()?;
                    let name_offset = u32_at(self.tree.structure, self.at.checked_add(4)?)?;
                    let start = self.at.checked_add(8)?;
                    let end = start.checked_add(size)?;
                    let value = self.tree.structure.get(start..end)?;
                    self.at = end.checked_next_multiple_of(4)?;
                    let name = string(self.tree.strings.get(usize::try_from(name_offset).ok()?..)?)?;
                    Token::Prop { name, name_offset, value }
                }
                NOP => continue,
                END => return Some(None),
                _ => return None,
            }));
        }
    }

    /// The properties of the node whose beginning was read last.
    fn properties(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        self.clone().map_while(|token| match token {
            Token::Prop { name, value, .. } => Some((name, value)),
            _ => None,
        })
    }

    fn property(&self, wanted: &[u8]) -> Option<&'a [u8]> {
        self.properties().find(|(name, _)| *name == wanted).map(|(_, value)| value)
    }

    /// Whether the node whose beginning was read last is there only for the Secure world.
    fn is_secure_only(&self) -> bool {
        self.property(b"status") == Some(b"disabled\0") && self.property(b"secure-status") == Some(b"okay\0")
    }

    /// The `reg` of the node whose beginning was read last, if it is memory of the Non-secure world.
    fn enabled_memory(&self) -> Option<&'a [u8]> {
        let memory = self.property(b"device_type") == Some(b"memory\0");
        let enabled = matches!(self.property(b"status"), None | Some(b"okay\0" | b"ok\0"));
        if memory && enabled { self.property(b"reg") } else { None }
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        match self.read() {
            Some(token) => token,
            None => {
                self.broken = true;
                None
            }
        }
    }
}
