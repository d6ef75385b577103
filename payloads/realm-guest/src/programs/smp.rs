//! Four vCPUs: turned on and off, SGIs, shared memory, translations that change under them.

use crate::interrupt;
use crate::memory::{self, FREE, PAGE, WINDOW};
use crate::report::{self, Run};
use crate::vcpu::{self, MAX_VCPUS, Start};
use crate::{smc, time};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use realm_abi::psci::{PsciCall, PsciStatus, fid};

/// The SGI of the ring, and the one that only wakes.
const RING: usize = 1;
const WAKE: u64 = 2;
const LAPS: u64 = 20;
const ADDITIONS: u64 = 2000;
const LIVES: u64 = 4;

/// What the others are to do: everything up to this step.
static STEP: AtomicU64 = AtomicU64::new(0);
/// Steps each vCPU has done, and what it found.
static DONE: [AtomicU64; MAX_VCPUS] = [const { AtomicU64::new(0) }; MAX_VCPUS];
static FOUND: [AtomicU64; MAX_VCPUS] = [const { AtomicU64::new(0) }; MAX_VCPUS];
static LIFE: [AtomicU64; MAX_VCPUS] = [const { AtomicU64::new(0) }; MAX_VCPUS];
static LOCK: AtomicBool = AtomicBool::new(false);

const STEP_RING: u64 = 1;
const STEP_ADD: u64 = 2;
const STEP_WINDOW: u64 = 3;
const STEP_WINDOW_MOVED: u64 = 4;
const STEP_OFF: u64 = 5;

/// Words several vCPUs use.
const SUM: u64 = FREE;
const SHARED: u64 = FREE + PAGE;
const PAGES: [u64; 2] = [FREE + 2 * PAGE, FREE + 3 * PAGE];

fn others() -> impl Iterator<Item = usize> {
    1..MAX_VCPUS
}

/// Everybody but the first vCPU.
const OTHERS: u64 = 0b1110;

/// Lets the others do the next step, and does `own` meanwhile.
fn together(run: &Run, check: &str, step: u64, own: impl FnOnce()) {
    run.state(check);
    STEP.store(step, Ordering::Release);
    interrupt::send(WAKE, OTHERS);
    own();
    let all = || others().all(|vcpu| DONE[vcpu].load(Ordering::Acquire) == step);
    run.check(check, time::wait_for(all), format_args!("{DONE:?}"));
}

fn found() -> [u64; MAX_VCPUS - 1] {
    core::array::from_fn(|n| FOUND[n + 1].load(Ordering::Acquire))
}

fn turn_on(vcpu: usize, life: u64) -> PsciStatus {
    let entry_point = vcpu::secondary_entry();
    let context_id = life << 8 | vcpu as u64;
    smc::psci(&PsciCall::CpuOn { smc64: true, target_cpu: vcpu as u64, entry_point, context_id })
}

pub fn run(run: &Run) {
    interrupt::init();
    run.state("turning on");
    for vcpu in others() {
        run.equal("on", turn_on(vcpu, 1), PsciStatus::SUCCESS);
    }
    let alive = || others().all(|vcpu| LIFE[vcpu].load(Ordering::Acquire) == 1);
    run.check("alive", time::wait_for(alive), format_args!("{LIFE:?}"));

    together(run, "ring", STEP_RING, ring);
    run.equal("ring-laps", [0, 1, 2, 3].map(|vcpu| interrupt::count_of(vcpu, RING)), [LAPS; 4]);

    together(run, "sum", STEP_ADD, add);
    let sums = (memory::read(SUM), memory::read(SHARED));
    run.equal("sums", sums, (MAX_VCPUS as u64 * ADDITIONS, MAX_VCPUS as u64 * ADDITIONS));

    for (page, value) in PAGES.into_iter().zip([0x1111, 0x2222]) {
        memory::write(page, value);
    }
    memory::map_window(Some(PAGES[0]));
    together(run, "window", STEP_WINDOW, || ());
    run.equal("window-seen", found(), [0x1111; 3]);
    memory::map_window(Some(PAGES[1]));
    together(run, "window-moved", STEP_WINDOW_MOVED, || ());
    run.equal("window-moved-seen", found(), [0x2222; 3]);

    together(run, "off", STEP_OFF, || ());
    for life in 2..=LIVES {
        run.state("off and on again");
        for vcpu in others() {
            let info = || smc::call(&[fid::AFFINITY_INFO_64, vcpu as u64]);
            run.check("is-off", time::wait_for(|| info()[0] == 1), format_args!("{:x?}", info()[0]));
        }
        for vcpu in others() {
            run.equal("on-again", turn_on(vcpu, life), PsciStatus::SUCCESS);
        }
        let alive = || others().all(|vcpu| LIFE[vcpu].load(Ordering::Acquire) == life);
        run.check("alive-again", time::wait_for(alive), format_args!("{LIFE:?}"));
    }
    // The last lives never end by themselves: SYSTEM_OFF comes while they run.
    run.end();
}

/// An SGI comes round: each vCPU passes it on to the next.
fn ring() {
    let me = vcpu::vcpu();
    let next = 1 << ((me + 1) % MAX_VCPUS);
    for lap in 1..=LAPS {
        if me == 0 {
            interrupt::send(RING as u64, next);
        }
        while interrupt::count(RING) < lap {
            interrupt::sleep_unless(|| interrupt::count(RING) >= lap);
        }
        if me != 0 {
            interrupt::send(RING as u64, next);
        }
    }
}

/// Adds to two words: one under a lock, one atomically.
fn add() {
    let (shared, sum) = (memory::atomic(SHARED), memory::atomic(SUM));
    for _ in 0..ADDITIONS {
        shared.fetch_add(1, Ordering::Relaxed);
        while LOCK.swap(true, Ordering::Acquire) {
            core::hint::spin_loop();
        }
        // Two accesses: only the lock makes one of them.
        sum.store(sum.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        LOCK.store(false, Ordering::Release);
    }
}

pub fn secondary(start: Start) -> ! {
    let (vcpu, life) = (start.vcpu, start.context >> 8);
    assert!(start.context & 0xff == vcpu as u64 && start.others == 0, "{start:x?}");
    interrupt::init();
    LIFE[vcpu].store(life, Ordering::Release);
    if life == LIVES {
        loop {
            core::hint::spin_loop();
        }
    }
    if life > 1 {
        off();
    }
    for step in STEP_RING..=STEP_OFF {
        while STEP.load(Ordering::Acquire) < step {
            interrupt::sleep_unless(|| STEP.load(Ordering::Acquire) >= step);
        }
        match step {
            STEP_RING => ring(),
            STEP_ADD => add(),
            STEP_WINDOW | STEP_WINDOW_MOVED => {
                FOUND[vcpu].store(memory::read(WINDOW), Ordering::Release);
            }
            _ => {}
        }
        DONE[vcpu].store(step, Ordering::Release);
    }
    off()
}

fn off() -> ! {
    vcpu::mask();
    let back = smc::psci(&PsciCall::CpuOff);
    report::fail(format_args!("CPU_OFF came back with {back}"));
}
