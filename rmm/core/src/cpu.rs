//! What a realm's virtual CPU is while it does not run, and what makes it run.

use realm_abi::rmi::{GPRS, MAX_LRS};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// EL1 and EL0 system registers of a REC (RMM 1.0; the register list is the one reference firmware saves).
#[derive(Clone, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the architecture's")]
pub struct El1Registers {
    pub sp_el0: u64,
    pub sp_el1: u64,
    pub elr_el1: u64,
    pub spsr_el1: u64,
    pub tpidrro_el0: u64,
    pub tpidr_el0: u64,
    pub tpidr_el1: u64,
    pub csselr_el1: u64,
    pub sctlr_el1: u64,
    pub actlr_el1: u64,
    pub cpacr_el1: u64,
    pub ttbr0_el1: u64,
    pub ttbr1_el1: u64,
    pub tcr_el1: u64,
    pub esr_el1: u64,
    pub afsr0_el1: u64,
    pub afsr1_el1: u64,
    pub far_el1: u64,
    pub mair_el1: u64,
    pub amair_el1: u64,
    pub vbar_el1: u64,
    pub contextidr_el1: u64,
    pub cntkctl_el1: u64,
    pub par_el1: u64,
    pub mdscr_el1: u64,
    pub mdccint_el1: u64,
    pub disr_el1: u64,
    pub mpam0_el1: u64,
}

/// EL1 timers of a REC. The offsets are zero: virtual and physical count are the same (RMM 1.0, realm timers).
#[derive(Clone, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the architecture's")]
pub struct Timers {
    pub cntp_ctl: u64,
    pub cntp_cval: u64,
    pub cntv_ctl: u64,
    pub cntv_cval: u64,
}

/// GICv3 virtual CPU interface of a REC (RMM 1.0, realm interrupts).
#[derive(Clone, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the architecture's")]
pub struct Gic {
    /// Before a run: what to load. After it: what was read.
    pub ich_hcr: u64,
    pub ich_lrs: [u64; MAX_LRS],
    /// Read after a run.
    pub ich_misr: u64,
    pub ich_vmcr: u64,
    pub ich_ap0r: [u64; 4],
    pub ich_ap1r: [u64; 4],
}

/// PMU of a REC (RMM 1.0, realm PMU).
#[derive(Clone, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the architecture's")]
pub struct Pmu {
    pub pmcr: u64,
    pub pmccfiltr: u64,
    pub pmccntr: u64,
    pub pmcnten: u64,
    pub pminten: u64,
    pub pmovs: u64,
    pub pmselr: u64,
    pub pmuserenr: u64,
    pub pmevcntr: [u64; 31],
    pub pmevtyper: [u64; 31],
}

/// All of a virtual CPU but its SIMD state, which is in auxiliary granules.
#[derive(Clone, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CpuContext {
    /// X0 to X30.
    pub gprs: [u64; GPRS],
    /// Where it goes on.
    pub pc: u64,
    /// SPSR_EL2 to go on with.
    pub pstate: u64,
    /// System registers.
    pub el1: El1Registers,
    /// Timers.
    pub timers: Timers,
    /// Virtual interrupts.
    pub gic: Gic,
    /// APIA, APIB, APDA, APDB, APGA, low half first.
    pub pauth_keys: [u64; 10],
    /// HCR_EL2.VSE: 1 while a virtual SError waits, which it does as long as the realm masks it. Before a run: what to
    /// load. After it: what was read, 0 if the realm took it.
    pub vse: u64,
    /// VSESR_EL2: its syndrome.
    pub vsesr: u64,
    /// Performance monitors. They are the last, as most realms have none: nobody copies them then.
    pub pmu: Pmu,
}

/// EL2 settings for one run, all chosen by the RMM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunControls {
    /// VTTBR_EL2: root table and VMID.
    pub vttbr: u64,
    /// VTCR_EL2.
    pub vtcr: u64,
    /// VMPIDR_EL2.
    pub vmpidr: u64,
    /// HCR_EL2.TWI.
    pub trap_wfi: bool,
    /// HCR_EL2.TWE.
    pub trap_wfe: bool,
    /// CNTHCTL_EL2.CNTVMASK: the virtual timer does not signal.
    pub mask_vtimer: bool,
    /// CNTHCTL_EL2.CNTPMASK: the physical timer does not signal.
    pub mask_ptimer: bool,
    /// ZCR_EL2.LEN when the realm has SVE.
    pub sve_vl: Option<u8>,
    /// MDCR_EL2.HPMN when the realm has a PMU.
    pub pmu_counters: Option<u8>,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RealmExit {
    /// Synchronous exception to R-EL2. The context's PC is ELR_EL2: behind an HVC, at the instruction for all others.
    Sync {
        /// ESR_EL2.
        esr: u64,
        /// FAR_EL2.
        far: u64,
        /// HPFAR_EL2 of a stage 2 fault. Hardware leaves it unknown at a permission fault that is not of a stage 1 walk:
        /// the platform then has to translate FAR_EL2 itself.
        hpfar: u64,
    },
    /// Physical IRQ.
    Irq,
    /// Physical FIQ.
    Fiq,
    /// SError interrupt.
    SError {
        /// ESR_EL2.
        esr: u64,
    },
}
