//! Contexts of the two worlds on each CPU, and the assembly that switches between them.

use super::sysreg::{self, field, read, write};
use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering};
use realm_monitor::layout::MAX_CPUS;
use realm_monitor::services::GTSI_DELEGATE;

/// Bytes of a CPU's stack with the page below it that is not mapped.
pub const STACK_SIZE: usize = 64 << 10;

/// The two worlds below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// Non-secure.
    NonSecure,
    /// Realm.
    Realm,
}

/// Why a world came back to EL3; the vector it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A synchronous exception: a call, a trap or a fault.
    Sync,
    /// IRQ, FIQ.
    Interrupt,
    /// A system error.
    SError,
    /// From AArch32, which no world may use.
    Aarch32,
}

const KIND_SYNC: u64 = 0;
const KIND_IRQ: u64 = 1;
const KIND_FIQ: u64 = 2;
const KIND_SERROR: u64 = 3;
const KIND_AARCH32: u64 = 4;

/// Bits of [`Context::features`]: what the switch saves beside what every CPU with RME has.
mod feature {
    pub const IMPDEF: u32 = 0;
    pub const AMU: u32 = 1;
    pub const CSV2: u32 = 2;
    pub const NV2: u32 = 3;
    pub const MTE2: u32 = 4;
    pub const MPAM: u32 = 5;
}

/// EL2h with everything masked.
const SPSR_EL2H: u64 = 0x3c9;
/// SCTLR_EL2 with only its RES1 bits.
const SCTLR_EL2_RES1: u64 = 0x30c5_0830;
/// Index of SCTLR_EL2 and HCR_EL2 in [`Context::sysregs`].
const SCTLR_HCR: usize = 0;

/// SCR_EL3 with which the registers of EL2 can be reached at boot: NS and RW.
const SCR_BOOT: u64 = 1 << 0 | 1 << 10;

/// No call switches to the other world.
static CLOSED: AtomicU32 = AtomicU32::new(0);
/// How many RMI commands there are: function numbers 0x150 to 0x18F, none once the RMM has failed. For all CPUs.
static COMMANDS: AtomicU32 = AtomicU32::new(0x40);
/// The call that ends a command.
static END_OF_COMMAND: AtomicU32 = AtomicU32::new(1);

/// The RMM is never entered again, on no CPU, once it ended its start with an error or faulted.
pub fn close_rmm() {
    COMMANDS.store(0, Ordering::Release);
}

/// Whether the RMM has failed.
pub fn rmm_is_closed() -> bool {
    COMMANDS.load(Ordering::Acquire) == 0
}

/// What a world had in the registers of one CPU when it left it.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Context {
    /// X0 to X30.
    pub gprs: [u64; 31],
    /// The call that switches to the other world without Rust: its function identifier under `fast_mask` is one of
    /// so many from `fast_base` on as `fast_count` holds.
    fast_base: u32,
    fast_mask: u32,
    /// Where the world goes on.
    pub elr: u64,
    /// Its PSTATE.
    pub spsr: u64,
    other: *mut Context,
    features: u64,
    scr: u64,
    is_realm: u64,
    /// Set from [`Worlds::reset`] on; the assembly reads it.
    fast_count: Option<&'static AtomicU32>,
    sysregs: [u64; 64],
}

impl Context {
    const EMPTY: Self = Self {
        gprs: [0; 31],
        fast_base: 0,
        fast_mask: 0,
        elr: 0,
        spsr: 0,
        other: core::ptr::null_mut(),
        features: 0,
        scr: 0,
        is_realm: 0,
        fast_count: None,
        sysregs: [0; 64],
    };

    /// Which world's it is.
    pub const fn world(&self) -> World {
        if self.is_realm == 0 { World::NonSecure } else { World::Realm }
    }

    /// Sets where and with what in its first registers the world starts, at EL2 with the MMU off.
    pub fn start_at(&mut self, entry: u64, args: &[u64]) {
        self.gprs = [0; 31];
        for (reg, value) in self.gprs.iter_mut().zip(args) {
            *reg = *value;
        }
        self.elr = entry;
        self.spsr = SPSR_EL2H;
    }

