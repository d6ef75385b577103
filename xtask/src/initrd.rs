//! First file systems of Linux kernels: busybox and an init.

use realm_vmm::cpio::{Archive, DIRECTORY, EXECUTABLE};

/// What runs first in the guest.
const GUEST_INIT: &str = include_str!("guest/init.sh");

/// An archive with `busybox` as its only program and an init that says where it is.
pub fn guest(busybox: &[u8]) -> Vec<u8> {
    with_busybox(busybox).with("init", EXECUTABLE, GUEST_INIT.as_bytes()).finish()
}

/// An archive with `busybox` so far.
pub fn with_busybox(busybox: &[u8]) -> Archive {
    Archive::default().with("bin", DIRECTORY, &[]).with("bin/busybox", EXECUTABLE, busybox)
}

/// An archive with nothing but another init, to follow a whole one.
pub fn init_only(init: &str) -> Vec<u8> {
    Archive::default().with("init", EXECUTABLE, init.as_bytes()).finish()
}
