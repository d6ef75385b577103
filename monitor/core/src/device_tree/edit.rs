//! What the Non-secure world may know: no nodes of the Secure world, PSCI, and the memory the firmware keeps.

use super::{BEGIN_NODE, END, END_NODE, HEADER_SIZE, MAGIC, PROP, Token, Tree, TreeError};
use crate::range::Range;
use core::fmt::Write as _;

/// Why a tree could not be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EditError {
    /// The tree is unusable.
    Tree(TreeError),
    /// The result does not fit.
    NoRoom,
}

impl From<TreeError> for EditError {
    fn from(error: TreeError) -> Self {
        Self::Tree(error)
    }
}

/// Names of properties that are added, as they follow the strings of the tree.
const STRINGS: &[u8] =
    b"enable-method\0compatible\0method\0#address-cells\0#size-cells\0ranges\0reg\0no-map\0";

/// Writes a copy of `tree` to `out` for the Non-secure world and returns its bytes: nodes of the Secure world are left
/// out, CPUs are started by PSCI through SMC, and `/reserved-memory` names `keep` (name and range) as not to be mapped.
///
/// # Errors
/// See [`EditError`]; `out` holds a part of the copy then.
pub fn edit(tree: &Tree<'_>, keep: &[(&str, Range)], out: &mut [u8]) -> Result<usize, EditError> {
    let mut writer = Writer { out, at: 0, strings: u32_len(tree.strings)? };
    writer.skip(HEADER_SIZE)?;
    let reservations = writer.at;
    writer.bytes(tree.reservations)?;
    let structure = writer.at;
    copy_nodes(tree, keep, &mut writer)?;
    writer.word(END)?;
    let structure_size = writer.at.saturating_sub(structure);
    let strings = writer.at;
    writer.bytes(tree.strings)?;
    writer.bytes(STRINGS)?;
    let total = writer.at;
    let strings_size = total.saturating_sub(strings);
    writer.at = 0;
    let version = 17;
    let last_compatible_version = 16;
    writer.word(MAGIC)?;
    for size in [total, structure, strings, reservations] {
        writer.word(u32::try_from(size).map_err(|_| EditError::NoRoom)?)?;
    }
    writer.word(version)?;
    writer.word(last_compatible_version)?;
    writer.word(tree.boot_cpu)?;
    for size in [strings_size, structure_size] {
        writer.word(u32::try_from(size).map_err(|_| EditError::NoRoom)?)?;
    }
    Ok(total)
}

fn u32_len(bytes: &[u8]) -> Result<u32, EditError> {
    u32::try_from(bytes.len()).map_err(|_| EditError::NoRoom)
}

/// Nodes directly below the root that are left out whatever they say: they are written anew, or the Secure world's.
fn is_replaced(name: &[u8]) -> bool {
    matches!(name, b"psci" | b"reserved-memory" | b"secure-chosen")
}

fn copy_nodes(tree: &Tree<'_>, keep: &[(&str, Range)], writer: &mut Writer<'_>) -> Result<(), EditError> {
    let mut tokens = tree.tokens();
    let mut depth = 0_usize;
    // The depth of the node that is being left out.
    let mut left_out = None;
    let mut in_cpus = false;
    let mut in_cpu = false;
    while let Some(token) = tokens.next() {
        match token {
            Token::Begin { name } => {
                depth = depth.saturating_add(1);
                if left_out.is_some() {
                    continue;
                }
                if depth == 2 {
                    in_cpus = name == b"cpus";
                }
                if (depth == 2 && is_replaced(name)) || tokens.is_secure_only() {
                    left_out = Some(depth);
                    continue;
                }
                writer.word(BEGIN_NODE)?;
                writer.string(name)?;
                in_cpu = depth == 3 && in_cpus && name.starts_with(b"cpu@");
                if in_cpu {
                    writer.property("enable-method", b"psci\0")?;
                }
            }
            Token::End => {
                if left_out.is_none() {
                    if depth == 1 {
                        add_nodes(keep, writer)?;
                    }
                    writer.word(END_NODE)?;
                } else if left_out == Some(depth) {
                    left_out = None;
                }
                in_cpu = false;
                depth = depth.saturating_sub(1);
            }
            Token::Prop { name, name_offset, value } => {
                if left_out.is_none() && !(in_cpu && name == b"enable-method") {
                    writer.raw_property(name_offset, value)?;
                }
            }
        }
    }
    if tokens.broken { Err(TreeError::Broken.into()) } else { Ok(()) }
}