    /// Whether calls of this world that belong to the other one reach it: RMI commands, the end of one.
    pub const fn set_fast(&mut self, open: bool) {
        self.fast_count = Some(match (open, self.world()) {
            (false, _) => &CLOSED,
            (true, World::NonSecure) => &COMMANDS,
            (true, World::Realm) => &END_OF_COMMAND,
        });
    }
}

/// The contexts of one CPU.
#[derive(Debug)]
pub struct Worlds {
    pub non_secure: Context,
    pub realm: Context,
}

#[repr(transparent)]
struct Slot(UnsafeCell<Worlds>);

// SAFETY: each CPU uses only its own slot (`worlds`).
unsafe impl Sync for Slot {}

static WORLDS: [Slot; MAX_CPUS] =
    [const { Slot(UnsafeCell::new(Worlds { non_secure: Context::EMPTY, realm: Context::EMPTY })) }; MAX_CPUS];

/// Memory for the stacks; start.s and the tables know its shape.
#[repr(C, align(4096))]
struct Stacks(UnsafeCell<[[u8; STACK_SIZE]; MAX_CPUS]>);

// SAFETY: each CPU uses only its own stack, through SP.
unsafe impl Sync for Stacks {}

#[unsafe(link_section = ".stacks")]
#[used]
static STACKS: Stacks = Stacks(UnsafeCell::new([[0; STACK_SIZE]; MAX_CPUS]));

/// The contexts of CPU `cpu`.
///
/// # Safety
/// `cpu` must be the CPU that runs, and no other reference to its contexts may be alive.
pub unsafe fn worlds(cpu: usize) -> &'static mut Worlds {
    // SAFETY: the caller holds the only reference.
    unsafe { &mut *WORLDS[cpu].0.get() }
}

unsafe extern "C" {
    fn enter_world(context: *mut Context) -> Left;
    fn save_world(context: *mut Context);
    fn load_world(context: *const Context);
}

#[repr(C)]
struct Left {
    context: *mut Context,
    kind: u64,
}

impl Worlds {
    /// Runs `world`, and whatever world its calls switch to, until EL3 has to act; which world it was then, and why.
    ///
    /// The registers of `world` must be loaded: by [`Self::reset`] and [`Self::load`], or because it left last.
    pub fn enter(&mut self, world: World) -> (World, Exit) {
        let context = &raw mut *self.context(world);
        // SAFETY: the context and its `other` are this CPU's and are not referred to while the world runs.
        let left = unsafe { enter_world(context) };
        // SAFETY: it is one of the two contexts of this CPU.
        let world = unsafe { (*left.context).world() };
        let exit = match left.kind {
            KIND_SYNC => Exit::Sync,
            KIND_IRQ | KIND_FIQ => Exit::Interrupt,
            KIND_SERROR => Exit::SError,
            _ => Exit::Aarch32,
        };
        (world, exit)
    }

    /// The context of `world`.
    pub const fn context(&mut self, world: World) -> &mut Context {
        match world {
            World::NonSecure => &mut self.non_secure,
            World::Realm => &mut self.realm,
        }
    }

    /// Puts the registers of the world that left last into its context.
    pub fn save(&mut self, world: World) {
        // SAFETY: the context is valid for writes.
        unsafe { save_world(self.context(world)) };
    }

    /// Loads the registers of a world that another than the last one is to run.
    pub fn load(&mut self, world: World) {
        // SAFETY: the context holds values for every register; they have no effect at EL3.
        unsafe { load_world(self.context(world)) };
    }

    /// Gives the Non-secure world, whose registers are loaded, EL2 as it is out of reset.
    pub fn start_non_secure_anew(&mut self) {
        reset_el2();
        self.save(World::NonSecure);
        self.non_secure.sysregs[SCTLR_HCR] = SCTLR_EL2_RES1;
        self.non_secure.sysregs[SCTLR_HCR + 1] = 0;
        self.load(World::NonSecure);
    }

