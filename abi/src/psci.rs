//! Power State Coordination Interface 1.1 (DEN0022), as realms call it through the RMM (RMM 1.0) and the
//! Non-secure world through EL3.

use crate::macros::open_enum;
use crate::regs::reg_newtype;

/// Version word 1.1.
pub const VERSION_1_1: u64 = 0x1_0001;

open_enum! {
    /// PSCI return codes, 64-bit sign-extended.
    pub struct PsciStatus(i64) {
        /// Success.
        SUCCESS = 0,
        /// Not supported.
        NOT_SUPPORTED = -1,
        /// Invalid parameters.
        INVALID_PARAMETERS = -2,
        /// Denied.
        DENIED = -3,
        /// Already on.
        ALREADY_ON = -4,
        /// On pending.
        ON_PENDING = -5,
        /// Internal failure.
        INTERNAL_FAILURE = -6,
        /// Not present.
        NOT_PRESENT = -7,
        /// Disabled.
        DISABLED = -8,
        /// Invalid address.
        INVALID_ADDRESS = -9,
    }
}

open_enum! {
    /// What AFFINITY_INFO answers.
    pub struct AffinityState(u64) {
        /// At least one core is on.
        ON = 0,
        /// All cores are off.
        OFF = 1,
        /// A core is on its way.
        ON_PENDING = 2,
    }
}

/// A PSCI call; arguments of the 32-bit forms are zero-extended. `smc64` tells the two forms of one call apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PsciCall {
    /// PSCI_VERSION.
    Version,
    /// CPU_SUSPEND.
    CpuSuspend {
        /// The 64-bit form.
        smc64: bool,
        /// Power state.
        power_state: u64,
        /// Where to continue.
        entry_point: u64,
        /// X0 there.
        context_id: u64,
    },
    /// CPU_OFF.
    CpuOff,
    /// CPU_ON.
    CpuOn {
        /// The 64-bit form.
        smc64: bool,
        /// MPIDR of the core, in the layout of MPIDR_EL1.
        target_cpu: u64,
        /// Where it starts.
        entry_point: u64,
        /// X0 there.
        context_id: u64,
    },
    /// AFFINITY_INFO.
    AffinityInfo {
        /// The 64-bit form.
        smc64: bool,
        /// MPIDR of the core, in the layout of MPIDR_EL1.
        target_affinity: u64,
        /// Lowest affinity level that counts.
        lowest_affinity_level: u64,
    },
    /// SYSTEM_OFF.
    SystemOff,
    /// SYSTEM_RESET.
    SystemReset,
    /// PSCI_FEATURES.
    Features {
        /// The function asked for.
        function: u64,
    },
    /// Any other identifier, with its registers.
    Unknown {
        /// X0 to X3.
        regs: [u64; 4],
    },
}

/// Function identifiers.
pub mod fid {
    /// PSCI_VERSION.
    pub const VERSION: u64 = 0x8400_0000;
    /// CPU_SUSPEND, 32-bit.
    pub const CPU_SUSPEND_32: u64 = 0x8400_0001;
    /// CPU_SUSPEND, 64-bit.
    pub const CPU_SUSPEND_64: u64 = 0xC400_0001;
    /// CPU_OFF.
    pub const CPU_OFF: u64 = 0x8400_0002;
    /// CPU_ON, 32-bit.
    pub const CPU_ON_32: u64 = 0x8400_0003;
    /// CPU_ON, 64-bit.
    pub const CPU_ON_64: u64 = 0xC400_0003;
    /// AFFINITY_INFO, 32-bit.
    pub const AFFINITY_INFO_32: u64 = 0x8400_0004;
    /// AFFINITY_INFO, 64-bit.
    pub const AFFINITY_INFO_64: u64 = 0xC400_0004;
    /// SYSTEM_OFF.
    pub const SYSTEM_OFF: u64 = 0x8400_0008;
    /// SYSTEM_RESET.
    pub const SYSTEM_RESET: u64 = 0x8400_0009;
    /// PSCI_FEATURES.
    pub const FEATURES: u64 = 0x8400_000A;
}

