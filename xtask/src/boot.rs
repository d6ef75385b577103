//! `cargo xtask boot`: runs a machine until it is powered off.

use crate::image::{self, Image, Offer, STUB, STUB_HOST, Stub};
use crate::linux::{self, Linux};
use crate::machine::Machine;
use crate::setup;
use crate::shell::{self, Error, Result};
use realm_report::Journal;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Options of `cargo xtask boot`.
#[derive(clap::Args)]
pub struct Options {
    /// CPUs, 1 to 123.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=123))]
    smp: u8,
    /// Memory, as QEMU's -m takes it.
    #[arg(long, default_value = "2G", value_name = "SIZE")]
    memory: String,
    /// A raw Non-secure image, entered at 0x60000000 at EL2 with the MMU off and x0 = device tree; "stub" for a small
    /// one that tries the monitor, "stub-host" for one that makes realms by hand, "linux" for a Debian kernel. Without it
    /// the Non-secure host of this repository.
    #[arg(long, value_name = "FILE")]
    payload: Option<PathBuf>,
    /// A raw RMM image for 0x40100000; "stub" for one that knows only VERSION and GRANULE_DELEGATE and _UNDELEGATE.
    #[arg(long, value_name = "FILE")]
    rmm: Option<PathBuf>,
    /// Any EL3 image for address 0, "stub" for the smallest that can run an RMM; one of more than 1 MiB brings its own
    /// RMM and payload.
    #[arg(long, value_name = "FILE")]
    monitor: Option<PathBuf>,
    /// Give up after this many seconds.
    #[arg(long, default_value_t = 300, value_name = "S")]
    timeout: u64,
    /// Wait for a debugger on port 1234; no time limit then.
    #[arg(long)]
    gdb: bool,
    /// Count instructions: one a nanosecond, and a counter of 1 GHz.
    #[arg(long)]
    icount: bool,
    /// Offer the RMM an older interface: 0.3 to 0.8 (minor version).
    #[arg(long, default_value_t = 8, value_name = "MINOR", value_parser = clap::value_parser!(u32).range(3..=8))]
    rmm_interface: u32,
    /// Offer the RMM an older boot manifest: 0.3 to 0.5 (minor version).
    #[arg(long, default_value_t = 5, value_name = "MINOR", value_parser = clap::value_parser!(u32).range(3..=5))]
    rmm_manifest: u32,
    /// More options for QEMU.
    #[arg(last = true, value_name = "QEMU OPTIONS")]
    qemu: Vec<String>,
}

/// A file of the user's, a stand-in that has a name, or one that is built.
fn image(file: Option<&Path>, own: Image, stubs: &[(&str, Stub)]) -> Result<Vec<u8>> {
    let path = match file {
        Some(file) => match stubs.iter().find(|(word, _)| file == Path::new(word)) {
            Some((_, stub)) => stub.build()?,
            None => file.to_owned(),
        },
        None => own.build()?,
    };
    std::fs::read(&path).map_err(Error::file(&path))
}

/// Builds what is not given, and runs the machine until it is powered off.
pub fn boot(options: &Options) -> Result {
    setup::qemu()?;
    let monitor = image(options.monitor.as_deref(), Image::Monitor, &[(STUB, Stub::El3)])?;
    let rmm = image(options.rmm.as_deref(), Image::Rmm, &[(STUB, Stub::Rmm)])?;
    let linux = match &options.payload {
        Some(word) if word == Path::new(linux::WORD) => Some(Linux::prepare()?),
        _ => None,
    };
    let payload = linux.as_ref().map(|linux| &linux.kernel).or(options.payload.as_ref());
    let stubs = [(STUB, Stub::Payload), (STUB_HOST, Stub::Host)];
    let payload = image(payload.map(PathBuf::as_path), Image::NsHost, &stubs)?;
    let offer = Offer { interface: options.rmm_interface, manifest: options.rmm_manifest };
    let flash = image::flash(&monitor, &rmm, &payload, offer)?;
    let machine = Machine { smp: options.smp, memory: options.memory.clone(), icount: options.icount };
    let limit = (!options.gdb).then(|| Duration::from_secs(options.timeout));
    let change = |qemu: &mut Command| {
        if let Some(linux) = &linux {
            linux.add_to(&machine, qemu);
        }
        qemu.args(&options.qemu);
        if options.gdb {
            qemu.args(["-s", "-S"]);
        }
        if !std::io::stdin().is_terminal() {
            qemu.stdin(Stdio::null());
        }
    };
    run(&machine, &flash, limit, Echo::On, change).map(|_| ())
}

