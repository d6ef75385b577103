//! Stock Debian arm64 kernels that host realms: their images, and what it takes to build a module for them.

use crate::apt::{self, ForeignApt};
use crate::shell::{self, Error, Result};
use crate::steps::step;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A kernel of Debian's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flavour {
    /// The suite it comes from, and the one that has what that lacks.
    suites: [&'static str; 2],
    /// The meta package of its headers.
    headers: &'static str,
}

/// The one that is tested first: Debian 12's 6.12 LTS for clouds.
pub const DEFAULT: Flavour =
    Flavour { suites: ["bookworm-security", "bookworm"], headers: "linux-headers-6.12-cloud-arm64" };

/// Such a kernel, unpacked.
pub struct HostKernel {
    /// What it calls itself (`uname -r`).
    pub release: String,
    /// Its arm64 `Image`.
    pub image: PathBuf,
    /// Configuration and generated headers: KBUILD_OUTPUT of a module's build.
    build: PathBuf,
    /// The tree the module's build starts in.
    source: PathBuf,
}

impl HostKernel {
    /// Fetches it, or finds it where it was put.
    pub fn prepare(flavour: Flavour) -> Result<Self> {
        let dir = std::path::absolute(shell::target().join("host-kernel").join(flavour.headers))
            .map_err(Error::file(&shell::target()))?;
        let stamp = dir.join("release");
        if let Ok(release) = std::fs::read_to_string(&stamp) {
            return Ok(Self::at(&dir, release));
        }
        step("fetch a Debian kernel that hosts realms", || {
            let [suite, other] = flavour.suites;
            let apt = ForeignApt::new(&dir.join("apt"), "arm64", suite, other)?;
            let headers = one(apt.depends(flavour.headers)?, "linux-headers-")?;
            let release = headers.trim_start_matches("linux-headers-").to_owned();
            let needs = apt.depends(&headers)?;
            apt.unpack(&headers, &dir)?;
            apt.unpack(&one(needs.clone(), "linux-headers-")?, &dir)?;
            apt.unpack(&format!("linux-image-{release}-unsigned"), &dir)?;
            // Its tools run here.
            let native = shell::output(Command::new("dpkg").arg("--print-architecture"))?;
            let tools = ForeignApt::new(&dir.join("apt-tools"), native.trim(), suite, other)?;
            tools.unpack(&one(needs, "linux-kbuild-")?, &dir)?;
            connect(&dir, &release)?;
            std::fs::write(&stamp, &release).map_err(Error::file(&stamp))?;
            Ok(Self::at(&dir, release))
        })
    }

    fn at(dir: &Path, release: String) -> Self {
        let headers = |name: &str| dir.join("usr/src").join(format!("linux-headers-{name}"));
        Self {
            image: dir.join("boot").join(format!("vmlinuz-{release}")),
            build: headers(&release),
            source: headers(&common(&release)),
            release,
        }
    }

    /// Builds the module in `dir`, which has a `Kbuild` file.
    pub fn build_module(&self, dir: &Path) -> Result {
        apt::install(&["make", "gcc-aarch64-linux-gnu"])?;
        let mut make = Command::new("make");
        make.arg("-s").arg("-C").arg(&self.source);
        make.arg(format!("KBUILD_OUTPUT={}", self.build.display())).arg(format!("M={}", dir.display()));
        // The compiler is this machine's, not the one the kernel was built by; types for BTF are nobody's business here.
        make.args(["ARCH=arm64", "CROSS_COMPILE=aarch64-linux-gnu-", "CC=aarch64-linux-gnu-gcc"]);
        make.args(["CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT=", "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"]);
        shell::run_quietly(&mut make).map(|_| ())
    }
}

/// The headers that all flavours of a release share: `6.12.1+deb12-cloud-arm64` has `6.12.1+deb12-common`.
fn common(release: &str) -> String {
    format!("{}-common", release.split('-').next().unwrap_or(release))
}

/// The package of a list whose name begins with `prefix`.
fn one(packages: Vec<String>, prefix: &str) -> Result<String> {
    packages
        .into_iter()
        .find(|package| package.starts_with(prefix))
        .ok_or_else(|| Error::Other(format!("a kernel of Debian's needs no {prefix}... any more")))
}

/// The headers name their tools by where they are installed.
fn connect(dir: &Path, release: &str) -> Result {
    let version = release.split('-').next().unwrap_or(release);
    let tools = dir.join("usr/lib").join(format!("linux-kbuild-{version}"));
    for name in [common(release), release.to_owned()] {
        for folder in ["scripts", "tools"] {
            let link = dir.join("usr/src").join(format!("linux-headers-{name}")).join(folder);
            if std::fs::symlink_metadata(&link).is_ok_and(|link| link.file_type().is_symlink()) {
                std::fs::remove_file(&link).map_err(Error::file(&link))?;
                std::os::unix::fs::symlink(tools.join(folder), &link).map_err(Error::file(&link))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flavours_of_a_release_share_headers() {
        assert_eq!(common("6.12.1+deb12-cloud-arm64"), "6.12.1+deb12-common");
        assert_eq!(common("6.12.1+deb12-rt-arm64-16k"), "6.12.1+deb12-common");
    }
}
