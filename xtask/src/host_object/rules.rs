//! What must be true of the linked object.

use super::program::{Function, Program};
use std::collections::{BTreeMap, BTreeSet};

/// What a panic ends in: nothing provides it.
pub const PANIC: &str = "forbidden_panic";
/// By this the kernel is given a message, and ...
const LOG: &str = "k_log";
/// ... with this it writes its text.
const FORMAT: &str = "realm_format";

/// A frame has fewer bytes.
pub const FRAME: u64 = 1024;
/// All frames of a path together have fewer bytes.
pub const DEPTH: u64 = 4096;
/// These call by register methods of the buffer they write to, and nothing else.
const WRITERS: [&str; 3] = [
    "<core::fmt::Formatter>::pad_integral",
    "pad_integral::write_prefix",
    "<str as core::fmt::Display>::fmt",
];
/// Drops that are recursive by type, and how many of each can be on the stack.
const RECURSIVE: [(&str, u64); 4] = [
    // A node of a `Sparse` for each five bits of an index but the lowest six. The largest is the number of a page: 40 bits.
    ("realm_alloc::sparse::Node", 8),
    // A VM has vCPUs and a vCPU has its VM. Whichever goes last, the other has let go of it before.
    ("realm_host::run::vcpu::Vcpu", 1),
    ("realm_host::files::vm::Vm", 1),
    // A device lists its VMs and each VM has the device.
    ("realm_host::files::device::Device", 1),
];

/// What breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// A function panics or aborts.
    Panic(String),
    /// A function traps.
    Trap(String),
    /// The stack pointer of a function depends on what runs.
    Unknown(String),
    /// A function calls itself by way of others.
    Recursion(String),
    /// A frame is too large.
    Frame(String, u64),
    /// A path is too deep.
    Depth(Path),
    /// A call goes nowhere.
    Nowhere(String, u64),
}

/// The deepest path from an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path {
    /// Bytes of all frames.
    pub bytes: u64,
    /// The functions with their frames, the entry first.
    pub functions: Vec<(String, u64)>,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Panic(name) => write!(f, "{name} can panic, or abort when memory is out"),
            Self::Trap(name) => write!(f, "{name} can trap"),
            Self::Unknown(name) => write!(f, "the frame of {name} depends on what runs"),
            Self::Recursion(name) => write!(f, "{name} calls itself"),
            Self::Frame(name, bytes) => write!(f, "the frame of {name} has {bytes} bytes"),
            Self::Depth(path) => write!(f, "the stack grows by {path}"),
            Self::Nowhere(name, to) => write!(f, "{name} calls {to:#x}, where no function begins"),
        }
    }
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes:", self.bytes)?;
        for (name, frame) in &self.functions {
            write!(f, "\n    {frame:5} {name}")?;
        }
        Ok(())
    }
}

/// Everything that breaks a rule, and the deepest path of each entry.
pub fn check(program: &Program, entries: &[&str]) -> (Vec<Finding>, Vec<Path>) {
    let mut findings = panics(program);
    for function in program.functions.values() {
        if function.traps {
            findings.push(Finding::Trap(function.name.clone()));
        }
        if function.unknown {
            findings.push(Finding::Unknown(function.name.clone()));
        }
        if function.frame >= FRAME {
            findings.push(Finding::Frame(function.name.clone(), function.frame));
        }
        for to in function.calls.iter().chain(&function.jumps) {
            if !program.functions.contains_key(to) && !program.outside.contains_key(to) {
                findings.push(Finding::Nowhere(function.name.clone(), *to));
            }
        }
    }
    let mut depths = Depths::new(program);
    let mut paths = Vec::new();
    for entry in entries {
        let Some(address) = program.find(entry) else {
            findings.push(Finding::Nowhere((*entry).to_owned(), 0));
            continue;
        };
        let path = depths.path(address);
        if path.bytes >= DEPTH {
            findings.push(Finding::Depth(path.clone()));
        }
        paths.push(path);
    }
    findings.extend(depths.recursive.into_iter().map(Finding::Recursion));
    (findings, paths)
}

