//! The smallest Host: on every CPU it delegates granules and takes them back, and on the first it makes realms by hand,
//! runs them and destroys them, one after the other. It knows nothing of EL3 and RMM but their interfaces. Reports as crate `realm-report` says.
#![no_std]
#![no_main]

#[path = "stub_host/realm.rs"]
mod realm;
#[path = "stub_host/undefined.rs"]
mod undefined;
#[path = "uart.rs"]
mod uart;

use core::arch::{asm, global_asm};
use core::fmt::Write;
use core::sync::atomic::{AtomicU64, Ordering};
use uart::Uart;

global_asm!(
    r#"
    .section .text.start, "ax"
    .global _start
_start:
    adrp    x1, _start
    add     sp, x1, #0x200000
    b       {main}
    .global second
second:
    adrp    x1, _start
    add     sp, x1, #0x210000
    b       {second_main}
"#,
    main = sym main,
    second_main = sym second_main
);
global_asm!(include_str!("stub_realm.s"));

unsafe extern "C" {
    fn second();
    static realm_start: u8;
}

/// A run of checks under one name.
struct Run {
    name: &'static str,
    checks: u32,
}

impl Run {
    fn begin(name: &'static str) -> Self {
        let _ = writeln!(Uart, "@begin {name}");
        Self { name, checks: 0 }
    }
    fn equal(&mut self, check: &str, found: u64, expected: u64) {
        self.checks += 1;
        let _ = if found == expected {
            writeln!(Uart, "@ok {} {check}", self.name)
        } else {
            writeln!(Uart, "@bad {} {check}: {found:#x}, not {expected:#x}", self.name)
        };
    }
    fn end(self) {
        let _ = writeln!(Uart, "@end {} {}", self.name, self.checks);
    }
}

/// X0 to X5 after a call with these from X0 on.
fn smc(args: &[u64]) -> [u64; 6] {
    let mut regs = [0; 6];
    regs[..args.len()].copy_from_slice(args);
    // SAFETY: the calls made here change only memory that is meant to change.
    unsafe {
        asm!(
            "smc #0",
            inout("x0") regs[0], inout("x1") regs[1], inout("x2") regs[2], inout("x3") regs[3], inout("x4") regs[4],
            inout("x5") regs[5],
        );
    }
    regs
}

const VERSION: u64 = 0xc400_0150;
const DELEGATE: u64 = 0xc400_0151;
const UNDELEGATE: u64 = 0xc400_0152;
const DATA_CREATE: u64 = 0xc400_0153;
const DATA_DESTROY: u64 = 0xc400_0155;
const REALM_ACTIVATE: u64 = 0xc400_0157;
const REALM_CREATE: u64 = 0xc400_0158;
const REALM_DESTROY: u64 = 0xc400_0159;
const REC_CREATE: u64 = 0xc400_015a;
const REC_DESTROY: u64 = 0xc400_015b;
const REC_ENTER: u64 = 0xc400_015c;
const RTT_CREATE: u64 = 0xc400_015d;
const RTT_DESTROY: u64 = 0xc400_015e;
const RTT_MAP_UNPROTECTED: u64 = 0xc400_015f;
const RTT_UNMAP_UNPROTECTED: u64 = 0xc400_0162;
const FEATURES: u64 = 0xc400_0165;
const REC_AUX_COUNT: u64 = 0xc400_0167;
const RTT_INIT_RIPAS: u64 = 0xc400_0168;
const CPU_SUSPEND: u64 = 0xc400_0001;
/// A power state that loses the context.
const POWER_DOWN: u64 = 1 << 16;
const INVALID_PARAMETERS: u64 = -2_i64 as u64;
const ALREADY_ON: u64 = -4_i64 as u64;
const INVALID_ADDRESS: u64 = -9_i64 as u64;
const CPU_OFF: u64 = 0x8400_0002;
const CPU_ON: u64 = 0xc400_0003;
const AFFINITY_INFO: u64 = 0xc400_0004;
const SYSTEM_OFF: u64 = 0x8400_0008;
const SYSTEM_RESET: u64 = 0x8400_0009;
const PSCI_FEATURES: u64 = 0x8400_000a;
/// `stub_el3` breaks the RMM on this CPU.
const BREAK_RMM: u64 = 0xc300_0000;
/// `stub_el3` makes a count of the RMM wrong, if it is that of 0 it only says whether it can.
const MISCOUNT: u64 = 0xc300_0001;

