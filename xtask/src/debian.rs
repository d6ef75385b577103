//! `cargo xtask debian`: the README's commands on machines that have nothing but Debian and Rust, each in a chroot that is new.
//!
//! Mirror, keys and network are this machine's, and so is the Rust toolchain (read only). Crates, cargo's programs and everything that
//! is built are the chroot's own. It is removed when all went well, and stays for a look when not.

use crate::apt;
use crate::setup;
use crate::shell::{self, Error, Result};
use crate::steps::step;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Options of `cargo xtask debian`.
#[derive(clap::Args)]
pub struct Options {
    /// Systems to try; all of them if none is named.
    #[arg(value_enum)]
    systems: Vec<System>,
    /// One `cargo xtask ...` to run there instead of the README's two, such as `-- test --firmware`.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// A Debian the README promises to work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum System {
    /// Debian 12. Its own QEMU is too old: the commands take that of its backports by themselves.
    Bookworm,
    /// Debian 13.
    Trixie,
    /// Debian 13 with the QEMU of its backports.
    TrixieBackports,
}

impl System {
    const ALL: [Self; 3] = [Self::Bookworm, Self::Trixie, Self::TrixieBackports];

    const fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::TrixieBackports => "trixie-backports",
        }
    }

    /// The release, and the suite beside it from which QEMU is installed beforehand.
    const fn suites(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Bookworm => ("bookworm", None),
            Self::Trixie => ("trixie", None),
            Self::TrixieBackports => ("trixie", Some("trixie-backports")),
        }
    }
}

/// What Rust needs of a system: certificates to fetch crates, and a linker.
const PACKAGES: &str = "ca-certificates,gcc,libc6-dev";
/// Where the repository is in a chroot.
const REPOSITORY: &str = "/realmkit";
/// What rustup is called as.
const PROXIES: [&str; 9] = [
    "cargo",
    "rustc",
    "rustdoc",
    "rustup",
    "rustfmt",
    "cargo-fmt",
    "cargo-clippy",
    "clippy-driver",
    "cargo-miri",
];

/// `cargo xtask debian`.
pub fn debian(options: &Options) -> Result {
    let systems = if options.systems.is_empty() { System::ALL.to_vec() } else { options.systems.clone() };
    if options.command.is_empty() { try_all(&systems) } else { try_each(&systems, &[&options.command]) }
}

/// Both of the README's commands on every system.
pub fn everywhere() -> Result {
    try_all(&System::ALL)
}

fn try_all(systems: &[System]) -> Result {
    try_each(systems, &[&["run".into()], &["test".into()]])
}

fn try_each(systems: &[System], commands: &[&[String]]) -> Result {
    apt::install(&["mmdebstrap"])?;
    // Toolchains are read only there.
    setup::stable_components()?;
    setup::firmware_target()?;
    setup::nightly()?;
    for system in systems {
        let name = system.name();
        let chroot = step(&format!("make a Debian ({name})"), || Chroot::new(*system))?;
        for command in commands {
            let words = command.join(" ");
            step(&format!("cargo xtask {words} ({name})"), || {
                let mut xtask = chroot.command("cargo")?;
                shell::run(xtask.arg("xtask").args(*command))
            })?;
        }
        // Only `test` installs one.
        let _ = shell::run(chroot.command("qemu-system-aarch64")?.arg("--version"));
        chroot.remove()?;
    }
    Ok(())
}

/// A system in a directory.
struct Chroot {
    root: PathBuf,
    /// Where rustup keeps this machine's toolchains, and the chroot's: some of them are links to others.
    toolchains: String,
}

impl Chroot {
    /// Makes one that has nothing but Debian, Rust and the repository.
    fn new(system: System) -> Result<Self> {
        let root = std::path::absolute(shell::target()).map_err(Error::file(&shell::target()))?;
        let toolchains = shell::output(Command::new("rustup").args(["show", "home"]))?.trim().to_owned();
        let chroot = Self { root: root.join("debian").join(system.name()), toolchains };
        chroot.remove()?;
        let parent = root.join("debian");
        std::fs::create_dir_all(&parent).map_err(Error::file(&parent))?;
        let (release, backports) = system.suites();
        let sources: Vec<String> =
            [Some(release), backports].into_iter().flatten().map(apt::source).collect::<Result<_>>()?;
        let mut make = apt::as_root("mmdebstrap")?;
        make.args(["--quiet", "--variant=minbase", &format!("--include={PACKAGES}"), release]);
        shell::run(make.arg(&chroot.root).args(sources))?;
        chroot.connect()?;
        chroot.install_rust()?;
        chroot.copy_repository()?;
        if let Some(suite) = backports {
            let mut update = chroot.command("apt-get")?;
            shell::run(update.args(["-qq", "update"]))?;
            let mut install = chroot.command("apt-get")?;
            install.args(["-qq", "install", "--yes", "--no-install-recommends", "-t", suite]);
            shell::output(install.arg("qemu-system-arm"))?;
        }
        Ok(chroot)
    }

