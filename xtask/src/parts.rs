//! The parts of the emulated machine that hosts realms: `target/machine`, where `realm run --machine qemu` finds them.

use crate::host_kernel::{DEFAULT, HostKernel};
use crate::image::{self, Image, Offer};
use crate::shell::{self, Error, Result};
use crate::steps::step;
use crate::{initrd, kernel, module, setup};
use realm_vmm::cpio::{EXECUTABLE, FILE};
use std::path::{Path, PathBuf};

/// What the host's kernel runs first.
const HOST_INIT: &str = include_str!("host/init.sh");
/// Static programs need no libraries and, linked by Rust's own linker, no compiler for arm64.
const TARGET: &str = "aarch64-unknown-linux-musl";
const NEWEST: Offer = Offer { interface: 8, manifest: 5 };

/// Builds all of them; where they are.
pub fn build() -> Result<PathBuf> {
    setup::qemu()?;
    let host = HostKernel::prepare(DEFAULT)?;
    let guest = kernel::guest_files()?;
    let (monitor, rmm) = (Image::Monitor.build()?, Image::Rmm.build()?);
    let module = module::build(&host)?;
    let realm = arm64_realm()?;
    let dir = shell::target().join("machine");
    std::fs::create_dir_all(&dir).map_err(Error::file(&dir))?;
    let kernel = read(&host.image)?;
    write(&dir.join("flash.bin"), &image::flash(&read(&monitor)?, &read(&rmm)?, &kernel, NEWEST)?)?;
    write(&dir.join("host-kernel"), &kernel)?;
    let initrd = initrd::with_busybox(&read(&guest.busybox)?)
        .with("init", EXECUTABLE, HOST_INIT.as_bytes())
        .with("realm", EXECUTABLE, &read(&realm)?)
        .with("kvm-realm.ko", FILE, &read(&module)?)
        .finish();
    write(&dir.join("host-initrd.cpio"), &initrd)?;
    Ok(dir)
}

/// The `realm` command for arm64 Linux.
fn arm64_realm() -> Result<PathBuf> {
    setup::rust_target(TARGET)?;
    step("build the realm command for arm64", || {
        let mut cargo = shell::cargo();
        cargo.args([
            "build",
            "--quiet",
            "--release",
            "--locked",
            "--package",
            "realm-cli",
            "--target",
            TARGET,
        ]);
        cargo.args(["--config", &format!("target.{TARGET}.linker='rust-lld'")]);
        shell::run(cargo.args(["--config", "profile.release.strip=true"]))
    })?;
    Ok(shell::target().join(TARGET).join("release/realm"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(Error::file(path))
}

fn write(path: &Path, bytes: &[u8]) -> Result {
    std::fs::write(path, bytes).map_err(Error::file(path))
}