/// The functions from which a panic begins. The linker gives identical functions one name, so the names of `core`'s tell nothing:
/// what does not return and ends in a panic is part of it, and who calls that is to blame.
fn panics(program: &Program) -> Vec<Finding> {
    let mut part: BTreeSet<u64> =
        program.outside.iter().filter(|(_, name)| *name == PANIC).map(|(&address, _)| address).collect();
    let goes_to = |function: &Function, part: &BTreeSet<u64>| {
        function.calls.iter().chain(&function.jumps).any(|to| part.contains(to))
    };
    loop {
        let more: Vec<u64> = program
            .functions
            .iter()
            .filter(|(address, function)| {
                !part.contains(address)
                    && !function.returns
                    && !function.to_register
                    && function.jumps.iter().all(|to| part.contains(to))
                    && goes_to(function, &part)
            })
            .map(|(&address, _)| address)
            .collect();
        if more.is_empty() {
            break;
        }
        part.extend(more);
    }
    let guilty = program
        .functions
        .iter()
        .filter(|(address, function)| !part.contains(address) && goes_to(function, &part));
    let mut findings: Vec<_> = guilty.map(|(_, function)| Finding::Panic(function.name.clone())).collect();
    if findings.is_empty() {
        // What nobody calls is an entry, or is reached by register.
        let parts = program.functions.iter().filter(|(address, _)| part.contains(address));
        findings.extend(parts.map(|(_, function)| Finding::Panic(function.name.clone())));
    }
    findings
}

/// A function on a path.
///
/// A call by register reaches a method of a trait object, or a function whose address was taken by the last function on the path
/// that took any: almost all are `core::fmt`'s, which calls for each part of a message what its caller named. None is reached
/// twice on a path: no message has a part of its own type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    address: u64,
    taker: Option<u64>,
    reached: Vec<u64>,
}

/// The deepest path from each function, as far as it was asked for.
struct Depths<'a> {
    program: &'a Program,
    format: Option<u64>,
    /// Bytes and the next function; `None` while it is being looked for.
    known: BTreeMap<Place, Option<(u64, Option<Place>)>>,
    recursive: BTreeSet<String>,
}

impl<'a> Depths<'a> {
    fn new(program: &'a Program) -> Self {
        let format = program.find(FORMAT);
        Self { program, format, known: BTreeMap::new(), recursive: BTreeSet::new() }
    }

    fn path(&mut self, entry: u64) -> Path {
        let start = Place { address: entry, taker: None, reached: Vec::new() };
        let mut path = Path { bytes: self.depth(&start), functions: Vec::new() };
        let mut next = Some(start);
        while let Some(at) = next {
            if let Some(function) = self.program.functions.get(&at.address) {
                path.functions.push((function.name.clone(), frames(function)));
            }
            next = self.known.get(&at).cloned().flatten().and_then(|(_, next)| next);
        }
        path
    }

    fn depth(&mut self, at: &Place) -> u64 {
        let program = self.program;
        let Some(function) = program.functions.get(&at.address) else { return 0 };
        match self.known.get(at) {
            Some(Some((bytes, _))) => return *bytes,
            Some(None) => {
                if times(function).is_none() {
                    self.recursive.insert(function.name.clone());
                }
                return 0;
            }
            None => {}
        }
        self.known.insert(at.clone(), None);
        let own = frames(function);
        let taker = if function.takes.is_empty() { at.taker } else { Some(at.address) };
        let mut next: Vec<(u64, Place)> = Vec::new();
        let calls = function.calls.iter().map(|to| (own, to));
        for (own, &to) in calls.chain(function.jumps.iter().map(|to| (0, to))) {
            // The kernel's own frames are the kernel's; what it calls is ours.
            let is_log = program.outside.get(&to).is_some_and(|name| name == LOG);
            let address = if is_log { self.format.unwrap_or(to) } else { to };
            next.push((own, Place { address, taker, reached: at.reached.clone() }));
        }
        if function.by_register || function.to_register {
            let own = if function.by_register { own } else { 0 };
            let writes = WRITERS.iter().any(|name| function.name.ends_with(name));
            let taken = taker.and_then(|taker| program.functions.get(&taker)).filter(|_| !writes);
            let taken = taken.into_iter().flat_map(|taker| &taker.takes);
            for &address in program.in_data.iter().chain(taken) {
                if !at.reached.contains(&address) {
                    let mut reached = at.reached.clone();
                    reached.push(address);
                    reached.sort_unstable();
                    next.push((own, Place { address, taker, reached }));
                }
            }
        }
        let mut deepest = (own, None);
        for (own, place) in next {
            let bytes = own + self.depth(&place);
            if bytes > deepest.0 {
                deepest = (bytes, Some(place));
            }
        }
        let bytes = deepest.0;
        self.known.insert(at.clone(), Some(deepest));
        bytes
    }
}

