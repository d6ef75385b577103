//! How a command failed.

use crate::Errno;
use realm_abi::rmi::{ReturnCode, RmiCommand};

/// A command that did not do what it was asked to. Every function on the way up has one on its stack, so it is small: it
/// keeps of the command what is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RmiError {
    /// What went wrong.
    pub failure: Failure,
    /// What the command was about: a granule, or addresses of the realm.
    about: [u64; 2],
    /// The level of the table or entry.
    level: i8,
    /// The function identifier's last 16 bits.
    function: u16,
}

/// How a command failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The RMM refused with this code.
    Code(ReturnCode),
    /// The RMM reported something the specification rules out; the text names it.
    Implausible(&'static &'static str),
}

impl RmiError {
    #[cold]
    #[inline(never)]
    pub(crate) fn new(command: RmiCommand, failure: Failure) -> Self {
        let (about, level) = match command {
            RmiCommand::GranuleDelegate { addr } | RmiCommand::GranuleUndelegate { addr } => ([addr, 0], 0),
            RmiCommand::DataCreate { ipa, .. }
            | RmiCommand::DataCreateUnknown { ipa, .. }
            | RmiCommand::DataDestroy { ipa, .. } => ([ipa, 0], 0),
            RmiCommand::RttCreate { ipa, level, .. }
            | RmiCommand::RttDestroy { ipa, level, .. }
            | RmiCommand::RttFold { ipa, level, .. }
            | RmiCommand::RttMapUnprotected { ipa, level, .. }
            | RmiCommand::RttUnmapUnprotected { ipa, level, .. } => ([ipa, 0], level),
            RmiCommand::RttInitRipas { base, top, .. } | RmiCommand::RttSetRipas { base, top, .. } => {
                ([base, top], 0)
            }
            _ => ([0, 0], 0),
        };
        let level = i8::try_from(level).unwrap_or(i8::MAX);
        Self { failure, about, level, function: function(command.fid()) }
    }

    /// The command with other arguments.
    pub(crate) fn kind(&self) -> RmiCommand {
        RmiCommand::from_regs(&[FIRST | u64::from(self.function), 0, 0, 0, 0, 0, 0, 0])
    }

    /// The granule the RMM did not take, if that is how it failed.
    pub(crate) fn refused_granule(&self) -> Option<u64> {
        let [addr, _] = self.about;
        matches!(self.kind(), RmiCommand::GranuleDelegate { .. }).then_some(addr)
    }

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
        let kind = self.kind();
        f.write_str(kind.name().unwrap_or("unknown RMI command"))?;
        let ([at, end], level) = (self.about, self.level);
        match kind {
            RmiCommand::GranuleDelegate { .. } | RmiCommand::GranuleUndelegate { .. } => {
                write!(f, " of granule {at:#x}")?;
            }
            RmiCommand::DataCreate { .. }
            | RmiCommand::DataCreateUnknown { .. }
            | RmiCommand::DataDestroy { .. } => write!(f, " at IPA {at:#x}")?,
            RmiCommand::RttCreate { .. }
            | RmiCommand::RttDestroy { .. }
            | RmiCommand::RttFold { .. }
            | RmiCommand::RttMapUnprotected { .. }
            | RmiCommand::RttUnmapUnprotected { .. } => write!(f, " at IPA {at:#x}, level {level}")?,
            RmiCommand::RttInitRipas { .. } | RmiCommand::RttSetRipas { .. } => {
                write!(f, " of IPAs {at:#x} to {end:#x}")?;
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
#[cold]
#[inline(never)]
pub(crate) fn implausible(command: RmiCommand, what: &'static &'static str) -> RmiError {
    RmiError::new(command, Failure::Implausible(what))
}

/// What function identifiers of the RMI have in common (SMCCC: a fast call of 64 bits of the standard service).
const FIRST: u64 = 0xC400_0000;

fn function(fid: u64) -> u16 {
    let [low, high, ..] = fid.to_le_bytes();
    u16::from_le_bytes([low, high])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn an_error_is_small_and_tells_what_the_command_was_about() {
        assert!(size_of::<crate::realm::RealmError>() <= 48);
        let text = |command| RmiError::new(command, Failure::Implausible(&"why")).to_string();
        let end = ": the RMM's answer is impossible: why";
        let fold = RmiCommand::RttFold { rd: 1, ipa: 0x20_0000, level: -1 };
        assert_eq!(text(fold), std::format!("RMI_RTT_FOLD at IPA 0x200000, level -1{end}"));
        let ripas = RmiCommand::RttSetRipas { rd: 1, rec: 2, base: 0x1000, top: 0x3000 };
        assert_eq!(text(ripas), std::format!("RMI_RTT_SET_RIPAS of IPAs 0x1000 to 0x3000{end}"));
        let delegate = RmiError::new(RmiCommand::GranuleDelegate { addr: 0x5000 }, Failure::Implausible(&""));
        assert_eq!(delegate.refused_granule(), Some(0x5000));
        assert_eq!(RmiError::new(fold, Failure::Implausible(&"")).refused_granule(), None);
    }

    #[test]
    fn every_command_is_known_by_what_an_error_keeps_of_it() {
        for &(fid, name) in RmiCommand::TABLE {
            let command = RmiCommand::from_regs(&[fid, 0, 0, 0, 0, 0, 0, 0]);
            let kind = RmiError::new(command, Failure::Implausible(&"")).kind();
            assert_eq!((kind.fid(), kind.name()), (fid, Some(name)));
        }
    }
}
