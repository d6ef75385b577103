//! Contexts of the two worlds on each CPU, and the assembly that switches between them.

use super::sysreg::{self, read, write};
use super::{cpu, registers};
use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering};
pub use realm_monitor::control::World;
use realm_monitor::control::{Cptr, Mdcr, Scr, el2};
use realm_monitor::features::Features;
use realm_monitor::layout::{CLUSTER_SHIFT, MAX_CPUS};
use realm_monitor::services::GTSI_DELEGATE;
use realm_monitor::stage1::PAGE_SIZE;

/// Bytes of a CPU's stack with the page below it that is not mapped.
pub const STACK_SIZE: usize = 32 << 10;

/// Why a world came back to EL3; the vector it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A synchronous exception: a call, a trap or a fault.
    Sync,
    /// IRQ, FIQ.
    Interrupt,
    /// A system error.
    SError,
}

const KIND_SYNC: u64 = 0;
const KIND_IRQ: u64 = 1;
const KIND_FIQ: u64 = 2;
const KIND_SERROR: u64 = 3;

/// EL2h with everything masked.
const SPSR_EL2H: u64 = 0x3c9;
/// Where some registers of the list in world.s are in [`Context::sysregs`], in bytes.
mod at {
    pub const SCTLR: usize = 0x00;
    pub const MPIDR: usize = 0x90;
    pub const CPTR: usize = 0xa0;
    pub const CNTHCTL: usize = 0xb0;
    pub const HSTR: usize = 0xc0;
    pub const ACTLR: usize = 0xe0;
    pub const HFGRTR: usize = 0x110;
    pub const HFGITR: usize = 0x120;
    pub const HDFGWTR: usize = 0x130;
}

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
    scr: Scr,
    mdcr: u64,
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
        scr: Scr::empty(),
        mdcr: 0,
        fast_count: None,
        sysregs: [0; 64],
    };

    /// Which world's it is.
    pub const fn world(&self) -> World {
        if self.scr.contains(Scr::NSE) { World::Realm } else { World::NonSecure }
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
    /// ACTLR_EL2 and HACR_EL2 as reset left them, which only their implementation knows.
    implementation: [u64; 2],
    /// The same of ACTLR_EL1.
    pub actlr_el1: u64,
}

#[repr(transparent)]
struct Slot(UnsafeCell<Worlds>);

// SAFETY: each CPU uses only its own slot (`worlds`).
unsafe impl Sync for Slot {}

static WORLDS: [Slot; MAX_CPUS] = [const {
    Slot(UnsafeCell::new(Worlds {
        non_secure: Context::EMPTY,
        realm: Context::EMPTY,
        implementation: [0; 2],
        actlr_el1: 0,
    }))
}; MAX_CPUS];

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

/// Wipes what earlier calls left on the stack of CPU `cpu`, which this is: keys and nonces of signatures among it, of which
/// the crates that make them wipe only what they own.
pub fn wipe_stack(cpu: usize) {
    // The lowest page of a stack is not mapped.
    let end = STACKS.0.get() as u64 + (cpu * STACK_SIZE) as u64 + PAGE_SIZE;
    // SAFETY: below the stack pointer nothing is alive, and interrupts are masked.
    unsafe { wipe_below_stack_pointer(end) };
}

