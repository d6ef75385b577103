//! Boots of the firmware with stand-ins for what is around it, each judged by what the machine says.

use crate::boot::{self, Echo};
use crate::image::{self, Image, Offer, Stub};
use crate::linux::{self, Linux};
use crate::machine::Machine;
use crate::resets;
use crate::setup;
use crate::shell::{Error, Result};
use crate::steps::step;
use realm_abi::rmi::HashAlgorithm;
use realm_attest::rim::{RealmParameters, RimPredictor};
use realm_attest::token::{Expectations, PublicKey, Token, verify};
use realm_report::Journal;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// All of them.
pub fn all() -> Result {
    step("a barrier behind each exception return", check_barriers)?;
    step("the monitor with stand-ins around it", check_monitor)?;
    step("the monitor on CPUs that lack something", check_lacking)?;
    step("the monitor after resets from outside", check_resets)?;
    step("monitor and RMM by their oldest and newest interface", check_interfaces)?;
    step("monitor and RMM with 40 GiB of memory", check_large)?;
    step("the RMM below a foreign EL3", check_foreign_el3)?;
    step("realms on a Non-secure host", check_host)?;
    step("a Debian kernel on the monitor", check_linux)
}

/// Fails if an image has an ERET without a barrier behind it: a CPU may execute ahead of one what is there.
fn check_barriers() -> Result {
    for image in [Image::Monitor, Image::Rmm, Image::RealmGuest, Image::NsHost] {
        let path = image.build()?;
        let program = std::fs::read(&path).map_err(Error::file(&path))?;
        let found = image::unguarded_returns(&program);
        if found.returns == 0 || !found.unguarded.is_empty() {
            return Err(Error::Other(format!("{}: {found:x?}", path.display())));
        }
    }
    Ok(())
}

/// What the RMM is offered where nothing else is said: the newest.
const NEWEST: Offer = Offer { interface: 8, manifest: 5 };
/// The oldest the RMM runs with.
const OLDEST: Offer = Offer { interface: 3, manifest: 3 };

/// Most that a boot may take: several times what it needs on two busy cores.
const LIMIT: Duration = Duration::from_secs(300);

/// A boot that has to end by itself.
struct Boot<'a> {
    monitor: PathBuf,
    rmm: PathBuf,
    payload: PathBuf,
    offer: Offer,
    cpus: u8,
    memory: &'a str,
}

impl Boot<'_> {
    /// Monitor and RMM of this repository with the newest interface between them, on two CPUs with 2 GiB.
    fn of(payload: PathBuf) -> Result<Self> {
        Ok(Self {
            monitor: Image::Monitor.build()?,
            rmm: Image::Rmm.build()?,
            payload,
            offer: NEWEST,
            cpus: 2,
            memory: "2G",
        })
    }

    /// The machine, and what is in its flash.
    fn prepare(&self) -> Result<(Machine, Vec<u8>)> {
        setup::qemu()?;
        let read = |path: &PathBuf| std::fs::read(path).map_err(Error::file(path));
        let flash =
            image::flash(&read(&self.monitor)?, &read(&self.rmm)?, &read(&self.payload)?, self.offer)?;
        Ok((Machine { smp: self.cpus, memory: self.memory.into(), icount: false }, flash))
    }

    /// Runs it and returns what it said.
    fn console(&self, change: impl FnOnce(&Machine, &mut Command)) -> Result<String> {
        let (machine, flash) = self.prepare()?;
        let quiet = |qemu: &mut Command| {
            qemu.stdin(Stdio::null());
            change(&machine, qemu);
        };
        boot::run(&machine, &flash, Some(LIMIT), Echo::Off, quiet)
    }
}

/// Fails with the whole console if a line is missing.
fn has_lines(said: &str, lines: &[&str]) -> Result {
    match lines.iter().find(|line| !said.lines().any(|found| found == **line)) {
        None => Ok(()),
        Some(line) => Err(Error::Other(format!("the machine did not say `{line}` but:\n{said}"))),
    }
}

/// Fails with the whole console unless exactly these runs passed.
fn has_passed(said: &str, runs: &[&str]) -> Result {
    let problems = Journal::read(said).problems(runs);
    if problems.is_empty() {
        return Ok(());
    }
    let problems: String = problems.iter().map(|problem| format!("\n    {problem}")).collect();
    Err(Error::Other(format!("the machine's reports:{problems}\n  all it said:\n{said}")))
}

