//! The smallest Host: on every CPU it delegates granules and takes them back, and on the first it makes realms by hand,
//! runs them and destroys them, one after the other. It knows nothing of EL3 and RMM but their interfaces. Reports as crate `realm-report` says.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::fmt::Write;
use core::sync::atomic::{AtomicU64, Ordering};

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

struct Uart;

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for byte in text.bytes() {
            // SAFETY: the UART's data register.
            unsafe { (0x0900_0000 as *mut u32).write_volatile(byte.into()) };
        }
        Ok(())
    }
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

/// Where the fields of the run page are.
mod field {
    pub const FLAGS: u64 = super::RUN_PAGE;
    pub const REASON: u64 = super::RUN_PAGE + 0x800;
    pub const ESR: u64 = super::RUN_PAGE + 0x900;
    pub const FAR: u64 = super::RUN_PAGE + 0x908;
    pub const HPFAR: u64 = super::RUN_PAGE + 0x910;
    pub const GPRS: u64 = super::RUN_PAGE + 0xa00;
    pub const IMM: u64 = super::RUN_PAGE + 0xe00;
}

const EMULATED: u64 = 1 << 0;
const SYNC: u64 = 0;
const IRQ: u64 = 1;
const PSCI: u64 = 3;
const HOST_CALL: u64 = 5;

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

/// Enters the REC; checks status and reason of the exit.
fn enter(run: &mut Run, check: &str, rec: u64, flags: u64, reason: u64) {
    put(field::FLAGS, flags);
    run.equal(check, smc(&[REC_ENTER, rec, RUN_PAGE])[0], 0);
    run.equal("exit-reason", get(field::REASON) & 0xff, reason);
}

/// A write to the page the realm can only read, at `offset` in it.
fn written(run: &mut Run, rec: u64, flags: u64, offset: u64, value: u64) {
    const SHOWN: u64 = 0x3f << 26 | 1 << 24 | 1 << 6 | 0x3c;
    enter(run, "write", rec, flags, SYNC);
    run.equal("esr", get(field::ESR) & SHOWN, 0x24 << 26 | 1 << 24 | 1 << 6 | 0x0c);
    run.equal("hpfar", get(field::HPFAR), UNPROTECTED >> 8);
    run.equal("far", get(field::FAR), offset);
    run.equal("value", get(field::GPRS), value);
}

/// What the realm is to do, in X0.
const RUNS: u64 = 0;
const PROBES: u64 = 1;

/// A realm that was made.
struct Realm {
    rd: u64,
    rec: u64,
    /// The end of its granules.
    end: u64,
}

/// Its tables but the root: IPA and level.
const TABLES: [(u64, u64); 4] = [(0, 2), (0, 3), (UNPROTECTED, 2), (UNPROTECTED, 3)];

