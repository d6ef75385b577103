//! What realms run on this machine: instead of instructions, a program yields operations, one at a time. Each happens at
//! the virtual CPU's PC, through its stage 2, and traps as the instruction would.

use realm_rmm::cpu::CpuContext;
use realm_rmm::platform::SysReg;
use std::fmt;

/// Registers X0 to X17, which a secure monitor call may use.
pub type SmcRegs = [u64; 18];

/// A load or store of one register: what the syndrome of its abort describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Address, a multiple of `size`.
    pub ipa: u64,
    /// Bytes: 1, 2, 4 or 8.
    pub size: u8,
    /// The register, 0 to 30; 31 is XZR.
    pub rt: u8,
    /// A sign-extending load.
    pub sign_extend: bool,
    /// A 64-bit destination register.
    pub wide: bool,
}

impl Access {
    /// A plain access of `size` bytes with X9, zero-extended to 64 bits.
    #[must_use]
    pub const fn new(ipa: u64, size: u8) -> Self {
        Self { ipa, size, rt: 9, sign_extend: false, wide: size == 8 }
    }
}

/// One operation of a virtual CPU.
pub enum Op {
    /// A load. Gives [`Outcome::Value`], the register afterwards.
    Load(Access),
    /// A store of the low bytes of a value.
    Store(Access, u64),
    /// Reads many bytes, with instructions that have no valid syndrome (LDP). Gives [`Outcome::Bytes`].
    ReadBytes {
        /// First address.
        ipa: u64,
        /// How many.
        len: usize,
    },
    /// Writes many bytes, with instructions that have no valid syndrome (STP).
    WriteBytes {
        /// First address.
        ipa: u64,
        /// What to write.
        bytes: Vec<u8>,
    },
    /// Fetches an instruction.
    Fetch(u64),
    /// SMC #0. Gives [`Outcome::Regs`].
    Smc(SmcRegs),
    /// HVC #0.
    Hvc,
    /// WFI.
    Wfi,
    /// WFE.
    Wfe,
    /// WFIT with a counter value.
    Wfit(u64),
    /// WFET with a counter value.
    Wfet(u64),
    /// Reads a system register into X9. Gives [`Outcome::Value`].
    Mrs(SysReg),
    /// Writes a system register from X9.
    Msr(SysReg, u64),
    /// Reads the low 128 bits of a SIMD register. Gives [`Outcome::Bytes`].
    SimdRead(u8),
    /// Writes the low 128 bits of a SIMD register.
    SimdWrite(u8, u128),
    /// A branch to itself until a physical interrupt has been taken.
    Spin,
    /// Any instructions that do not trap: they change the context. Their number does not matter.
    Context(Box<dyn FnOnce(&mut CpuContext) + Send>),
    /// An exception to R-EL2 with this syndrome, for instructions not modelled here.
    Raise {
        /// ESR_EL2.
        esr: u64,
        /// FAR_EL2.
        far: u64,
        /// HPFAR_EL2.
        hpfar: u64,
    },
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load(access) => write!(f, "Load({access:x?})"),
            Self::Store(access, value) => write!(f, "Store({access:x?}, {value:#x})"),
            Self::ReadBytes { ipa, len } => write!(f, "ReadBytes({ipa:#x}, {len})"),
            Self::WriteBytes { ipa, bytes } => write!(f, "WriteBytes({ipa:#x}, {})", bytes.len()),
            Self::Fetch(ipa) => write!(f, "Fetch({ipa:#x})"),
            Self::Smc(regs) => write!(f, "Smc({:#x})", regs[0]),
            Self::Hvc => f.write_str("Hvc"),
            Self::Wfi => f.write_str("Wfi"),
            Self::Wfe => f.write_str("Wfe"),
            Self::Wfit(deadline) => write!(f, "Wfit({deadline})"),
            Self::Wfet(deadline) => write!(f, "Wfet({deadline})"),
            Self::Mrs(reg) => write!(f, "Mrs({reg:?})"),
            Self::Msr(reg, value) => write!(f, "Msr({reg:?}, {value:#x})"),
            Self::SimdRead(n) => write!(f, "SimdRead({n})"),
            Self::SimdWrite(n, value) => write!(f, "SimdWrite({n}, {value:#x})"),
            Self::Spin => f.write_str("Spin"),
            Self::Context(_) => f.write_str("Context"),
            Self::Raise { esr, .. } => write!(f, "Raise({esr:#x})"),
        }
    }
}

