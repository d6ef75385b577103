//! The programs, chosen by X0 at the entry of the first vCPU.

mod hostile;
mod idle;
mod interrupts;
mod memory;
mod mmio;
mod noisy;
mod power;
mod psci;
mod rsi;
mod smp;

use crate::report::{self, Run};
use crate::{boot, smc};
use core::sync::atomic::{AtomicUsize, Ordering};

/// What a vCPU that was turned on starts with.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Which vCPU it is.
    pub vcpu: usize,
    /// X0.
    pub context: u64,
    /// X1 to X30, all bits that are one in any of them.
    pub others: u64,
}

/// A program: what the first vCPU does, and what the others do.
struct Program {
    name: &'static str,
    first: fn(&Run),
    others: fn(Start) -> !,
}

const PROGRAMS: [Option<Program>; 12] = [
    Some(Program { name: "rsi", first: rsi::run, others: alone }),
    Some(Program { name: "psci", first: psci::run, others: psci::secondary }),
    Some(Program { name: "memory", first: memory::run, others: alone }),
    Some(Program { name: "mmio", first: mmio::run, others: alone }),
    Some(Program { name: "interrupts", first: interrupts::run, others: alone }),
    Some(Program { name: "smp", first: smp::run, others: smp::secondary }),
    Some(Program { name: "noisy", first: noisy::run, others: noisy::secondary }),
    Some(Program { name: "hostile", first: hostile::run, others: alone }),
    Some(Program { name: "destroyed", first: power::destroyed, others: alone }),
    Some(Program { name: "reset", first: power::reset, others: alone }),
    None,
    Some(Program { name: "idle", first: idle::run, others: alone }),
];

static CHOSEN: AtomicUsize = AtomicUsize::new(usize::MAX);

fn program(index: usize) -> Option<&'static Program> {
    PROGRAMS.get(index)?.as_ref()
}

/// The name of a program.
pub fn name(index: usize) -> Option<&'static str> {
    program(index).map(|program| program.name)
}

/// Runs a program on the first vCPU. It returns to end the realm.
pub fn run(number: u64) {
    let index = usize::try_from(number).unwrap_or(usize::MAX);
    let Some(program) = program(index) else {
        report::failed(format_args!("there is no program {number}"));
        return;
    };
    CHOSEN.store(index, Ordering::Release);
    (program.first)(&Run::begin(index, program.name));
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
    boot::fail(format_args!("vCPU {} was turned on with {:#x}", start.vcpu, start.context));
}
