//! A realm on an emulated machine: QEMU with the firmware of this repository, a stock Debian kernel as the Host, the module
//! kvm-realm in it, and this command, which runs the realm there (`--machine kvm`).

use super::Options;
use crate::{Failure, Result, parts};
use realm_vmm::Guest;
use realm_vmm::cpio::{Archive, DIRECTORY, FILE};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const QEMU: &str = "qemu-system-aarch64";
/// Where QEMU puts the host's initrd: behind its kernel, which the monitor has put at 0x60000000.
const INITRD: u64 = 0x6800_0000;
/// The ports between the host and the outside.
const CONSOLE: &str = "org.realmkit.console";
const REPORT: &str = "org.realmkit.report";
/// Lines of a log that are shown.
const LAST_LINES: usize = 12;

/// Options of the emulated machine.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "The emulated machine (--machine qemu)")]
pub struct QemuOptions {
    /// CPUs of the emulated host.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    host_cpus: u8,
    /// Memory of the emulated host [default: 1 GiB more than the realm's].
    #[arg(long, value_name = "SIZE", value_parser = crate::input::size)]
    host_memory: Option<u64>,
    /// Where firmware, host kernel and initrd are [default: where `cargo xtask run` puts them].
    #[arg(long, value_name = "DIR")]
    parts: Option<PathBuf>,
    /// Where the log of firmware and host kernel goes [default: a file that an error names].
    #[arg(long, value_name = "FILE")]
    host_log: Option<PathBuf>,
    /// End the realm after so many seconds, with exit code 4.
    #[arg(long, value_name = "S")]
    timeout: Option<u64>,
    /// A file for the host's root directory.
    #[arg(long, value_name = "FILE", hide = true)]
    host_file: Vec<PathBuf>,
    /// A script that the host runs when the realm is gone (busybox).
    #[arg(long, value_name = "FILE", hide = true)]
    host_script: Option<PathBuf>,
}

impl QemuOptions {
    fn parts(&self) -> PathBuf {
        self.parts.clone().unwrap_or_else(parts::default_dir)
    }
}

/// What the host has told.
#[derive(Debug, Default)]
struct Told {
    stage: Option<String>,
    versions: Vec<(String, String)>,
    complaints: Vec<String>,
    errors: Vec<String>,
    /// What a script of the caller's says.
    said: Vec<String>,
    /// The report of the command that ran in the host.
    report: Option<serde_json::Value>,
    /// KiB of free memory before and after the realm.
    memory: Option<(u64, u64)>,
    exit: Option<u8>,
}

impl Told {
    fn line(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "stage" => self.stage = Some(rest.to_owned()),
            "version" => {
                let (what, version) = rest.split_once(' ').unwrap_or((rest, ""));
                self.versions.push((what.to_owned(), version.to_owned()));
            }
            "complaint" => self.complaints.push(rest.to_owned()),
            "said" => self.said.push(rest.to_owned()),
            "error" => self.errors.push(rest.to_owned()),
            "report" => self.report = serde_json::from_str(rest).ok(),
            "memory" => {
                self.memory =
                    rest.split_once(' ').and_then(|(a, b)| Some((a.parse().ok()?, b.trim().parse().ok()?)));
            }
            "exit" => self.exit = rest.trim().parse().ok(),
            _ => {}
        }
    }

    /// In which part the machine was when it told something last.
    fn where_it_was(&self) -> &'static str {
        match self.stage.as_deref() {
            None => "firmware or host kernel",
            Some("module") => "module",
            Some(_) => "VMM or guest",
        }
    }
}

/// Whether the machine could be started.
pub fn is_ready(options: &QemuOptions) -> bool {
    let started = || Command::new(QEMU).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    parts::missing(&options.parts()).is_none() && started().is_ok_and(|status| status.success())
}

