//! Timers, shared interrupts, SGIs to oneself, and the counters.

use super::lists;
use crate::device::{self, Command};
use crate::exception::{UNDEFINED, attempt};
use crate::interrupt::{
    self, ENABLE, IMASK, ISTATUS, PHYSICAL_TIMER, SPURIOUS, VIRTUAL_TIMER, count, sleep_unless,
};
use crate::report::Run;
use crate::sysreg::{instruction, mrs, msr};
use crate::time::{self, micros, now};
use crate::vcpu;

/// A line of the VMM.
const LINE: usize = 42;
/// ICC_RPR_EL1 while no interrupt is handled.
const IDLE: u64 = 0xff;
/// ISR_EL1: an IRQ is pending.
const ISR_I: u64 = 1 << 7;

/// One of the two timers.
struct Timer {
    name: &'static str,
    intid: usize,
    set: fn(cval: u64, ctl: u64),
    ctl: fn() -> u64,
    /// The value in the register and the timer's distance to it.
    values: fn() -> (u64, u64),
}

const TIMERS: [Timer; 2] = [
    Timer {
        name: "virtual",
        intid: VIRTUAL_TIMER,
        set: |cval, ctl| {
            msr!("cntv_cval_el0", cval);
            msr!("cntv_ctl_el0", ctl);
            instruction!("isb");
        },
        ctl: || mrs!("cntv_ctl_el0"),
        values: || (mrs!("cntv_cval_el0"), mrs!("cntv_tval_el0")),
    },
    Timer {
        name: "physical",
        intid: PHYSICAL_TIMER,
        set: |cval, ctl| {
            msr!("cntp_cval_el0", cval);
            msr!("cntp_ctl_el0", ctl);
            instruction!("isb");
        },
        ctl: || mrs!("cntp_ctl_el0"),
        values: || (mrs!("cntp_cval_el0"), mrs!("cntp_tval_el0")),
    },
];

pub fn run(run: &Run) {
    counters(run);
    interrupt::init();
    for timer in &TIMERS {
        run.state(timer.name);
        one_timer(run, timer);
        masked(run, timer);
    }
    both(run);
    wait_with_timeout(run);
    line(run);
    own_sgi(run);
    lists::run(run);
    run.equal("nothing-else", interrupt::uncounted(), 0);
    run.end();
}

/// Physical and virtual count are one, and only grow.
fn counters(run: &Run) {
    run.state("counters");
    let read = || {
        let before = now();
        instruction!("isb");
        let physical = mrs!("cntpct_el0");
        instruction!("isb");
        (before, physical, mrs!("cntvct_el0"))
    };
    let mut last = 0;
    let mut good = true;
    for _ in 0..1000 {
        let (before, physical, after) = read();
        good &= last <= before && before <= physical && physical <= after;
        last = after;
    }
    run.check("counters", good, format_args!("{:x?}", read()));
    run.check("frequency", mrs!("cntfrq_el0") >= 1_000_000, format_args!("{}", mrs!("cntfrq_el0")));
}

fn one_timer(run: &Run, timer: &Timer) {
    let name = timer.name;
    for nap in [200, 2000] {
        let before = count(timer.intid);
        let until = now() + micros(nap);
        (timer.set)(until, ENABLE);
        // A WFI may end at any time, without a reason too: how many it takes says nothing (Arm ARM, Wait for Interrupt).
        while count(timer.intid) == before {
            sleep_unless(|| count(timer.intid) != before);
        }
        run.check(name, now() >= until, format_args!("too early"));
        run.equal(name, count(timer.intid), before + 1);
        // The handler has masked it; it is still due.
        run.equal(name, (timer.ctl)(), ENABLE | IMASK | ISTATUS);
    }
    // One that is due already fires at once, without a sleep.
    let before = count(timer.intid);
    (timer.set)(0, ENABLE);
    run.check(name, time::wait_for(|| count(timer.intid) == before + 1), format_args!("not fired"));
    // Neither one that is masked nor one that is off; and what they show.
    let before = count(timer.intid);
    (timer.set)(now() + micros(300), ENABLE | IMASK);
    run.equal(name, (timer.ctl)() & (ENABLE | IMASK), ENABLE | IMASK);
    run.check(name, time::wait_for(|| (timer.ctl)() & ISTATUS != 0), format_args!("not due"));
    (timer.set)(now(), 0);
    run.equal(name, (timer.ctl)() & (ENABLE | IMASK), 0);
    let until = now() + micros(1000);
    while now() < until {}
    run.equal(name, count(timer.intid), before);
    // Not due: the status says so.
    (timer.set)(u64::MAX >> 1, ENABLE);
    run.equal(name, (timer.ctl)(), ENABLE);
    let before = now();
    let (cval, tval) = (timer.values)();
    let after = now();
    run.equal(name, cval, u64::MAX >> 1);
    // The lower half of the distance at a moment between the two.
    let ago = (cval - before).wrapping_sub(tval) & 0xffff_ffff;
    run.check(name, ago <= after - before, format_args!("TVAL {tval:#x}, {before:#x} to {after:#x}"));
    (timer.set)(0, 0);
}

