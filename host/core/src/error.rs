//! What can go wrong with a realm, and the errno each is (docs/kvm-realm-abi.md section 2.5).

use crate::Errno;
use crate::rmm::rmi::error::RmiError;
use core::fmt;
use realm_alloc::NoMemory;

/// What the Host asked of a realm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Choosing hash or RPV.
    Configure,
    /// REALM_CREATE.
    Create,
    /// RTT_INIT_RIPAS.
    InitRipas,
    /// DATA_CREATE.
    Populate,
    /// REC_CREATE.
    CreateRec,
    /// REALM_ACTIVATE.
    Activate,
    /// Everything that happens while RECs run: faults, mappings, RIPAS changes, REC_ENTER.
    Run,
}

/// A realm's state without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not created: there is a configuration and no RD.
    None,
    /// Created, not activated.
    New,
    /// Activated.
    Active,
    /// Being destroyed, or unusable after a failure: nothing but destruction is left.
    Dying,
    /// The RMM holds nothing of it any more.
    Dead,
}

/// Why an operation on a realm failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RealmError {
    /// The realm's state does not allow the operation.
    WrongState {
        /// The operation.
        operation: Operation,
        /// The state.
        state: Phase,
    },
    /// A range breaks a rule; the text names it.
    BadRange {
        /// First address.
        base: u64,
        /// Bytes.
        size: u64,
        /// The rule.
        rule: &'static str,
    },
    /// A parameter breaks a rule; the text names it.
    BadParameter {
        /// The value.
        value: u64,
        /// The rule.
        rule: &'static str,
    },
    /// The Host has no memory.
    NoMemory,
    /// Every VMID belongs to a realm.
    NoVmid,
    /// The memory meant for this address was lost to a failed undelegation.
    MemoryLost {
        /// The address.
        ipa: u64,
    },
    /// More of the VMM's memory would be held in place than a VM may hold.
    TooMuchPinned {
        /// Bytes.
        limit: u64,
    },
    /// More would be held in place than the VMs of one user may hold.
    TooMuchPinnedByUser {
        /// Bytes.
        limit: u64,
    },
    /// The thread is about to die.
    Killed,
    /// Private memory is already mapped here.
    AlreadyPopulated {
        /// The address.
        ipa: u64,
    },
    /// An RMI command failed.
    Rmi(RmiError),
}

impl RealmError {
    /// The errno the ioctl returns.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            // The v8 series knows no unusable realms; EIO is what later generations of the series return for one.
            Self::WrongState { state: Phase::Dying | Phase::Dead, .. } => Errno::EIO,
            Self::WrongState { operation, .. } => match operation {
                Operation::Configure => Errno::EBUSY,
                Operation::Create => Errno::EEXIST,
                Operation::InitRipas | Operation::Populate => Errno::EPERM,
                Operation::CreateRec => Errno::ENOENT,
                Operation::Activate | Operation::Run => Errno::EINVAL,
            },
            Self::BadRange { .. } | Self::BadParameter { .. } => Errno::EINVAL,
            Self::NoMemory | Self::NoVmid | Self::TooMuchPinned { .. } | Self::TooMuchPinnedByUser { .. } => {
                Errno::ENOMEM
            }
            Self::Killed => Errno::EINTR,
            Self::MemoryLost { .. } | Self::AlreadyPopulated { .. } => Errno::ENXIO,
            Self::Rmi(error) => error.errno(),
        }
    }
}

impl From<NoMemory> for RealmError {
    fn from(_: NoMemory) -> Self {
        Self::NoMemory
    }
}

impl From<RmiError> for RealmError {
    fn from(error: RmiError) -> Self {
        Self::Rmi(error)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configure => "be configured",
            Self::Create => "be created",
            Self::InitRipas => "initialise RIPAS",
            Self::Populate => "be populated",
            Self::CreateRec => "get another REC",
            Self::Activate => "be activated",
            Self::Run => "run",
        })
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "not created",
            Self::New => "created but not active",
            Self::Active => "active",
            Self::Dying => "being destroyed",
            Self::Dead => "destroyed",
        })
    }
}

impl fmt::Display for RealmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongState { operation, state } => write!(f, "the realm cannot {operation}: it is {state}"),
            Self::BadRange { base, size, rule } => write!(f, "range {base:#x} of {size:#x} bytes: {rule}"),
            Self::BadParameter { value, rule } => write!(f, "value {value:#x}: {rule}"),
            Self::NoMemory => f.write_str("the Host has no memory"),
            Self::NoVmid => f.write_str("every VMID belongs to a realm"),
            Self::MemoryLost { ipa } => {
                write!(f, "the memory for IPA {ipa:#x} was lost when the RMM did not give it back")
            }
            Self::TooMuchPinned { limit } => {
                write!(
                    f,
                    "the realm would share more than the {} MiB of memory a VM may hold in place",
                    limit >> 20
                )
            }
            Self::TooMuchPinnedByUser { limit } => {
                write!(
                    f,
                    "the realms of this user would share more than the {} MiB of memory a user may hold in place",
                    limit >> 20
                )
            }
            Self::Killed => f.write_str("the thread was killed"),
            Self::AlreadyPopulated { ipa } => write!(f, "IPA {ipa:#x} is already populated"),
            Self::Rmi(error) => error.fmt(f),
        }
    }
}
