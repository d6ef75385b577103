//! The smallest EL3 that runs an RMM: interface and manifest 0.3, the shared buffer inside the RMM's memory, memory in two
//! banks, a console only if the package asks for a newer manifest. And it breaks the RMM if it is asked to. It shares no code with the monitor, and takes RMM and payload from the same package in the flash. For
//! two CPUs and 2 GiB, for trying an RMM that must not count on the monitor; built by `cargo xtask boot --monitor stub`.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::fmt::Write;
use core::sync::atomic::{AtomicU64, Ordering};

global_asm!(
    include_str!("stub_el3.s"),
    stacks = const STACKS + 0x1_0000,
    main = sym main,
    call = sym call,
    fault = sym fault,
);

unsafe extern "C" {
    fn enter(frame: *const Frame, stack: usize) -> !;
    fn protect(table: usize, gpt: usize);
}

// Everything that is written is in the on-chip memory.
const SRAM: usize = 0x0e00_0000;
const ROOT_TABLE: usize = SRAM + 0x2000;
const LOW_TABLE: usize = SRAM + 0x3000;
const GPT_ROOT: usize = SRAM + 0x4000;
const STACKS: usize = SRAM + 0x1_0000;
const CONTEXTS: usize = SRAM + 0x8_0000;
/// A table of 128 KiB for each of the first three GiB.
const GPT_TABLES: usize = SRAM + 0x10_0000;

/// Where this EL3 sees memory as the Non-secure world does; at its own address it sees the Realm world's.
const NS_ALIAS: usize = 0x8_0000_0000;
const PACKAGE: usize = 0x10_0000;
const RMM: usize = 0x4010_0000;
const RMM_END: usize = 0x4190_0000;
/// Where a table of 2 MiB behind the RMM's image would be.
const SHARED: usize = 0x4040_0000;
const PAYLOAD: usize = 0x6000_0000;
const DEVICE_TREE: u64 = 0x4000_0000;

const NS: u64 = 0b1001;
const ROOT: u64 = 0b1010;
const REALM: u64 = 0b1011;

/// NS, HCE, RW, APK, API, FGTEn, ECVEn, HXEn.
const SCR: u64 = 1 << 0 | 1 << 8 | 1 << 10 | 1 << 16 | 1 << 17 | 1 << 27 | 1 << 28 | 1 << 38;
const SCR_NSE: u64 = 1 << 62;
const EL2H_MASKED: u64 = 0x3c9;

/// CPUs the RMM is told of: deployed EL3s name the most their platform can have, not those of the machine.
const ANNOUNCED_CPUS: u64 = 128;

const NOT_SUPPORTED: u64 = u64::MAX;
const BAD_ADDRESS: u64 = -2_i64 as u64;
const BAD_PAS: u64 = -3_i64 as u64;
const INVALID: u64 = -5_i64 as u64;

/// Words the CPUs share.
#[derive(Clone, Copy)]
enum Word {
    /// The tables are there.
    Released,
    /// Where the second CPU is to start, or 0.
    Entry,
    /// With what in X0.
    Context,
    /// 0 while the second CPU is off.
    SecondOn,
    /// The RMM has failed.
    RmmFailed,
    /// How much of the platform token was given out.
    TokenAt,
    /// Who prints.
    Printing,
}

fn word(word: Word) -> &'static AtomicU64 {
    // SAFETY: the words are in memory only this program reaches, and are only used as atomics.
    unsafe { &*((SRAM + 8 * word as usize) as *const AtomicU64) }
}

fn write64(address: usize, value: u64) {
    // SAFETY: the caller names a register or memory that is this program's to write.
    unsafe { (address as *mut u64).write_volatile(value) };
}

fn write32(address: usize, value: u32) {
    // SAFETY: as for `write64`.
    unsafe { (address as *mut u32).write_volatile(value) };
}

fn read32(address: usize) -> u32 {
    // SAFETY: a register or memory whose reading has no effect.
    unsafe { (address as *const u32).read_volatile() }
}

