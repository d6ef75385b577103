//! Resets from outside, as a watchdog makes them: by QEMU's machine protocol, when the machine says that it waits for one.

use crate::boot;
use crate::machine::Machine;
use crate::shell::{self, Error, Result};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// The end of the line in which the payload says that all its CPUs wait.
const WAITS: &str = " CPUs wait for a reset";
/// The first line of a boot.
const BEGINS: &str = "monitor: realmkit ";

/// Boots `flash` and resets the machine so many times; each boot must say what the first said, and that all CPUs wait.
pub fn run(machine: &Machine, flash: &[u8], resets: usize, limit: Duration) -> Result {
    let socket = shell::target().join("images").join(format!("qmp-{}", std::process::id()));
    let mut monitor = Monitor { socket: socket.clone(), stream: None };
    let mut boots = 0;
    let mut problem = None;
    let said = boot::watch(
        machine,
        flash,
        limit,
        |qemu| {
            let address = format!("unix:{},server=on,wait=off", socket.display());
            qemu.args(["-qmp", &address]).stdin(Stdio::null());
        },
        |line| {
            if line.ends_with(WAITS) {
                boots += 1;
                let command = if boots > resets { "quit" } else { "system_reset" };
                problem = problem.take().or(monitor.say(command).err());
            }
        },
    );
    // QEMU removes it unless it was killed.
    let _ = std::fs::remove_file(&socket);
    if let Some(problem) = problem {
        return Err(Error::Other(format!("QEMU's machine protocol at {}: {problem}", socket.display())));
    }
    judge(&said?, machine.smp.into(), resets + 1)
}

/// Whether there are as many boots as there should be, of all CPUs and all alike.
fn judge(said: &str, cpus: usize, expected: usize) -> Result {
    let boots: Vec<&str> = said.split(BEGINS).skip(1).collect();
    let end = format!(" {cpus}{WAITS}");
    let different = boots.iter().position(|boot| *boot != boots[0] || !boot.trim_end().ends_with(&end));
    match different {
        None if boots.len() == expected => Ok(()),
        None => Err(Error::Other(format!("{} boots, not {expected}:\n{said}", boots.len()))),
        Some(boot) => Err(Error::Other(format!("boot {boot} is not as the first:\n{said}"))),
    }
}

/// QEMU's machine protocol.
struct Monitor {
    socket: PathBuf,
    stream: Option<BufReader<UnixStream>>,
}

impl Monitor {
    fn say(&mut self, command: &str) -> std::io::Result<()> {
        if self.stream.is_none() {
            let mut stream = BufReader::new(connect(&self.socket)?);
            // What it can do, and that nothing of it is wanted.
            stream.read_line(&mut String::new())?;
            execute(&mut stream, "qmp_capabilities")?;
            self.stream = Some(stream);
        }
        self.stream.as_mut().map_or(Ok(()), |stream| execute(stream, command))
    }
}

fn connect(socket: &Path) -> std::io::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok(stream)
}

/// Sends a command and waits for its answer; events may come before.
fn execute(stream: &mut BufReader<UnixStream>, command: &str) -> std::io::Result<()> {
    stream.get_mut().write_all(format!("{{\"execute\":\"{command}\"}}\n").as_bytes())?;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 || line.contains("\"return\"") {
            return Ok(());
        }
        if line.contains("\"error\"") {
            return Err(std::io::Error::other(line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(boots: &[&str]) -> String {
        boots.iter().map(|boot| format!("{BEGINS}0\n{boot}\n")).collect()
    }

    #[test]
    fn every_boot_has_to_say_what_the_first_said_and_to_come_to_its_end() {
        const WHOLE: &str = "waiting: 4 CPUs wait for a reset";
        let all = [WHOLE; 3];
        assert!(judge(&console(&all), 4, 3).is_ok());
        assert!(judge(&console(&all), 4, 4).is_err());
        assert!(judge(&console(&all), 14, 3).is_err());
        for wrong in
            ["waiting: 3 CPUs wait for a reset", "monitor: FAULT\nwaiting: 4 CPUs wait for a reset", ""]
        {
            assert!(judge(&console(&[WHOLE, wrong, WHOLE]), 4, 3).is_err(), "{wrong}");
            assert!(judge(&console(&[WHOLE, WHOLE, wrong]), 4, 3).is_err(), "{wrong}");
        }
        assert!(judge(&console(&["nothing"; 3]), 4, 3).is_err());
    }
}
