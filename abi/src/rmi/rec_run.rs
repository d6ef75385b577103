//! What passes between Host and RMM around REC_ENTER (RMM 1.0, `RmiRecEnter`, `RmiRecExit` and `RmiRecRun`).

use super::{ExitReason, GPRS, HostStructure, MAX_LRS, Ripas};
use crate::layout::assert_layout;
use core::mem::offset_of;
use core::ops::Range;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

bitflags::bitflags! {
    /// `RmiRecEnterFlags`; unknown bits are kept.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct EnterFlags: u64 {
        /// The Host emulated the access of the last exit.
        const EMUL_MMIO = 1 << 0;
        /// Inject a synchronous external abort.
        const INJECT_SEA = 1 << 1;
        /// WFI and WFIT exit.
        const TRAP_WFI = 1 << 2;
        /// WFE and WFET exit.
        const TRAP_WFE = 1 << 3;
        /// Reject the pending RIPAS change.
        const RIPAS_RESPONSE = 1 << 4;
        const _ = !0;
    }
}

/// `RmiRecEnter`.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct RecEnter {
    /// [`EnterFlags`].
    pub flags: u64,
    pad_8: [u8; 0x200 - 0x8],
    /// MMIO read value in `gprs[0]`, or all registers of a host call's reply.
    pub gprs: [u64; GPRS],
    pad_2f8: [u8; 0x300 - 0x2f8],
    /// ICH_HCR_EL2, only [`GICV3_HCR_HOST_BITS`](super::GICV3_HCR_HOST_BITS).
    pub gicv3_hcr: u64,
    /// `ICH_LR<n>_EL2`.
    pub gicv3_lrs: [u64; MAX_LRS],
    pad_388: [u8; 0x800 - 0x388],
}

assert_layout!(RecEnter, 0x800, { flags: 0x0, gprs: 0x200, gicv3_hcr: 0x300, gicv3_lrs: 0x308 });

impl HostStructure for RecEnter {
    const USED: &'static [Range<usize>] =
        &[0..offset_of!(Self, pad_8), offset_of!(Self, gprs)..offset_of!(Self, pad_388)];
}

/// `RmiRecExit`.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct RecExit {
    /// Why the REC exited.
    pub exit_reason: ExitReason,
    pad_1: [u8; 0x100 - 0x1],
    /// Sanitised ESR_EL2.
    pub esr: u64,
    /// Sanitised FAR_EL2.
    pub far: u64,
    /// HPFAR_EL2.
    pub hpfar: u64,
    pad_118: [u8; 0x200 - 0x118],
    /// PSCI arguments, host call registers or the MMIO write value.
    pub gprs: [u64; GPRS],
    pad_2f8: [u8; 0x300 - 0x2f8],
    /// ICH_HCR_EL2: EOIcount and the Host's bits.
    pub gicv3_hcr: u64,
    /// `ICH_LR<n>_EL2`.
    pub gicv3_lrs: [u64; MAX_LRS],
    /// ICH_MISR_EL2.
    pub gicv3_misr: u64,
    /// ICH_VMCR_EL2.
    pub gicv3_vmcr: u64,
    pad_398: [u8; 0x400 - 0x398],
    /// CNTP_CTL_EL0.
    pub cntp_ctl: u64,
    /// CNTP_CVAL_EL0.
    pub cntp_cval: u64,
    /// CNTV_CTL_EL0.
    pub cntv_ctl: u64,
    /// CNTV_CVAL_EL0.
    pub cntv_cval: u64,
    pad_420: [u8; 0x500 - 0x420],
    /// RIPAS_CHANGE: first IPA.
    pub ripas_base: u64,
    /// RIPAS_CHANGE: end, exclusive.
    pub ripas_top: u64,
    /// RIPAS_CHANGE: the RIPAS the realm asks for.
    pub ripas_value: Ripas,
    pad_511: [u8; 0x600 - 0x511],
    /// HOST_CALL: the immediate.
    pub imm: u16,
    pad_602: [u8; 0x700 - 0x602],
    /// 1 if a PMU overflow is pending.
    pub pmu_ovf_status: u8,
    pad_701: [u8; 0x800 - 0x701],
}

assert_layout!(RecExit, 0x800, {
    exit_reason: 0x0, esr: 0x100, far: 0x108, hpfar: 0x110, gprs: 0x200, gicv3_hcr: 0x300, gicv3_lrs: 0x308,
    gicv3_misr: 0x388, gicv3_vmcr: 0x390, cntp_ctl: 0x400, cntp_cval: 0x408, cntv_ctl: 0x410, cntv_cval: 0x418,
    ripas_base: 0x500, ripas_top: 0x508, ripas_value: 0x510, imm: 0x600, pmu_ovf_status: 0x700,
});

/// `RmiRecRun`: one Non-secure granule.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct RecRun {
    /// Host to RMM.
    pub enter: RecEnter,
    /// RMM to Host.
    pub exit: RecExit,
}

assert_layout!(RecRun, 0x1000, { enter: 0x0, exit: 0x800 });

macro_rules! zeroed_default {
    ($($ty:ty),*) => {$(
        impl Default for $ty {
            fn default() -> Self {
                Self::new_zeroed()
            }
        }
    )*};
}
zeroed_default!(RecEnter, RecExit, RecRun);
