//! The emulated machine: what the Host sees of each call, and where it goes.
//!
//! `payloads/ns-bench` makes the calls and looks at the counter, `xtask/counter` counts in QEMU's translated code. With
//! `-icount shift=0,sleep=off` a tick is an instruction, so both have to find the same, and the bench fails where they do not.

use super::budget::{self, Budget};
use super::profile;
use super::report::write_json;
use super::samples::{self, BOOT, Cost, WORLDS};
use crate::boot::{self, Echo};
use crate::image::{self, Image, Offer};
use crate::machine::Machine;
use crate::setup;
use crate::shell::{self, Error, Result};
use crate::steps::step;
use realm_monitor::layout;
use realm_report::Journal;
use realm_rmm::granule::GranuleEntry;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Memory of the machine.
const MEMORY: &str = "2G";
/// No run takes longer, if the machine it runs on is not a very slow one.
const LIMIT: Duration = Duration::from_secs(300);
/// The runs of the payload's report.
const RUN: &str = "bench";
const REALM_RUN: &str = "realm";
const CPU_RUN: &str = "cpu";
/// Room of the payload.
const PAYLOAD_SIZE: u64 = 16 << 20;

#[derive(Serialize)]
struct Report {
    conditions: Conditions,
    calls: Vec<Cost>,
    budgets: Vec<Budget>,
    realm: RealmTimes,
    boot: Boot,
    images: Vec<ImageSize>,
    memory: Memory,
}

#[derive(Serialize)]
struct Conditions {
    counter: &'static str,
    qemu: String,
    memory: &'static str,
    cpus: u8,
    profile: &'static str,
    realms: &'static str,
    cpu: Vec<String>,
}

/// Medians of a REC_ENTER whose realm makes a host call, by the realm's own look at the counter.
#[derive(Serialize)]
struct RealmTimes {
    /// From the Host's SMC to the realm's first instruction.
    enter: u64,
    /// From the realm's call to the Host.
    exit: u64,
}

/// From reset to the first Non-secure instruction.
#[derive(Serialize)]
struct Boot {
    instructions: u64,
    el3: u64,
    rmm: u64,
}

#[derive(Serialize)]
struct ImageSize {
    image: &'static str,
    bytes: u64,
}

/// What the firmware needs of the machine's memory.
#[derive(Serialize)]
struct Memory {
    /// The RMM's image with its data, stacks and tables.
    rmm: u64,
    /// Its granule table, for each GiB of memory.
    rmm_per_gib: u64,
    /// The monitor's Granule Protection Table, for each GiB.
    gpt_per_gib: u64,
}

/// One run of the machine.
struct Run {
    journal: Journal,
    samples: Vec<samples::Sample>,
}

/// Measures and reports.
pub fn bench(json: Option<&Path>, check: bool) -> Result {
    let run = run(None)?;
    let report = report(run)?;
    if write_json(&report, json)? {
        print(&report);
    }
    let missed: Vec<_> = report.budgets.iter().filter(|budget| budget.is_missed()).collect();
    for Budget { name, budget, measured } in &missed {
        eprintln!("budget {name}: {measured} instructions, not {budget}");
    }
    if check && !missed.is_empty() {
        return Err(Error::Other(format!("{} of {} budgets are missed", missed.len(), report.budgets.len())));
    }
    Ok(())
}

/// Shows in which functions the instructions of the call in the middle of those named `name` are.
pub fn profile(name: &str) -> Result {
    let costs = samples::costs(run(None)?.samples);
    let Some(cost) = costs.iter().find(|cost| cost.name == name) else {
        let names: Vec<_> = costs.iter().map(|cost| cost.name.as_str()).collect();
        return Err(Error::Other(format!(
            "nothing is measured as `{name}`, but these are: {}",
            names.join(", ")
        )));
    };
    // The machine is deterministic: the same sample is the same call again.
    let file = shell::target().join("images/counter.profile");
    run(Some((cost.sample, &file)))?;
    let text = std::fs::read_to_string(&file).map_err(Error::file(&file))?;
    println!("{name}: {} instructions", cost.instructions);
    profile::print(&text, &[Image::Monitor.program(), Image::Rmm.program(), Image::NsBench.program()])
}

/// The plugin for QEMU.
fn plugin() -> Result<PathBuf> {
    step("build the counter", || {
        shell::run(shell::cargo().args([
            "build",
            "--quiet",
            "--release",
            "--locked",
            "--package",
            "qemu-counter",
        ]))
    })?;
    Ok(shell::target().join("release/libqemu_counter.so"))
}

/// Runs the machine, with a profile of one of the plugin's samples if it is asked for.
fn run(profile: Option<(usize, &Path)>) -> Result<Run> {
    setup::qemu()?;
    let plugin = plugin()?;
    let read = |image: Image| {
        let path = image.build()?;
        std::fs::read(&path).map_err(Error::file(&path))
    };
    let offer = Offer { interface: 8, manifest: 5 };
    let flash = image::flash(&read(Image::Monitor)?, &read(Image::Rmm)?, &read(Image::NsBench)?, offer)?;
    let out = shell::target().join("images").join(format!("counter-{}.out", std::process::id()));
    let mut arg = format!("file={},out={}", plugin.display(), out.display());
    let ranges = [
        (0, layout::PACKAGE),
        (layout::RMM.base, layout::RMM.end()),
        (layout::PAYLOAD_BASE, layout::PAYLOAD_BASE + PAYLOAD_SIZE),
    ];
    for (world, (start, end)) in WORLDS.iter().zip(ranges) {
        arg += &format!(",world={world}:{start:x}:{end:x}");
    }
    if let Some((sample, file)) = profile {
        arg += &format!(",profile={sample}:{}", file.display());
    }
    let machine = Machine { smp: 1, memory: MEMORY.into(), icount: true };
    let change = |qemu: &mut Command| {
        qemu.stdin(Stdio::null()).arg("-plugin").arg(&arg);
    };
    let said = step("run the machine", || boot::run(&machine, &flash, Some(LIMIT), Echo::Off, change))?;
    let journal = Journal::read(&said);
    let problems = journal.problems(&[RUN, REALM_RUN, CPU_RUN]);
    if !problems.is_empty() {
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        return Err(Error::Other(format!("the payload: {}", problems.join("; "))));
    }
    let written = std::fs::read_to_string(&out).map_err(Error::file(&out))?;
    std::fs::remove_file(&out).map_err(Error::file(&out))?;
    let samples = samples::join(journal.all_values(RUN), &written)?;
    Ok(Run { journal, samples })
}