/// Memory of this program: pages for the Host's own use, then granules.
const RUN_PAGE: u64 = 0x7000_0000;
const PARAMS: u64 = 0x7000_1000;
const READ_ONLY: u64 = 0x7000_2000;
const WRITABLE: u64 = 0x7000_3000;
const RESET_PAGE: u64 = 0x7000_4000;
const GRANULES: u64 = 0x7010_0000;
/// Granules of the first CPU. `stub_el3` has its shared buffer where a careless RMM would note their state.
const FIRST_GRANULES: u64 = 0x8042_0000;
/// An IPA of the Host's half of a 33 bit space.
const UNPROTECTED: u64 = 1 << 32;
/// Pages of the realm.
const PAGES: u64 = 4;

fn put(address: u64, value: u64) {
    // SAFETY: a page of this program's own, aligned.
    unsafe { (address as *mut u64).write_volatile(value) };
}

fn get(address: u64) -> u64 {
    // SAFETY: as for `put`.
    unsafe { (address as *const u64).read_volatile() }
}

fn clear(page: u64) {
    for word in 0..512 {
        put(page + 8 * word, 0);
    }
}

/// What every CPU does.
fn granules(run: &mut Run, first: u64) {
    run.equal("version", smc(&[VERSION, 0x10000])[0], 0);
    run.equal("features", smc(&[FEATURES, 0])[0], 0);
    for pa in [first, first + 0x1000] {
        for _ in 0..2 {
            run.equal("delegate", smc(&[DELEGATE, pa])[0], 0);
            run.equal("delegate-twice", smc(&[DELEGATE, pa])[0], 1);
            run.equal("undelegate", smc(&[UNDELEGATE, pa])[0], 0);
            run.equal("undelegate-twice", smc(&[UNDELEGATE, pa])[0], 1);
            // The page is this world's again, and nothing of the Realm world's is in it.
            put(pa, 7);
            run.equal("written", get(pa), 7);
        }
    }
    run.equal("delegate-unaligned", smc(&[DELEGATE, first + 8])[0], 1);
    run.equal("delegate-of-rmm", smc(&[DELEGATE, 0x4010_0000])[0], 1);
    // Nobody but the RMM may ask EL3 for this.
    run.equal("gtsi", smc(&[0xc400_01b0, first])[0], u64::MAX);
}

/// A timer interrupt of this world on CPU `cpu`, which this is, in a while: pending, but not taken here.
fn start_timer(cpu: usize) {
    let put = |address: usize, value: u32| {
        // SAFETY: registers of the GIC, which nothing else uses.
        unsafe { (address as *mut u32).write_volatile(value) };
    };
    put(0x0800_0000, 0x12);
    put(0x080b_0100 + 0x2_0000 * cpu, 1 << 26);
    // SAFETY: the interrupt stays masked: it only becomes pending.
    unsafe {
        asm!(
            "msr S3_4_C12_C9_5, {sre}",
            "isb",
            "msr S3_0_C4_C6_0, {mask}",
            "msr S3_0_C12_C12_7, {one}",
            "msr cnthp_tval_el2, {wait}",
            "msr cnthp_ctl_el2, {one}",
            "isb",
            sre = in(reg) 0xf_u64,
            mask = in(reg) 0xff_u64,
            one = in(reg) 1_u64,
            wait = in(reg) 100_000_u64,
        );
    }
}

fn stop_timer() {
    // SAFETY: this world's timer.
    unsafe { asm!("msr cnthp_ctl_el2, xzr", "isb") };
}

