//! The guest's kernel and initrd, from Debian's arm64 packages.

use crate::apt::{self, ForeignApt};
use crate::initrd;
use crate::shell::{self, Error, Result};
use crate::steps::step;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a realm boots.
pub struct GuestFiles {
    /// An arm64 Linux `Image`.
    pub kernel: PathBuf,
    /// A cpio archive.
    pub initrd: PathBuf,
    /// A static arm64 busybox.
    pub busybox: PathBuf,
    /// The kernel's modules by which a realm gets its attestation token.
    modules: PathBuf,
}

/// The suite with a kernel from 6.13 on: guest support for realms came with 6.13.
const KERNEL_SUITE: &str = "trixie-backports";
const USERLAND_SUITE: &str = "trixie";
const META_PACKAGE: &str = "linux-image-cloud-arm64";
/// In the order in which they are loaded.
const MODULES: [&str; 3] = ["configfs", "tsm_report", "arm-cca-guest"];

/// The guest files, fetched once and kept below `target`.
pub fn guest_files() -> Result<GuestFiles> {
    let dir = shell::target().join("guest");
    let files = GuestFiles {
        kernel: dir.join("Image"),
        initrd: dir.join("initrd.cpio"),
        busybox: dir.join("busybox"),
        modules: dir.join("modules"),
    };
    if files.kernel.exists() && files.modules.exists() {
        return files.pack();
    }
    apt::install(&["xz-utils"])?;
    step("fetch an arm64 Debian kernel and initrd", || {
        let apt = ForeignApt::new(&dir.join("apt"), "arm64", KERNEL_SUITE, USERLAND_SUITE)?;
        let unpacked = dir.join("unpacked");
        std::fs::create_dir_all(&unpacked).map_err(Error::file(&unpacked))?;
        let image = unpack_kernel(&apt, &unpacked)?;
        apt.unpack("busybox-static", &unpacked)?;
        let busybox = find(&unpacked, "busybox")
            .ok_or_else(|| Error::Other("busybox-static holds no busybox".into()))?;
        std::fs::create_dir_all(&files.modules).map_err(Error::file(&files.modules))?;
        for name in MODULES {
            let packed = find(&unpacked, &format!("{name}.ko.xz"))
                .ok_or_else(|| Error::Other(format!("the guest's kernel has no module {name}")))?;
            // busybox loads modules as they are, and xz is here on every Debian.
            let to = files.modules.join(format!("{name}.ko"));
            let mut xz = Command::new("xz");
            let module = xz.args(["--decompress", "--stdout"]).arg(&packed).output();
            let module = module.map_err(|source| Error::Start { program: "xz".into(), source })?;
            if !module.status.success() {
                return Err(Error::Failed { command: "xz".into(), status: module.status });
            }
            std::fs::write(&to, module.stdout).map_err(Error::file(&to))?;
        }
        // The kernel last, so that an interrupted fetch is not taken for a whole one.
        std::fs::rename(&busybox, &files.busybox).map_err(Error::file(&files.busybox))?;
        std::fs::rename(&image, &files.kernel).map_err(Error::file(&files.kernel))?;
        std::fs::remove_dir_all(&unpacked).map_err(Error::file(&unpacked))
    })?;
    files.pack()
}

impl GuestFiles {
    /// Writes the initrd, if it is not what it is to be.
    fn pack(self) -> Result<Self> {
        let modules: Vec<_> = MODULES
            .iter()
            .map(|name| Ok((*name, read(&self.modules.join(format!("{name}.ko")))?)))
            .collect::<Result<_>>()?;
        let archive = initrd::guest(&read(&self.busybox)?, &modules);
        if !std::fs::read(&self.initrd).is_ok_and(|old| old == archive) {
            std::fs::write(&self.initrd, archive).map_err(Error::file(&self.initrd))?;
        }
        Ok(self)
    }
}

/// Unpacks the packages behind the kernel's meta package until one of them brings the image. Which one does differs
/// between Debian's kernels: `linux-image-VERSION` or, from 7.x on, `linux-binary-VERSION`.
fn unpack_kernel(apt: &ForeignApt, into: &Path) -> Result<PathBuf> {
    let is_kernel = |name: &String| name.starts_with("linux-image-") || name.starts_with("linux-binary-");
    let mut candidates: Vec<String> = apt.depends(META_PACKAGE)?.into_iter().filter(is_kernel).collect();
    while let Some(package) = candidates.pop() {
        apt.unpack(&package, into)?;
        let needs = apt.depends(&package)?;
        // Older kernels have their modules in the package of the image.
        for modules in needs.iter().filter(|name| name.starts_with("linux-modules-")) {
            apt.unpack(modules, into)?;
        }
        if let Some(image) = find(into, "vmlinuz") {
            return Ok(image);
        }
        candidates.extend(needs.into_iter().filter(is_kernel));
    }
    Err(Error::Other(format!("no package behind {META_PACKAGE} of {KERNEL_SUITE} holds a kernel image")))
}

/// A regular file below `dir` whose name is `name`, or `name` and a version.
fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    let mut pending = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(dir).ok()?.flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            let file = entry.file_name();
            let file = file.to_string_lossy();
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_file()
                && file.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
            {
                return Some(entry.path());
            }
        }
    }
    None
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(Error::file(path))
}
