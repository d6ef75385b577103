//! Debian packages: those this machine needs, and those of other architectures that are only unpacked.

use crate::shell::{self, Error, Result};
use crate::steps::step;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Installs the packages this machine lacks. Asks for nothing when all are there.
pub fn install(packages: &[&str]) -> Result {
    let missing: Vec<_> = packages.iter().filter(|package| !installed(package)).copied().collect();
    if missing.is_empty() { Ok(()) } else { install_with(&[], &missing) }
}

/// Installs the newest versions of packages; on a machine with `release` those of `suite`, which its sources need not
/// name: they are not changed.
pub fn install_from(release: &str, suite: &str, packages: &[&str]) -> Result {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    if !text.lines().any(|line| line.trim_matches('"') == format!("VERSION_CODENAME={release}")) {
        return install_with(&[], packages);
    }
    let own = std::fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
    let list = shell::target().join("apt-sources.list");
    std::fs::create_dir_all(shell::target()).map_err(Error::file(&list))?;
    std::fs::write(&list, format!("{own}\n{}\n", source(suite)?)).map_err(Error::file(&list))?;
    let options =
        [format!("-oDir::Etc::SourceList={}", list.display()), format!("-oAPT::Default-Release={suite}")];
    install_with(&options, packages)
}

fn install_with(options: &[String], packages: &[&str]) -> Result {
    let names = packages.join(" ");
    if !shell::succeeds(Command::new("apt-get").arg("--version")) {
        return Err(Error::Other(format!("this machine has no apt; install these yourself: {names}")));
    }
    let apt = |args: &[&str]| {
        let mut command = as_root("apt-get").map_err(|_| {
            Error::Other(format!("packages are missing; run as root: apt-get install {names}"))
        })?;
        command.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq").args(options).args(args);
        Ok(command)
    };
    step(&format!("install {names}"), || {
        shell::run(&mut apt(&["update"])?)?;
        let mut install = apt(&["install", "--yes", "--no-install-recommends"])?;
        // apt's own talk goes to standard error: standard output belongs to the caller's result.
        shell::output(install.args(packages)).map(|_| ())
    })
}

/// A program that runs as root: by itself, or by a sudo that does not ask.
pub fn as_root(program: &str) -> Result<Command> {
    if shell::output(Command::new("id").arg("-u"))?.trim() == "0" {
        return Ok(Command::new(program));
    }
    if !shell::succeeds(Command::new("sudo").args(["-n", "true"])) {
        return Err(Error::Other(format!("{program} has to run as root")));
    }
    let mut sudo = Command::new("sudo");
    sudo.arg(program);
    Ok(sudo)
}

/// A line of sources.list for a suite: this machine's mirror and keys.
pub fn source(suite: &str) -> Result<String> {
    let mirror = mirror()?;
    Ok(format!("deb [{}] {} {suite} main", mirror.options.trim(), mirror.uri).replace("[] ", ""))
}

/// What this machine's apt is told about fetching: proxies, and which dates it believes.
pub fn network_options() -> Result<String> {
    let all = shell::output(Command::new("apt-config").arg("dump"))?;
    Ok(fetching(&all))
}

fn fetching(all: &str) -> String {
    const PREFIXES: [&str; 4] =
        ["Acquire::http::", "Acquire::https::", "Acquire::Check-", "Acquire::Max-FutureTime"];
    let wanted = |line: &&str| PREFIXES.iter().any(|prefix| line.starts_with(prefix));
    all.lines().filter(wanted).map(|line| format!("{line}\n")).collect()
}

fn installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat=${db:Status-Abbrev}", package]);
    query.output().is_ok_and(|output| output.stdout.starts_with(b"ii"))
}

/// An apt of its own for foreign packages: own lists and cache, this machine's mirror and keys. Nothing is installed.
pub struct ForeignApt {
    dir: PathBuf,
    architecture: String,
    preferred_suite: &'static str,
}

impl ForeignApt {
    /// Prepares `dir` and reads the package lists of two suites; what `preferred_suite` holds comes from there.
    pub fn new(
        dir: &Path,
        architecture: &str,
        preferred_suite: &'static str,
        other_suite: &str,
    ) -> Result<Self> {
        let apt = Self { dir: dir.to_owned(), architecture: architecture.to_owned(), preferred_suite };
        for sub in ["lists/partial", "cache/archives/partial", "debs"] {
            let path = dir.join(sub);
            std::fs::create_dir_all(&path).map_err(Error::file(&path))?;
        }
        let mirror = mirror()?;
        let source = |suite: &str| {
            format!("deb [arch={architecture}{}] {} {suite} main\n", mirror.options, mirror.archive(suite))
        };
        let sources = [source(preferred_suite), source(other_suite)].concat();
        let list = dir.join("sources.list");
        std::fs::write(&list, sources).map_err(Error::file(&list))?;
        shell::output(apt.command("apt-get").arg("update"))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let path = |sub: &str| self.dir.join(sub).display().to_string();
        let mut command = Command::new(program);
        command.current_dir(self.dir.join("debs")).arg("-qq");
        for option in [
            format!("Dir::Etc::SourceList={}", path("sources.list")),
            "Dir::Etc::SourceParts=/dev/null".into(),
            format!("Dir::State::Lists={}", path("lists")),
            format!("Dir::Cache={}", path("cache")),
            "Dir::State::Status=/dev/null".into(),
            format!("APT::Architecture={}", self.architecture),
            format!("APT::Architectures={}", self.architecture),
            format!("APT::Default-Release={}", self.preferred_suite),
            "Acquire::Languages=none".into(),
            // The download directory belongs to the user, not to apt's sandbox account.
            "APT::Sandbox::User=root".into(),
        ] {
            command.arg("-o").arg(option);
        }
        command
    }

