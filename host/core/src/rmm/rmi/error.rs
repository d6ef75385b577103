//! How a command failed.

use crate::Errno;
use realm_abi::rmi::{ReturnCode, RmiCommand};

/// A command that did not do what it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RmiError {
    /// The command with its arguments.
    pub command: RmiCommand,
    /// What went wrong.
    pub failure: Failure,
}

/// How a command failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The RMM refused with this code.
    Code(ReturnCode),
    /// The RMM reported something the specification rules out; the text names it.
    Implausible(&'static str),
}

impl RmiError {
    /// The code, if the RMM gave a plausible one.
    #[must_use]
    pub const fn code(&self) -> Option<ReturnCode> {
        match self.failure {
            Failure::Code(code) => Some(code),
            Failure::Implausible(_) => None,
        }
    }

    /// The level at which the walk ended, if that is why the command failed.
    #[must_use]
    pub const fn rtt_level(&self) -> Option<i64> {
        match self.failure {
            Failure::Code(code) if code.is_error_rtt() => Some(code.level()),
            _ => None,
        }
    }

    /// What an ioctl returns for it: `ENXIO` (docs/kvm-realm-abi.md section 2.5).
    #[must_use]
    pub const fn errno(&self) -> Errno {
        Errno::ENXIO
    }
}

impl core::fmt::Display for RmiError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.command.name().unwrap_or("unknown RMI command"))?;
        match self.command {
            RmiCommand::GranuleDelegate { addr } | RmiCommand::GranuleUndelegate { addr } => {
                write!(f, " of granule {addr:#x}")?;
            }
            RmiCommand::DataCreate { ipa, .. }
            | RmiCommand::DataCreateUnknown { ipa, .. }
            | RmiCommand::DataDestroy { ipa, .. } => write!(f, " at IPA {ipa:#x}")?,
            RmiCommand::RttCreate { ipa, level, .. }
            | RmiCommand::RttDestroy { ipa, level, .. }
            | RmiCommand::RttFold { ipa, level, .. }
            | RmiCommand::RttMapUnprotected { ipa, level, .. }
            | RmiCommand::RttUnmapUnprotected { ipa, level, .. } => {
                write!(f, " at IPA {ipa:#x}, level {level}")?
            }
            RmiCommand::RttInitRipas { base, top, .. } | RmiCommand::RttSetRipas { base, top, .. } => {
                write!(f, " of IPAs {base:#x} to {top:#x}")?;
            }
            _ => {}
        }
        match self.failure {
            Failure::Code(code) => write!(f, " failed: {code}"),
            Failure::Implausible(what) => write!(f, ": the RMM's answer is impossible: {what}"),
        }
    }
}

/// The error for an answer of `command` the specification rules out.
pub(crate) const fn implausible(command: RmiCommand, what: &'static str) -> RmiError {
    RmiError { command, failure: Failure::Implausible(what) }
}