/// Runs a realm on the emulated machine, with its console on standard input and output.
pub fn run(options: &Options, guest: &Guest) -> Result {
    let machine = &options.qemu;
    let dir_of_parts = machine.parts();
    if let Some(file) = parts::missing(&dir_of_parts) {
        return Err(Failure::BadInput(format!("{}: not there; `cargo xtask run` builds it", file.display())));
    }
    let dir = tempfile::tempdir().map_err(Failure::failed)?;
    let initrd = dir.path().join("initrd.cpio");
    let size = write_initrd(options, &initrd)?;
    let log = machine.host_log.clone().unwrap_or_else(|| dir.path().join("host.log"));
    let socket = dir.path().join("report");
    let listener = UnixListener::bind(&socket).map_err(Failure::in_file(&socket))?;

    let memory = machine.host_memory.unwrap_or(guest.layout.ram.size + (1 << 30)).next_multiple_of(1 << 20);
    let mut qemu = Command::new(QEMU);
    qemu.args(["-M", "virt,secure=on,virtualization=on,gic-version=3"]);
    qemu.args(["-cpu", "max,x-rme=on,cntfrq=62500000", "-smp", &machine.host_cpus.to_string()]);
    qemu.args(["-m", &format!("{}M", memory >> 20), "-nic", "none", "-display", "none", "-monitor", "none"]);
    qemu.args(["-serial", &format!("file:{}", escaped(&log))])
        .arg("-bios")
        .arg(dir_of_parts.join("flash.bin"));
    // The monitor has the kernel from its flash; QEMU takes a command line only with one.
    qemu.arg("-kernel").arg(dir_of_parts.join("host-kernel"));
    qemu.args(["-append", &format!("console=ttyAMA0 panic=-1 initrdmem={INITRD:#x},{size}")]);
    qemu.arg("-device");
    qemu.arg(format!("loader,file={},addr={INITRD:#x},force-raw=on", escaped(&initrd)));
    // A host that panics resets its machine: that is the end.
    qemu.args(["-no-reboot", "-device", "virtio-serial-pci"]);
    for (name, backend) in
        [(CONSOLE, "stdio,signal=off".to_owned()), (REPORT, format!("socket,path={}", escaped(&socket)))]
    {
        let id = name.rsplit('.').next().unwrap_or(name);
        let (kind, rest) = backend.split_once(',').unwrap_or((&backend, ""));
        qemu.args(["-chardev", &format!("{kind},id={id},{rest}")]);
        qemu.args(["-device", &format!("virtserialport,chardev={id},name={name}")]);
    }
    let errors = dir.path().join("qemu.log");
    let stderr = std::fs::File::create(&errors).map_err(Failure::in_file(&errors))?;
    qemu.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
    let mut child = qemu
        .spawn()
        .map_err(|error| Failure::Failed(format!("{QEMU}: {error} (`realm doctor` says what is missing)")))?;
    let told = Mutex::new(Told::default());
    let ended = attend(&mut child, &listener, &told, options);
    let told = told.into_inner().unwrap_or_else(PoisonError::into_inner);
    verdict(options, &ended?, &told, &[&errors, &log])
}

