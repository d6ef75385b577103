//! The 23 commands of RMI 1.0.

use super::{DataFlags, ReturnCode, Ripas, RttEntryState, UnprotectedDesc, Version};
use crate::macros::call_table;

call_table! {
    /// A command from the Host to the RMM. Fields are named as in the specification; addresses are physical
    /// unless the field is called `ipa`, `base` or `top`.
    pub enum RmiCommand<8> {
        /// Negotiates the interface version.
        Version = 0xC400_0150 "RMI_VERSION" {
            /// The version the Host asks for.
            req: Version,
        },
        /// Gives a granule to the Realm world.
        GranuleDelegate = 0xC400_0151 "RMI_GRANULE_DELEGATE" {
            /// The granule.
            addr: u64,
        },
        /// Takes a granule back from the Realm world.
        GranuleUndelegate = 0xC400_0152 "RMI_GRANULE_UNDELEGATE" {
            /// The granule.
            addr: u64,
        },
        /// Creates a data granule with content copied from the Host.
        DataCreate = 0xC400_0153 "RMI_DATA_CREATE" {
            /// The realm.
            rd: u64,
            /// The granule to become data.
            data: u64,
            /// Where the realm sees it.
            ipa: u64,
            /// Non-secure granule to copy from.
            src: u64,
            /// Whether the content is measured.
            flags: DataFlags,
        },
        /// Creates a data granule with unknown content.
        DataCreateUnknown = 0xC400_0154 "RMI_DATA_CREATE_UNKNOWN" {
            /// The realm.
            rd: u64,
            /// The granule to become data.
            data: u64,
            /// Where the realm sees it.
            ipa: u64,
        },
        /// Takes a data granule from a realm.
        DataDestroy = 0xC400_0155 "RMI_DATA_DESTROY" {
            /// The realm.
            rd: u64,
            /// Where the realm saw it.
            ipa: u64,
        },
        /// Freezes the initial measurement and lets the RECs run.
        RealmActivate = 0xC400_0157 "RMI_REALM_ACTIVATE" {
            /// The realm.
            rd: u64,
        },
        /// Creates a realm.
        RealmCreate = 0xC400_0158 "RMI_REALM_CREATE" {
            /// The granule to become the Realm Descriptor.
            rd: u64,
            /// Non-secure [`RealmParams`](super::RealmParams).
            params_ptr: u64,
        },
        /// Destroys a realm.
        RealmDestroy = 0xC400_0159 "RMI_REALM_DESTROY" {
            /// The realm.
            rd: u64,
        },
        /// Creates a REC.
        RecCreate = 0xC400_015A "RMI_REC_CREATE" {
            /// The realm.
            rd: u64,
            /// The granule to become the REC.
            rec: u64,
            /// Non-secure [`RecParams`](super::RecParams).
            params_ptr: u64,
        },
        /// Destroys a REC.
        RecDestroy = 0xC400_015B "RMI_REC_DESTROY" {
            /// The REC.
            rec: u64,
        },
        /// Runs a REC.
        RecEnter = 0xC400_015C "RMI_REC_ENTER" {
            /// The REC.
            rec: u64,
            /// Non-secure [`RecRun`](super::RecRun).
            run_ptr: u64,
        },
        /// Creates a translation table.
        RttCreate = 0xC400_015D "RMI_RTT_CREATE" {
            /// The realm.
            rd: u64,
            /// The granule to become the table.
            rtt: u64,
            /// Base of the range the table covers.
            ipa: u64,
            /// Level of the table.
            level: i64,
        },
        /// Destroys a translation table.
        RttDestroy = 0xC400_015E "RMI_RTT_DESTROY" {
            /// The realm.
            rd: u64,
            /// Base of the range the table covers.
            ipa: u64,
            /// Level of the table.
            level: i64,
        },
        /// Maps Non-secure memory at an unprotected IPA.
        RttMapUnprotected = 0xC400_015F "RMI_RTT_MAP_UNPROTECTED" {
            /// The realm.
            rd: u64,
            /// Where the realm sees it.
            ipa: u64,
            /// Level of the entry.
            level: i64,
            /// Address and attributes.
            desc: UnprotectedDesc,
        },
        /// Reads a table entry.
        RttReadEntry = 0xC400_0161 "RMI_RTT_READ_ENTRY" {
            /// The realm.
            rd: u64,
            /// The address walked.
            ipa: u64,
            /// The level at which the walk stops.
            level: i64,
        },
        /// Removes a mapping at an unprotected IPA.
        RttUnmapUnprotected = 0xC400_0162 "RMI_RTT_UNMAP_UNPROTECTED" {
            /// The realm.
            rd: u64,
            /// Where the realm saw it.
            ipa: u64,
            /// Level of the entry.
            level: i64,
        },
        /// Completes a PSCI call that named another REC.
        PsciComplete = 0xC400_0164 "RMI_PSCI_COMPLETE" {
            /// The REC that called PSCI.
            calling_rec: u64,
            /// The REC it named.
            target_rec: u64,
            /// PSCI status: SUCCESS or DENIED.
            status: i64,
        },
        /// Reads a feature register.
        Features = 0xC400_0165 "RMI_FEATURES" {
            /// Which register.
            index: u64,
        },
        /// Folds a homogeneous table into its parent entry.
        RttFold = 0xC400_0166 "RMI_RTT_FOLD" {
            /// The realm.
            rd: u64,
            /// Base of the range the table covers.
            ipa: u64,
            /// Level of the table.
            level: i64,
        },
        /// Asks how many auxiliary granules a REC of this realm needs.
        RecAuxCount = 0xC400_0167 "RMI_REC_AUX_COUNT" {
            /// The realm.
            rd: u64,
        },
        /// Makes a range RAM before activation.
        RttInitRipas = 0xC400_0168 "RMI_RTT_INIT_RIPAS" {
            /// The realm.
            rd: u64,
            /// First IPA.
            base: u64,
            /// End of the range, exclusive.
            top: u64,
        },
        /// Completes a RIPAS change the realm asked for.
        RttSetRipas = 0xC400_0169 "RMI_RTT_SET_RIPAS" {
            /// The realm.
            rd: u64,
            /// The REC that asked.
            rec: u64,
            /// First IPA.
            base: u64,
            /// End of the range, exclusive.
            top: u64,
        },
    }
}