impl PsciCall {
    /// Whether `function` is in one of the two ranges PSCI owns (function numbers 0x00 to 0x1F).
    #[must_use]
    pub const fn in_range(function: u64) -> bool {
        matches!(function, 0x8400_0000..=0x8400_001F | 0xC400_0000..=0xC400_001F)
    }

    /// Reads a call from X0 to X3.
    #[must_use]
    pub const fn from_regs(regs: &[u64; 4]) -> Self {
        let [function, a, b, c] = *regs;
        let (l, m, n) = (a & 0xffff_ffff, b & 0xffff_ffff, c & 0xffff_ffff);
        match function {
            fid::VERSION => Self::Version,
            fid::CPU_SUSPEND_32 => {
                Self::CpuSuspend { smc64: false, power_state: l, entry_point: m, context_id: n }
            }
            fid::CPU_SUSPEND_64 => {
                Self::CpuSuspend { smc64: true, power_state: a, entry_point: b, context_id: c }
            }
            fid::CPU_OFF => Self::CpuOff,
            fid::CPU_ON_32 => Self::CpuOn { smc64: false, target_cpu: l, entry_point: m, context_id: n },
            fid::CPU_ON_64 => Self::CpuOn { smc64: true, target_cpu: a, entry_point: b, context_id: c },
            fid::AFFINITY_INFO_32 => {
                Self::AffinityInfo { smc64: false, target_affinity: l, lowest_affinity_level: m }
            }
            fid::AFFINITY_INFO_64 => {
                Self::AffinityInfo { smc64: true, target_affinity: a, lowest_affinity_level: b }
            }
            fid::SYSTEM_OFF => Self::SystemOff,
            fid::SYSTEM_RESET => Self::SystemReset,
            fid::FEATURES => Self::Features { function: l },
            _ => Self::Unknown { regs: *regs },
        }
    }

    /// Writes a call to X0 to X3.
    #[must_use]
    pub const fn to_regs(&self) -> [u64; 4] {
        match *self {
            Self::Version => [fid::VERSION, 0, 0, 0],
            Self::CpuSuspend { smc64, power_state, entry_point, context_id } => [
                if smc64 { fid::CPU_SUSPEND_64 } else { fid::CPU_SUSPEND_32 },
                power_state,
                entry_point,
                context_id,
            ],
            Self::CpuOff => [fid::CPU_OFF, 0, 0, 0],
            Self::CpuOn { smc64, target_cpu, entry_point, context_id } => {
                [if smc64 { fid::CPU_ON_64 } else { fid::CPU_ON_32 }, target_cpu, entry_point, context_id]
            }
            Self::AffinityInfo { smc64, target_affinity, lowest_affinity_level } => [
                if smc64 { fid::AFFINITY_INFO_64 } else { fid::AFFINITY_INFO_32 },
                target_affinity,
                lowest_affinity_level,
                0,
            ],
            Self::SystemOff => [fid::SYSTEM_OFF, 0, 0, 0],
            Self::SystemReset => [fid::SYSTEM_RESET, 0, 0, 0],
            Self::Features { function } => [fid::FEATURES, function, 0, 0],
            Self::Unknown { regs } => regs,
        }
    }

    /// The function's name, `None` for an unknown one.
    #[must_use]
    pub const fn name(&self) -> Option<&'static str> {
        Some(match self {
            Self::Version => "PSCI_VERSION",
            Self::CpuSuspend { .. } => "PSCI_CPU_SUSPEND",
            Self::CpuOff => "PSCI_CPU_OFF",
            Self::CpuOn { .. } => "PSCI_CPU_ON",
            Self::AffinityInfo { .. } => "PSCI_AFFINITY_INFO",
            Self::SystemOff => "PSCI_SYSTEM_OFF",
            Self::SystemReset => "PSCI_SYSTEM_RESET",
            Self::Features { .. } => "PSCI_FEATURES",
            Self::Unknown { .. } => return None,
        })
    }
}

reg_newtype!(AffinityState);