    /// Brings both contexts to the state of a CPU out of reset.
    pub fn reset(&mut self) {
        let features = features();
        let scr = scr();
        reset_el2();
        let (non_secure, realm) = (&raw mut self.non_secure, &raw mut self.realm);
        for world in [World::NonSecure, World::Realm] {
            let context = self.context(world);
            *context = Context::EMPTY;
            context.features = features;
            context.fast_count = Some(&CLOSED);
            match world {
                World::NonSecure => {
                    context.scr = scr;
                    context.other = realm;
                    context.fast_base = 0xc400_0150;
                    // The SVE hint is no part of the identifier.
                    context.fast_mask = !(1 << 16);
                }
                World::Realm => {
                    context.scr = scr | 1 << 62;
                    context.is_realm = 1;
                    context.other = non_secure;
                    context.fast_base = 0xc400_018f;
                    context.fast_mask = u32::MAX;
                }
            }
            self.save(world);
            self.context(world).sysregs[SCTLR_HCR] = SCTLR_EL2_RES1;
            self.context(world).sysregs[SCTLR_HCR + 1] = 0;
        }
    }
}

/// Values for registers of EL2 that reset leaves unknown and that matter to software that does not know them.
fn reset_el2() {
    write!("cptr_el2", 0);
    write!("cnthctl_el2", 0x3);
    write!("cntvoff_el2", 0);
    write!("S3_4_C14_C0_6", 0);
    write!("hstr_el2", 0);
    write!("S3_4_C1_C2_2", 0);
    write!("vpidr_el2", read!("midr_el1"));
    write!("vmpidr_el2", read!("mpidr_el1"));
    write!("vttbr_el2", 0);
    // All counters belong to EL1.
    write!("mdcr_el2", read!("pmcr_el0") >> 11 & 0x1f);
    for_each_trap();
    write!("S3_4_C12_C11_0", 0);
    if has_mpam() {
        write!("S3_4_C10_C5_0", 0);
    }
    sysreg::isb();
}

/// No fine-grained traps.
fn for_each_trap() {
    write!("S3_4_C1_C1_4", 0);
    write!("S3_4_C1_C1_5", 0);
    write!("S3_4_C1_C1_6", 0);
    write!("S3_4_C3_C1_4", 0);
    write!("S3_4_C3_C1_5", 0);
}

/// Which registers the switch has to save on this CPU.
fn features() -> u64 {
    let pfr0 = read!("id_aa64pfr0_el1");
    let pfr1 = read!("id_aa64pfr1_el1");
    let mmfr2 = read!("S3_0_C0_C7_2");
    let csv2_2 = field(pfr0, 56) >= 2 || field(pfr1, 32) >= 2;
    let found = [
        (feature::IMPDEF, has_impdef()),
        (feature::AMU, field(pfr0, 44) != 0),
        (feature::CSV2, csv2_2),
        (feature::NV2, field(mmfr2, 24) >= 2),
        (feature::MTE2, field(pfr1, 8) >= 2),
        (feature::MPAM, has_mpam()),
    ];
    found.iter().filter(|(_, there)| *there).fold(0, |bits, (bit, _)| bits | 1 << bit)
}

/// Whether memory accesses have partitions (FEAT_MPAM, of any version).
fn has_mpam() -> bool {
    field(read!("id_aa64pfr0_el1"), 40) != 0 || field(read!("id_aa64pfr1_el1"), 16) != 0
}

/// Whether any of the implementation-defined registers of EL2 keeps a value.
fn has_impdef() -> bool {
    macro_rules! keeps {
        ($($name:literal),*) => {
            [$({
                let old = read!($name);
                write!($name, u64::MAX);
                let kept = read!($name);
                write!($name, old);
                kept != 0
            }),*]
        };
    }
    keeps!("actlr_el2", "hacr_el2", "afsr0_el2", "afsr1_el2", "amair_el2").contains(&true)
}