fn read64(address: usize) -> u64 {
    // SAFETY: as for `read32`.
    unsafe { (address as *const u64).read_volatile() }
}

struct Uart;

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for byte in text.bytes() {
            write32(0x0900_0000, byte.into());
        }
        Ok(())
    }
}

macro_rules! read {
    ($name:expr) => {{
        let value: u64;
        // SAFETY: reading this register has no effect.
        unsafe { asm!(concat!("mrs {}, ", $name), out(reg) value) };
        value
    }};
}

macro_rules! write {
    ($name:expr, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: the register is one of the lower worlds' or of the interrupt controller.
        unsafe { asm!(concat!("msr ", $name, ", {}"), in(reg) value) };
    }};
}

fn barrier() {
    // SAFETY: orders.
    unsafe { asm!("dsb sy", "isb") };
}

/// A world's general-purpose registers, and where it goes on.
#[derive(Clone, Copy)]
#[repr(C)]
struct Frame {
    x: [u64; 31],
    elr: u64,
    spsr: u64,
    pad: u64,
}

impl Frame {
    fn new(entry: u64, args: [u64; 4]) -> Self {
        let mut frame = Self { x: [0; 31], elr: entry, spsr: EL2H_MASKED, pad: 0 };
        frame.x[..4].copy_from_slice(&args);
        frame
    }
}

/// Calls a macro with every EL2 register that is switched, and PAuth's keys. EL2 timers and ZCR_EL2 are not EL3's to switch.
#[rustfmt::skip]
macro_rules! registers {
    ($each:ident) => {
        $each!(
            "sctlr_el2", "hcr_el2", "elr_el2", "spsr_el2", "esr_el2", "far_el2", "hpfar_el2", "sp_el2", "sp_el0",
            "tpidr_el2", "ttbr0_el2", "S3_4_C2_C0_1", "tcr_el2", "mair_el2", "amair_el2", "vbar_el2",
            "S3_4_C13_C0_1", "vtcr_el2", "vttbr_el2", "vmpidr_el2", "vpidr_el2", "cptr_el2", "mdcr_el2",
            "cnthctl_el2", "cntvoff_el2", "hstr_el2", "actlr_el2", "hacr_el2", "afsr0_el2", "afsr1_el2",
            "S3_4_C12_C9_5", "S3_4_C12_C11_0", "S3_4_C12_C11_7", "S3_4_C1_C1_4", "S3_4_C1_C1_5", "S3_4_C1_C1_6",
            "S3_4_C3_C1_4", "S3_4_C3_C1_5", "S3_4_C14_C0_6", "S3_4_C1_C2_2", "S3_4_C12_C1_1", "S3_4_C5_C2_3",
            "S3_0_C2_C1_0", "S3_0_C2_C1_1", "S3_0_C2_C1_2", "S3_0_C2_C1_3", "S3_0_C2_C2_0", "S3_0_C2_C2_1",
            "S3_0_C2_C2_2", "S3_0_C2_C2_3", "S3_0_C2_C3_0", "S3_0_C2_C3_1"
        )
    };
}

const REGISTERS: usize = 52;

fn save() -> [u64; REGISTERS] {
    macro_rules! each {
        ($($name:literal),*) => { [$(read!($name)),*] };
    }
    registers!(each)
}

fn load(from: &[u64; REGISTERS]) {
    let mut from = from.iter();
    macro_rules! each {
        ($($name:literal),*) => {$(
            if let Some(value) = from.next() {
                write!($name, *value);
            }
        )*};
    }
    registers!(each);
}

/// EL2 as it is out of reset.
fn reset_el2() {
    load(&[0; REGISTERS]);
    write!("sctlr_el2", 0x30c5_0830);
    write!("cnthctl_el2", 3);
    write!("vpidr_el2", read!("midr_el1"));
    write!("vmpidr_el2", read!("mpidr_el1"));
    write!("mdcr_el2", read!("pmcr_el0") >> 11 & 0x1f);
    write!("S3_4_C12_C9_5", 0xf);
}

