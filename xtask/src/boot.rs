//! The machine in QEMU: `cargo xtask boot`.

use crate::image::{self, Image, Offer, STUB, Stub};
use crate::setup;
use crate::shell::{self, Error, Result};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Options of `cargo xtask boot`.
#[derive(clap::Args)]
pub struct Options {
    /// CPUs, 1 to 8.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=8))]
    smp: u8,
    /// Memory, as QEMU's -m takes it.
    #[arg(long, default_value = "2G", value_name = "SIZE")]
    memory: String,
    /// A raw Non-secure image, entered at 0x60000000 at EL2 with the MMU off and x0 = device tree; "stub" for a small
    /// one that tries the monitor. Without it the Non-secure host of this repository.
    #[arg(long, value_name = "FILE")]
    payload: Option<PathBuf>,
    /// A raw RMM image for 0x40100000; "stub" for one that knows only VERSION and GRANULE_DELEGATE and _UNDELEGATE.
    #[arg(long, value_name = "FILE")]
    rmm: Option<PathBuf>,
    /// Any EL3 image for address 0; one of more than 1 MiB brings its own RMM and payload.
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

/// A machine to start.
#[derive(Clone, Debug)]
pub struct Machine {
    /// CPUs.
    pub smp: u8,
    /// Memory, as QEMU's -m takes it.
    pub memory: String,
    /// Whether time is counted in instructions.
    pub icount: bool,
}

impl Machine {
    /// QEMU with `flash` in it, and its console on standard input and output.
    pub fn command(&self, flash: &Path) -> Command {
        // Where instructions are counted, a tick of the counter is one.
        let frequency = if self.icount { 1_000_000_000 } else { 62_500_000 };
        let mut qemu = Command::new("qemu-system-aarch64");
        qemu.args(["-M", "virt,secure=on,virtualization=on,gic-version=3"])
            .args(["-cpu", &format!("max,x-rme=on,cntfrq={frequency}")])
            .args(["-smp", &self.smp.to_string(), "-m", &self.memory])
            .args(["-nic", "none", "-display", "none", "-monitor", "none", "-serial", "stdio"])
            .arg("-bios")
            .arg(flash);
        if self.icount {
            qemu.args(["-icount", "shift=0"]);
        }
        qemu
    }
}

/// A file of the user's or one that is built.
fn image(file: Option<&Path>, own: Image, stub: Option<Stub>) -> Result<Vec<u8>> {
    let path = match (file, stub) {
        (Some(file), Some(stub)) if file == Path::new(STUB) => stub.build()?,
        (Some(file), _) => file.to_owned(),
        (None, _) => own.build()?,
    };
    std::fs::read(&path).map_err(Error::file(&path))
}

/// Builds what is not given, and runs the machine until it is powered off.
pub fn boot(options: &Options) -> Result {
    setup::qemu()?;
    let monitor = image(options.monitor.as_deref(), Image::Monitor, None)?;
    let rmm = image(options.rmm.as_deref(), Image::Rmm, Some(Stub::Rmm))?;
    let payload = image(options.payload.as_deref(), Image::NsHost, Some(Stub::Payload))?;
    let offer = Offer { interface: options.rmm_interface, manifest: options.rmm_manifest };
    let flash = image::flash(&monitor, &rmm, &payload, offer)?;
    // Several machines may run at the same time.
    let file = shell::target().join("images").join(format!("flash-{}.bin", std::process::id()));
    std::fs::write(&file, flash).map_err(Error::file(&file))?;
    let machine = Machine { smp: options.smp, memory: options.memory.clone(), icount: options.icount };
    let mut qemu = machine.command(&file);
    qemu.args(&options.qemu);
    if options.gdb {
        qemu.args(["-s", "-S"]);
    }
    if !std::io::stdin().is_terminal() {
        qemu.stdin(Stdio::null());
    }
    let limit = (!options.gdb).then(|| Duration::from_secs(options.timeout));
    let result = run(qemu, limit);
    std::fs::remove_file(&file).map_err(Error::file(&file))?;
    result
}

/// Runs QEMU until the machine is powered off.
fn run(mut qemu: Command, limit: Option<Duration>) -> Result {
    let program = "qemu-system-aarch64".to_owned();
    let mut child = qemu.spawn().map_err(|source| Error::Start { program: program.clone(), source })?;
    let started = Instant::now();
    loop {
        let waited = child.try_wait().map_err(|source| Error::Start { program: program.clone(), source })?;
        if let Some(status) = waited {
            return if status.success() { Ok(()) } else { Err(Error::Failed { command: program, status }) };
        }
        if let Some(limit) = limit.filter(|limit| started.elapsed() >= *limit) {
            // It may have ended in this moment; then there is nothing to kill.
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::Other(format!(
                "the machine was not powered off within {} s",
                limit.as_secs()
            )));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
