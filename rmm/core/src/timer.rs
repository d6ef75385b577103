//! The EL1 timers of a REC: their outputs, and when a change of one must reach the Host (RMM 1.0, realm timers).

use crate::cpu::Timers;
use realm_abi::rmi::RecExit;

const CTL_ENABLE: u64 = 1 << 0;
const CTL_IMASK: u64 = 1 << 1;
const CTL_ISTATUS: u64 = 1 << 2;

/// Whether each timer's output is asserted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outputs {
    /// CNTV.
    pub virtual_timer: bool,
    /// CNTP.
    pub physical_timer: bool,
}

impl Outputs {
    /// The outputs when the counter reads `now`. Offsets are zero, so both timers compare with the same count.
    pub(crate) const fn at(timers: &Timers, now: u64) -> Self {
        Self {
            virtual_timer: is_asserted(control(timers.cntv_ctl, timers.cntv_cval, now)),
            physical_timer: is_asserted(control(timers.cntp_ctl, timers.cntp_cval, now)),
        }
    }
    /// As one number, for a REC granule.
    pub(crate) const fn to_bits(self) -> u64 {
        self.virtual_timer as u64 | (self.physical_timer as u64) << 1
    }
    /// From [`Self::to_bits`].
    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self { virtual_timer: bits & 1 != 0, physical_timer: bits & 2 != 0 }
    }
}

/// A control register with ISTATUS as it is when the counter reads `now`; zero while the timer is disabled, when the
/// architecture leaves it unknown.
const fn control(ctl: u64, cval: u64, now: u64) -> u64 {
    let status = if ctl & CTL_ENABLE != 0 && now >= cval { CTL_ISTATUS } else { 0 };
    ctl & (CTL_ENABLE | CTL_IMASK) | status
}

const fn is_asserted(ctl: u64) -> bool {
    ctl & (CTL_ENABLE | CTL_IMASK | CTL_ISTATUS) == CTL_ENABLE | CTL_ISTATUS
}

/// Reports the timers, as every exit does, and returns their outputs in what was reported.
pub(crate) const fn report(timers: &Timers, now: u64, exit: &mut RecExit) -> Outputs {
    exit.cntv_ctl = control(timers.cntv_ctl, timers.cntv_cval, now);
    exit.cntv_cval = timers.cntv_cval;
    exit.cntp_ctl = control(timers.cntp_ctl, timers.cntp_cval, now);
    exit.cntp_cval = timers.cntp_cval;
    Outputs { virtual_timer: is_asserted(exit.cntv_ctl), physical_timer: is_asserted(exit.cntp_ctl) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_is_asserted_when_enabled_unmasked_and_due() {
        for (ctl, cval, now, reported, asserted) in [
            (1, 100, 99, 1, false),
            (1, 100, 100, 5, true),
            (3, 100, 100, 7, false),
            (0, 100, 100, 0, false),
            (2, 100, 100, 2, false),
            // What was written to the read-only ISTATUS does not count.
            (5, 100, 99, 1, false),
        ] {
            let physical = Timers { cntp_ctl: ctl, cntp_cval: cval, ..Timers::default() };
            let virtual_ = Timers { cntv_ctl: ctl, cntv_cval: cval, ..Timers::default() };
            let mut exit = RecExit::default();
            let outputs = report(&physical, now, &mut exit);
            assert_eq!((exit.cntp_ctl, exit.cntp_cval, exit.cntv_ctl), (reported, cval, 0));
            assert_eq!(outputs, Outputs { physical_timer: asserted, virtual_timer: false });
            assert_eq!(outputs, Outputs::at(&physical, now));
            assert_eq!(outputs, Outputs::from_bits(outputs.to_bits()));
            let mut exit = RecExit::default();
            let outputs = report(&virtual_, now, &mut exit);
            assert_eq!((exit.cntv_ctl, exit.cntv_cval, exit.cntp_ctl), (reported, cval, 0));
            assert_eq!(outputs, Outputs { physical_timer: false, virtual_timer: asserted });
        }
    }
}
