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

/// A symbol as people read it: the parts of a mangled path but its hash (Rust's legacy mangling: `_ZN`, each part behind its
/// length, `E`). Any other as it is.
fn readable(symbol: &str) -> String {
    let mut parts = Vec::new();
    let mut rest = symbol.strip_prefix("_ZN").unwrap_or_default();
    while let Some(digits) = rest.find(|c: char| !c.is_ascii_digit()).filter(|digits| *digits != 0) {
        let (length, behind) = rest.split_at(digits);
        let part = length.parse().ok().and_then(|length| behind.split_at_checked(length));
        let Some((part, behind)) = part else { break };
        parts.push(part);
        rest = behind;
    }
    if rest != "E" || parts.len() < 2 {
        return symbol.to_owned();
    }
    parts.pop();
    parts.join("::")
}

/// Shows where the instructions of a profile are.
pub fn print(profile: &str, programs: &[PathBuf]) -> Result {
    for (name, count) in by_function(profile, &functions(programs)?).into_iter().take(LINES) {
        println!("{count:>8}  {}", readable(&name));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mangled_paths_are_readable_and_others_stay() {
        assert_eq!(readable("_ZN9realm_rmm3rtt4walk4walk17h7a99463ae4a10002E"), "realm_rmm::rtt::walk::walk");
        for other in ["rmm_copy", "_ZN3abc", "_ZN9short", "_ZNE", "_ZN5hello17h0E", ""] {
            assert_eq!(readable(other), other);
        }
    }

    #[test]
    fn instructions_belong_to_the_function_they_are_in() {
        let functions =
            [(0x100, "a"), (0x200, "b")].map(|(start, name)| Function { start, name: name.into() });
        let sums = by_function("104 2\n100 1\n1fc 4\n200 5\n50 1\nx\n", &functions);
        assert_eq!(sums, [("a".into(), 7), ("b".into(), 5), ("?".into(), 1)]);
    }
}