/// A path in an option of QEMU's: a comma ends a value unless there are two.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// Writes the host's initrd, and behind it what this realm needs; its size.
fn write_initrd(options: &Options, to: &Path) -> Result<u64> {
    let read = |path: &Path| std::fs::read(path).map_err(Failure::in_file(path));
    let mut bytes = read(&options.qemu.parts().join("host-initrd.cpio"))?;
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let mut files = Archive::default().with("guest", DIRECTORY, &[]);
    files = files.with("guest/kernel", FILE, &read(&options.kernel)?);
    let mut words = vec!["/realm".to_owned(), "run".into(), "--machine".into(), "kvm".into()];
    words.extend(["--kernel", "/guest/kernel", "--json", "/run/report.json", "--escapes"].map(String::from));
    if let Some(initrd) = options.realm.initrd() {
        files = files.with("guest/initrd", FILE, &read(initrd)?);
        words.extend(["--initrd".into(), "/guest/initrd".into()]);
    }
    if options.realm.rpv_given() {
        files = files.with("guest/rpv", FILE, &options.realm.rpv()?);
        words.extend(["--rpv".into(), "@/guest/rpv".into()]);
    }
    words.extend(options.realm.words());
    let quoted: Vec<String> = words.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect();
    files = files.with("realm.sh", FILE, format!("exec {}\n", quoted.join(" ")).as_bytes());
    for file in &options.qemu.host_file {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        files = files.with(&name, FILE, &read(file)?);
    }
    if let Some(script) = &options.qemu.host_script {
        files = files.with("host.sh", FILE, &read(script)?);
    }
    bytes.extend(files.finish());
    std::fs::write(to, &bytes).map_err(Failure::in_file(to))?;
    Ok(bytes.len() as u64)
}

/// How the machine ended.
struct Ended {
    success: bool,
    timed_out: bool,
}

/// Connects the machine with the terminal until it is off.
fn attend(
    child: &mut Child,
    listener: &UnixListener,
    told: &Mutex<Told>,
    options: &Options,
) -> Result<Ended> {
    let stage = indicatif::ProgressBar::new_spinner();
    if !std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        stage.set_draw_target(indicatif::ProgressDrawTarget::hidden());
    }
    stage.set_message("the host boots");
    stage.enable_steady_tick(Duration::from_millis(100));
    let (stdin, stdout) = (Mutex::new(child.stdin.take()), child.stdout.take());
    let over = AtomicBool::new(false);
    let leaves = AtomicBool::new(false);
    let quiet = options.json.goes_to(Path::new("-"));
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            if let Some(stdout) = stdout {
                show(stdout, &stage, quiet);
            }
        });
        // QEMU connects when it starts; if it does not start, closing the listener's other end is what ends this.
        scope.spawn(|| {
            if let Ok((report, _)) = listener.accept() {
                listen(report, told, &stage);
            }
        });
        scope.spawn(|| super::terminal::forward(&stdin, &over, &leaves));
        let begun = Instant::now();
        let mut asked: Option<Instant> = None;
        let limit = options.qemu.timeout.map(Duration::from_secs);
        let mut timed_out = false;
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break Ok(status),
                Ok(None) => {}
                Err(error) => break Err(error),
            }
            if asked.is_none() && limit.is_some_and(|limit| begun.elapsed() > limit) {
                timed_out = true;
                asked = Some(Instant::now());
                super::terminal::leave(&stdin);
            }
            if asked.is_none() && leaves.load(Ordering::SeqCst) {
                asked = Some(Instant::now());
            }
            // Whoever left does not wait for ever for the realm to be taken down.
            if asked.is_some_and(|asked| asked.elapsed() > Duration::from_secs(30)) {
                // It may have ended in this moment.
                let _ = child.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        over.store(true, Ordering::SeqCst);
        // Ends `accept`, if nobody ever connected.
        let _ = listener.local_addr().map(|addr| addr.as_pathname().map(UnixStream::connect));
        status.map(|status| Ended { success: status.success(), timed_out })
    });
    stage.finish_and_clear();
    outcome.map_err(Failure::failed)
}

/// Shows what the realm prints.
fn show(mut console: impl Read, stage: &indicatif::ProgressBar, quiet: bool) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = console.read(&mut bytes) {
        stage.finish_and_clear();
        if !quiet {
            let mut out = std::io::stdout();
            // A closed standard output is the caller's wish.
            let _ = out.write_all(&bytes[..count]).and_then(|()| out.flush());
        }
    }
}

/// Hears what the host tells.
fn listen(report: UnixStream, told: &Mutex<Told>, stage: &indicatif::ProgressBar) {
    for line in BufReader::new(report).lines() {
        let Ok(line) = line else { return };
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        told.line(line.trim_end());
        match told.stage.as_deref() {
            Some("module") => stage.set_message("the host loads its module"),
            Some(_) => stage.set_message("the realm is built and boots"),
            None => {}
        }
    }
}

