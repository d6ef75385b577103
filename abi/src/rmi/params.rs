//! Structures the Host passes to REALM_CREATE and REC_CREATE (RMM 1.0, `RmiRealmParams` and `RmiRecParams`).

use super::HostStructure;
use super::{HashAlgorithm, MAX_REC_AUX, REC_CREATE_GPRS, RPV_SIZE};
use crate::layout::assert_layout;
use core::mem::offset_of;
use core::ops::Range;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

bitflags::bitflags! {
    /// `RmiRealmFlags`; unknown bits are kept.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RealmFlags: u64 {
        /// Stage 2 uses LPA2.
        const LPA2 = 1 << 0;
        /// The realm has SVE.
        const SVE = 1 << 1;
        /// The realm has a PMU.
        const PMU = 1 << 2;
        const _ = !0;
    }

    /// `RmiRecCreateFlags`; unknown bits are kept.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RecFlags: u64 {
        /// The REC can be entered at once.
        const RUNNABLE = 1 << 0;
        const _ = !0;
    }
}

/// `RmiRealmParams`. Fields marked "RIM" are what REALM_CREATE measures.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct RealmParams {
    /// [`RealmFlags`] (RIM).
    pub flags: u64,
    /// IPA width in bits (RIM).
    pub s2sz: u8,
    pad_9: [u8; 7],
    /// SVE vector length in quadwords minus one, when the SVE flag is set (RIM).
    pub sve_vl: u8,
    pad_11: [u8; 7],
    /// Breakpoints minus one; 0 is reserved (RIM).
    pub num_bps: u8,
    pad_19: [u8; 7],
    /// Watchpoints minus one; 0 is reserved (RIM).
    pub num_wps: u8,
    pad_21: [u8; 7],
    /// PMU event counters, when the PMU flag is set (RIM).
    pub pmu_num_ctrs: u8,
    pad_29: [u8; 7],
    /// Hash of RIM and REMs (RIM).
    pub hash_algo: HashAlgorithm,
    pad_31: [u8; 0x400 - 0x31],
    /// Realm Personalization Value.
    pub rpv: [u8; RPV_SIZE],
    pad_440: [u8; 0x800 - 0x440],
    /// Virtual Machine Identifier.
    pub vmid: u16,
    pad_802: [u8; 6],
    /// Physical address of the first starting-level RTT.
    pub rtt_base: u64,
    /// Starting level.
    pub rtt_level_start: i64,
    /// Number of contiguous starting-level RTTs.
    pub rtt_num_start: u32,
    pad_81c: [u8; 0x1000 - 0x81c],
}

assert_layout!(RealmParams, 0x1000, {
    flags: 0x0, s2sz: 0x8, sve_vl: 0x10, num_bps: 0x18, num_wps: 0x20, pmu_num_ctrs: 0x28, hash_algo: 0x30,
    rpv: 0x400, vmid: 0x800, rtt_base: 0x808, rtt_level_start: 0x810, rtt_num_start: 0x818,
});

impl Default for RealmParams {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

impl HostStructure for RealmParams {
    const USED: &'static [Range<usize>] = &[
        0..offset_of!(Self, pad_31).next_multiple_of(8),
        offset_of!(Self, rpv)..offset_of!(Self, pad_440),
        offset_of!(Self, vmid)..offset_of!(Self, pad_81c).next_multiple_of(8),
    ];
}

impl RealmParams {
    /// The structure with only the measured fields kept: what the initial RIM is the hash of
    /// (RMM 1.0, Realm Initial Measurement).
    #[must_use]
    pub fn measured(&self) -> Self {
        Self {
            flags: self.flags,
            s2sz: self.s2sz,
            sve_vl: self.sve_vl,
            num_bps: self.num_bps,
            num_wps: self.num_wps,
            pmu_num_ctrs: self.pmu_num_ctrs,
            hash_algo: self.hash_algo,
            ..Self::new_zeroed()
        }
    }
}

/// `RmiRecParams`. Fields marked "RIM" are what REC_CREATE measures, for a runnable REC.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct RecParams {
    /// [`RecFlags`] (RIM).
    pub flags: u64,
    pad_8: [u8; 0x100 - 0x8],
    /// `RmiRecMpidr`: Aff0 in bits 3:0, Aff1 in 15:8, Aff2 in 23:16, Aff3 in 31:24.
    pub mpidr: u64,
    pad_108: [u8; 0x200 - 0x108],
    /// Initial program counter (RIM).
    pub pc: u64,
    pad_208: [u8; 0x300 - 0x208],
    /// Initial X0 to X7 (RIM).
    pub gprs: [u64; REC_CREATE_GPRS],
    pad_340: [u8; 0x800 - 0x340],
    /// Number of auxiliary granules in `aux`.
    pub num_aux: u64,
    /// Physical addresses of auxiliary granules.
    pub aux: [u64; MAX_REC_AUX],
    pad_888: [u8; 0x1000 - 0x888],
}

assert_layout!(RecParams, 0x1000, { flags: 0x0, mpidr: 0x100, pc: 0x200, gprs: 0x300, num_aux: 0x800, aux: 0x808 });

impl Default for RecParams {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

impl HostStructure for RecParams {
    const USED: &'static [Range<usize>] = &[
        0..offset_of!(Self, pad_8),
        offset_of!(Self, mpidr)..offset_of!(Self, pad_108),
        offset_of!(Self, pc)..offset_of!(Self, pad_208),
        offset_of!(Self, gprs)..offset_of!(Self, pad_340),
        offset_of!(Self, num_aux)..offset_of!(Self, pad_888),
    ];
}

impl RecParams {
    /// The structure with only the measured fields kept (RMM 1.0, Realm Initial Measurement).
    #[must_use]
    pub fn measured(&self) -> Self {
        Self { flags: self.flags, pc: self.pc, gprs: self.gprs, ..Self::new_zeroed() }
    }
}
