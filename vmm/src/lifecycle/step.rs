//! The steps of a realm's life, for progress and statistics.

use std::fmt;

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// KVM is asked what it can do and makes the VM.
    CreateVm,
    /// RAM is made, its shared and its private side.
    Memory,
    /// vCPUs are made and initialised.
    Vcpus,
    /// The interrupt controller is made.
    InterruptController,
    /// The images are copied into the shared side; then all RAM is private.
    LoadImages,
    /// Hash and Realm Personalization Value are set.
    Configure,
    /// The realm is made.
    CreateRealm,
    /// All RAM becomes memory the realm can trust.
    InitRipas,
    /// A part of the initial memory is copied and measured.
    Populate(&'static str),
    /// The RECs are made.
    FinalizeRecs,
    /// The measurement is frozen.
    Activate,
    /// The realm runs.
    Run,
    /// Everything is given back.
    Destroy,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CreateVm => "create vm",
            Self::Memory => "memory",
            Self::Vcpus => "vcpus",
            Self::InterruptController => "interrupt controller",
            Self::LoadImages => "load images",
            Self::Configure => "configure",
            Self::CreateRealm => "create realm",
            Self::InitRipas => "init ripas",
            Self::Populate(part) => return write!(f, "populate {part}"),
            Self::FinalizeRecs => "finalize recs",
            Self::Activate => "activate",
            Self::Run => "run",
            Self::Destroy => "destroy",
        })
    }
}

/// Who wants to know about the steps.
pub trait Progress {
    /// A step begins.
    fn begin(&mut self, step: Step) {
        let _ = step;
    }
    /// A step has ended, well or not.
    fn end(&mut self, step: Step) {
        let _ = step;
    }
}

/// Nobody.
impl Progress for () {}

/// Does a step.
pub(super) fn within<T>(progress: &mut dyn Progress, step: Step, work: impl FnOnce() -> T) -> T {
    progress.begin(step);
    let result = work();
    progress.end(step);
    result
}