impl RmiCommand {
    /// How many outputs it has behind X0, from X1 on, when it succeeds or ends with an error that has outputs.
    #[must_use]
    pub const fn outputs(&self) -> usize {
        match self {
            // The level reached, the state, the descriptor, the RIPAS.
            Self::RttReadEntry { .. } => 4,
            // The lowest and the highest version; the granule and the end of what is not live.
            Self::Version { .. } | Self::DataDestroy { .. } | Self::RttDestroy { .. } => 2,
            // The register, the count; the granule; the end of what was changed or is not live.
            Self::Features { .. }
            | Self::RecAuxCount { .. }
            | Self::RttFold { .. }
            | Self::RttUnmapUnprotected { .. }
            | Self::RttInitRipas { .. }
            | Self::RttSetRipas { .. } => 1,
            Self::GranuleDelegate { .. }
            | Self::GranuleUndelegate { .. }
            | Self::DataCreate { .. }
            | Self::DataCreateUnknown { .. }
            | Self::RealmActivate { .. }
            | Self::RealmCreate { .. }
            | Self::RealmDestroy { .. }
            | Self::RecCreate { .. }
            | Self::RecDestroy { .. }
            | Self::RecEnter { .. }
            | Self::RttCreate { .. }
            | Self::RttMapUnprotected { .. }
            | Self::PsciComplete { .. }
            | Self::Unknown { .. } => 0,
        }
    }
}

/// What a command returns: X0, and X1 to X4 whose meaning depends on the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RmiReply {
    /// X0.
    pub code: ReturnCode,
    /// X1 to X4; zero where the command has no such output.
    pub out: [u64; 4],
}

impl RmiReply {
    /// Success without outputs.
    pub const SUCCESS: Self = Self::failed(ReturnCode::SUCCESS);

    /// A code without outputs.
    #[must_use]
    pub const fn failed(code: ReturnCode) -> Self {
        Self { code, out: [0; 4] }
    }
    /// Success with outputs X1 to X4.
    #[must_use]
    pub const fn success(out: [u64; 4]) -> Self {
        Self { code: ReturnCode::SUCCESS, out }
    }
    /// Reads a reply from X0 to X4.
    #[must_use]
    pub const fn from_regs(regs: &[u64; 5]) -> Self {
        Self { code: ReturnCode(regs[0]), out: [regs[1], regs[2], regs[3], regs[4]] }
    }
    /// X0 to X4.
    #[must_use]
    pub const fn to_regs(&self) -> [u64; 5] {
        [self.code.0, self.out[0], self.out[1], self.out[2], self.out[3]]
    }
    /// RTT_READ_ENTRY: the level reached, the state, the descriptor, the RIPAS.
    #[must_use]
    pub const fn read_entry(&self) -> (i64, RttEntryState, u64, Ripas) {
        let [level, state, desc, ripas] = self.out;
        (level.cast_signed(), RttEntryState((state & 0xff) as u8), desc, Ripas((ripas & 0xff) as u8))
    }
}