    /// The packages a package depends on, alternatives included.
    pub fn depends(&self, package: &str) -> Result<Vec<String>> {
        let text = shell::output(self.command("apt-cache").args(["depends", package]))?;
        Ok(text
            .lines()
            .filter_map(|line| line.trim().trim_start_matches('|').strip_prefix("Depends: "))
            .map(|name| name.trim_matches(['<', '>']).split(':').next().unwrap_or_default().to_owned())
            .collect())
    }

    /// Downloads a package (apt checks its signature chain) and unpacks it into `into`.
    pub fn unpack(&self, package: &str, into: &Path) -> Result {
        let debs = self.dir.join("debs");
        shell::output(self.command("apt-get").args(["download", package]))?;
        let prefix = format!("{package}_");
        let entries = std::fs::read_dir(&debs).map_err(Error::file(&debs))?;
        let deb = entries
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)))
            .ok_or_else(|| Error::Other(format!("apt downloaded no {package}")))?;
        let result = shell::output(Command::new("dpkg-deb").arg("--extract").arg(&deb).arg(into)).map(|_| ());
        std::fs::remove_file(&deb).map_err(Error::file(&deb))?;
        result
    }
}

struct Mirror {
    uri: String,
    /// Source options that name the keys, with a leading space.
    options: String,
}

impl Mirror {
    /// Where a suite is: security updates are beside the rest on every mirror that has them.
    fn archive(&self, suite: &str) -> String {
        let rest = self.uri.trim_end_matches('/');
        if suite.ends_with("-security") { format!("{rest}-security") } else { self.uri.clone() }
    }
}

/// The mirror this machine gets Debian itself from: the first source with a suite named like a release.
fn mirror() -> Result<Mirror> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let parts = Path::new("/etc/apt/sources.list.d");
    if let Ok(entries) = std::fs::read_dir(parts) {
        let mut more: Vec<_> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
        more.sort();
        files.extend(more);
    }
    for file in files {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        if let Some(mirror) =
            text.split("\n\n").find_map(deb822_mirror).or_else(|| text.lines().find_map(line_mirror))
        {
            return Ok(mirror);
        }
    }
    Err(Error::Other(
        "no Debian mirror in /etc/apt: add a source for this machine's release, or pass --kernel".into(),
    ))
}

const RELEASES: [&str; 6] = ["bookworm", "trixie", "forky", "sid", "stable", "testing"];

fn deb822_mirror(stanza: &str) -> Option<Mirror> {
    let field = |name: &str| {
        stanza
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(|value| value.trim().to_owned()))
    };
    if !field("Suites")?.split_whitespace().any(|suite| RELEASES.contains(&suite)) {
        return None;
    }
    let uri = field("URIs")?.split_whitespace().next()?.to_owned();
    let options = field("Signed-By").map(|key| format!(" signed-by={key}")).unwrap_or_default();
    Some(Mirror { uri, options })
}

fn line_mirror(line: &str) -> Option<Mirror> {
    let rest = line.trim().strip_prefix("deb ")?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let uri = words.next()?.to_owned();
    if !RELEASES.contains(&words.next()?) {
        return None;
    }
    let key = options.split_whitespace().find(|option| option.starts_with("signed-by="));
    Some(Mirror { uri, options: key.map(|key| format!(" {key}")).unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deb822_source_of_a_release_is_the_mirror() {
        let stanza = "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\n\
                      Signed-By: /keys/debian.gpg";
        let mirror = deb822_mirror(stanza).unwrap();
        assert_eq!(
            (mirror.uri.as_str(), mirror.options.as_str()),
            ("http://mirror.example/debian", " signed-by=/keys/debian.gpg")
        );
    }

    #[test]
    fn sources_of_other_projects_are_passed_over() {
        assert!(
            deb822_mirror("Types: deb\nURIs: http://other.example\nSuites: nodistro\nComponents: main")
                .is_none()
        );
        assert!(line_mirror("deb http://other.example cloud-sdk-bookworm main").is_none());
        assert!(line_mirror("# deb http://mirror.example/debian trixie main").is_none());
    }

    #[test]
    fn of_apts_options_those_about_fetching_are_taken() {
        let all = "APT::Architecture \"amd64\";\nAcquire::http::Proxy \"http://proxy.example\";\nAcquire::Languages \"none\";\n\
                   Acquire::Check-Valid-Until \"false\";\n";
        let taken = "Acquire::http::Proxy \"http://proxy.example\";\nAcquire::Check-Valid-Until \"false\";\n";
        assert_eq!(fetching(all), taken);
    }

    #[test]
    fn a_one_line_source_keeps_its_key() {
        let mirror =
            line_mirror("deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian trixie main contrib")
                .unwrap();
        assert_eq!(
            (mirror.uri.as_str(), mirror.options.as_str()),
            ("http://mirror.example/debian", " signed-by=/k.gpg")
        );
    }
}
