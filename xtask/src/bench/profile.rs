//! Which functions instructions are in.

use crate::shell::{Error, Result};
use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSymbol as _, SymbolKind};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Lines that are shown.
const LINES: usize = 40;

/// A function of one of the programs.
#[derive(Debug, PartialEq, Eq)]
struct Function {
    start: u64,
    name: String,
}

fn with_symbols<T>(program: &Path, f: impl FnOnce(&ElfFile64<'_>) -> T) -> Result<T> {
    let bytes = std::fs::read(program).map_err(Error::file(program))?;
    let file = ElfFile64::parse(&*bytes)
        .map_err(|error| Error::Other(format!("{}: no program: {error}", program.display())))?;
    Ok(f(&file))
}

/// From one symbol of a program to another.
pub fn distance(program: &Path, from: &str, to: &str) -> Result<u64> {
    let find = |file: &ElfFile64<'_>, name: &str| {
        file.symbols().find(|symbol| symbol.name() == Ok(name)).map(|symbol| symbol.address())
    };
    with_symbols(program, |file| Some(find(file, to)? - find(file, from)?))?
        .ok_or_else(|| Error::Other(format!("{}: there is no {from} or no {to}", program.display())))
}

/// All functions and labels of code, by address.
fn functions(programs: &[PathBuf]) -> Result<Vec<Function>> {
    let mut functions = Vec::new();
    for program in programs {
        with_symbols(program, |file| {
            for symbol in file.symbols() {
                let is_code =
                    matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Unknown | SymbolKind::Label);
                if let (true, Ok(name)) = (is_code && symbol.address() != 0, symbol.name())
                    && !name.is_empty()
                    && !name.starts_with('$')
                {
                    functions.push(Function { start: symbol.address(), name: name.to_owned() });
                }
            }
        })?;
    }
    functions.sort_by_key(|function| function.start);
    Ok(functions)
}

/// Sums of a profile, `ADDRESS COUNT` a line, by the function an address is in; the largest first.
fn by_function(profile: &str, functions: &[Function]) -> Vec<(String, u64)> {
    let mut sums: HashMap<&str, u64> = HashMap::new();
    for line in profile.lines() {
        let parsed = line.split_once(' ').and_then(|(address, count)| {
            Some((u64::from_str_radix(address, 16).ok()?, count.parse::<u64>().ok()?))
        });
        let Some((address, count)) = parsed else { continue };
        let index = functions.partition_point(|function| function.start <= address);
        let name = index.checked_sub(1).and_then(|index| functions.get(index));
        *sums.entry(name.map_or("?", |function| &function.name)).or_default() += count;
    }
    let mut sums: Vec<_> = sums.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
    sums.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    sums
}

/// Shows where the instructions of a profile are.
pub fn print(profile: &str, programs: &[PathBuf]) -> Result {
    for (name, count) in by_function(profile, &functions(programs)?).into_iter().take(LINES) {
        println!("{count:>8}  {name}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_belong_to_the_function_they_are_in() {
        let functions =
            [(0x100, "a"), (0x200, "b")].map(|(start, name)| Function { start, name: name.into() });
        let sums = by_function("104 2\n100 1\n1fc 4\n200 5\n50 1\nx\n", &functions);
        assert_eq!(sums, [("a".into(), 7), ("b".into(), 5), ("?".into(), 1)]);
    }
}