/// What the stub payload says of a monitor that does all it asks.
const STUB_SAYS: &[&str] = &[
    "payload: device tree at 0x40000000, magic 0xd00dfeed",
    "payload: EL2",
    "payload: PSCI 10001 SMCCC 10003",
    "payload: VERSION [0, 10000, 10000, 0]",
    "payload: granule: 0 -3 0",
    "payload: above 4 GiB: 0 -3 0",
    "payload: rmm: -3 -3 -2",
    "payload: uart: -3 -3 -3",
    "payload: unaligned: -2 -2 -2",
    "payload: GTSI from here -1",
    "payload: interrupt in the Realm world: 0 ISR 0x80",
    "payload: CPU_SUSPEND 0",
    "payload: CPU 1 was on",
    "payload: CPU_ON 2: -2",
    "payload: an access of the RMM: 0 ESR 0x2000000 SPSR 0x600003c9",
    "payload: a fault of the RMM: -1 -1, left 0x0 0x0 0x0",
];

/// Boots the monitor with the stubs and checks every answer it gives them.
fn check_monitor() -> Result {
    let boot = Boot { rmm: Stub::Rmm.build()?, memory: "4G", ..Boot::of(Stub::Payload.build()?)? };
    has_lines(&boot.console(|_, _| ())?, STUB_SAYS)
}

/// Boots CPUs without what the firmware needs: it says what, and turns the machine off. The last `-cpu` counts.
fn check_lacking() -> Result {
    for (cpu, feature) in [("max,x-rme=on,pauth=off", "PAuth"), ("max", "RME")] {
        let boot = Boot { rmm: Stub::Rmm.build()?, ..Boot::of(Stub::Payload.build()?)? };
        let said = boot.console(|_, qemu| {
            qemu.args(["-cpu", cpu]);
        })?;
        let expected = format!("monitor: cannot boot: the CPU lacks {feature}");
        if said.trim() != expected {
            return Err(Error::Other(format!("`-cpu {cpu}` did not say `{expected}` alone but:\n{said}")));
        }
    }
    Ok(())
}

/// Resets a machine of four CPUs again and again, and once one with more CPUs than a cluster has.
fn check_resets() -> Result {
    // A boot that does not come to its end is one too many: it needs no more than a second.
    const LIMIT: Duration = Duration::from_secs(120);
    for (cpus, resets) in [(4, 40), (40, 1)] {
        let boot = Boot { rmm: Stub::Rmm.build()?, cpus, ..Boot::of(Stub::Waiting.build()?)? };
        let (machine, flash) = boot.prepare()?;
        resets::run(&machine, &flash, resets, LIMIT)?;
    }
    Ok(())
}

/// The runs of the Host with realms made by hand.
const STUB_HOST_RUNS: &[&str] =
    &["first", "second", "second-again", "realm", "realm-again", "probe", "on-and-off"];
/// And those on the monitor, which can reset the machine, suspend a CPU, and lets a world go on whose access it refuses.
const MONITOR_RUNS: &[&str] = &[
    "before-reset",
    "after-reset",
    "calls",
    "reflected",
    "undefined",
    "second-anew",
    "left-behind",
    "suspended",
    "second-resumed",
];

/// Boots monitor and RMM with the oldest interface between them and with the newest.
fn check_interfaces() -> Result {
    for offer in [OLDEST, NEWEST] {
        let boot = Boot { offer, ..Boot::of(Stub::Host.build()?)? };
        let said = boot.console(|_, _| ())?;
        has_passed(&said, &[MONITOR_RUNS, STUB_HOST_RUNS].concat())?;
    }
    Ok(())
}

/// The runs of the Non-secure host and of the realms it makes.
const HOST_RUNS: &[&str] = &[
    "host",
    "attacks",
    "rsi",
    "psci",
    "memory",
    "mmio",
    "interrupts",
    "smp",
    "noisy",
    "turns",
    "overflow",
    "hostile",
    "destroyed",
    "reset",
];

/// Boots everything: the Host core on bare metal and the realms it makes, of memory above 4 GiB.
fn check_host() -> Result {
    let boot = Boot { cpus: 4, memory: "6G", ..Boot::of(Image::NsHost.build()?)? };
    let said = boot.console(|_, _| ())?;
    has_passed(&said, HOST_RUNS)?;
    check_token(&said).map_err(|why| Error::Other(format!("the token of the realm `rsi`: {why}")))
}

/// Verifies the token the realm program `rsi` has printed, as a relying party would that knows the machine's key and what the Host
/// of this repository puts into that realm.
fn check_token(said: &str) -> std::result::Result<(), String> {
    let challenge: Vec<u8> = (0..8).flat_map(|n: u64| (0x6368_616c_6c65_6e00 + n).to_le_bytes()).collect();
    let rim = rim_of_rsi(&Journal::read(said)).map_err(|why| why.to_string())?;
    verify_token(said, &rim, &challenge)
}

