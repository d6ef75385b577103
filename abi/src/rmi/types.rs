//! Small values of the RMI (RMM 1.0, RMI types).

use crate::macros::open_enum;
use crate::regs::reg_newtype;

open_enum! {
    /// `RmiStatusCode`: the status half of [`ReturnCode`].
    pub struct Status(u8) {
        /// The command succeeded.
        SUCCESS = 0,
        /// An input value is wrong.
        ERROR_INPUT = 1,
        /// A realm attribute has the wrong value.
        ERROR_REALM = 2,
        /// A REC attribute has the wrong value.
        ERROR_REC = 3,
        /// A stage 2 walk ended early or at an entry in the wrong state.
        ERROR_RTT = 4,
    }
}

open_enum! {
    /// `RmiRipas`, also RsiRipas: what a realm can trust about a protected IPA.
    pub struct Ripas(u8) {
        /// Nothing is there; access is an abort to the realm.
        EMPTY = 0,
        /// Memory of the realm.
        RAM = 1,
        /// The Host took the memory away.
        DESTROYED = 2,
    }
}

open_enum! {
    /// `RmiRttEntryState`, as RTT_READ_ENTRY reports it.
    pub struct RttEntryState(u8) {
        /// UNASSIGNED or UNASSIGNED_NS.
        UNASSIGNED = 0,
        /// ASSIGNED or ASSIGNED_NS.
        ASSIGNED = 1,
        /// The entry points to a table.
        TABLE = 2,
    }
}

open_enum! {
    /// `RmiRecExitReason`.
    pub struct ExitReason(u8) {
        /// Synchronous exception.
        SYNC = 0,
        /// Physical IRQ, or a change of a timer output.
        IRQ = 1,
        /// Physical FIQ.
        FIQ = 2,
        /// A PSCI call the Host takes part in.
        PSCI = 3,
        /// RSI_IPA_STATE_SET.
        RIPAS_CHANGE = 4,
        /// RSI_HOST_CALL.
        HOST_CALL = 5,
        /// SError interrupt.
        SERROR = 6,
    }
}

open_enum! {
    /// `RmiHashAlgorithm`.
    pub struct HashAlgorithm(u8) {
        /// SHA-256.
        SHA_256 = 0,
        /// SHA-512.
        SHA_512 = 1,
    }
}

/// `RmiInterfaceVersion` and `RsiInterfaceVersion`: major in bits 30:16, minor in 15:0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

impl Version {
    /// Version 1.0, of RMI and of RSI.
    pub const V1_0: Self = Self::new(1, 0);

    /// The version word of `major.minor`.
    #[must_use]
    pub const fn new(major: u16, minor: u16) -> Self {
        Self(((major as u64 & 0x7fff) << 16) | minor as u64)
    }
    /// Bits 30:16.
    #[must_use]
    pub const fn major(self) -> u16 {
        ((self.0 >> 16) & 0x7fff) as u16
    }
    /// Bits 15:0.
    #[must_use]
    pub const fn minor(self) -> u16 {
        (self.0 & 0xffff) as u16
    }
}

impl core::fmt::Debug for Version {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}.{}", self.major(), self.minor())
    }
}

impl core::fmt::Display for Version {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Debug::fmt(self, f)
    }
}

/// `RmiDataFlags` of DATA_CREATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DataFlags(pub u64);

impl DataFlags {
    /// Bit 0: the content goes into the RIM.
    pub const MEASURE: Self = Self(1);
    /// The content does not go into the RIM; the address still does.
    pub const NO_MEASURE: Self = Self(0);

    /// Whether the content is measured.
    #[must_use]
    pub const fn measure(self) -> bool {
        self.0 & 1 != 0
    }
}

/// The Host-controlled part of an unprotected mapping, in the layout of a stage 2 descriptor
/// (RMM 1.0, unprotected RTT entries): output address, MemAttr\[2:0\] in bits 4:2, S2AP in bits 7:6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UnprotectedDesc(pub u64);

impl UnprotectedDesc {
    /// MemAttr\[2:0\] for Normal Write-Back under FEAT_S2FWB.
    pub const MEMATTR_NORMAL_WB: u64 = 0b110 << 2;
    /// S2AP: readable.
    pub const READ: u64 = 1 << 6;
    /// S2AP: writable.
    pub const WRITE: u64 = 1 << 7;

    /// A readable and writable Normal Write-Back mapping of `pa` (below 2^48).
    #[must_use]
    pub const fn normal_rw(pa: u64) -> Self {
        Self(pa | Self::MEMATTR_NORMAL_WB | Self::READ | Self::WRITE)
    }
}

/// X0 of every RMI command: status in bits 7:0, index in bits 15:8.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReturnCode(pub u64);

impl ReturnCode {
    /// The command succeeded.
    pub const SUCCESS: Self = Self(0);
    /// SMCCC "not supported": there is no such command, or no RMM.
    pub const NOT_SUPPORTED: Self = Self(crate::smccc::NOT_SUPPORTED);
    /// RMI_ERROR_INPUT.
    pub const ERROR_INPUT: Self = Self::new(Status::ERROR_INPUT, 0);
    /// RMI_ERROR_REALM, index 0.
    pub const ERROR_REALM: Self = Self::new(Status::ERROR_REALM, 0);
    /// RMI_ERROR_REC.
    pub const ERROR_REC: Self = Self::new(Status::ERROR_REC, 0);

    /// A code from its parts.
    #[must_use]
    pub const fn new(status: Status, index: u8) -> Self {
        Self(status.0 as u64 | (index as u64) << 8)
    }
    /// RMI_ERROR_RTT at a level; level -1 is encoded as 0xff.
    #[must_use]
    pub const fn error_rtt(level: i64) -> Self {
        Self::new(Status::ERROR_RTT, (level & 0xff) as u8)
    }
    /// Bits 7:0.
    #[must_use]
    pub const fn status(self) -> Status {
        Status((self.0 & 0xff) as u8)
    }
    /// Bits 15:8.
    #[must_use]
    pub const fn index(self) -> u8 {
        ((self.0 >> 8) & 0xff) as u8
    }
    /// The index as a signed RTT level.
    #[must_use]
    pub const fn level(self) -> i64 {
        self.index() as i8 as i64
    }
    /// Whether the command succeeded.
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.0 == 0
    }
    /// Whether the status is RMI_ERROR_RTT.
    #[must_use]
    pub const fn is_error_rtt(self) -> bool {
        self.0 >> 16 == 0 && self.status().0 == Status::ERROR_RTT.0
    }
}

impl core::fmt::Debug for ReturnCode {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if *self == Self::NOT_SUPPORTED {
            return f.write_str("NOT_SUPPORTED");
        }
        if self.0 >> 16 != 0 {
            return write!(f, "ReturnCode({:#x})", self.0);
        }
        match self.status() {
            Status::SUCCESS if self.index() == 0 => f.write_str("RMI_SUCCESS"),
            Status::ERROR_RTT => write!(f, "RMI_ERROR_RTT(level {})", self.level()),
            status if self.index() == 0 => write!(f, "RMI_{status}"),
            status => write!(f, "RMI_{status}({})", self.index()),
        }
    }
}

impl core::fmt::Display for ReturnCode {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Debug::fmt(self, f)
    }
}

reg_newtype!(Version, DataFlags, UnprotectedDesc, ReturnCode);