unsafe extern "C" {
    #[link_name = "wipe_stack"]
    fn wipe_below_stack_pointer(end: u64);
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
            _ => Exit::SError,
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

    /// Notes what reset left in registers whose values have a meaning only here. Once, before anything else.
    pub fn note_reset(&mut self) {
        self.implementation = [read!("actlr_el2"), read!("hacr_el2")];
        self.actlr_el1 = read!("actlr_el1");
    }

    /// Gives the Non-secure world, whose registers are loaded, EL2 as it is out of reset.
    pub fn start_non_secure_anew(&mut self) {
        self.non_secure.sysregs = self.first_sysregs();
        self.load(World::NonSecure);
        registers::close_el2();
    }

    /// Brings both contexts, and all that is not in them, to the state of a CPU out of reset.
    pub fn reset(&mut self) {
        let features = cpu::features();
        registers::clear(self.actlr_el1);
        let sysregs = self.first_sysregs();
        let (non_secure, realm) = (&raw mut self.non_secure, &raw mut self.realm);
        for world in [World::NonSecure, World::Realm] {
            let context = self.context(world);
            *context = Context::EMPTY;
            context.features = features.bits();
            context.fast_count = Some(&CLOSED);
            context.scr = Scr::of(world, features);
            context.mdcr = Mdcr::of(world, features).bits();
            context.sysregs = sysregs;
            match world {
                World::NonSecure => {
                    context.other = realm;
                    context.fast_base = 0xc400_0150;
                    // The SVE hint is no part of the identifier.
                    context.fast_mask = !(1 << 16);
                }
                World::Realm => {
                    context.other = non_secure;
                    context.fast_base = 0xc400_018f;
                    context.fast_mask = u32::MAX;
                }
            }
        }
    }

    /// The switched registers with which a world starts. Zero where nothing else is said: no translation, no traps.
    fn first_sysregs(&self) -> [u64; 64] {
        let mut sysregs = [0; 64];
        let mut set = |at: usize, values: [u64; 2]| sysregs[at / 8..][..2].copy_from_slice(&values);
        // All counters belong to EL1.
        let counters =
            if cpu::features().contains(Features::PMU) { read!("pmcr_el0") >> 11 & 0x1f } else { 0 };
        set(at::SCTLR, [el2::SCTLR, 0]);
        set(at::MPIDR, [read!("mpidr_el1"), read!("midr_el1")]);
        set(at::CPTR, [el2::CPTR, counters]);
        set(at::CNTHCTL, [el2::CNTHCTL, 0]);
        set(at::HSTR, [0, el2::ICC_SRE]);
        set(at::ACTLR, self.implementation);
        set(at::HFGRTR, [el2::HFGRTR; 2]);
        set(at::HFGITR, [el2::HFGITR, el2::HDFGRTR]);
        set(at::HDFGWTR, [el2::HDFGWTR, 0]);
        sysregs
    }
}

/// Sets what EL3 keeps for itself and opens to both worlds. On every CPU.
pub fn init_el3() {
    let features = cpu::features();
    write!("cptr_el3", Cptr::of(features).bits());
    write!("mdcr_el3", Mdcr::of(World::NonSecure, features).bits());
    sysreg::isb();
    // Of ZCR_EL3 and SMCR_EL3: LEN, the longest vectors there are. Of SMCR_EL3 alone: all of SIMD in streaming mode, and ZT0.
    const LEN: u64 = 0xf;
    const FA64: u64 = 1 << 31;
    const EZT0: u64 = 1 << 30;
    /// Of MPAM3_EL3, which reset sets.
    const TRAPLOWER: u64 = 1 << 62;
    if features.contains(Features::SVE) {
        write!("S3_6_C1_C2_0", LEN);
    }
    if features.contains(Features::SME) {
        let full = if features.contains(Features::SME_FA64) { FA64 } else { 0 };
        let zt0 = if features.contains(Features::SME2) { EZT0 } else { 0 };
        write!("S3_6_C1_C2_6", LEN | full | zt0);
    }
    if features.contains(Features::MPAM) {
        write!("S3_6_C10_C5_0", read!("S3_6_C10_C5_0") & !TRAPLOWER);
    }
    sysreg::isb();
}

extern "C" fn own_fault(esr: u64, elr: u64, far: u64) -> ! {
    super::console::print_raw(format_args!(
        "monitor: FAULT at EL3: ESR {esr:#x} ELR {elr:#x} FAR {far:#x}\n"
    ));
    super::power::halt()
}

global_asm!(
    include_str!("asm/world.s"),
    ctx_fast = const offset_of!(Context, fast_base),
    ctx_fast_count = const offset_of!(Context, fast_count),
    ctx_elr = const offset_of!(Context, elr),
    ctx_other = const offset_of!(Context, other),
    ctx_features = const offset_of!(Context, features),
    ctx_scr = const offset_of!(Context, scr),
    scr_nse = const Scr::NSE.bits().trailing_zeros(),
    gtsi = const GTSI_DELEGATE,
    granule_call = sym super::gpt::granule_call,
    ctx_sysregs = const offset_of!(Context, sysregs),
    f_amu = const Features::AMU.bits().trailing_zeros(),
    f_csv2 = const Features::CSV2_2.bits().trailing_zeros(),
    f_nv2 = const Features::NV2.bits().trailing_zeros(),
    f_mte2 = const Features::MTE2.bits().trailing_zeros(),
    f_mpam = const Features::MPAM.bits().trailing_zeros(),
    f_mpam_virtual = const Features::MPAM_VIRTUAL.bits().trailing_zeros(),
    kind_sync = const KIND_SYNC,
    kind_irq = const KIND_IRQ,
    kind_fiq = const KIND_FIQ,
    kind_serror = const KIND_SERROR,
    stack_size = const STACK_SIZE,
    cluster_shift = const CLUSTER_SHIFT,
    own_fault = sym own_fault,
);
