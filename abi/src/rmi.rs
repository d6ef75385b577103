//! Realm Management Interface 1.0: what the Host asks of the RMM (RMM 1.0).

mod command;
mod features;
mod params;
mod rec_run;
mod types;

pub use command::{RmiCommand, RmiReply};
pub use features::FeatureRegister0;
pub use params::{RealmFlags, RealmParams, RecFlags, RecParams};
pub use rec_run::{EnterFlags, RecEnter, RecExit, RecRun};
pub use types::{
    DataFlags, ExitReason, HashAlgorithm, ReturnCode, Ripas, RttEntryState, Status, UnprotectedDesc, Version,
};

/// A structure the Host passes in memory, most of which is reserved.
pub trait HostStructure {
    /// The bytes that are not reserved, rounded to 8: all a receiver has to copy.
    const USED: &'static [core::ops::Range<usize>];
}

/// Largest number of auxiliary granules a REC can have.
pub const MAX_REC_AUX: usize = 16;
/// List registers in a [`RecRun`].
pub const MAX_LRS: usize = 16;
/// General-purpose registers X0 to X30 in a [`RecRun`].
pub const GPRS: usize = 31;
/// X0 to X7, the registers a [`RecParams`] sets.
pub const REC_CREATE_GPRS: usize = 8;
/// Bytes of a Realm Personalization Value.
pub const RPV_SIZE: usize = 64;
/// Bytes of a measurement slot, whatever the hash.
pub const MEASUREMENT_SIZE: usize = 64;
/// Measurement slots of a realm: 0 is the RIM, 1 to 4 are the REMs.
pub const MEASUREMENT_SLOTS: usize = 5;
/// RTT level of a page entry.
pub const RTT_PAGE_LEVEL: i64 = 3;
/// Entries of an RTT.
pub const RTT_ENTRIES: usize = 512;
/// Bits of ICH_HCR_EL2 the Host may set on entry (RMM 1.0, RmiRecEnter): UIE, LRENPIE, NPIE, VGrp0EIE, VGrp0DIE,
/// VGrp1EIE, VGrp1DIE, TDIR.
pub const GICV3_HCR_HOST_BITS: u64 = 0x40fe;

/// Bytes one RTT entry at `level` maps: 4 KiB at level 3, 2 MiB at 2, 1 GiB at 1, 512 GiB at 0, 256 TiB at -1.
/// `None` for a level that does not exist.
#[must_use]
pub const fn rtt_entry_size(level: i64) -> Option<u64> {
    if level < -1 || level > RTT_PAGE_LEVEL {
        return None;
    }
    Some(1 << (12 + 9 * (RTT_PAGE_LEVEL - level) as u32))
}
