//! What has to hold before a change lands.

use crate::image::Image;
use crate::miri::{self, Amount};
use crate::shell::{self, Error, Result};
use crate::steps::{self, Job, step};
use crate::{debian, firmware_tests, fuzz, host_object, host_tests, kernel, run, setup};

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Options {
    /// The nightly-sized run: 10,000 oracle sequences, all of Miri, every fuzz target for two minutes, other Debians.
    #[arg(long)]
    nightly: bool,
    /// Only the boots of the emulated machine.
    #[arg(long)]
    firmware: bool,
    /// Only realms on a Debian kernel.
    #[arg(long)]
    host: bool,
}

/// Runs every check, stopping at the first that fails, and prints what each took.
pub fn test(options: &Options) -> Result {
    steps::timed(|| match options {
        Options { firmware: true, .. } => firmware_tests::all(),
        Options { host: true, nightly, .. } => host_tests::check(amount(*nightly)),
        Options { nightly, .. } => everything(*nightly),
    })
}

const fn amount(nightly: bool) -> host_tests::Amount {
    if nightly { host_tests::ALL } else { host_tests::QUICK }
}

/// What is proved under loom: a package's test that only exists there.
const LOOM: &[(&str, &str)] =
    &[("realm-rmm", "lock_loom"), ("realm-monitor", "gpt_loom"), ("realm-alloc", "arc_loom")];

/// The packages of the images, which are built for the machine itself.
const FIRMWARE: &[&str] = &["monitor", "rmm", "ns-host", "realm-guest", "ns-bench", "realm-host-object"];

fn packages<'a>(names: impl IntoIterator<Item = &'a str>) -> impl Iterator<Item = &'a str> {
    names.into_iter().flat_map(|name| ["--package", name])
}

fn everything(nightly: bool) -> Result {
    setup::stable_components()?;
    step("format", || shell::run(shell::cargo().args(["fmt", "--all", "--check"])))?;
    step("clippy", || {
        let mut clippy = shell::cargo();
        clippy.args(["clippy", "--quiet", "--locked", "--workspace", "--all-targets"]);
        shell::run(clippy.args(["--", "-Dwarnings"]))
    })?;
    setup::firmware_target()?;
    step("clippy of the images", || {
        let mut clippy = shell::cargo();
        clippy.args(["clippy", "--quiet", "--locked"]).args(packages(FIRMWARE.iter().copied()));
        clippy.args(["--target", setup::TARGET, "--profile", "firmware"]);
        shell::run(clippy.args(["--", "-Dwarnings"]))
    })?;
    step("documentation", || {
        let mut doc = shell::cargo();
        doc.args(["doc", "--quiet", "--locked", "--workspace", "--no-deps"]);
        shell::run(doc.env("RUSTDOCFLAGS", "-Dwarnings"))
    })?;
    host_object::check()?;
    step("build the tests", || {
        shell::run(shell::cargo().args(["test", "--quiet", "--locked", "--workspace", "--no-run"]))
    })?;
    step("unit, property and command tests", || {
        let mut tests = shell::cargo();
        tests.args(["test", "--locked", "--workspace"]);
        if nightly {
            tests.env("REALMKIT_ORACLE_CASES", "10000");
        }
        shell::run(&mut tests)
    })?;
    step("every interleaving under loom", || {
        let mut tests = shell::cargo();
        tests.args(["test", "--locked", "--release", "--target-dir"]).arg(shell::target().join("loom"));
        tests.args(packages(LOOM.iter().map(|(package, _)| *package)));
        tests.args(LOOM.iter().flat_map(|(_, test)| ["--test", test]));
        shell::run(tests.env("RUSTFLAGS", "--cfg loom"))
    })?;
    main_job()?;
    setup::qemu()?;
    step("build the images", || Image::ALL.iter().try_for_each(|image| image.build().map(|_| ())))?;
    host_tests::build()?;
    miri::build()?;
    fuzz::build()?;
    // What is left uses one CPU each, or waits. QEMU goes first: it takes longest.
    let mut jobs: Vec<Job<'_>> =
        vec![Box::new(|| host_tests::check(amount(nightly))), Box::new(firmware_tests::all)];
    jobs.extend(miri::jobs(if nightly { Amount::All } else { Amount::Quick }));
    jobs.extend(fuzz::jobs(fuzz::targets()?, if nightly { 120 } else { 5 }));
    steps::together(jobs)?;
    if nightly { debian::everywhere() } else { Ok(()) }
}

/// `cargo xtask run` as a new user would call it, and what it says of the realm.
fn main_job() -> Result {
    let guest = kernel::guest_files()?;
    let realm = run::realm_binary()?;
    step("a realm from a Debian kernel", || {
        let mut command = shell::command(realm);
        command.args(["run", "--machine", "hosted", "--json", "-", "--kernel"]).arg(guest.kernel);
        let text = shell::output(command.arg("--initrd").arg(guest.initrd))?;
        let report: serde_json::Value = serde_json::from_str(&text)
            .map_err(|error| Error::Other(format!("`realm run --json -` printed no JSON: {error}")))?;
        let wrong = |what: &str| Err(Error::Other(format!("`realm run`: {what}: {report}")));
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
