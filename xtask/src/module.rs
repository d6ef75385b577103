//! `cargo xtask module`: kvm-realm.ko for a stock Debian kernel.

use crate::host_kernel::{DEFAULT, HostKernel};
use crate::shell::{self, Error, Result};
use crate::steps::step;
use crate::{apt, host_object, setup};
use std::path::{Path, PathBuf};

/// Where the C code is.
const SOURCE: &str = "host/module";
const PEEK: &str = "host/module/peek";
/// Functions of the compiler's own library for which a kernel has better ones.
const KERNELS: [&str; 6] = ["memcpy", "memmove", "memset", "memcmp", "bcmp", "strlen"];

const SECTIONS: &str = "SECTIONS {
    .text 0 : { *(.text .text.*) }
    .rodata 0 : { *(.rodata .rodata.*) }
    .data 0 : { *(.data .data.*) }
    .bss 0 : { *(.bss .bss.*) }
    /DISCARD/ : { *(.comment .llvmbc .llvmcmd .eh_frame) }
}
";

/// Builds the module for the default kernel and says where it is.
pub fn command() -> Result {
    let kernel = HostKernel::prepare(DEFAULT)?;
    println!("{}", build(&kernel)?.display());
    Ok(())
}

/// Builds the module for a kernel: `target/module/RELEASE/kvm-realm/kvm-realm.ko`.
pub fn build(kernel: &HostKernel) -> Result<PathBuf> {
    apt::install(&["make", "gcc-aarch64-linux-gnu"])?;
    let core = rust_core()?;
    make(kernel, SOURCE, "kvm-realm", Some(&core))
}

/// Builds the module that looks for secrets in all memory.
pub fn build_peek(kernel: &HostKernel) -> Result<PathBuf> {
    make(kernel, PEEK, "realm-peek", None)
}

fn make(kernel: &HostKernel, source: &str, name: &str, core: Option<&Path>) -> Result<PathBuf> {
    let dir = std::path::absolute(shell::target().join("module").join(&kernel.release).join(name))
        .map_err(Error::file(&shell::target()))?;
    step(&format!("build {name}.ko for {}", kernel.release), || {
        std::fs::create_dir_all(&dir).map_err(Error::file(&dir))?;
        let source = shell::root().join(source);
        for entry in std::fs::read_dir(&source).map_err(Error::file(&source))?.flatten() {
            if entry.path().is_file() {
                copy_if_new(&entry.path(), &dir.join(entry.file_name()))?;
            }
        }
        if let Some(core) = core {
            copy_if_new(core, &dir.join("rust_core.o_shipped"))?;
        }
        kernel.build_module(&dir)
    })?;
    Ok(dir.join(format!("{name}.ko")))
}

/// What has not changed stays older than what was made of it.
fn copy_if_new(from: &Path, to: &Path) -> Result {
    let new = std::fs::read(from).map_err(Error::file(from))?;
    if std::fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    std::fs::write(to, new).map_err(Error::file(to))
}

/// The Rust part, one object for all kernels: `target/module/rust_core.o`. Of its functions only those are seen outside that the C
/// code calls.
fn rust_core() -> Result<PathBuf> {
    setup::firmware_target()?;
    let library = host_object::build()?;
    let entries = host_object::entries()?;
    let dir = shell::target().join("module");
    let parts = dir.join("parts");
    step("link the Host core's object", || {
        if parts.exists() {
            std::fs::remove_dir_all(&parts).map_err(Error::file(&parts))?;
        }
        std::fs::create_dir_all(&parts).map_err(Error::file(&parts))?;
        let library = std::path::absolute(&library).map_err(Error::file(&library))?;
        shell::run(shell::command("aarch64-linux-gnu-ar").current_dir(&parts).arg("x").arg(library))?;
        let mut objects = Vec::new();
        for entry in std::fs::read_dir(&parts).map_err(Error::file(&parts))?.flatten() {
            let object = entry.path();
            if entry.file_name().to_string_lossy().starts_with("compiler_builtins") {
                let mut local = shell::command("aarch64-linux-gnu-objcopy");
                local.args(KERNELS.iter().flat_map(|name| ["-L", name]));
                shell::run(local.arg(&object))?;
            }
            objects.push(object);
        }
        objects.sort();
        let core = dir.join("rust_core.o");
        // One section a kind: a kernel keeps a file for each it finds in a module.
        let script = dir.join("rust_core.lds");
        std::fs::write(&script, SECTIONS).map_err(Error::file(&script))?;
        let mut link = shell::command("aarch64-linux-gnu-ld");
        link.arg("-T")
            .arg(&script)
            .args(["--strip-debug", "-r", "--gc-sections", "-e", "realm_device_new", "-o"])
            .arg(&core);
        link.args(entries.iter().flat_map(|name| ["-u", name]));
        shell::run(link.args(&objects))?;
        let mut hide = shell::command("aarch64-linux-gnu-objcopy");
        hide.args(entries.iter().map(|name| format!("--keep-global-symbol={name}")));
        shell::run(hide.arg(&core))?;
        Ok(core)
    })
}