/// SCR_EL3 of the Non-secure world: AArch64 below, FIQs to EL3, and the features whose registers the switch saves.
fn scr() -> u64 {
    let pfr0 = read!("id_aa64pfr0_el1");
    let pfr1 = read!("id_aa64pfr1_el1");
    let optional = [
        // EnSCXT
        (25, features() & 1 << feature::CSV2 != 0),
        // ATA
        (26, field(pfr1, 8) >= 2),
        // EnTP2
        (41, field(pfr1, 24) != 0),
        // TERR stays clear: error records are EL2's to use.
        // AMVOFFEN
        (35, field(pfr0, 44) >= 2),
        // EnAS0, ADEn: ST64BV0 needs LS64_ACCDATA
        (36, field(read!("id_aa64isar1_el1"), 60) >= 3),
        (37, field(read!("id_aa64isar1_el1"), 60) >= 3),
    ];
    // NS, FIQ, HCE, RW, APK, API, FGTEn, ECVEn, HXEn
    let always = [0, 2, 8, 10, 16, 17, 27, 28, 38];
    let bits = optional.iter().filter(|(_, there)| *there).fold(0, |bits, (bit, _)| bits | 1 << bit);
    always.iter().fold(bits, |bits, bit| bits | 1 << bit)
}

/// Opens SIMD, SVE and SME to the lower levels and keeps counters out of EL3. On every CPU.
pub fn init_el3() {
    let pfr0 = read!("id_aa64pfr0_el1");
    let pfr1 = read!("id_aa64pfr1_el1");
    let sve = field(pfr0, 32) != 0;
    let sme = field(pfr1, 24) != 0;
    // EZ, ESM; nothing else traps to EL3.
    write!("cptr_el3", u64::from(sve) << 8 | u64::from(sme) << 12);
    sysreg::isb();
    if sve {
        // The longest vectors there are.
        write!("S3_6_C1_C2_0", 0xf);
    }
    if sme {
        // And all of SVE in streaming mode, and ZT0, where there is such.
        let smfr0 = read!("S3_0_C0_C4_5");
        write!("S3_6_C1_C2_6", 0xf | (smfr0 >> 63) << 31 | u64::from(field(smfr0, 56) != 0) << 30);
    }
    if has_mpam() {
        // MPAM3_EL3.TRAPLOWER, which reset sets.
        write!("S3_6_C10_C5_0", read!("S3_6_C10_C5_0") & !(1 << 62));
    }
    // SDD: no debug exceptions in Secure state. SCCD: the cycle counter stands still there.
    write!("mdcr_el3", 1 << 16 | 1 << 23);
    sysreg::isb();
}

extern "C" fn own_fault(esr: u64, elr: u64, far: u64) -> ! {
    super::console::print_after_fault(format_args!(
        "monitor: FAULT at EL3: ESR {esr:#x} ELR {elr:#x} FAR {far:#x}\n"
    ));
    super::power::halt()
}

global_asm!(
    include_str!("asm/start.s"),
    max_cpus = const MAX_CPUS,
    scr_boot = const SCR_BOOT,
    stack_size = const STACK_SIZE,
    primary = sym super::boot::primary,
    secondary = sym super::boot::secondary,
);

global_asm!(
    include_str!("asm/world.s"),
    ctx_fast = const offset_of!(Context, fast_base),
    ctx_fast_count = const offset_of!(Context, fast_count),
    ctx_elr = const offset_of!(Context, elr),
    ctx_other = const offset_of!(Context, other),
    ctx_features = const offset_of!(Context, features),
    ctx_scr = const offset_of!(Context, scr),
    ctx_is_realm = const offset_of!(Context, is_realm),
    gtsi = const GTSI_DELEGATE,
    granule_call = sym super::gpt::granule_call,
    ctx_sysregs = const offset_of!(Context, sysregs),
    f_impdef = const feature::IMPDEF,
    f_amu = const feature::AMU,
    f_csv2 = const feature::CSV2,
    f_nv2 = const feature::NV2,
    f_mte2 = const feature::MTE2,
    f_mpam = const feature::MPAM,
    kind_sync = const KIND_SYNC,
    kind_irq = const KIND_IRQ,
    kind_fiq = const KIND_FIQ,
    kind_serror = const KIND_SERROR,
    kind_aarch32 = const KIND_AARCH32,
    stack_size = const STACK_SIZE,
    own_fault = sym own_fault,
);