/// An interrupt that PSTATE or the priority mask keeps away still ends a sleep, is seen pending, and comes later.
fn masked(run: &Run, timer: &Timer) {
    let name = timer.name;
    let before = count(timer.intid);
    vcpu::mask();
    (timer.set)(now() + micros(500), ENABLE);
    let end = now() + micros(20_000_000);
    while mrs!("isr_el1") & ISR_I == 0 && now() < end {
        instruction!("wfi");
    }
    run.equal(name, mrs!("isr_el1") & ISR_I, ISR_I);
    // ICC_HPPIR1_EL1.
    run.equal(name, mrs!("S3_0_C12_C12_2"), timer.intid as u64);
    run.equal(name, count(timer.intid), before);
    vcpu::unmask();
    run.check(name, time::wait_for(|| count(timer.intid) == before + 1), format_args!("not after unmasking"));

    interrupt::set_priority_mask(0);
    (timer.set)(0, ENABLE);
    let until = now() + micros(1000);
    while now() < until {}
    run.equal(name, count(timer.intid), before + 1);
    interrupt::set_priority_mask(0xff);
    run.check(name, time::wait_for(|| count(timer.intid) == before + 2), format_args!("not after PMR"));
    // ICC_RPR_EL1, ICC_IAR1_EL1.
    run.equal(name, mrs!("S3_0_C12_C11_3"), IDLE);
    run.equal(name, mrs!("S3_0_C12_C12_0"), SPURIOUS);
    (timer.set)(0, 0);
}

fn both(run: &Run) {
    run.state("both timers");
    let before = TIMERS.each_ref().map(|timer| count(timer.intid));
    for round in 1..=20 {
        for timer in &TIMERS {
            (timer.set)(now() + micros(50), ENABLE);
        }
        for (timer, before) in TIMERS.iter().zip(before) {
            while count(timer.intid) < before + round {
                sleep_unless(|| count(timer.intid) >= before + round);
            }
        }
    }
    let after = TIMERS.each_ref().map(|timer| count(timer.intid));
    run.equal("both", after, before.map(|before| before + 20));
}

/// WFIT is woken by a timer, if the CPU has it: the realm's ID registers do not tell. Its own time never comes, so only the
/// interrupt ends a wait for good. It may end early any number of times, and does on a CPU that traps it without saying which
/// register has the time (QEMU 10.0.13); and QEMU 10.0.2 reports it as a WFI, so that it ends by itself is not tried.
fn wait_with_timeout(run: &Run) {
    const NEVER: u64 = u64::MAX;
    run.state("WFIT");
    for timer in &TIMERS {
        let (before, until) = (count(timer.intid), now() + micros(1000));
        (timer.set)(until, ENABLE);
        let mut missing = None;
        while count(timer.intid) == before && missing.is_none() {
            vcpu::mask();
            if count(timer.intid) == before {
                // WFIT X9.
                missing = attempt!(".inst 0xd5031029", in("x9") NEVER).err();
            }
            vcpu::unmask();
            instruction!("isb");
        }
        match missing {
            Some(fault) => run.equal("wfit", fault.esr, UNDEFINED),
            None => run.equal("wfit", (count(timer.intid), now() >= until), (before + 1, true)),
        }
        (timer.set)(0, 0);
    }
}

fn line(run: &Run) {
    run.state("a shared interrupt");
    for round in 1..=3 {
        run.equal("line-high", device::control(Command::SpiHigh(LINE as u64)), 0);
        run.check("line", time::wait_for(|| count(LINE) == round), format_args!("{}", count(LINE)));
    }
    // Kept away, it is pending until it is low.
    vcpu::mask();
    device::give(Command::SpiHigh(LINE as u64));
    run.check("line-pending", time::wait_for(|| mrs!("isr_el1") & ISR_I != 0), format_args!("not"));
    device::give(Command::SpiLow(LINE as u64));
    run.check("line-gone", time::wait_for(|| mrs!("isr_el1") & ISR_I == 0), format_args!("still"));
    vcpu::unmask();
    instruction!("isb");
    run.equal("line-not-taken", count(LINE), 3);
}

fn own_sgi(run: &Run) {
    run.state("SGIs");
    for sgi in [0, 7, 15] {
        interrupt::send(sgi, 1);
        run.check("sgi", time::wait_for(|| count(sgi as usize) == 1), format_args!("not taken"));
    }
    // To a vCPU that does not exist, and to all others, of whom there are none.
    interrupt::send(3, 1 << 9);
    interrupt::send(3, 1 << 40);
    // Taken in one go when they can be.
    vcpu::mask();
    interrupt::send(1, 1);
    interrupt::send(2, 1);
    interrupt::send(1, 1);
    vcpu::unmask();
    run.check("sgis", time::wait_for(|| (count(1), count(2)) == (1, 1)), format_args!("not taken"));
    run.equal("sgi-nobody", count(3), 0);
}
