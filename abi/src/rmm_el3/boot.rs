//! Registers at the RMM's entry point and the answer it gives (chapter 8.2).

use super::{VERSION_MIN, Version};
use crate::macros::open_enum;
use crate::{GRANULE_SIZE, regs::reg_newtype};

open_enum! {
    /// X1 of RMM_BOOT_COMPLETE. After an error on any CPU EL3 never enters the RMM again.
    pub struct BootCode(i64) {
        /// Success.
        SUCCESS = 0,
        /// Unknown error.
        UNKNOWN = -1,
        /// The interface version does not match.
        VERSION_MISMATCH = -2,
        /// More CPUs than the RMM can serve.
        CPUS_OUT_OF_RANGE = -3,
        /// The CPU's index is not below the number of CPUs.
        CPU_ID_OUT_OF_RANGE = -4,
        /// The shared buffer is invalid.
        INVALID_SHARED_BUFFER = -5,
        /// The manifest's version is not supported.
        MANIFEST_VERSION_NOT_SUPPORTED = -6,
        /// The manifest's data are wrong.
        MANIFEST_DATA_ERROR = -7,
    }
}

reg_newtype!(BootCode);

/// X0 to X4 on the first CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColdBoot {
    /// Linear index of this CPU.
    pub cpu: u64,
    /// Interface version.
    pub version: Version,
    /// Number of CPUs the platform can have.
    pub max_cpus: u64,
    /// Physical address of the shared buffer, with the boot manifest at its start.
    pub shared_buffer: u64,
    /// From about 0.8 on: for live updates of the RMM. Not used before.
    pub activation_token: u64,
}

impl ColdBoot {
    /// Reads X0 to X4.
    #[must_use]
    pub const fn from_regs(regs: &[u64; 5]) -> Self {
        let [cpu, version, max_cpus, shared_buffer, activation_token] = *regs;
        Self { cpu, version: Version(version), max_cpus, shared_buffer, activation_token }
    }

    /// X0 to X4.
    #[must_use]
    pub const fn to_regs(&self) -> [u64; 5] {
        [self.cpu, self.version.0, self.max_cpus, self.shared_buffer, self.activation_token]
    }

    /// Checks the values for an RMM that serves up to `cpus` CPUs, in the order of the codes.
    ///
    /// # Errors
    /// What RMM_BOOT_COMPLETE has to say.
    pub const fn check(&self, cpus: u64) -> Result<(), BootCode> {
        // Minor versions only add; the major version is 0 for every interface an RMM 1.0 can use.
        if self.version.0 >> 31 != 0
            || self.version.major() != 0
            || self.version.minor() < VERSION_MIN.minor()
        {
            return Err(BootCode::VERSION_MISMATCH);
        }
        if self.max_cpus == 0 || self.max_cpus > cpus {
            return Err(BootCode::CPUS_OUT_OF_RANGE);
        }
        if self.cpu >= self.max_cpus {
            return Err(BootCode::CPU_ID_OUT_OF_RANGE);
        }
        if self.shared_buffer == 0 || !self.shared_buffer.is_multiple_of(GRANULE_SIZE) {
            return Err(BootCode::INVALID_SHARED_BUFFER);
        }
        Ok(())
    }
}

/// X0 and X1 on every other CPU, at the same entry point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WarmBoot {
    /// Linear index of this CPU.
    pub cpu: u64,
    /// As [`ColdBoot::activation_token`].
    pub activation_token: u64,
}

impl WarmBoot {
    /// Reads X0 to X4; X2 to X4 say nothing.
    #[must_use]
    pub const fn from_regs(regs: &[u64; 5]) -> Self {
        Self { cpu: regs[0], activation_token: regs[1] }
    }

    /// X0 to X4.
    #[must_use]
    pub const fn to_regs(&self) -> [u64; 5] {
        [self.cpu, self.activation_token, 0, 0, 0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: ColdBoot = ColdBoot {
        cpu: 1,
        version: Version::new(0, 6),
        max_cpus: 8,
        shared_buffer: 0x40ff_f000,
        activation_token: 0,
    };

    #[test]
    fn the_registers_of_a_boot_survive_the_round_trip() {
        assert_eq!(BOOT.to_regs(), [1, 6, 8, 0x40ff_f000, 0]);
        assert_eq!(ColdBoot::from_regs(&BOOT.to_regs()), BOOT);
        let warm = WarmBoot { cpu: 3, activation_token: 9 };
        assert_eq!(WarmBoot::from_regs(&warm.to_regs()), warm);
    }

    #[test]
    fn each_wrong_value_has_its_code() {
        assert_eq!(BOOT.check(8), Ok(()));
        assert_eq!(ColdBoot { version: Version::new(0, 9), ..BOOT }.check(8), Ok(()));
        for version in [Version::new(0, 2), Version::new(1, 0), Version::new(2, 0), Version(1 << 31 | 6)] {
            assert_eq!(ColdBoot { version, ..BOOT }.check(8), Err(BootCode::VERSION_MISMATCH));
        }
        assert_eq!(BOOT.check(7), Err(BootCode::CPUS_OUT_OF_RANGE));
        assert_eq!(ColdBoot { max_cpus: 0, ..BOOT }.check(8), Err(BootCode::CPUS_OUT_OF_RANGE));
        assert_eq!(ColdBoot { cpu: 8, ..BOOT }.check(8), Err(BootCode::CPU_ID_OUT_OF_RANGE));
        for shared_buffer in [0, 0x40ff_f008] {
            assert_eq!(ColdBoot { shared_buffer, ..BOOT }.check(8), Err(BootCode::INVALID_SHARED_BUFFER));
        }
    }
}
