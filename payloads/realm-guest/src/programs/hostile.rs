//! What a realm should not do: the RMM says no, the machine stays.

use crate::exception::{FETCH_SEA, Fault, LOAD_SEA, STORE_SEA, UNDEFINED, attempt};
use crate::memory::{self, CONFIGURATION, FREE, PAGE, RAM_END, probe_fetch, probe_load, probe_store};
use crate::report::Run;
use crate::smc;
use crate::sysreg::{instruction, mrs, msr};
use realm_abi::rmi::Ripas;
use realm_abi::rsi::RsiStatus;

/// Where code is written.
const CODE: u64 = FREE + 0x10_0000;

pub fn run(run: &Run) {
    // Of SIMD, SVE and SME, EL1 itself keeps nothing away.
    msr!("cpacr_el1", 0b11 << 20 | 0b11 << 16 | 0b11 << 24);
    instruction!("isb");
    arguments(run);
    functions(run);
    instructions(run);
    identification(run);
    registers(run);
    addresses(run);
    run.equal("memory-still", smc::ripas(FREE, RAM_END), Some(Ripas::RAM));
    run.end();
}

/// A cheap sequence of numbers.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
    /// A number near where something begins or ends.
    fn address(&mut self) -> u64 {
        let alias = memory::alias();
        let bases =
            [0, FREE, RAM_END, alias, alias | FREE, 2 * alias, 1 << 48, 1 << 52, 1 << 63, 0, self.next()];
        let offsets =
            [0, 0, 0, 1, 8, 0x80, 0x100, 0x800, PAGE - 1, PAGE, 2 << 20, 1 << 30, 0_u64.wrapping_sub(PAGE)];
        let base = bases[self.below(bases.len() as u64) as usize];
        base.wrapping_add(offsets[self.below(offsets.len() as u64) as usize])
    }
}

/// Commands with arguments of all kinds, each answered as its conditions say.
fn arguments(run: &Run) {
    run.state("bad arguments");
    let mut random = Random(0x0123_4567_89ab_cdef);
    let alias = memory::alias();
    // Of the image no address is tried but its last page.
    let is_ram = |address: u64| (CONFIGURATION..RAM_END).contains(&address);
    let aligned = |address: u64, to: u64| address.is_multiple_of(to);
    let mut wrong = None;
    for _ in 0..3000 {
        let (a, b, c) = (random.address(), random.address(), random.address());
        let whole = aligned(a, PAGE) && aligned(b, PAGE) && a < b && b <= alias;
        let choice = random.below(6);
        let (call, refused): ([u64; 5], bool) = match choice {
            0 => ([0xC400_0196, a, b, c, 0], !(is_ram(a) && aligned(a, PAGE))),
            1 => ([0xC400_0199, a, b, c, 0], !(is_ram(a) && aligned(a, 0x100))),
            2 => ([0xC400_0198, a, b, c, 0], !whole),
            // Only those that are refused: what is EMPTY would become RAM without memory.
            3 => ([0xC400_0197, a, b, c & 1, c], !whole),
            4 => ([0xC400_0197, a, b, c | 2, c], true),
            _ => ([0xC400_0193, a.wrapping_add(1 << 40), b, c, 0], true),
        };
        if choice == 3 && !refused {
            continue;
        }
        let [status, ..] = smc::call(&call);
        let wanted = if refused { RsiStatus::ERROR_INPUT } else { RsiStatus::SUCCESS };
        if status != wanted.0 {
            wrong = Some((call, status));
            break;
        }
    }
    run.equal("arguments", wrong, None);
    let mut wrong = None;
    for _ in 0..1000 {
        let (a, b, c) = (random.address(), random.address(), random.address());
        let [status, ..] = smc::call(&[0xC400_0195, a, b, c]);
        let inside = b < PAGE && b.checked_add(c).is_some_and(|end| end <= PAGE);
        let good = aligned(a, PAGE) && a < alias && inside;
        let wanted = if good { RsiStatus::ERROR_STATE } else { RsiStatus::ERROR_INPUT };
        if status != wanted.0 {
            wrong = Some(([a, b, c], status));
            break;
        }
    }
    run.equal("token-arguments", wrong, None);
}