/// Verifies the token that is printed in lines `token DIGITS`.
pub fn verify_token(said: &str, rim: &[u8], challenge: &[u8]) -> std::result::Result<(), String> {
    let digits: String = said.lines().filter_map(|line| line.strip_prefix("token ")).collect();
    let bytes = hex::decode(digits).map_err(|why| why.to_string())?;
    let token = Token::decode(&bytes).map_err(|why| why.to_string())?;
    let key = include_bytes!("../../attest/keys/test-platform-key.pub.pem");
    let key = PublicKey::parse(key).map_err(|why| why.to_string())?;
    let expectations = Expectations {
        platform_key: &key,
        secured: true,
        rim: Some(rim),
        rpv: Some(&[0; 64]),
        challenge: Some(challenge),
    };
    let report = verify(&token, &expectations);
    match report.checks.iter().find(|check| !check.ok) {
        None => Ok(()),
        Some(check) => Err(format!("{}: {}, not {}", check.name, check.found, check.expected)),
    }
}

/// The RIM of the realm that runs `rsi`, as `payloads/ns-host` makes it: 16 MiB of RAM with the realm programs at its start, one vCPU,
/// and all the breakpoints and watchpoints that the machine has, which the Host tells.
fn rim_of_rsi(journal: &Journal) -> Result<Vec<u8>> {
    const RAM: u64 = 0x8000_0000;
    let told = |name| {
        let mut values = journal.values("host", name);
        let value = values.next().and_then(|value| u8::try_from(value).ok());
        value.ok_or_else(|| Error::Other(format!("the host does not tell `{name}`")))
    };
    let parameters = RealmParameters {
        ipa_bits: 33,
        hash: HashAlgorithm::SHA_256,
        lpa2: false,
        sve_vl: None,
        num_bps: told("breakpoints")?,
        num_wps: told("watchpoints")?,
        pmu_num_ctrs: None,
    };
    let path = Image::RealmGuest.build()?;
    let mut image = std::fs::read(&path).map_err(Error::file(&path))?;
    image.resize(image.len().next_multiple_of(4096), 0);
    let size = image.len() as u64;
    let mut rest = image.as_slice();
    let mut predictor = RimPredictor::new(&parameters).map_err(|why| Error::Other(why.to_string()))?;
    predictor.init_ripas(RAM, 16 << 20).map_err(|why| Error::Other(why.to_string()))?;
    let mut read = |out: &mut [u8]| -> std::result::Result<(), std::convert::Infallible> {
        let (now, later) = rest.split_at(out.len());
        out.copy_from_slice(now);
        rest = later;
        Ok(())
    };
    predictor.populate(RAM, size, true, &mut read).map_err(|why| Error::Other(format!("{why:?}")))?;
    predictor.rec(RAM, &[], true).map_err(|why| Error::Other(why.to_string()))?;
    Ok(predictor.rim().as_bytes().to_vec())
}

/// Boots a machine on which the RMM needs more memory than is behind its image. The machine that emulates it need not have
/// as much.
fn check_large() -> Result {
    let boot = Boot { memory: "40G", ..Boot::of(Stub::Host.build()?)? };
    let said = boot.console(|machine, qemu| {
        let backend = format!("memory-backend-ram,id=memory,size={},reserve=off", machine.memory);
        qemu.args(["-object", &backend, "-M", "memory-backend=memory"]);
    })?;
    has_passed(&said, &[MONITOR_RUNS, STUB_HOST_RUNS].concat())
}

/// Boots the RMM below an EL3 that is not the monitor, with and without a console. That EL3 announces more CPUs and memory than there
/// are, and breaks the RMM at last, or one of its counts.
fn check_foreign_el3() -> Result {
    /// With this interface it does not break the RMM but one of its counts.
    const MISCOUNT: Offer = Offer { interface: 7, ..NEWEST };
    for offer in [OLDEST, NEWEST, MISCOUNT] {
        let of_stub = Boot { memory: "1536M", ..Boot::of(Stub::Host.build()?)? };
        let boot = Boot { monitor: Stub::El3.build()?, offer, ..of_stub };
        let said = boot.console(|_, _| ())?;
        for cpu in 0..2 {
            has_lines(&said, &[&format!("el3: CPU {cpu}: the RMM's boot ended with 0")])?;
        }
        if offer.interface == MISCOUNT.interface {
            has_passed(&said, &[STUB_HOST_RUNS, &["absent", "stopped"]].concat())?;
            has_lines(&said, &["RMM: the RMM stops: Count is not what it must be"])?;
            continue;
        }
        has_passed(&said, &[STUB_HOST_RUNS, &["absent", "broken"]].concat())?;
        let told = said.contains("RMM: exception in the RMM: ESR 0x86000005 ELR 0x0 ");
        if told != (offer.manifest != OLDEST.manifest) {
            return Err(Error::Other(format!(
                "the RMM's end is on a console that is not its own, or not on its:\n{said}"
            )));
        }
    }
    Ok(())
}

/// Boots a stock Linux as the Non-secure world. It has memory above 4 GiB.
fn check_linux() -> Result {
    let linux = Linux::prepare()?;
    let boot = Boot { memory: "5G", ..Boot::of(linux.kernel.clone())? };
    has_passed(&boot.console(|machine, qemu| linux.add_to(machine, qemu))?, &[linux::RUN])
}