/// Makes every call of SMCCC's owners 0 and 4 but those of PSCI that do not come back, with zeros. What is not known is not supported.
fn calls() {
    if smc(&[PSCI_FEATURES, SYSTEM_RESET])[0] != 0 {
        return;
    }
    let mut run = Run::begin("calls");
    let known = |function: u64| match function {
        0x8000_0000 | 0x8400_0000 | 0x8400_0004 | 0x8400_0006 | 0xc400_0004 => true,
        0xc400_0150..=0xc400_0169 => !matches!(function, 0xc400_0156 | 0xc400_0160 | 0xc400_0163),
        _ => false,
    };
    let mut wrong = 0;
    for owner in [0x8000_0000, 0xc000_0000, 0x8400_0000, 0xc400_0000] {
        for number in 0..0x1_0000 {
            let function = owner + number;
            if matches!(function & !0x4000_0000, 0x8400_0001..=0x8400_0003 | 0x8400_0008 | 0x8400_0009) {
                continue;
            }
            let answered = smc(&[function, 0, 0, 0, 0, 0])[0] != u64::MAX;
            if answered != known(function) {
                wrong = function;
            }
        }
    }
    run.equal("unknown", wrong, 0);
    run.end();
}

/// Has the second CPU do what only EL3 may, if EL3 survives that; and so does the CPU.
fn undefined_on_second() {
    if smc(&[PSCI_FEATURES, SYSTEM_RESET])[0] != 0 {
        return;
    }
    let mut run = Run::begin("reflected");
    let answer = turn_on(UNDEFINED);
    run.equal("cpu-on", answer, 0);
    use_second(&mut run, 4);
    run.end();
}

/// What one start of the second CPU leaves in its registers the next does not find.
fn left_behind() {
    if smc(&[PSCI_FEATURES, SYSTEM_RESET])[0] != 0 {
        return;
    }
    let mut run = Run::begin("left-behind");
    let before = turn_on(LEAVE);
    let after = turn_on(LOOK);
    run.equal("cpu-on", before | after, 0);
    run.equal("left", LEFT.load(Ordering::Relaxed), LEFT_BEHIND);
    run.equal("found", FOUND.load(Ordering::Relaxed), 0);
    run.end();
}

const LEFT_BEHIND: u64 = 0x1ef7_0000;
/// What registers of the second CPU held when it had set them, and when it was on again.
static LEFT: AtomicU64 = AtomicU64::new(0);
static FOUND: AtomicU64 = AtomicU64::new(0);

/// Registers of EL1, EL0 and EL2: some that EL3 does not switch, and one that it does.
fn registers_together() -> u64 {
    let mut together = 0;
    macro_rules! each {
        ($($name:literal),*) => {$({
            let value: u64;
            // SAFETY: only tells.
            unsafe { asm!(concat!("mrs {}, ", $name), out(reg) value) };
            together |= value;
        })*};
    }
    each!("tpidr_el1", "tpidr_el0", "far_el1", "ttbr0_el1", "cnthp_cval_el2", "S3_0_C2_C1_0", "tpidr_el2");
    let vector: u64;
    // SAFETY: only tells; nothing traps SIMD here.
    unsafe { asm!(".arch_extension fp", "msr cptr_el2, xzr", "isb", "fmov {}, d9", out(reg) vector) };
    together | vector
}

fn leave_registers() {
    macro_rules! each {
        ($($name:literal),*) => {$(
            // SAFETY: registers that have no effect here.
            unsafe { asm!(concat!("msr ", $name, ", {}"), in(reg) LEFT_BEHIND) };
        )*};
    }
    each!("tpidr_el1", "tpidr_el0", "far_el1", "ttbr0_el1", "cnthp_cval_el2", "S3_0_C2_C1_0", "tpidr_el2");
    // SAFETY: a register this program does not use; nothing traps SIMD here.
    unsafe { asm!(".arch_extension fp", "msr cptr_el2, xzr", "isb", "fmov d9, {}", in(reg) LEFT_BEHIND) };
}

/// Turns the second CPU on and off many times: the interrupt with which EL3 wakes it may find it awake.
fn on_and_off() {
    let mut run = Run::begin("on-and-off");
    let mut answers = 0;
    for _ in 0..100 {
        answers |= turn_on(OFF);
    }
    run.equal("cpu-on", answers, 0);
    run.equal("interrupts", INTERRUPTS.load(Ordering::Relaxed), 0);
    run.end();
}

