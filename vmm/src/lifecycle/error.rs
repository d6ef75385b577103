//! Why a realm could not be built or could not go on.

use realm_abi::Errno;
use realm_abi::kvm::{Ioctl, RealmCommand};
use std::fmt;
use thiserror::Error;

/// Something that failed. Every message is one line.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VmError {
    /// An ioctl.
    #[error("{call} failed: {errno}{}", hint(*.call, *.errno))]
    Ioctl {
        /// Which.
        call: Call,
        /// The kernel's answer.
        errno: Errno,
    },
    /// Another request to the operating system.
    #[error("{what} failed: {errno}")]
    System {
        /// Which.
        what: &'static str,
        /// The answer.
        errno: Errno,
    },
    /// KVM speaks another interface.
    #[error("KVM_GET_API_VERSION answers {0}; version 12 is needed")]
    ApiVersion(i64),
    /// No realms here.
    #[error(
        "KVM offers no realms ({capability} answers 0): this computer has no RMM, or one of an unknown version"
    )]
    NoRealms {
        /// The number of the capability that says so.
        capability: realm_abi::kvm::Cap,
    },
    /// The kernel offers fewer vCPUs.
    #[error("{cpus} CPUs asked for; a realm can have at most {max} here")]
    TooManyCpus {
        /// Asked for.
        cpus: u32,
        /// Offered.
        max: i64,
    },
    /// There is no such vCPU.
    #[error("the realm has no vCPU {0}")]
    NoVcpu(u32),
    /// The VMM meant memory the realm does not have.
    #[error("{size:#x} bytes at {base:#x} are not all RAM")]
    NotRam {
        /// First IPA.
        base: u64,
        /// Bytes.
        size: u64,
    },
    /// The realm meant memory it does not have.
    #[error("vCPU {vcpu} asks for {size:#x} bytes at {base:#x} as memory, which is not all RAM")]
    FaultOutsideRam {
        /// Which vCPU.
        vcpu: u32,
        /// First IPA.
        base: u64,
        /// Bytes.
        size: u64,
    },
    /// The same fault again and again.
    #[error("vCPU {vcpu} faults at {base:#x} again and again although the memory is as it asked for")]
    NoProgress {
        /// Which vCPU.
        vcpu: u32,
        /// First IPA.
        base: u64,
    },
    /// KVM cannot go on.
    #[error("vCPU {vcpu} cannot go on: {what}")]
    Exit {
        /// Which vCPU.
        vcpu: u32,
        /// The exit in words.
        what: String,
    },
}

impl VmError {
    /// Whether other input (fewer CPUs, another hash, another IPA width) would help.
    #[must_use]
    pub fn is_bad_input(&self) -> bool {
        match self {
            Self::TooManyCpus { .. } => true,
            Self::Ioctl { call, errno } => {
                *errno == Errno::EINVAL
                    && matches!(
                        call,
                        Call { ioctl: Ioctl::CreateVm, .. }
                            | Call { command: Some(RealmCommand::CONFIG_REALM), .. }
                    )
            }
            _ => false,
        }
    }
}

/// An ioctl, and the realm command it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The ioctl.
    pub ioctl: Ioctl,
    /// The realm command in a KVM_ENABLE_CAP.
    pub command: Option<RealmCommand>,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.command {
            Some(command) => write!(f, "{} {command}", self.ioctl),
            None => write!(f, "{}", self.ioctl),
        }
    }
}

/// What an answer means (docs/kvm-realm-abi.md section 2.5), where it is not plain.
fn hint(call: Call, errno: Errno) -> &'static str {
    match (call.ioctl, call.command, errno) {
        (_, _, Errno::ENOMEM) => " (the host has no memory left for it)",
        (_, _, Errno::EIO) => " (an earlier failure has made the realm unusable)",
        (Ioctl::CreateVm, _, Errno::EINVAL) => " (no realm of this IPA width is possible here)",
        (Ioctl::CreateVm, _, Errno::EPERM) => " (realms are switched off)",
        (_, Some(RealmCommand::CONFIG_REALM), Errno::EINVAL) => " (the RMM does not offer this hash)",
        (_, Some(_), Errno::ENXIO) | (Ioctl::ArmVcpuFinalize | Ioctl::Run, _, Errno::ENXIO) => {
            " (the RMM refused; the kernel's log names its status)"
        }
        _ => "",
    }
}