struct Context {
    frame: Frame,
    registers: [u64; REGISTERS],
}

fn cpu() -> usize {
    (read!("mpidr_el1") & 0xff) as usize
}

/// This CPU's context of a world.
fn context(realm: bool) -> &'static mut Context {
    // SAFETY: set aside for this CPU and world; no caller keeps it while it asks for the same again.
    unsafe { &mut *((CONTEXTS + cpu() * 0x2000 + usize::from(realm) * 0x1000) as *mut Context) }
}

fn is_realm() -> bool {
    read!("scr_el3") & SCR_NSE != 0
}

/// Changes from the world that called to the other.
fn switch(frame: &mut Frame) {
    let realm = is_realm();
    let from = context(realm);
    from.frame = *frame;
    from.registers = save();
    let to = context(!realm);
    *frame = to.frame;
    load(&to.registers);
    write!("scr_el3", if realm { SCR } else { SCR | SCR_NSE });
}

/// The owner of the granule at `pa`, in the entry that holds it.
fn granule(pa: u64) -> Option<(&'static AtomicU64, u64)> {
    if pa & 0xfff != 0 || !(0x4000_0000..0xc000_0000).contains(&pa) {
        return None;
    }
    let entry = GPT_TABLES + (pa >> 16) as usize * 8;
    // SAFETY: an entry of the tables, which are written as atomics only.
    Some((unsafe { &*(entry as *const AtomicU64) }, (pa >> 12 & 0xf) * 4))
}

/// RMM_GTSI_DELEGATE and RMM_GTSI_UNDELEGATE.
fn transition(pa: u64, from: u64, to: u64) -> u64 {
    let Some((entry, shift)) = granule(pa) else { return BAD_ADDRESS };
    if to == NS && (RMM as u64..RMM_END as u64).contains(&pa) {
        return BAD_ADDRESS;
    }
    let change = |old: u64| (old >> shift & 0xf == from).then_some(old & !(0xf << shift) | to << shift);
    if entry.fetch_update(Ordering::AcqRel, Ordering::Acquire, change).is_err() {
        return BAD_PAS;
    }
    // SAFETY: forgets cached entries and lines of both spaces; nobody counts on what is in the granule.
    unsafe {
        asm!("dsb oshst", "sys #6, c8, c4, #7, {}", "dsb osh", "isb", in(reg) pa >> 12);
        for line in (pa..pa + 0x1000).step_by(16) {
            asm!("sys #6, c7, c14, #1, {}", in(reg) line | 0b10 << 62);
            asm!("sys #6, c7, c14, #1, {}", in(reg) line | 0b11 << 62);
        }
        asm!("dsb sy");
    }
    0
}

/// RMM_ATTEST_GET_REALM_KEY.
fn realm_key(buffer: u64, size: u64, curve: u64) -> [u64; 3] {
    const SIZE: u64 = 48;
    if buffer as usize & !0xfff != SHARED {
        return [BAD_ADDRESS, 0, 0];
    }
    if curve != 0 || size < SIZE || (buffer & 0xfff) + size > 0x1000 {
        return [INVALID, 0, 0];
    }
    for at in (0..SIZE).step_by(8) {
        write64((buffer + at) as usize, 0x0102_0304_0506_0708 + at);
    }
    [0, SIZE, 0]
}

/// RMM_ATTEST_GET_PLAT_TOKEN: in two pieces.
fn platform_token(buffer: u64, size: u64, challenge: u64) -> [u64; 3] {
    const SIZE: u64 = 128;
    const PIECE: u64 = 64;
    if buffer as usize & !0xfff != SHARED || (buffer & 0xfff) + size > 0x1000 || size < PIECE {
        return [INVALID, 0, 0];
    }
    let at = if challenge == 0 { word(Word::TokenAt).load(Ordering::Relaxed) } else { 0 };
    if at >= SIZE {
        return [INVALID, 0, 0];
    }
    // A CBOR string of 126 bytes; behind the piece anything, as the buffer is this program's until it returns.
    for n in (0..size & !7).step_by(8) {
        let text = if at + n == 0 { 0x7e58 } else { 0 };
        write64((buffer + n) as usize, if n < PIECE { text } else { u64::MAX });
    }
    word(Word::TokenAt).store(at + PIECE, Ordering::Relaxed);
    [0, PIECE, SIZE - at - PIECE]
}