/// Lets the second CPU lose its context in CPU_SUSPEND until an interrupt comes, where EL3 can do that.
fn suspended() {
    if smc(&[PSCI_FEATURES, CPU_SUSPEND])[0] != 0 {
        return;
    }
    let mut run = Run::begin("suspended");
    run.equal("no-entry", smc(&[CPU_SUSPEND, POWER_DOWN, 2])[0], INVALID_ADDRESS);
    run.equal("rmms-entry", smc(&[CPU_SUSPEND, POWER_DOWN, 0x4010_0000])[0], INVALID_ADDRESS);
    run.equal("reserved", smc(&[CPU_SUSPEND, 1 << 30, 0])[0], INVALID_PARAMETERS);
    run.equal("on-to-rmm", smc(&[CPU_ON, 1, 0x4010_0000])[0], INVALID_ADDRESS);
    run.equal("on-to-self", smc(&[CPU_ON, 0, second as *const () as u64])[0], ALREADY_ON);
    let answer = turn_on(SUSPEND);
    run.equal("cpu-on", answer, 0);
    run.end();
}

/// Breaks the RMM on this CPU, if EL3 can do so: it does nothing any more, also on the other CPU, which is in the midst of calls, and
/// not when that starts anew.
fn broken() {
    if smc(&[BREAK_RMM, 0])[0] != 0 {
        return;
    }
    let mut run = Run::begin("broken");
    start_second(&mut run, WATCH);
    run.equal("break", smc(&[BREAK_RMM, 1])[0], 0);
    for _ in 0..2 {
        let answer = smc(&[VERSION, 0x10000, 2, 3, 4, 5]);
        run.equal("version", answer[0], u64::MAX);
        run.equal("registers", answer[5], 5);
    }
    run.equal("delegate", smc(&[DELEGATE, GRANULES])[0], u64::MAX);
    second_is_refused(&mut run);
    run.end();
}

/// Turns the second CPU on, and waits until it says that it is there.
fn start_second(run: &mut Run, context: u64) {
    DONE.store(0, Ordering::Relaxed);
    let answer = smc(&[CPU_ON, 1, second as *const () as u64, context])[0];
    // EL3 says that the CPU has started: this one is silent until then.
    while answer == 0 && DONE.load(Ordering::Acquire) == 0 {}
    run.equal("cpu-on", answer, 0);
}

/// The command of the second CPU fails, and every one after it was off.
fn second_is_refused(run: &mut Run) {
    while smc(&[AFFINITY_INFO, 1, 0])[0] != 1 {}
    run.equal("watched", DONE.load(Ordering::Acquire), 2);
    DONE.store(0, Ordering::Relaxed);
    let answer = turn_on(WATCH);
    run.equal("cpu-on-again", answer, 0);
    run.equal("never-served", DONE.load(Ordering::Acquire), 2);
}

/// Names memory as the Host's that the manifest of `stub_el3` has and the machine has not: it answers with an external abort, and the
/// command with an error.
fn absent() {
    if smc(&[PSCI_FEATURES, SYSTEM_RESET])[0] == 0 {
        return;
    }
    let mut run = Run::begin("absent");
    for pa in [0xb000_0000, 0xbfff_f000] {
        run.equal("realm-create", smc(&[REALM_CREATE, GRANULES, pa])[0], 1);
        run.equal("version", smc(&[VERSION, 0x10000])[0], 0);
    }
    run.end();
}

/// Has the RMM find that a count is wrong, if EL3 can bring that about: it does nothing any more, also on the other CPU, which waits for a
/// granule that nobody gives back.
fn stopped() -> bool {
    if smc(&[MISCOUNT, 0])[0] != 0 {
        return false;
    }
    let mut run = Run::begin("stopped");
    let (rd, rec) = realm::granules_of_one(&mut run);
    run.equal("miscount", smc(&[MISCOUNT, rd])[0], 0);
    LOCKED.store(rd + 0x1000, Ordering::Relaxed);
    start_second(&mut run, WAIT);
    // It says so before its command: in the time of this many that one has begun to wait.
    let served = (0..1000).filter(|_| smc(&[VERSION, 0x10000])[0] == 0).count() as u64;
    run.equal("served", served, 1000);
    run.equal("waits", DONE.load(Ordering::Acquire), 1);
    run.equal("rec-destroy", smc(&[REC_DESTROY, rec])[0], u64::MAX);
    run.equal("version", smc(&[VERSION, 0x10000])[0], u64::MAX);
    second_is_refused(&mut run);
    run.end();
    true
}