fn build(run: &mut Run, program: u64) -> Realm {
    let mut next = GRANULES;
    let mut granule = |run: &mut Run| {
        let pa = next;
        next += 0x1000;
        run.equal("delegate", smc(&[DELEGATE, pa])[0], 0);
        pa
    };
    for page in [RUN_PAGE, PARAMS, READ_ONLY, WRITABLE] {
        clear(page);
    }
    let (rd, root) = (granule(run), granule(run));
    put(PARAMS + 0x8, 33);
    put(PARAMS + 0x18, 1);
    put(PARAMS + 0x20, 1);
    put(PARAMS + 0x800, 5);
    put(PARAMS + 0x808, root);
    put(PARAMS + 0x810, 1);
    put(PARAMS + 0x818, 1);
    run.equal("realm-create", smc(&[REALM_CREATE, rd, PARAMS])[0], 0);
    for (ipa, level) in TABLES {
        let table = granule(run);
        run.equal("rtt-create", smc(&[RTT_CREATE, rd, table, ipa, level])[0], 0);
    }
    run.equal("init-ripas", smc(&[RTT_INIT_RIPAS, rd, 0, 0x1000 * PAGES])[0], 0);
    for page in 0..PAGES {
        let data = granule(run);
        // The program, then zeros.
        let source = if page == 0 { &raw const realm_start as u64 } else { WRITABLE };
        run.equal("data-create", smc(&[DATA_CREATE, rd, data, page << 12, source, 1])[0], 0);
    }
    let [status, aux_count, ..] = smc(&[REC_AUX_COUNT, rd]);
    run.equal("aux-count", status, 0);
    let rec = granule(run);
    clear(PARAMS);
    put(PARAMS, 1);
    put(PARAMS + 0x300, program);
    put(PARAMS + 0x800, aux_count);
    for n in 0..aux_count {
        put(PARAMS + 0x808 + 8 * n, granule(run));
    }
    run.equal("rec-create", smc(&[REC_CREATE, rd, rec, PARAMS])[0], 0);
    // Write-back; readable, readable and writable.
    for (n, desc) in [READ_ONLY | 0x58, WRITABLE | 0xd8].into_iter().enumerate() {
        let ipa = UNPROTECTED + 0x1000 * n as u64;
        run.equal("map-unprotected", smc(&[RTT_MAP_UNPROTECTED, rd, ipa, 3, desc])[0], 0);
    }
    run.equal("realm-activate", smc(&[REALM_ACTIVATE, rd])[0], 0);
    Realm { rd, rec, end: next }
}

/// Whether granules hold nothing.
fn all_zero(granules: core::ops::Range<u64>) -> bool {
    granules.step_by(8).all(|word| get(word) == 0)
}

fn realm(run: &mut Run) {
    let Realm { rd, rec, end } = build(run, RUNS);
    put(READ_ONLY + 0x10, 0x5555);
    written(run, rec, 0, 0x123, 0x11);
    written(run, rec, EMULATED, 0x450, 0x2222_2222_2222_2222);
    run.equal("nothing-written", get(READ_ONLY + 0x450) | get(READ_ONLY + 0x120), 0);
    enter(run, "host-call", rec, EMULATED, HOST_CALL);
    run.equal("immediate", get(field::IMM) & 0xffff, 0x77);
    run.equal("par", get(field::GPRS), 0x0123_4567_89ab_c000);
    run.equal("read", get(field::GPRS + 8), 0x5555);
    run.equal("disr", get(field::GPRS + 16), 0);
    run.equal("own-disr", get(field::GPRS + 24), 0x8000_0411);
    start_timer(0);
    enter(run, "interrupted", rec, 0, IRQ);
    stop_timer();
    put(WRITABLE, 1);
    enter(run, "system-off", rec, 0, PSCI);
    run.equal("function", get(field::GPRS), SYSTEM_OFF);

    destroy(run, &Realm { rd, rec, end });
}

fn destroy(run: &mut Run, &Realm { rd, rec, end }: &Realm) {
    run.equal("rec-destroy", smc(&[REC_DESTROY, rec])[0], 0);
    for page in 0..PAGES {
        run.equal("data-destroy", smc(&[DATA_DESTROY, rd, page << 12])[0], 0);
    }
    for page in 0..2 {
        let ipa = UNPROTECTED + (page << 12);
        run.equal("unmap-unprotected", smc(&[RTT_UNMAP_UNPROTECTED, rd, ipa, 3])[0], 0);
    }
    for (ipa, level) in TABLES.into_iter().rev() {
        run.equal("rtt-destroy", smc(&[RTT_DESTROY, rd, ipa, level])[0], 0);
    }
    run.equal("realm-destroy", smc(&[REALM_DESTROY, rd])[0], 0);
    for pa in (GRANULES..end).step_by(0x1000) {
        run.equal("undelegate", smc(&[UNDELEGATE, pa])[0], 0);
    }
    run.equal("wiped", all_zero(GRANULES..end).into(), 1);
}