/// A call of a lower world.
extern "C" fn call(frame: &mut Frame) {
    if read!("esr_el3") >> 26 != 0x17 {
        fault(read!("esr_el3"), frame.elr, read!("far_el3"));
    }
    frame.x[0] &= 0xffff_ffff;
    if is_realm() { realm_call(frame) } else { non_secure_call(frame) }
}

fn realm_call(frame: &mut Frame) {
    let [function, x1, x2, x3, x4, x5, ..] = frame.x;
    let mut answer = [NOT_SUPPORTED, 0, 0];
    match function {
        0xc400_018f => {
            switch(frame);
            frame.x[..5].copy_from_slice(&[x1, x2, x3, x4, x5]);
            return;
        }
        0xc400_01b0 => answer[0] = transition(x1, NS, REALM),
        0xc400_01b1 => answer[0] = transition(x1, REALM, NS),
        0xc400_01b2 => answer = realm_key(x1, x2, x3),
        0xc400_01b3 => answer = platform_token(x1, x2, x3),
        0xc400_01cf => {
            print(format_args!("el3: CPU {}: the RMM's boot ended with {}\n", cpu(), x1 as i64));
            if x1 != 0 {
                word(Word::RmmFailed).store(1, Ordering::Release);
            }
            return switch(frame);
        }
        _ => {}
    }
    frame.x[..3].copy_from_slice(&answer);
}

fn non_secure_call(frame: &mut Frame) {
    let [function, x1, x2, x3, ..] = frame.x;
    frame.x[0] = match function {
        0xc400_0150..=0xc400_018f if word(Word::RmmFailed).load(Ordering::Acquire) == 0 => {
            let args = frame.x;
            switch(frame);
            frame.x[..8].copy_from_slice(&args[..8]);
            return;
        }
        0x8400_0000 => 0x1_0001,
        0x8400_0002 if cpu() == 1 => park(),
        0xc400_0003 if x1 == 1 => {
            if word(Word::SecondOn).swap(1, Ordering::AcqRel) == 0 {
                word(Word::Context).store(x3, Ordering::Relaxed);
                word(Word::Entry).store(x2, Ordering::Release);
                // SAFETY: wakes the other CPU.
                unsafe { asm!("dsb sy", "sev") };
                0
            } else {
                -4_i64 as u64
            }
        }
        0xc400_0004 if x1 == 1 => 1 - word(Word::SecondOn).load(Ordering::Acquire),
        0x8400_0008 => {
            write32(0x090b_0400, 1);
            write32(0x090b_0004, 0);
            write32(0x090b_0004, 1);
            stop()
        }
        // A call of an OEM: the RMM goes on at an address where there is nothing, if X1 is not 0.
        0xc300_0000 if read32(PACKAGE + 40) != 7 => {
            if x1 != 0 {
                context(true).frame.elr = 0;
            }
            0
        }
        // Another, if the package asks for interface 0.7: the realm at X1 has no RECs any more, as far as the RMM knows.
        0xc300_0001 if read32(PACKAGE + 40) == 7 => miscount(x1 as usize),
        _ => NOT_SUPPORTED,
    };
}