    fn remove(&self) -> Result {
        shell::run(apt::as_root("rm")?.args(["-rf", "--one-file-system"]).arg(&self.root))
    }

    /// Gives it this machine's way to the network: names, apt's proxies, certificates of its own.
    fn connect(&self) -> Result {
        for file in ["/etc/resolv.conf", "/etc/hosts"] {
            shell::run(apt::as_root("cp")?.args(["--dereference", file]).arg(self.path(file)))?;
        }
        self.write("/etc/apt/apt.conf.d/00network", &apt::network_options()?)?;
        let own = "/usr/local/share/ca-certificates";
        if Path::new(own).is_dir() {
            shell::run(apt::as_root("cp")?.args(["-rT", own]).arg(self.path(own)))?;
            shell::output(&mut self.command("update-ca-certificates")?)?;
        }
        Ok(())
    }

    fn install_rust(&self) -> Result {
        let cargo = std::env::var_os("CARGO_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
            .ok_or_else(|| Error::Other("neither CARGO_HOME nor HOME says where rustup is".into()))?;
        for proxy in PROXIES {
            let mut copy = apt::as_root("cp")?;
            copy.arg("--dereference").arg(cargo.join("bin/rustup"));
            shell::run(copy.arg(self.path("/usr/local/bin").join(proxy)))?;
        }
        // How this machine gets crates.
        let config = cargo.join("config.toml");
        if config.exists() {
            let text = std::fs::read_to_string(&config).map_err(Error::file(&config))?;
            self.write("/root/.cargo/config.toml", &text)?;
        }
        shell::run(apt::as_root("mkdir")?.arg("-p").arg(self.path(&self.toolchains)))
    }

    /// Copies what git knows, and what it would if it were told.
    fn copy_repository(&self) -> Result {
        let list = shell::output(shell::command("git").args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "-z",
        ]))?;
        let there: String = list
            .split_terminator('\0')
            .filter(|file| shell::root().join(file).exists())
            .map(|file| format!("{file}\0"))
            .collect();
        let names = shell::target().join("debian/files");
        std::fs::write(&names, there).map_err(Error::file(&names))?;
        let archive = shell::target().join("debian/files.tar");
        let mut pack = shell::command("tar");
        shell::run(
            pack.args(["--create", "--null", "--files-from"]).arg(&names).arg("--file").arg(&archive),
        )?;
        shell::run(apt::as_root("mkdir")?.arg(self.path(REPOSITORY)))?;
        let mut unpack = apt::as_root("tar")?;
        unpack.args(["--extract", "--no-same-owner", "--file"]).arg(&archive);
        shell::run(unpack.arg("--directory").arg(self.path(REPOSITORY)))
    }

    /// Where a path of the chroot is outside.
    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn write(&self, path: &str, text: &str) -> Result {
        let staged = shell::target().join("debian/staged");
        std::fs::write(&staged, text).map_err(Error::file(&staged))?;
        let mut install = apt::as_root("install")?;
        shell::run(install.args(["-D", "--mode=644"]).arg(&staged).arg(self.path(path)))
    }

    /// A program in the chroot, in the repository if that is there. Mounts and processes are in namespaces that end with it.
    fn command(&self, program: &str) -> Result<Command> {
        let script = self.root.with_file_name("enter.sh");
        std::fs::write(&script, include_str!("debian/enter.sh")).map_err(Error::file(&script))?;
        let mut command = apt::as_root("unshare")?;
        command.args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "sh"]);
        command.arg(script).arg(&self.root);
        command.args([&self.toolchains, REPOSITORY]);
        command.args(["env", "-i", "HOME=/root", &format!("RUSTUP_HOME={}", self.toolchains)]);
        // What is needed is there.
        command.arg("RUSTUP_AUTO_INSTALL=0");
        command.args(["PATH=/root/.cargo/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]);
        command.args(["DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8"]);
        for (name, value) in std::env::vars() {
            if name.to_ascii_lowercase().ends_with("_proxy") {
                command.arg(format!("{name}={value}"));
            }
        }
        command.arg(program);
        Ok(command)
    }
}