/// What the second CPU is to do, as X0 at its start; other numbers name a run.
const UNDEFINED: u64 = 0;
const OFF: u64 = 10;
const SUSPEND: u64 = 11;
const RESUMED: u64 = 12;
const LEAVE: u64 = 13;
const LOOK: u64 = 14;
/// Ask for the version until that fails: `DONE` is 1 once it was answered, 2 in the end.
const WATCH: u64 = 15;
/// Need the granule at `LOCKED`: `DONE` is 1 before, 2 once that failed as nothing is served any more.
const WAIT: u64 = 16;

static LOCKED: AtomicU64 = AtomicU64::new(0);
static DONE: AtomicU64 = AtomicU64::new(0);
/// What ISR_EL1 of the second CPU showed.
static INTERRUPTS: AtomicU64 = AtomicU64::new(0);

extern "C" fn second_main(context: u64) -> ! {
    match context {
        UNDEFINED => {
            undefined::on_second();
            smc(&[CPU_OFF]);
        }
        LEAVE => {
            leave_registers();
            LEFT.store(registers_together(), Ordering::Relaxed);
            smc(&[CPU_OFF]);
        }
        LOOK => {
            FOUND.store(registers_together(), Ordering::Relaxed);
            smc(&[CPU_OFF]);
        }
        OFF => {
            let pending: u64;
            // SAFETY: only tells.
            unsafe { asm!("mrs {}, isr_el1", out(reg) pending) };
            INTERRUPTS.fetch_or(pending, Ordering::Relaxed);
            smc(&[CPU_OFF]);
        }
        SUSPEND => {
            start_timer(1);
            smc(&[CPU_SUSPEND, POWER_DOWN, second as *const () as u64, RESUMED]);
        }
        RESUMED => stop_timer(),
        WATCH => {
            while smc(&[VERSION, 0x10000])[0] == 0 {
                DONE.store(1, Ordering::Release);
            }
            DONE.store(2, Ordering::Release);
            smc(&[CPU_OFF]);
        }
        WAIT => {
            DONE.store(1, Ordering::Release);
            let answer = smc(&[UNDELEGATE, LOCKED.load(Ordering::Relaxed)])[0];
            DONE.store(if answer == u64::MAX { 2 } else { 3 }, Ordering::Release);
            smc(&[CPU_OFF]);
        }
        _ => {}
    }
    let mut run = Run::begin(match context {
        1 => "second",
        2 => "second-again",
        RESUMED => "second-resumed",
        _ => "second-anew",
    });
    granules(&mut run, 0x7200_0000);
    run.end();
    DONE.store(1, Ordering::Release);
    smc(&[CPU_OFF]);
    loop {}
}

/// Turns the second CPU on, and waits until it is off again: both would print at the same time. The answer to CPU_ON.
fn turn_on(context: u64) -> u64 {
    let answer = smc(&[CPU_ON, 1, second as *const () as u64, context])[0];
    while answer == 0 && smc(&[AFFINITY_INFO, 1, 0])[0] != 1 {}
    answer
}

/// The same, for one that has a run of its own.
fn use_second(run: &mut Run, context: u64) {
    DONE.store(0, Ordering::Relaxed);
    let answer = turn_on(context);
    run.equal("cpu-on", answer, 0);
    run.equal("done", DONE.load(Ordering::Acquire), 1);
}

extern "C" fn main() -> ! {
    realm::reset();
    let mut run = Run::begin("first");
    granules(&mut run, FIRST_GRANULES);
    // The second time the RMM is entered warm on a CPU it knows.
    use_second(&mut run, 1);
    use_second(&mut run, 2);
    run.end();
    for name in ["realm", "realm-again"] {
        let mut run = Run::begin(name);
        realm::realm(&mut run);
        run.end();
    }
    realm::probe();
    calls();
    on_and_off();
    undefined_on_second();
    left_behind();
    suspended();
    absent();
    if !stopped() {
        broken();
    }
    smc(&[SYSTEM_OFF]);
    loop {}
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(Uart, "{info}");
    loop {}
}
