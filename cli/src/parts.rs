//! The parts of the emulated machine that hosts realms, as `cargo xtask run` builds them.

use std::path::{Path, PathBuf};

/// What has to be there.
const FILES: [&str; 3] = ["flash.bin", "host-kernel", "host-initrd.cpio"];

/// Where they are if nobody says: beside what cargo built this program to (target/release/realm), else below the current directory.
pub fn default_dir() -> PathBuf {
    let built = || Some(std::env::current_exe().ok()?.parent()?.parent()?.join("machine"));
    built().filter(|dir| dir.is_dir()).unwrap_or_else(|| "target/machine".into())
}

/// The first of them that is not in `dir`.
pub fn missing(dir: &Path) -> Option<PathBuf> {
    FILES.iter().map(|file| dir.join(file)).find(|file| !file.is_file())
}
