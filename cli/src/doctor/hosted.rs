//! The machine in one process.

use super::Need;
use std::path::PathBuf;

/// A program and a kernel.
pub(super) fn needs() -> Vec<Need> {
    vec![
        Need { name: "realm command", ok: true, found: env!("CARGO_PKG_VERSION").into(), fix: None },
        kernel(),
    ]
}

/// The kernel `cargo xtask setup` fetches; people can also bring their own.
pub(super) fn kernel() -> Need {
    let image = guest_image().filter(|path| path.is_file());
    let found = image.map(|path| path.display().to_string());
    Need::new(
        "arm64 kernel image",
        found.ok_or_else(|| "none fetched".into()),
        "cargo xtask setup (or give your own with --kernel)",
    )
}

/// Cargo's target directory is two above the program: target/release/realm.
fn guest_image() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    Some(program.parent()?.parent()?.join("guest/Image"))
}