/// How many times a function that is recursive by type can be on the stack.
fn times(function: &Function) -> Option<u64> {
    let name = function.name.strip_prefix("core::ptr::drop_in_place<")?;
    RECURSIVE.iter().find(|(part, _)| name.contains(part)).map(|(_, times)| *times)
}

/// Bytes of a function's frames that can be on the stack.
fn frames(function: &Function) -> u64 {
    function.frame * times(function).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUT: u64 = 0x10;
    const LOGS: u64 = 0x20;

    /// Functions by address and name, frame, calls; all return but those named `panics`.
    fn program(functions: &[(u64, &str, u64, &[u64])]) -> Program {
        let outside = BTreeMap::from([(OUT, PANIC.to_owned()), (LOGS, LOG.to_owned())]);
        let mut program = Program { outside, ..Program::default() };
        for &(address, name, frame, calls) in functions {
            let calls = calls.iter().copied().collect();
            let (name, returns) = (name.to_owned(), !name.starts_with("panics"));
            program
                .functions
                .insert(address, Function { name, frame, calls, returns, ..Function::default() });
        }
        program
    }

    #[test]
    fn who_calls_what_only_panics_is_to_blame() {
        let program = program(&[
            (100, "entry", 0, &[200]),
            (200, "guilty", 0, &[300]),
            (300, "panics for an index", 0, &[400]),
            (400, "panics", 0, &[OUT]),
        ]);
        assert_eq!(check(&program, &["entry"]).0, [Finding::Panic("guilty".to_owned())]);
    }

    #[test]
    fn the_deepest_path_goes_through_the_message_a_kernel_formats() {
        let mut program = program(&[
            (100, "entry", 32, &[200, 300]),
            (200, "shallow", 64, &[]),
            (300, "says", 16, &[LOGS]),
            (400, FORMAT, 100, &[]),
            (500, "part", 7, &[]),
            (600, "of another message", 900, &[]),
        ]);
        if let Some(format) = program.functions.get_mut(&400) {
            format.by_register = true;
        }
        if let Some(says) = program.functions.get_mut(&300) {
            says.takes.insert(500);
        }
        if let Some(other) = program.functions.get_mut(&200) {
            other.takes.insert(600);
        }
        let (findings, paths) = check(&program, &["entry"]);
        assert_eq!((findings, paths[0].bytes), (vec![], 32 + 16 + 100 + 7));
    }

    #[test]
    fn what_calls_itself_is_found_and_frames_and_depth_have_their_limits() {
        let deep =
            program(&[(100, "entry", 1023, &[200]), (200, "b", 1023, &[300]), (300, "c", 2050, &[100])]);
        let (findings, _) = check(&deep, &["entry"]);
        assert!(findings.contains(&Finding::Recursion("entry".to_owned())), "{findings:?}");
        assert!(findings.contains(&Finding::Frame("c".to_owned(), 2050)), "{findings:?}");
        assert!(!findings.iter().any(|finding| matches!(finding, Finding::Frame(name, _) if name == "b")));
        let depth = |finding: &Finding| matches!(finding, Finding::Depth(path) if path.bytes == 4096);
        assert!(findings.iter().any(depth), "{findings:?}");
    }
}
