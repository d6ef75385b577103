//! QEMU with the Realm Management Extension.

use super::{Need, hosted};
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = "qemu-system-aarch64";
const INSTALL: &str = "sudo apt-get install qemu-system-arm (Debian 13 or newer)";
/// First version whose RME emulation boots realms.
const MIN_VERSION: u32 = 9;
/// How long QEMU may take to start and quit.
const PATIENCE: Duration = Duration::from_secs(20);

/// QEMU, its RME emulation and a kernel.
pub(super) fn needs() -> Vec<Need> {
    vec![
        Need::new("qemu-system-aarch64 9 or newer", version(), INSTALL),
        Need::new("QEMU's RME emulation (-cpu max,x-rme=on)", rme(), INSTALL),
        hosted::kernel(),
        Need::new("firmware, host kernel and module", parts(), "cargo xtask run"),
    ]
}

/// What `realm run --machine qemu` starts.
fn parts() -> Result<String, String> {
    let dir = crate::parts::default_dir();
    match crate::parts::missing(&dir) {
        None => Ok(dir.display().to_string()),
        Some(file) => Err(format!("{} is not there", file.display())),
    }
}

fn version() -> Result<String, String> {
    let output = Command::new(PROGRAM).arg("--version").stdin(Stdio::null()).output().map_err(not_started)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_default().trim().to_owned();
    match major(&line) {
        Some(major) if major >= MIN_VERSION => Ok(line),
        Some(_) => Err(line),
        None => Err(format!("a program that does not tell its version: '{line}'")),
    }
}

/// The major number in "QEMU emulator version 9.2.1 (...)".
fn major(line: &str) -> Option<u32> {
    line.split_once("version ")?.1.split('.').next()?.parse().ok()
}

/// Starts a machine with RME, stopped, and tells it to quit.
fn rme() -> Result<String, String> {
    let machine = ["-M", "virt,secure=on,virtualization=on,gic-version=3", "-cpu", "max,x-rme=on", "-S"];
    let mut qemu = Command::new(PROGRAM)
        .args(machine)
        .args(["-nic", "none", "-display", "none", "-serial", "none", "-monitor", "stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(not_started)?;
    if let Some(mut monitor) = qemu.stdin.take() {
        // A QEMU that has already refused its options does not read this.
        let _ = monitor.write_all(b"quit\n");
    }
    match end(&mut qemu) {
        Some(status) if status.success() => Ok("accepted".into()),
        Some(_) => Err(format!("refused: {}", complaint(&mut qemu))),
        None => Err(format!("QEMU did not quit in {} seconds", PATIENCE.as_secs())),
    }
}

/// The last line a child that has ended wrote to its standard error.
fn complaint(child: &mut Child) -> String {
    let mut text = String::new();
    if let Some(stderr) = &mut child.stderr {
        let _ = stderr.take(4096).read_to_string(&mut text);
    }
    text.lines().last().unwrap_or("without a reason").to_owned()
}

/// The exit status of a child, which is killed when it takes too long.
fn end(child: &mut Child) -> Option<ExitStatus> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

fn not_started(error: std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "not installed".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_the_first_line() {
        assert_eq!(major("QEMU emulator version 10.0.3 (Debian 1:10.0.3+ds-0+deb13u1)"), Some(10));
        assert_eq!(major("QEMU emulator version 7.2.17"), Some(7));
        assert_eq!(major("something else"), None);
    }
}
