//! The Host core as a kernel's object: what links and how deep its stack is, read from the arm64 code itself.

mod code;
mod licences;
mod program;
mod rules;

use crate::setup;
use crate::shell::{self, Error, Result};
use crate::steps::step;
use program::Program;
use rules::{Finding, Path};
use std::fmt::Write as _;
use std::path::PathBuf;

/// Functions of the object's feature `spoilt`, each of which breaks a rule.
const SPOILT: [&str; 4] = ["spoilt_panic", "spoilt_allocation", "spoilt_frame", "spoilt_depth"];
/// Where functions of the C code are put, far from everything else, one after the other.
const OUTSIDE: usize = 0x1000;

/// The static library without functions that break rules.
pub fn build() -> Result<PathBuf> {
    build_with(&[])
}

fn build_with(options: &[&str]) -> Result<PathBuf> {
    let mut cargo = shell::cargo();
    cargo.args(["build", "--quiet", "--locked", "--profile", "firmware", "--target", setup::TARGET]);
    shell::run(cargo.args(["--package", "realm-host-object"]).args(options))?;
    Ok(built().join("librealm_host_object.a"))
}

fn built() -> PathBuf {
    shell::target().join(setup::TARGET).join("firmware")
}

/// The functions C code calls.
pub fn entries() -> Result<Vec<String>> {
    names("host/object/src", "extern \"C\" fn realm_")
}

/// Checks the object, and that the check finds what it is there for.
pub fn check() -> Result {
    setup::firmware_target()?;
    step("the Host core's object", || {
        licences::check()?;
        build_with(&["--features", "spoilt"])?;
        let entries = entries()?;
        let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
        let (found, _) = look(&link("spoilt", &[&entries[..], &SPOILT].concat())?, &SPOILT)?;
        for name in SPOILT {
            if !found.iter().any(|finding| is_about(finding, name)) {
                return Err(Error::Other(format!(
                    "the check of the Host core's object is blind: it misses {name}"
                )));
            }
        }
        let (found, paths) = look(&link("object", &entries)?, &entries)?;
        report(&found, paths)
    })
}

/// Whether a finding is the one that a spoilt function is there for.
fn is_about(finding: &Finding, spoilt: &str) -> bool {
    match finding {
        Finding::Panic(name) => name == spoilt && matches!(spoilt, "spoilt_panic" | "spoilt_allocation"),
        Finding::Frame(name, _) => name == spoilt && spoilt == "spoilt_frame",
        Finding::Depth(path) => {
            spoilt == "spoilt_depth" && path.functions.first().is_some_and(|(name, _)| name == spoilt)
        }
        _ => false,
    }
}

fn report(found: &[Finding], mut paths: Vec<Path>) -> Result {
    if !found.is_empty() {
        let mut text = String::from("the Host core's object breaks the rules of a kernel:");
        for finding in found {
            let _ = write!(text, "\n  {finding}");
        }
        return Err(Error::Other(text));
    }
    paths.sort();
    for path in paths.iter().rev().take(1) {
        eprintln!("       the deepest path has {path}");
    }
    Ok(())
}

fn look(program: &PathBuf, entries: &[&str]) -> Result<(Vec<Finding>, Vec<Path>)> {
    let bytes = std::fs::read(program).map_err(Error::file(program))?;
    let program =
        Program::read(&bytes).map_err(|error| Error::Other(format!("the Host core's object: {error}")))?;
    Ok(rules::check(&program, entries))
}

/// Links the object with what a kernel has for it, and nothing else: whatever `entries` cannot reach is left out.
fn link(name: &str, entries: &[&str]) -> Result<PathBuf> {
    let sysroot = shell::output(shell::command("rustc").args(["--print", "sysroot"]))?;
    let host = shell::output(shell::command("rustc").args(["--print", "host-tuple"]))?;
    let linker: PathBuf = [sysroot.trim(), "lib/rustlib", host.trim(), "bin/rust-lld"].iter().collect();
    let linked = built().join(format!("host-{name}.elf"));
    let mut command = shell::command(linker);
    command.args(["-flavor", "gnu", "-m", "aarch64elf", "--gc-sections", "--emit-relocs", "-o"]).arg(&linked);
    for entry in entries {
        command.args(["-u", entry]);
    }
    command.args(["-e", entries.first().copied().unwrap_or_default()]);
    let outside = names("host/object/src/shim.rs", "fn k_")?;
    for (index, name) in outside.iter().map(String::as_str).chain([rules::PANIC]).enumerate() {
        command.arg(format!("--defsym={name}={:#x}", OUTSIDE + 16 * index));
    }
    shell::run(command.arg(built().join("librealm_host_object.a")))?;
    Ok(linked)
}

/// The names behind `before` (whose last word they begin with) in a file or in the files of a folder.
fn names(path: &str, before: &str) -> Result<Vec<String>> {
    let path = shell::root().join(path);
    let files = if path.is_dir() {
        let folder = std::fs::read_dir(&path).map_err(Error::file(&path))?;
        folder.filter_map(|entry| Some(entry.ok()?.path())).collect()
    } else {
        vec![path]
    };
    let prefix = before.rsplit(' ').next().unwrap_or_default();
    let mut names = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).map_err(Error::file(&file))?;
        for rest in text.split(before).skip(1) {
            let end = rest.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
            names.push(format!("{prefix}{}", &rest[..end]));
        }
    }
    names.sort();
    Ok(names)
}