/// Clears the reference count of the RD at `rd`, if it is not 0, in the RMM's granule table, and locks the granule behind it, as a CPU would
/// leave it that failed in a command. Its place is where the states of the granules are those of a realm `stub_host` has made.
fn miscount(rd: usize) -> u64 {
    const STATE: u32 = 0x7;
    const COUNT: u32 = 0xff_ff00;
    const LOCKED: u32 = 1 << 31;
    /// RD, tables, data, REC.
    const STATES: [u32; 11] = [2, 6, 6, 6, 6, 6, 5, 5, 5, 5, 3];
    if rd == 0 {
        return 0;
    }
    let offset = (rd - 0x4000_0000) / 0x1000 * 4;
    let states_at = |at: usize| (0..STATES.len()).map(move |n| read32(at + 4 * n) & STATE);
    let tables = (RMM..RMM_END - offset - 4 * STATES.len()).step_by(0x1000);
    match tables.map(|table| table + offset).find(|at| states_at(*at).eq(STATES)) {
        Some(at) => {
            write32(at, read32(at) & !COUNT);
            write32(at + 4, read32(at + 4) | LOCKED);
            barrier();
            0
        }
        None => INVALID,
    }
}

/// Waits until the first CPU turns this one on.
fn park() -> ! {
    word(Word::SecondOn).store(0, Ordering::Release);
    loop {
        let entry = word(Word::Entry).swap(0, Ordering::AcqRel);
        if entry != 0 {
            let argument = word(Word::Context).load(Ordering::Relaxed);
            start(Frame::new(entry, [argument, 0, 0, 0]), [1, 0, 0, 0])
        }
        // SAFETY: waits.
        unsafe { asm!("wfe") };
    }
}

/// Starts the RMM with `boot` as X0 to X3, and the Non-secure world when it is ready.
fn start(non_secure: Frame, boot: [u64; 4]) -> ! {
    reset_el2();
    let context = context(false);
    context.frame = non_secure;
    context.registers = save();
    write!("scr_el3", SCR | SCR_NSE);
    let realm = Frame::new(RMM as u64, boot);
    // SAFETY: the frame is read before anything is pushed at the top of this CPU's stack.
    unsafe { enter(&raw const realm, STACKS + 0x1_0000 * (cpu() + 1)) }
}

fn build_tables() {
    const NORMAL: u64 = 1 << 10 | 3 << 8 | 1 << 6 | 1;
    const DEVICE: u64 = 1 << 54 | 1 << 10 | 1 << 6 | 1 << 2 | 1;
    const AS_ROOT: u64 = 1 << 11;
    const AS_REALM: u64 = 1 << 11 | 1 << 5;
    const AS_NS: u64 = 1 << 5;
    for n in 0..512 {
        write64(ROOT_TABLE + 8 * n, 0);
        let address = (n as u64) << 21;
        let kind = if (0x0800_0000..0x0e00_0000).contains(&address) { DEVICE } else { NORMAL };
        write64(LOW_TABLE + 8 * n, address | kind | AS_ROOT);
    }
    write64(ROOT_TABLE, LOW_TABLE as u64 | 3);
    for gib in 1..3 {
        let address = (gib as u64) << 30;
        write64(ROOT_TABLE + 8 * gib, address | NORMAL | AS_REALM | 1 << 54);
        write64(ROOT_TABLE + 8 * (gib + (NS_ALIAS >> 30)), address | NORMAL | AS_NS | 1 << 54);
    }
    for gib in 0..1024 {
        let table = GPT_TABLES + gib * 0x2_0000;
        write64(GPT_ROOT + 8 * gib, if gib < 3 { table as u64 | 3 } else { 0xf1 });
    }
    for n in 0..3 * 0x4000 {
        let address = n << 16;
        let owner = match address {
            SRAM..0x0f00_0000 => ROOT,
            RMM..RMM_END => REALM,
            0x4000_0000.. => NS,
            _ => 0xf,
        };
        write64(GPT_TABLES + 8 * n, owner * 0x1111_1111_1111_1111);
    }
    barrier();
}

/// Copies a part of the package, whose offset and size are at `header`.
fn copy(header: usize, to: usize) {
    let (from, size) = (PACKAGE + read64(header) as usize, read64(header + 8) as usize);
    for at in (0..size).step_by(8) {
        write64(to + at, read64(from + at));
    }
    for at in (0..size).step_by(16) {
        // SAFETY: writes back what was just written.
        unsafe { asm!("dc cvac, {}", in(reg) to + at) };
    }
    barrier();
}

