//! What an exit said, as far as it is needed after the run page may have changed.

use crate::run::timer::Timers;
use realm_abi::rmi::{ExitReason, GPRS, RecExit, Ripas};
use zerocopy::FromZeros;

/// See the module; the fields are those of `RmiRecExit` (RMM 1.0).
#[derive(FromZeros)]
pub(crate) struct Exit {
    pub(crate) reason: ExitReason,
    pub(crate) esr: u64,
    pub(crate) far: u64,
    pub(crate) hpfar: u64,
    pub(crate) gprs: [u64; GPRS],
    pub(crate) timers: Timers,
    pub(crate) ripas_base: u64,
    pub(crate) ripas_top: u64,
    pub(crate) ripas_value: Ripas,
    /// Whether the realm has an overflow of its PMU to handle.
    pub(crate) pmu_overflow: bool,
}

impl Exit {
    /// Takes what `exit` says.
    pub(crate) fn read(&mut self, exit: &RecExit) {
        self.reason = exit.exit_reason;
        (self.esr, self.far, self.hpfar) = (exit.esr, exit.far, exit.hpfar);
        self.gprs = exit.gprs;
        self.timers = Timers::of_exit(exit);
        (self.ripas_base, self.ripas_top) = (exit.ripas_base, exit.ripas_top);
        self.ripas_value = exit.ripas_value;
        self.pmu_overflow = exit.pmu_ovf_status != 0;
    }
}