/// Functions nobody has.
fn functions(run: &Run) {
    run.state("unknown functions");
    let mut random = Random(0xfeed_f00d_dead_beef);
    let mut wrong = None;
    for _ in 0..3000 {
        let function = match random.below(3) {
            0 => random.next() & 0xffff_ffff,
            1 => 0xC400_0100 | random.below(0x100),
            _ => 0x8400_0000 | random.below(0x200),
        };
        let known = function & !(1 << 16);
        if known == 0x8000_0000
            || (0xC400_0190..0xC400_019A).contains(&known)
            || matches!(known & !(1 << 30), 0x8400_0000..0x8400_0020)
        {
            continue;
        }
        let [status, x1, ..] = smc::call(&[function, random.address(), random.address(), random.address()]);
        if (status, x1) != (u64::MAX, 0) {
            wrong = Some((function, status));
            break;
        }
    }
    run.equal("functions", wrong, None);
}

/// Instructions that are not a realm's.
fn instructions(run: &Run) {
    run.state("instructions");
    let undefined = Err(Fault { esr: UNDEFINED, far: 0, skew: 0 });
    // FAR is not written by an undefined instruction.
    let plain = |found: Result<(), Fault>| found.map_err(|fault| Fault { far: 0, ..fault });
    macro_rules! undefined {
        ($($check:literal $text:literal)+) => {
            $(run.equal($check, plain(attempt!($text)), undefined);)+
        };
    }
    undefined!(
        "udf" "udf #0"
        "hvc" "hvc #0"
        "hvc-other" "hvc #0xffff"
        "smstart" ".inst 0xd503477f"
        "tlbi-el2" ".inst 0xd50c871f"
        "tlbi-el3" ".inst 0xd50e871f"
        "tlbi-stage-2" ".inst 0xd50c83df"
        "at-s1e2r" ".inst 0xd50c7800"
        "at-s12e1r" ".inst 0xd50c7880"
        "at-s1e3r" ".inst 0xd50e7800"
        "rpaos" ".inst 0xd50e8467"
        "tlbi-paall" ".inst 0xd50e879f"
    );
    // SMC with another immediate is the same call; breakpoints are the realm's own.
    let mut registers = [0; 31];
    registers[0] = 0xC400_0190;
    registers[1] = 0x1_0000;
    smc::raw_other_immediate(&mut registers);
    run.equal("smc-immediate", registers[..3].iter().sum::<u64>(), 0x2_0000);
    let breakpoint = attempt!("brk #7").map_err(|fault| (fault.esr, fault.skew));
    run.equal("brk", breakpoint, Err((0x3c << 26 | 1 << 25 | 7, 0)));
    for (check, found) in [
        ("wfe", attempt!("wfe")),
        ("sev", attempt!("sev")),
        ("tlbi", attempt!("tlbi alle1 // UNDEFINED at EL1")),
        ("ic", attempt!("ic ialluis")),
    ] {
        let wanted = if check == "tlbi" { undefined } else { Ok(()) };
        run.equal(check, plain(found), wanted);
    }
    // By set and way: what it does is at most to clean.
    memory::fill(CODE, 0x77);
    let ways = attempt!("dc isw, {way}", way = in(reg) 0_u64);
    run.equal("dc-isw", (ways, memory::words(CODE).all(|word| word == 0x77)), (Ok(()), true));
    let translated = attempt!("at s1e1r, {address}", address = in(reg) CODE);
    instruction!("isb");
    run.equal("at-s1e1r", (translated, mrs!("par_el1") & 0xffff_ffff_f001), (Ok(()), CODE));
}