/// An exception the realm's EL1 took instead of completing an operation. Its handler returned behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestException {
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1.
    pub far: u64,
    /// ELR_EL1: where it was taken.
    pub elr: u64,
}

impl GuestException {
    /// Exception class, ESR bits 31:26.
    #[must_use]
    pub const fn class(&self) -> u8 {
        ((self.esr >> 26) & 0x3f) as u8
    }
    /// Fault status code, ESR bits 5:0.
    #[must_use]
    pub const fn status(&self) -> u8 {
        (self.esr & 0x3f) as u8
    }
    /// Whether it is a synchronous external abort, of data or of an instruction, at EL1.
    #[must_use]
    pub const fn is_external_abort(&self) -> bool {
        matches!(self.class(), 0x21 | 0x25) && self.status() == 0x10
    }
}

impl fmt::Display for GuestException {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (class, status) = (self.class(), self.status());
        write!(f, "exception at {:#x}: class {class:#x}, status {status:#x}, FAR {:#x}", self.elr, self.far)
    }
}

/// What became of a program's last operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There was none: the virtual CPU starts here, at the PC and with the registers in its context.
    Started,
    /// It completed.
    Done,
    /// It completed with a value.
    Value(u64),
    /// It completed with bytes.
    Bytes(Vec<u8>),
    /// It completed with registers.
    Regs(Box<SmcRegs>),
    /// It did not complete.
    Exception(GuestException),
}

/// A program of one virtual CPU.
pub trait RealmProgram: Send {
    /// The next operation. `last` is what became of the one before; `context` may be read and changed as
    /// instructions that do not trap could.
    fn step(&mut self, context: &mut CpuContext, last: Outcome) -> Op;
}

/// Which virtual CPU a program is for, as hardware can know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProgramKey {
    /// VMID of the realm.
    pub vmid: u16,
    /// MPIDR_EL1 without its RES1 bit 31.
    pub mpidr: u64,
}

/// Makes the program of a virtual CPU that starts: first entry, or turned on again.
pub type ProgramFactory = dyn Fn(ProgramKey) -> Box<dyn RealmProgram> + Send + Sync;

/// A program made of a list of operations; what became of them is kept. After the last one the virtual CPU turns itself
/// off.
pub struct Script {
    ops: std::vec::IntoIter<Op>,
    outcomes: std::sync::Arc<std::sync::Mutex<Vec<Outcome>>>,
}

impl Script {
    /// A program that does `ops` in order, and where to find what became of each.
    #[must_use]
    pub fn new(ops: Vec<Op>) -> (Self, std::sync::Arc<std::sync::Mutex<Vec<Outcome>>>) {
        let outcomes = std::sync::Arc::default();
        (Self { ops: ops.into_iter(), outcomes: std::sync::Arc::clone(&outcomes) }, outcomes)
    }
}

impl RealmProgram for Script {
    fn step(&mut self, _context: &mut CpuContext, last: Outcome) -> Op {
        if last != Outcome::Started {
            crate::probe::log::lock(&self.outcomes).push(last);
        }
        self.ops.next().unwrap_or_else(cpu_off)
    }
}

/// PSCI_CPU_OFF.
pub(crate) fn cpu_off() -> Op {
    let mut regs = [0; 18];
    regs[0] = realm_abi::psci::fid::CPU_OFF;
    Op::Smc(regs)
}
