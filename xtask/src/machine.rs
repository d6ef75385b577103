//! The machine in QEMU.

use std::path::Path;
use std::process::Command;

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
            // While the CPUs sleep the clock goes on to the next timer, not with the time outside.
            qemu.args(["-icount", "shift=0,sleep=off"]);
        }
        qemu
    }
}