/// Unprotected addresses the VMM has nothing at: beside its devices, in the gaps, at the end.
fn addresses(run: &Run) {
    run.state("unprotected addresses");
    let alias = memory::alias();
    let mut wrong = None;
    for address in
        [0, 0x00ff_fff8, 0x0100_3000, 0x0100_4000, 0x3000_0000, 0x4000_0000, 0x7fff_fff8, 0x8100_0000]
    {
        let address = alias | address;
        let found = (probe_load(address), probe_store(address, 1), probe_fetch(address));
        let fault = |esr| Fault { esr, far: address, skew: 0 };
        if found != (Err(fault(LOAD_SEA)), Err(fault(STORE_SEA)), Err(fault(FETCH_SEA))) && wrong.is_none() {
            wrong = Some((address, found));
        }
    }
    run.equal("nothing-there", wrong, None);
}

/// What ID registers say is what there is.
fn identification(run: &Run) {
    run.state("ID registers");
    let field = |register: u64, shift: u32| register >> shift & 0xf;
    let pfr0 = mrs!("id_aa64pfr0_el1");
    let pfr1 = mrs!("id_aa64pfr1_el1");
    let dfr0 = mrs!("id_aa64dfr0_el1");
    run.equal("no-amu", field(pfr0, 44), 0);
    run.equal("no-mte-sme", (field(pfr1, 8), field(pfr1, 24)), (0, 0));
    run.equal("no-nmi", field(pfr1, 36), 0);
    run.equal("no-gcs-the", (field(pfr1, 44), field(pfr1, 48)), (0, 0));
    // MMFR3 and MMFR4: TCR2_EL1, SCTLR2_EL1, PIR_EL1, POR_EL1, translation tables of 128 bits, and more.
    run.equal("no-mmfr3-mmfr4", (mrs!("S3_0_C0_C7_3"), mrs!("S3_0_C0_C7_4")), (0, 0));
    run.check("no-scxtnum", field(pfr0, 56) < 2, format_args!("{pfr0:#x}"));
    run.equal("no-smfr0", mrs!("S3_0_C0_C4_5"), 0);
    for (check, shift) in
        [("trace", 4), ("spe", 32), ("trace-filter", 40), ("trace-buffer", 44), ("brbe", 52)]
    {
        run.equal(check, field(dfr0, shift), 0);
    }
    let zfr0 = mrs!("S3_0_C0_C4_4");
    run.check("sve", field(pfr0, 32) != 0 || zfr0 == 0, format_args!("{zfr0:#x}"));
    // ALLINT cannot be set, whether it is there or not.
    let _ = attempt!("msr S3_0_C4_C3_0, {all}", all = in(reg) 1_u64 << 13);
    let mut allint = 0_u64;
    let _ = attempt!("mrs {all}, S3_0_C4_C3_0", all = inout(reg) allint);
    run.equal("allint", allint, 0);
    // RDVL X9, #1.
    let vector = attempt!(".inst 0x04bf5029", out("x9") _).map_err(|fault| fault.esr);
    run.equal("rdvl", vector, if field(pfr0, 32) != 0 { Ok(()) } else { Err(UNDEFINED) });
    run.equal("mpidr", mrs!("mpidr_el1"), 0x8000_0000);
    run.check("midr", mrs!("midr_el1") != 0, format_args!("0"));
}

/// Where a system register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Encoding {
    op0: u32,
    op1: u32,
    crn: u32,
    crm: u32,
    op2: u32,
}