fn report(run: Run) -> Result<Report> {
    let Run { journal, samples } = run;
    let calls = samples::costs(samples);
    let budgets = budget::compare(&calls)
        .map_err(|name| Error::Other(format!("there is a budget for {name}, but no measurement")))?;
    let (boot, calls): (Vec<_>, Vec<_>) = calls.into_iter().partition(|cost| cost.name == BOOT);
    let [Cost { instructions, el3, rmm, .. }] = boot.as_slice() else {
        return Err(Error::Other("the payload did not say when it began".into()));
    };
    let boot = Boot { instructions: *instructions, el3: *el3, rmm: *rmm };
    let median = |name: &str| {
        let mut values: Vec<_> = journal.values(REALM_RUN, name).collect();
        values.sort_unstable();
        let middle = values.get((values.len().max(1) - 1) / 2).copied();
        middle.ok_or_else(|| Error::Other(format!("the realm did not measure {name}")))
    };
    let realm = RealmTimes { enter: median("RMI_REC_ENTER/in")?, exit: median("RMI_REC_ENTER/out")? };
    let mut images = Vec::new();
    for (image, name) in [(Image::Monitor, "monitor"), (Image::Rmm, "rmm")] {
        let path = image.build()?;
        images.push(ImageSize {
            image: name,
            bytes: std::fs::metadata(&path).map_err(Error::file(&path))?.len(),
        });
    }
    let granules_per_gib = (1_u64 << 30) / realm_abi::GRANULE_SIZE;
    let memory = Memory {
        rmm: profile::distance(&Image::Rmm.program(), "__image_start", "__free_start")?,
        rmm_per_gib: granules_per_gib * size_of::<GranuleEntry>() as u64,
        gpt_per_gib: realm_monitor::gpt::L1_TABLE_SIZE as u64,
    };
    let qemu = shell::output(Command::new("qemu-system-aarch64").arg("--version"))?;
    let conditions = Conditions {
        counter: "QEMU -icount shift=0,sleep=off: a tick of the counter is an instruction; checked against a count in translated code",
        qemu: qemu.lines().next().unwrap_or_default().to_owned(),
        memory: MEMORY,
        cpus: 1,
        profile: "firmware",
        realms: "8 with SHA-256 and 2 with SHA-512; 40 bits of IPA, two root tables at level 1, three tables to a page",
        cpu: journal.all_values(CPU_RUN).map(|(name, value)| format!("{name} {value}")).collect(),
    };
    Ok(Report { conditions, calls, budgets, realm, boot, images, memory })
}

fn print(report: &Report) {
    let Conditions { qemu, memory, cpus, realms, cpu, .. } = &report.conditions;
    println!("{qemu}, -cpu max,x-rme=on, {cpus} CPU, {memory}: {}", cpu.join(", "));
    println!("Realms: {realms}\n");
    println!("| what | budget | measured |\n|---|---:|---:|");
    for budget in &report.budgets {
        let missed = if budget.is_missed() { " (missed)" } else { "" };
        println!(
            "| {} | {} | {}{missed} |",
            budget.name,
            thousands(budget.budget),
            thousands(budget.measured)
        );
    }
    println!(
        "\n| call | calls | instructions | min | max | EL3 | RMM | realm | barriers | TLBI | cache lines | MRS, MSR | ERET |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    for cost in &report.calls {
        let numbers = [
            cost.calls as u64,
            cost.instructions,
            cost.min,
            cost.max,
            cost.el3,
            cost.rmm,
            cost.realm,
            cost.barriers,
            cost.tlb_invalidations,
            cost.cache_maintenance,
            cost.system_registers,
            cost.exceptions,
        ];
        println!("| {} | {} |", cost.name, numbers.map(thousands).join(" | "));
    }
    let RealmTimes { enter, exit } = report.realm;
    println!("\nREC_ENTER by the realm's counter: {enter} ticks in, {exit} out");
    let Boot { instructions, el3, rmm } = report.boot;
    println!(
        "Boot to the first Non-secure instruction: {} instructions, {} at EL3 and {} in the RMM",
        thousands(instructions),
        thousands(el3),
        thousands(rmm)
    );
    for ImageSize { image, bytes } in &report.images {
        println!("Image {image}: {} bytes", thousands(*bytes));
    }
    let Memory { rmm, rmm_per_gib, gpt_per_gib } = report.memory;
    println!(
        "Memory: RMM {} KiB, and {} KiB for each GiB of DRAM; Granule Protection Table {} KiB for each GiB",
        rmm >> 10,
        rmm_per_gib >> 10,
        gpt_per_gib >> 10
    );
}

/// A number as people read it.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index != 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_commas() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }
}
