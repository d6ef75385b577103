//! A stock arm64 Linux as the payload: Debian's kernel at EL2, with an init that checks the machine and powers it off.

use crate::machine::Machine;
use crate::shell::{self, Error, Result};
use crate::{initrd, kernel};
use std::path::PathBuf;
use std::process::Command;

/// The word for it instead of a file.
pub const WORD: &str = "linux";
/// The name of its run in the report.
pub const RUN: &str = "linux";

/// What runs first. It reports as crate `realm-report` says; the kernel gives it `CHECK_CPUS` and `CHECK_MIB` from its
/// command line.
const INIT: &str = include_str!("linux/init.sh");

/// Where the initrd is put: behind any kernel that fits the flash, with room for its zeroed data.
const INITRD: u64 = 0x6800_0000;

/// The files.
pub struct Linux {
    /// The payload: an arm64 `Image`, whose first instruction is its entry.
    pub kernel: PathBuf,
    initrd: PathBuf,
    initrd_size: u64,
}

impl Linux {
    /// Fetches the kernel if it is not there yet, and makes an initrd.
    pub fn prepare() -> Result<Self> {
        let guest = kernel::guest_files()?;
        let mut archive = std::fs::read(&guest.initrd).map_err(Error::file(&guest.initrd))?;
        // Of two files with the same name the kernel keeps the later one.
        archive.extend(initrd::init_only(INIT));
        let initrd = shell::target().join("images").join("linux-initrd.cpio");
        std::fs::write(&initrd, &archive).map_err(Error::file(&initrd))?;
        Ok(Self { kernel: guest.kernel, initrd, initrd_size: archive.len() as u64 })
    }

    /// Puts command line and initrd into the machine. QEMU writes the first into the device tree, which the monitor hands
    /// on; it takes one only with a kernel, which nobody loads, as there is firmware.
    pub fn add_to(&self, machine: &Machine, qemu: &mut Command) {
        let size = self.initrd_size;
        let command_line = format!(
            "console=ttyAMA0 panic=-1 initrdmem={INITRD:#x},{size} CHECK_CPUS={} CHECK_MIB={}",
            machine.smp,
            mebibytes(&machine.memory).unwrap_or(0)
        );
        qemu.arg("-kernel").arg(&self.kernel).args(["-append", &command_line]);
        qemu.arg("-device").arg(format!(
            "loader,file={},addr={INITRD:#x},force-raw=on",
            // A comma ends a value unless there are two.
            self.initrd.to_string_lossy().replace(',', ",,")
        ));
    }
}

/// A size as QEMU's -m takes it; without a unit it is in MiB. `None` for other ways to write one.
fn mebibytes(size: &str) -> Option<u64> {
    let (number, factor) = match size.as_bytes().last()? {
        b'G' | b'g' => (&size[..size.len() - 1], 1024),
        b'M' | b'm' => (&size[..size.len() - 1], 1),
        _ => (size, 1),
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_qemu_reads_them() {
        assert_eq!(["2G", "512m", "64"].map(mebibytes), [Some(2048), Some(512), Some(64)]);
        assert_eq!(["", "G", "size=2G"].map(mebibytes), [None; 3]);
    }
}
