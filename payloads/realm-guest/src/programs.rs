//! The programs, chosen by X0 at the entry of the first vCPU.

mod hostile;
mod idle;
mod interrupts;
mod lists;
mod memory;
mod mmio;
mod noisy;
mod overflow;
mod power;
mod psci;
mod rsi;
mod smp;
mod spin;

use crate::report::{self, Run};
use crate::smc;
use crate::vcpu::Start;
use core::sync::atomic::{AtomicUsize, Ordering};

/// A program: what the first vCPU does, and what the others do.
struct Program {
    name: &'static str,
    first: First,
    others: fn(Start) -> !,
}

/// What the first vCPU does.
enum First {
    /// Checks, as a run that is reported.
    Run(fn(&Run)),
    /// Something whose end alone counts, so that it can be done again and again.
    Silent(fn()),
}

const PROGRAMS: [Option<Program>; 14] = [
    Some(Program { name: "rsi", first: First::Run(rsi::run), others: alone }),
    Some(Program { name: "psci", first: First::Run(psci::run), others: psci::secondary }),
    Some(Program { name: "memory", first: First::Run(memory::run), others: alone }),
    Some(Program { name: "mmio", first: First::Run(mmio::run), others: alone }),
    Some(Program { name: "interrupts", first: First::Run(interrupts::run), others: alone }),
    Some(Program { name: "smp", first: First::Run(smp::run), others: smp::secondary }),
    Some(Program { name: "noisy", first: First::Run(noisy::run), others: noisy::secondary }),
    Some(Program { name: "hostile", first: First::Run(hostile::run), others: alone }),
    Some(Program { name: "destroyed", first: First::Run(power::destroyed), others: alone }),
    Some(Program { name: "reset", first: First::Run(power::reset), others: alone }),
    Some(Program { name: "overflow", first: First::Run(overflow::run), others: alone }),
    Some(Program { name: "idle", first: First::Silent(idle::run), others: alone }),
    Some(Program { name: "spin", first: First::Silent(spin::run), others: alone }),
    Some(Program { name: "turns", first: First::Run(noisy::run), others: noisy::secondary }),
];

static CHOSEN: AtomicUsize = AtomicUsize::new(usize::MAX);

fn program(index: usize) -> Option<&'static Program> {
    PROGRAMS.get(index)?.as_ref()
}

/// Runs a program on the first vCPU. It returns to end the realm.
pub fn run(number: u64) {
    let index = usize::try_from(number).unwrap_or(usize::MAX);
    let Some(program) = program(index) else {
        report::failed(format_args!("there is no program {number}"));
        return;
    };
    CHOSEN.store(index, Ordering::Release);
    match program.first {
        First::Run(run) => run(&Run::begin(&program.name)),
        First::Silent(run) => run(),
    }
}

/// What a vCPU does that was turned on.
pub fn secondary(start: Start) -> ! {
    match program(CHOSEN.load(Ordering::Acquire)) {
        Some(program) => (program.others)(start),
        None => smc::system_off(),
    }
}

/// Of a program with one vCPU.
fn alone(start: Start) -> ! {
    report::fail(format_args!("vCPU {} was turned on with {:#x}", start.vcpu, start.context));
}