fn write_manifest() {
    let banks = [0x4000_0000_u64, 0x4000_0000, 0x8000_0000, 0x4000_0000];
    // Base, pages, name, clock, baud rate, flags.
    let console = [0x0900_0000, 1, u64::from_le_bytes(*b"pl011\0\0\0"), 24_000_000, 115_200, 0];
    let lists = SHARED as u64 + 64;
    let (consoles, list) = if read32(PACKAGE + 44) == 3 { (0, 0) } else { (1, lists + 32) };
    let checksum = |count: u64, list: u64, words: &[u64]| {
        words.iter().fold(count + list, |sum, word| sum.wrapping_add(*word)).wrapping_neg()
    };
    let console_sum = checksum(consoles, list, if consoles == 0 { &[] } else { &console });
    let words = [3, 0, 2, lists, checksum(2, lists, &banks), consoles, list, console_sum];
    for (n, value) in words.into_iter().chain(banks).chain(console).enumerate() {
        write64(SHARED + 8 * n, value);
    }
    for at in (0..0x1000).step_by(16) {
        // SAFETY: writes back what was just written.
        unsafe { asm!("dc cvac, {}", in(reg) SHARED + at) };
    }
    barrier();
}

/// All interrupts are the Non-secure world's.
fn init_gic() {
    let redistributor = 0x080a_0000 + 0x2_0000 * cpu();
    write32(0x0800_0000, 0x30);
    for n in 1..9 {
        write32(0x0800_0080 + 4 * n, u32::MAX);
    }
    write32(redistributor + 0x14, 0);
    while read32(redistributor + 0x14) & 4 != 0 {}
    write32(redistributor + 0x1_0080, u32::MAX);
    write!("S3_6_C12_C12_5", 0xf);
    barrier();
    write!("S3_4_C12_C9_5", 0xf);
    barrier();
}

extern "C" fn main(cpu: usize) -> ! {
    if cpu == 0 {
        for n in 0..512 {
            write64(SRAM + 8 * n, 0);
        }
        build_tables();
    } else {
        while word(Word::Released).load(Ordering::Acquire) == 0 {}
    }
    // SAFETY: the tables map everything this program uses at its own address, and give it to Root.
    unsafe { protect(ROOT_TABLE, GPT_ROOT) };
    // SVE and SME do not trap.
    write!("cptr_el3", 1 << 8 | 1 << 12);
    barrier();
    write!("S3_6_C1_C2_0", 0xf);
    write!("S3_6_C1_C2_6", 0xf);
    write!("mdcr_el3", 1 << 16);
    init_gic();
    if cpu != 0 {
        park();
    }
    write32(0x0900_0030, 0x301);
    copy(PACKAGE + 8, RMM);
    copy(PACKAGE + 24, NS_ALIAS + PAYLOAD);
    write_manifest();
    print(format_args!("el3: not the monitor\n"));
    word(Word::Released).store(1, Ordering::Release);
    let non_secure = Frame::new(PAYLOAD as u64, [DEVICE_TREE, 0, 0, 0]);
    start(non_secure, [0, 3, ANNOUNCED_CPUS, SHARED as u64])
}

fn print(text: core::fmt::Arguments<'_>) {
    while word(Word::Printing).swap(1, Ordering::Acquire) != 0 {}
    let _ = Uart.write_fmt(text);
    word(Word::Printing).store(0, Ordering::Release);
}

extern "C" fn fault(esr: u64, elr: u64, far: u64) -> ! {
    let realm = is_realm();
    let _ = writeln!(Uart, "el3: FAULT realm {realm} ESR {esr:#x} ELR {elr:#x} FAR {far:#x}");
    stop()
}

fn stop() -> ! {
    loop {
        // SAFETY: waits.
        unsafe { asm!("wfi") };
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(Uart, "el3: {info}");
    stop()
}