impl Encoding {
    fn all(op0: u32) -> impl Iterator<Item = Self> {
        (0..1 << 14).map(move |n| Self { op0, op1: n >> 11, crn: n >> 7 & 15, crm: n >> 3 & 15, op2: n & 7 })
    }
    /// MRS or SYSL to X0, or MSR or SYS from XZR.
    const fn instruction(self, read: bool) -> u32 {
        let base = if read { 0xd520_0000 } else { 0xd500_001f };
        let Self { op0, op1, crn, crm, op2 } = self;
        base | op0 << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5
    }
    /// Of EL2, EL3, by their aliases, or of the Secure world.
    const fn is_higher(self) -> bool {
        self.op1 >= 4
    }
    const fn is_implementation_defined(self) -> bool {
        matches!(self.crn, 11 | 15)
    }
    const fn is_pmu(self) -> bool {
        (self.crn == 9 && matches!(self.crm, 12..=14)) || (self.crn == 14 && self.crm >= 8)
    }
    /// Feature ID registers: what is not given out reads as zero.
    const fn is_id(self) -> bool {
        self.op0 == 3 && self.op1 == 0 && self.crn == 0 && matches!(self.crm, 1..=7)
    }
    /// Where FEAT_IDST tells reads of what is not given out from other undefined instructions.
    const fn is_id_space(self) -> bool {
        self.op0 == 3 && matches!(self.op1, 0 | 1 | 3) && self.crn == 0 && self.crm < 8
    }
}

/// ESR_EL1.EC of a trapped access.
const SYSREG: u64 = 0x18;
const RET: u64 = 0xd65f_03c0;

/// Calls an instruction at each of `encodings`; `see` gets what came of it.
fn each(
    encodings: impl Iterator<Item = Encoding>,
    read: bool,
    mut see: impl FnMut(Encoding, Result<u64, u64>),
) {
    let mut batch = [None; 512];
    let mut encodings = encodings.peekable();
    while encodings.peek().is_some() {
        for (slot, n) in batch.iter_mut().zip(0..) {
            *slot = encodings.next();
            if let Some(encoding) = slot {
                memory::write(CODE + 8 * n, u64::from(encoding.instruction(read)) | RET << 32);
            }
        }
        memory::publish_code(CODE, PAGE);
        for (encoding, n) in batch.iter().flatten().zip(0..) {
            let value: u64;
            let code = CODE + 8 * n;
            let found = attempt!("blr {code}", code = in(reg) code, out("x0") value, out("x30") _);
            see(*encoding, found.map(|()| value).map_err(|fault| fault.esr));
        }
    }
}

/// Every encoding there is.
fn registers(run: &Run) {
    let has_pmu = mrs!("id_aa64dfr0_el1") >> 8 & 0xf != 0;
    run.state("reading all registers");
    let mut bad = None;
    let mut there = 0;
    for op0 in [2, 3] {
        each(Encoding::all(op0), true, |encoding, found| {
            there += u64::from(found.is_ok());
            let hidden = op0 == 2 || (encoding.is_pmu() && !has_pmu);
            let absent = encoding.is_higher() || encoding.is_implementation_defined();
            let good = match found {
                Ok(value) => !absent && (!hidden || value == 0),
                Err(UNDEFINED) => !encoding.is_id(),
                Err(esr) => esr >> 26 == SYSREG && encoding.is_id_space() && !encoding.is_id(),
            };
            if !good && bad.is_none() {
                bad = Some((encoding, found));
            }
        });
    }
    run.equal("reads", bad, None);
    run.value("readable", there);

    run.state("writing what is not the realm's");
    let mut bad = None;
    let refused = [1, 2, 3].into_iter().flat_map(Encoding::all).filter(|encoding| {
        let system = encoding.op0 == 1;
        encoding.is_implementation_defined() || (!system && encoding.is_higher()) || encoding.is_id()
    });
    each(refused, false, |encoding, found| {
        if found != Err(UNDEFINED) && bad.is_none() {
            bad = Some((encoding, found));
        }
    });
    run.equal("writes", bad, None);

    run.state("writing debug registers");
    let mut bad = None;
    let debug = Encoding::all(2).filter(|encoding| !encoding.is_higher());
    each(debug, false, |encoding, found| {
        if found.is_err_and(|esr| esr != UNDEFINED) && bad.is_none() {
            bad = Some((encoding, found));
        }
    });
    run.equal("debug-writes", bad, None);
}
