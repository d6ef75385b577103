//! A counter of the realm's PMU that overflows with its interrupt enabled: the realm goes on, and takes each overflow once.

use crate::interrupt::{self, PMU, count};
use crate::report::Run;
use crate::sysreg::{instruction, msr};
use crate::time;

/// The cycle counter in the registers that have a bit for each counter.
const CYCLES: u64 = 1 << 31;
/// PMCR_EL0: E, and LC, so that 64 bits overflow.
const PMCR: u64 = 1 << 0 | 1 << 6;
/// Cycles to an overflow.
const SLICE: u64 = 50_000;
const ROUNDS: u64 = 12;

pub fn run(run: &Run) {
    interrupt::init();
    msr!("pmccfiltr_el0", 0);
    msr!("pmovsclr_el0", u64::MAX);
    msr!("pmcntenset_el0", CYCLES);
    msr!("pmintenset_el1", CYCLES);
    for round in 0..ROUNDS {
        msr!("pmccntr_el0", SLICE.wrapping_neg());
        msr!("pmcr_el0", PMCR);
        instruction!("isb");
        run.check("taken", time::wait_for(|| count(PMU) > round), format_args!("round {round}"));
        msr!("pmcr_el0", 0);
        instruction!("isb");
        run.equal("once", count(PMU), round + 1);
    }
    msr!("pmintenclr_el1", CYCLES);
    msr!("pmcntenclr_el0", CYCLES);
    run.equal("nothing-else", interrupt::uncounted(), 0);
    run.end();
}
