//! First file systems of Linux kernels: busybox and an init.

use realm_vmm::cpio::{Archive, DIRECTORY, EXECUTABLE, FILE};

/// What runs first in the guest.
const GUEST_INIT: &str = include_str!("guest/init.sh");

/// An archive with `busybox` as its only program, an init that says where it is, and `modules`, which that loads.
pub fn guest(busybox: &[u8], modules: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let archive = with_busybox(busybox).with("init", EXECUTABLE, GUEST_INIT.as_bytes());
    let archive = archive.with("modules", DIRECTORY, &[]);
    let with_module = |archive: Archive, (number, (name, module)): (usize, &(&str, Vec<u8>))| {
        archive.with(&format!("modules/{number}-{name}.ko"), FILE, module)
    };
    modules.iter().enumerate().fold(archive, with_module).finish()
}

/// An archive with nothing but a script, to follow a guest's whole one.
pub fn guest_script(script: &str) -> Vec<u8> {
    Archive::default().with(SCRIPT, FILE, script.as_bytes()).finish()
}

/// Where the guest's init finds what it runs instead of a shell.
const SCRIPT: &str = "script.sh";

/// An archive with `busybox` so far.
pub fn with_busybox(busybox: &[u8]) -> Archive {
    Archive::default().with("bin", DIRECTORY, &[]).with("bin/busybox", EXECUTABLE, busybox)
}

/// An archive with nothing but another init, to follow a whole one.
pub fn init_only(init: &str) -> Vec<u8> {
    Archive::default().with("init", EXECUTABLE, init.as_bytes()).finish()
}
