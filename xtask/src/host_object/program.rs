//! The linked object as functions that call each other.

use super::code::{Effect, effect};
use object::elf::{
    R_AARCH64_ABS64, R_AARCH64_ADD_ABS_LO12_NC, R_AARCH64_ADR_PREL_LO21, R_AARCH64_ADR_PREL_PG_HI21,
};
use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationFlags, RelocationTarget, SectionKind,
    SymbolKind,
};
use std::collections::{BTreeMap, BTreeSet};

/// A function.
#[derive(Debug, Default)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Bytes its frame has at most: every growth of the stack it contains, once.
    pub frame: u64,
    /// Some frame of it depends on what runs.
    pub unknown: bool,
    /// The functions it calls.
    pub calls: BTreeSet<u64>,
    /// The functions it ends by going to, its own frame given up.
    pub jumps: BTreeSet<u64>,
    /// The functions whose address it takes otherwise.
    pub takes: BTreeSet<u64>,
    /// Whether it calls what a register says.
    pub by_register: bool,
    /// Whether it ends by going to what a register says. That may be a place in the function itself.
    pub to_register: bool,
    /// Whether it returns.
    pub returns: bool,
    /// Whether it has a trap.
    pub traps: bool,
}

/// The linked object.
#[derive(Debug, Default)]
pub struct Program {
    /// By address.
    pub functions: BTreeMap<u64, Function>,
    /// Functions whose address is in data: methods of trait objects.
    pub in_data: BTreeSet<u64>,
    /// What the program takes from outside, by the address that stands for it.
    pub outside: BTreeMap<u64, String>,
}

impl Program {
    /// Reads a program that was linked with its relocations.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let file = object::File::parse(bytes).map_err(|error| error.to_string())?;
        let mut program = Self::default();
        let mut ends = BTreeMap::new();
        for symbol in file.symbols() {
            let name = symbol.name().unwrap_or_default();
            if symbol.section() == object::SymbolSection::Absolute && symbol.is_global() {
                program.outside.insert(symbol.address(), name.to_owned());
            }
            if symbol.kind() == SymbolKind::Text && symbol.size() > 0 {
                let name = format!("{:#}", rustc_demangle::demangle(name));
                program.functions.entry(symbol.address()).or_default().name = name;
                ends.insert(symbol.address(), symbol.address() + symbol.size());
            }
        }
        for section in file.sections().filter(|section| section.kind() == SectionKind::Text) {
            let data = section.data().map_err(|error| error.to_string())?;
            program.read_code(section.address(), data, &ends)?;
        }
        for section in file.sections() {
            program.read_pointers(&file, &section)?;
        }
        Ok(program)
    }

    /// The address of a function.
    pub fn find(&self, name: &str) -> Option<u64> {
        self.functions.iter().find(|(_, function)| function.name == name).map(|(&address, _)| address)
    }

    fn read_code(&mut self, base: u64, data: &[u8], ends: &BTreeMap<u64, u64>) -> Result<(), String> {
        for (&start, &end) in ends.range(base..base + data.len() as u64) {
            let Some(function) = self.functions.get_mut(&start) else { continue };
            let (from, to) = (offset(start - base), offset(end - base));
            let code = data.get(from..to).ok_or_else(|| format!("{} has no code", function.name))?;
            for (at, word) in (start..).step_by(4).zip(code.chunks_exact(4)) {
                let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
                match effect(word) {
                    Effect::Grow(bytes) => function.frame += bytes,
                    Effect::Unknown => function.unknown = true,
                    Effect::Call(by) => {
                        function.calls.insert(at.wrapping_add_signed(by));
                    }
                    Effect::Branch(by) => {
                        let to = at.wrapping_add_signed(by);
                        if !(start..end).contains(&to) {
                            function.jumps.insert(to);
                        }
                    }
                    Effect::CallRegister => function.by_register = true,
                    Effect::BranchRegister => function.to_register = true,
                    Effect::Return => function.returns = true,
                    Effect::Trap => function.traps = true,
                    Effect::Nothing => {}
                }
            }
        }
        Ok(())
    }

    /// Finds functions whose address is taken in this section, code or data.
    fn read_pointers(
        &mut self,
        file: &object::File<'_>,
        section: &object::Section<'_, '_>,
    ) -> Result<(), String> {
        let is_code = section.kind() == SectionKind::Text;
        // Debug information points to every function, and is not there when the program runs.
        if !is_code && !matches!(section.kind(), SectionKind::Data | SectionKind::ReadOnlyData) {
            return Ok(());
        }
        for (at, relocation) in section.relocations() {
            let RelocationFlags::Elf { r_type } = relocation.flags() else { continue };
            if ![
                R_AARCH64_ABS64,
                R_AARCH64_ADD_ABS_LO12_NC,
                R_AARCH64_ADR_PREL_LO21,
                R_AARCH64_ADR_PREL_PG_HI21,
            ]
            .contains(&r_type)
            {
                continue;
            }
            let RelocationTarget::Symbol(index) = relocation.target() else { continue };
            let symbol = file.symbol_by_index(index).map_err(|error| error.to_string())?;
            let to = symbol.address().wrapping_add_signed(relocation.addend());
            if !self.functions.contains_key(&to) {
                continue;
            }
            if is_code {
                if let Some((_, function)) = self.functions.range_mut(..=at).next_back() {
                    function.takes.insert(to);
                }
            } else {
                self.in_data.insert(to);
            }
        }
        Ok(())
    }
}

fn offset(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