/// Whether the console goes to standard output while the machine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    /// It does.
    On,
    /// It is only returned.
    Off,
}

/// Lines of the console that are shown when a machine hangs.
const LAST_LINES: usize = 12;

/// Runs `machine` until it is powered off, and returns what its console said. `change` adds to QEMU's command line.
pub fn run(
    machine: &Machine,
    flash: &[u8],
    limit: Option<Duration>,
    echo: Echo,
    change: impl FnOnce(&mut Command),
) -> Result<String> {
    start(machine, flash, limit, echo, change, |_| ())
}

/// The same without an echo, for who wants to know each line the machine says as it says it.
pub fn watch(
    machine: &Machine,
    flash: &[u8],
    limit: Duration,
    change: impl FnOnce(&mut Command),
    each_line: impl FnMut(&str) + Send,
) -> Result<String> {
    start(machine, flash, Some(limit), Echo::Off, change, each_line)
}

fn start(
    machine: &Machine,
    flash: &[u8],
    limit: Option<Duration>,
    echo: Echo,
    change: impl FnOnce(&mut Command),
    each_line: impl FnMut(&str) + Send,
) -> Result<String> {
    // Several machines may run at the same time.
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let file = shell::target().join("images").join(format!("flash-{}-{count}.bin", std::process::id()));
    std::fs::write(&file, flash).map_err(Error::file(&file))?;
    let mut qemu = machine.command(&file);
    change(&mut qemu);
    let result = until_off(qemu, limit, echo, each_line);
    std::fs::remove_file(&file).map_err(Error::file(&file))?;
    result
}

fn until_off(
    mut qemu: Command,
    limit: Option<Duration>,
    echo: Echo,
    each_line: impl FnMut(&str) + Send,
) -> Result<String> {
    let failed = |source| Error::Start { program: "qemu-system-aarch64".into(), source };
    let mut child = qemu.stdout(Stdio::piped()).spawn().map_err(failed)?;
    let console = child.stdout.take();
    let (status, said) = std::thread::scope(|scope| {
        let reader =
            scope.spawn(move || console.map_or_else(Vec::new, |console| read(console, echo, each_line)));
        let started = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().map_err(failed)? {
                break Some(status);
            }
            if limit.is_some_and(|limit| started.elapsed() >= limit) {
                // It may have ended in this moment; then there is nothing to kill.
                let _ = child.kill();
                child.wait().map_err(failed)?;
                break None;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        Ok((status, reader.join().unwrap_or_default()))
    })?;
    let said = String::from_utf8_lossy(&said).replace('\r', "");
    match status {
        Some(status) if status.success() => Ok(said),
        Some(status) => Err(Error::Failed { command: "qemu-system-aarch64".into(), status }),
        None => {
            let lines: Vec<_> = said.lines().collect();
            let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n    ");
            let seconds = limit.unwrap_or_default().as_secs();
            let states: String =
                Journal::read(&said).unfinished().map(|state| format!("\n    {state}")).collect();
            Err(Error::Other(format!(
                "the machine was not powered off within {seconds} s; unfinished:{states}\n  the last it said:\n    {last}"
            )))
        }
    }
}

/// Reads a console to its end.
fn read(mut console: impl Read, echo: Echo, mut each_line: impl FnMut(&str)) -> Vec<u8> {
    let mut said = Vec::new();
    let mut line = 0;
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = console.read(&mut bytes) {
        said.extend_from_slice(&bytes[..count]);
        while let Some(length) = said[line..].iter().position(|byte| *byte == b'\n') {
            each_line(String::from_utf8_lossy(&said[line..line + length]).trim_end());
            line += length + 1;
        }
        if echo == Echo::On {
            let mut out = std::io::stdout();
            // A closed standard output is the caller's wish.
            let _ = out.write_all(&bytes[..count]).and_then(|()| out.flush());
        }
    }
    said
}