/// A realm that tries every system register and instruction. Nothing of it may fall through to EL3.
fn probe() {
    const SYSTEM_REGISTER: u64 = 0x18;
    let mut run = Run::begin("probe");
    let realm = build(&mut run, PROBES);
    put(field::FLAGS, 0);
    let (mut exits, mut others) = (0, 0);
    let reason = loop {
        if smc(&[REC_ENTER, realm.rec, RUN_PAGE])[0] != 0 {
            break u64::MAX;
        }
        exits += 1;
        match get(field::REASON) & 0xff {
            // An SGI the realm sends.
            SYNC if get(field::ESR) >> 26 == SYSTEM_REGISTER => {}
            SYNC => others += 1,
            reason => break reason,
        }
    };
    run.equal("others", others, 0);
    run.equal("exit-reason", reason, PSCI);
    let _ = writeln!(Uart, "@value probe exits {exits}");
    destroy(&mut run, &realm);
    run.end();
}

/// Resets the machine while there is a realm, if EL3 can do so, and looks what of it can be read afterwards.
fn reset() {
    const DONE: u64 = 0x7e5e7;
    if smc(&[PSCI_FEATURES, SYSTEM_RESET])[0] != 0 {
        return;
    }
    let mut run = Run::begin(if get(RESET_PAGE) == DONE { "after-reset" } else { "before-reset" });
    if get(RESET_PAGE) == DONE {
        run.equal("wiped", all_zero(GRANULES..get(RESET_PAGE + 8)).into(), 1);
        run.end();
    } else {
        let realm = build(&mut run, RUNS);
        put(RESET_PAGE, DONE);
        put(RESET_PAGE + 8, realm.end);
        run.end();
        smc(&[SYSTEM_RESET]);
    }
}


/// Has the second CPU do what only EL3 may, if EL3 survives that: it is off afterwards, and starts again.
fn faulting() {
    if smc(&[PSCI_FEATURES, SYSTEM_RESET])[0] != 0 {
        return;
    }
    let mut run = Run::begin("faulting");
    let answer = turn_on(FAULT);
    run.equal("cpu-on", answer, 0);
    use_second(&mut run, 4);
    run.end();
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

/// Breaks the RMM on this CPU, if EL3 can do so: it does nothing here any more, and works on as before on the other.
fn broken() {
    if smc(&[BREAK_RMM])[0] != 0 {
        return;
    }
    let mut run = Run::begin("broken");
    for _ in 0..2 {
        let answer = smc(&[VERSION, 0x10000, 2, 3, 4, 5]);
        run.equal("version", answer[0], u64::MAX);
        run.equal("registers", answer[5], 5);
    }
    run.equal("delegate", smc(&[DELEGATE, GRANULES])[0], u64::MAX);
    use_second(&mut run, 3);
    run.end();
}

/// What the second CPU is to do, as X0 at its start; other numbers name a run.
const FAULT: u64 = 0;
const OFF: u64 = 10;
const SUSPEND: u64 = 11;
const RESUMED: u64 = 12;

static DONE: AtomicU64 = AtomicU64::new(0);
/// What ISR_EL1 of the second CPU showed.
static INTERRUPTS: AtomicU64 = AtomicU64::new(0);

extern "C" fn second_main(context: u64) -> ! {
    match context {
        // SAFETY: ICC_IAR0_EL1 is EL3's, whose interrupts these are.
        FAULT => unsafe { asm!("mrs x0, S3_0_C12_C8_0", out("x0") _) },
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
        _ => {}
    }
    let mut run = Run::begin(match context {
        1 => "second",
        2 => "second-again",
        3 => "second-alone",
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
    reset();
    let mut run = Run::begin("first");
    granules(&mut run, FIRST_GRANULES);
    // The second time the RMM is entered warm on a CPU it knows.
    use_second(&mut run, 1);
    use_second(&mut run, 2);
    run.end();
    for name in ["realm", "realm-again"] {
        let mut run = Run::begin(name);
        realm(&mut run);
        run.end();
    }
    probe();
    on_and_off();
    faulting();
    suspended();
    broken();
    smc(&[SYSTEM_OFF]);
    loop {}
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(Uart, "{info}");
    loop {}
}
