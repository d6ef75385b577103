//! Realms on a stock Debian kernel: one boot of the emulated machine, judged by what guest and host say.

use crate::host_kernel::{DEFAULT, HostKernel};
use crate::shell::{self, Error, Result};
use crate::steps::step;
use crate::{firmware_tests, initrd, kernel, module, parts, run};
use realm_report::Journal;
use sha2::{Digest, Sha256};
use std::path::Path;
use std::process::Stdio;

/// What a guest does.
const GUEST: &str = include_str!("guest/checks.sh");
/// What the host does behind it.
const HOST: &str = include_str!("host/checks.sh");
/// vCPUs of the guest.
const CPUS: u32 = 4;

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    /// Realms that boot to their init and end.
    pub cycles: u32,
    /// VMMs that are killed at any moment.
    pub kills: u32,
    /// Most seconds it may take: several times what it needs on two busy cores.
    pub limit: u32,
}

/// For each change.
pub const QUICK: Amount = Amount { cycles: 3, kills: 5, limit: 900 };
/// By night.
pub const ALL: Amount = Amount { cycles: 50, kills: 20, limit: 5400 };

/// Builds what it needs.
pub fn build() -> Result {
    parts::build()?;
    module::build_peek(&HostKernel::prepare(DEFAULT)?)?;
    run::realm_binary().map(|_| ())
}

/// Boots the machine.
pub fn check(amount: Amount) -> Result {
    step("realms on a Debian kernel", || boot(amount))
}

fn boot(amount: Amount) -> Result {
    let dir = shell::target().join("host-tests");
    std::fs::create_dir_all(&dir).map_err(Error::file(&dir))?;
    let guest = kernel::guest_files()?;
    let mut archive = std::fs::read(&guest.initrd).map_err(Error::file(&guest.initrd))?;
    archive.extend(initrd::guest_script(GUEST));
    let (guest_initrd, script) = (dir.join("initrd.cpio"), dir.join("host.sh"));
    std::fs::write(&guest_initrd, archive).map_err(Error::file(&guest_initrd))?;
    let log = dir.join("host.log");
    let nonce = nonce()?;
    let masked = masked_secret(&nonce);
    let text =
        format!("CYCLES={}\nKILLS={}\nNONCE={nonce}\nMASKED={masked}\n{HOST}", amount.cycles, amount.kills);
    std::fs::write(&script, text).map_err(Error::file(&script))?;

    let mut realm = shell::command(run::realm_binary()?);
    realm.args(["run", "--machine", "qemu", "--json", "-", "--parts"]).arg(parts::build()?);
    realm.arg("--kernel").arg(&guest.kernel).arg("--initrd").arg(&guest_initrd);
    realm.arg("--host-file").arg(module::build_peek(&HostKernel::prepare(DEFAULT)?)?);
    realm.arg("--host-script").arg(&script).arg("--host-log").arg(&log);
    realm.args(["--memory", "192M", "--cpus", &CPUS.to_string(), "--timeout", &amount.limit.to_string()]);
    realm
        .args(["--append", &format!("console=hvc0 quiet swiotlb=8192 panic=-1 nonce={nonce} checks={CPUS}")]);
    let text = shell::output(realm.stdin(Stdio::null())).map_err(|error| with_log(&error, &log))?;
    let report: serde_json::Value = serde_json::from_str(&text)
        .map_err(|error| Error::Other(format!("`realm run --json -` printed no JSON: {error}\n{text}")))?;
    judge(&report, &nonce).map_err(|error| with_log(&error, &log))?;
    let looked = said(&report).find(|line| line.starts_with("kept:")).unwrap_or_default();
    eprintln!("       the realm's secret in the host's memory: {looked}");
    Ok(())
}

/// What the host's script said.
fn said(report: &serde_json::Value) -> impl Iterator<Item = &str> {
    report["host_said"].as_array().into_iter().flatten().filter_map(|line| line.as_str())
}

fn with_log(error: &Error, log: &Path) -> Error {
    Error::Other(format!("{error}\n  the host's log: {}", log.display()))
}

fn judge(report: &serde_json::Value, nonce: &str) -> Result {
    let console = report["console"].as_str().unwrap_or_default().replace('\r', "");
    let said: Vec<&str> = said(report).collect();
    let all = format!("{console}\n{}\n", said.join("\n"));
    let problems = Journal::read(&all).problems(&["guest", "host"]);
    let wrong = |what: String| Err(Error::Other(format!("{what}\n  all they said:\n{all}")));
    if !problems.is_empty() {
        let problems: String = problems.iter().map(|problem| format!("\n    {problem}")).collect();
        return wrong(format!("what guest and host report:{problems}"));
    }
    let backwards: String = nonce.chars().rev().collect();
    if !console.lines().any(|line| line == format!("nonce {backwards}")) {
        return wrong("the nonce did not come back from inside".into());
    }
    let granules = &report["granules"];
    if granules["leaked"] != 0
        || granules["delegated"] != granules["undelegated"]
        || granules["delegated"] == 0
    {
        return wrong(format!("not every granule came back: {granules}"));
    }
    let rim = report["predicted_rim"].as_str().unwrap_or_default();
    let inside = format!("Initial measurement (RIM): {rim}");
    if !console.lines().any(|line| line == inside) {
        return wrong(format!("the guest does not say `{inside}`"));
    }
    let bytes = |digits: &str| hex::decode(digits).unwrap_or_default();
    firmware_tests::verify_token(&console, &bytes(rim), &bytes(&nonce.repeat(2)))
        .or_else(|why| wrong(format!("the realm's token: {why}")))
}

/// The secret the guest makes of the nonce (guest/checks.sh), as host/module/peek takes it: nowhere in the host's memory as it is.
fn masked_secret(nonce: &str) -> String {
    const MASK: u8 = 0xa5;
    let digest = hex::encode(Sha256::digest(nonce));
    let masked: Vec<u8> = digest.bytes().take(32).map(|byte| byte ^ MASK).collect();
    hex::encode(masked)
}

/// 32 random bytes in hexadecimal digits.
fn nonce() -> Result<String> {
    let mut bytes = [0_u8; 32];
    let source = Path::new("/dev/urandom");
    std::fs::File::open(source)
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes))
        .map_err(Error::file(source))?;
    Ok(hex::encode(bytes))
}
