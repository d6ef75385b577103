//! What has to hold before a change lands.

use crate::shell::{self, Result};
use crate::{firmware_tests, image, run, setup};
use std::process::Command;

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Options {
    /// The nightly-sized run: 10,000 oracle sequences, every fuzz target for two minutes.
    #[arg(long)]
    nightly: bool,
    /// Only the boots of the emulated machine.
    #[arg(long)]
    firmware: bool,
}

/// Options of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub struct FuzzOptions {
    /// Targets to run; all of them if none is named.
    targets: Vec<String>,
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// Runs every check, stopping at the first that fails.
pub fn test(options: &Options) -> Result {
    if options.firmware {
        return firmware_tests::all();
    }
    setup::stable_components()?;
    check("format", shell::cargo().args(["fmt", "--all", "--check"]))?;
    check(
        "clippy",
        shell::cargo().args([
            "clippy",
            "--quiet",
            "--locked",
            "--workspace",
            "--all-targets",
            "--",
            "-Dwarnings",
        ]),
    )?;
    setup::firmware_target()?;
    check(
        "clippy of the images",
        shell::cargo()
            .args(["clippy", "--quiet", "--locked"])
            .args(
                ["monitor", "rmm", "ns-host", "realm-guest", "ns-bench"]
                    .iter()
                    .flat_map(|name| ["--package", name]),
            )
            .args(["--target", image::TARGET, "--profile", "firmware", "--", "-Dwarnings"]),
    )?;
    check(
        "documentation",
        shell::cargo()
            .args(["doc", "--quiet", "--locked", "--workspace", "--no-deps"])
            .env("RUSTDOCFLAGS", "-Dwarnings"),
    )?;
    let mut tests = shell::cargo();
    tests.args(["test", "--locked", "--workspace"]);
    if options.nightly {
        tests.env("REALMKIT_ORACLE_CASES", "10000");
    }
    check("unit, property and command tests", &mut tests)?;
    check(
        "granule locks and the granule protection table under loom",
        shell::cargo()
            .args(["test", "--locked", "--release", "--package", "realm-rmm", "--test", "lock_loom"])
            .args(["--package", "realm-monitor", "--test", "gpt_loom"])
            .args(["--target-dir".as_ref(), shell::target().join("loom").as_os_str()])
            .env("RUSTFLAGS", "--cfg loom"),
    )?;
    main_job()?;
    firmware_tests::all()?;
    miri(!options.nightly)?;
    fuzz(&FuzzOptions { targets: Vec::new(), seconds: if options.nightly { 120 } else { 5 } })
}

fn check(name: &str, command: &mut Command) -> Result {
    eprintln!("check  {name}");
    shell::step(name, || shell::run(command))
}

/// `cargo xtask run` as a new user would call it, and what it says of the realm.
fn main_job() -> Result {
    let guest = crate::kernel::guest_files()?;
    let realm = run::realm_binary()?;
    shell::step("a realm from a Debian kernel", || {
        let mut command = shell::command(realm);
        command.args(["run", "--machine", "hosted", "--json", "-", "--kernel"]).arg(guest.kernel);
        let text = shell::output(command.arg("--initrd").arg(guest.initrd))?;
        let report: serde_json::Value = serde_json::from_str(&text)
            .map_err(|error| shell::Error::Other(format!("`realm run --json -` printed no JSON: {error}")))?;
        let wrong = |what: &str| Err(shell::Error::Other(format!("`realm run`: {what}: {report}")));
        if !report["rim"].is_string() || report["rim"] != report["predicted_rim"] {
            return wrong("the measured RIM is not the predicted one");
        }
        let granules = &report["granules"];
        if granules["leaked"] != 0
            || granules["delegated"] != granules["undelegated"]
            || granules["delegated"] == 0
        {
            return wrong("not every granule came back");
        }
        Ok(())
    })
}

/// The unit tests of the cores under Miri's default borrow model. Property tests run fewer cases there: an interpreter
/// is a thousand times slower. With `quick`, the RMM's tests of whole commands are left out: they take ten minutes.
pub fn miri(quick: bool) -> Result {
    setup::nightly()?;
    let mut command = shell::nightly_cargo();
    command
        .args(["miri", "test", "--locked", "--lib", "--package", "realm-abi", "--package", "realm-host"])
        .args(["--package", "realm-rmm", "--target-dir"])
        .arg(shell::target().join("miri"))
        .env("MIRIFLAGS", "-Zmiri-disable-isolation")
        .env("PROPTEST_CASES", "4");
    if quick {
        command.args(["--", "--skip", "rmi::tests"]);
    }
    check("unit tests under Miri", &mut command)
}

/// Runs fuzz targets for a bounded time.
pub fn fuzz(options: &FuzzOptions) -> Result {
    setup::nightly()?;
    setup::cargo_fuzz()?;
    let targets = if options.targets.is_empty() {
        let listed = shell::output(shell::nightly_cargo().args(["fuzz", "list"]))?;
        listed.lines().map(str::to_owned).collect()
    } else {
        options.targets.clone()
    };
    for target in targets {
        let limit = format!("-max_total_time={}", options.seconds);
        check(
            &format!("fuzz {target}"),
            shell::nightly_cargo().args(["fuzz", "run", &target, "--", &limit, "-verbosity=0"]),
        )?;
    }
    Ok(())
}