/// Tells how it went.
fn verdict(options: &Options, ended: &Ended, told: &Told, logs: &[&Path]) -> Result {
    let Some(exit) = told.exit else {
        let kept = keep(logs);
        let what = if ended.timed_out { "did not end in time" } else { "ended early" };
        return Err(Failure::Ended {
            code: if ended.timed_out { TIMEOUT } else { 1 },
            message: format!(
                "the machine {what}, in {}{}; its log: {kept}",
                told.where_it_was(),
                last_lines(logs)
            ),
        });
    };
    let mut report = told.report.clone().unwrap_or_default();
    if let Some(object) = report.as_object_mut() {
        let versions: serde_json::Map<_, _> =
            told.versions.iter().map(|(what, version)| (what.clone(), version.clone().into())).collect();
        object.insert("machine".into(), "qemu".into());
        object.insert("host_complaints".into(), told.complaints.clone().into());
        object.insert("versions".into(), versions.into());
        object.insert("host_said".into(), told.said.clone().into());
        if let Some((before, after)) = told.memory {
            object.insert("host_memory_kib".into(), serde_json::json!({ "before": before, "after": after }));
        }
    }
    options.json.write(&report, "")?;
    if !told.complaints.is_empty() {
        let (complaints, log) = (told.complaints.join("; "), keep(logs));
        return Err(Failure::Failed(format!("the host's kernel complains: {complaints}; its log: {log}")));
    }
    match exit {
        _ if ended.timed_out => Err(Failure::Ended { code: TIMEOUT, message: "the time is over".into() }),
        0 if ended.success => Ok(()),
        code => {
            let message = told.errors.join("; ");
            let message = message.trim_start_matches("error: ").to_owned();
            Err(Failure::Ended { code, message })
        }
    }
}

/// Exit code when the time is over.
const TIMEOUT: u8 = 4;

/// Keeps the logs where an error can name them; the last of them.
fn keep(logs: &[&Path]) -> String {
    let mut kept = String::new();
    for log in logs {
        let to = std::env::temp_dir().join(format!(
            "realm-{}-{}",
            std::process::id(),
            log.file_name().unwrap_or_default().to_string_lossy()
        ));
        kept = match std::fs::copy(log, &to) {
            Ok(_) => to.display().to_string(),
            Err(error) => error.to_string(),
        };
    }
    kept
}

fn last_lines(logs: &[&Path]) -> String {
    let mut text = String::new();
    for log in logs {
        let said = std::fs::read(log).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = said.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        for line in &lines[lines.len().saturating_sub(LAST_LINES)..] {
            let _ = write!(text, "\n    {line}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_tells_is_understood() {
        let mut told = Told::default();
        assert_eq!(told.where_it_was(), "firmware or host kernel");
        for line in [
            "stage module",
            "version host 6.12.1",
            "complaint WARNING: at mm",
            "report {\"end\": \"off\"}",
            "memory 10 9",
            "nonsense",
            "exit 3",
        ] {
            told.line(line);
        }
        assert_eq!(told.where_it_was(), "module");
        assert_eq!(told.versions, [("host".to_owned(), "6.12.1".to_owned())]);
        assert_eq!(told.complaints, ["WARNING: at mm"]);
        assert_eq!(told.report.as_ref().map(|report| report["end"].clone()), Some("off".into()));
        assert_eq!((told.memory, told.exit), (Some((10, 9)), Some(3)));
    }

    #[test]
    fn words_of_the_command_line_survive_the_hosts_shell() {
        let word = "a 'b' $c";
        assert_eq!(format!("'{}'", word.replace('\'', r"'\''")), r"'a '\''b'\'' $c'");
    }
}