fn add_nodes(keep: &[(&str, Range)], writer: &mut Writer<'_>) -> Result<(), EditError> {
    writer.word(BEGIN_NODE)?;
    writer.string(b"psci")?;
    writer.property("compatible", b"arm,psci-1.0\0arm,psci-0.2\0")?;
    writer.property("method", b"smc\0")?;
    writer.word(END_NODE)?;
    writer.word(BEGIN_NODE)?;
    writer.string(b"reserved-memory")?;
    writer.property("#address-cells", &2_u32.to_be_bytes())?;
    writer.property("#size-cells", &2_u32.to_be_bytes())?;
    writer.property("ranges", &[])?;
    for (name, range) in keep {
        writer.word(BEGIN_NODE)?;
        let mut text = Name { bytes: [0; 64], used: 0 };
        write!(text, "{name}@{:x}", range.base).map_err(|_| EditError::NoRoom)?;
        writer.string(text.bytes.get(..text.used).ok_or(EditError::NoRoom)?)?;
        let mut reg = [0; 16];
        let (base, size) = reg.split_at_mut(8);
        base.copy_from_slice(&range.base.to_be_bytes());
        size.copy_from_slice(&range.size.to_be_bytes());
        writer.property("reg", &reg)?;
        writer.property("no-map", &[])?;
        writer.word(END_NODE)?;
    }
    writer.word(END_NODE)
}

struct Name {
    bytes: [u8; 64],
    used: usize,
}

impl core::fmt::Write for Name {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let end = self.used.checked_add(text.len()).ok_or(core::fmt::Error)?;
        self.bytes.get_mut(self.used..end).ok_or(core::fmt::Error)?.copy_from_slice(text.as_bytes());
        self.used = end;
        Ok(())
    }
}

struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
    /// Where the added strings begin in the strings block.
    strings: u32,
}

impl Writer<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), EditError> {
        let end = self.at.checked_add(bytes.len()).ok_or(EditError::NoRoom)?;
        self.out.get_mut(self.at..end).ok_or(EditError::NoRoom)?.copy_from_slice(bytes);
        self.at = end;
        Ok(())
    }
    fn skip(&mut self, bytes: usize) -> Result<(), EditError> {
        let end = self.at.checked_add(bytes).ok_or(EditError::NoRoom)?;
        self.out.get_mut(self.at..end).ok_or(EditError::NoRoom)?.fill(0);
        self.at = end;
        Ok(())
    }
    fn word(&mut self, word: u32) -> Result<(), EditError> {
        self.bytes(&word.to_be_bytes())
    }
    /// Zeros up to the next word.
    fn pad(&mut self) -> Result<(), EditError> {
        let end = self.at.checked_next_multiple_of(4).ok_or(EditError::NoRoom)?;
        self.skip(end.saturating_sub(self.at))
    }
    fn string(&mut self, text: &[u8]) -> Result<(), EditError> {
        self.bytes(text)?;
        self.skip(1)?;
        self.pad()
    }
    fn raw_property(&mut self, name_offset: u32, value: &[u8]) -> Result<(), EditError> {
        self.word(PROP)?;
        self.word(u32_len(value)?)?;
        self.word(name_offset)?;
        self.bytes(value)?;
        self.pad()
    }
    /// A property whose name is one of [`STRINGS`].
    fn property(&mut self, name: &str, value: &[u8]) -> Result<(), EditError> {
        let mut offset = 0_usize;
        for text in STRINGS.split(|&byte| byte == 0) {
            if text == name.as_bytes() {
                let offset = u32::try_from(offset).map_err(|_| EditError::NoRoom)?;
                return self.raw_property(self.strings.saturating_add(offset), value);
            }
            offset = offset.saturating_add(text.len()).saturating_add(1);
        }
        Err(EditError::NoRoom)
    }
}
