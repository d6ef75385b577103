//! The EL1 timers of a REC, as an exit shows them (RMM 1.0, RmiRecExit). The realm's counters have no offset.

use realm_abi::rmi::RecExit;
use zerocopy::FromZeros;

/// Private interrupt of the virtual timer, as KVM has it.
const VIRTUAL_INTID: u32 = 27;
/// Private interrupt of the physical timer.
const PHYSICAL_INTID: u32 = 30;
/// Private interrupt of the PMU, the number of the Base System Architecture.
pub const PMU_INTID: u32 = 23;

/// Bits of CNTx_CTL_EL0.
const ENABLE: u64 = 1 << 0;
const IMASK: u64 = 1 << 1;
const ISTATUS: u64 = 1 << 2;

#[derive(Clone, Copy, Debug, FromZeros, PartialEq, Eq)]
struct Timer {
    intid: u32,
    ctl: u64,
    cval: u64,
}

impl Timer {
    const fn can_fire(self) -> bool {
        self.ctl & (ENABLE | IMASK) == ENABLE
    }
}

/// Both timers.
#[derive(Clone, Copy, Debug, FromZeros, PartialEq, Eq)]
pub struct Timers([Timer; 2]);

impl Timers {
    /// As an exit left them.
    #[must_use]
    pub const fn of_exit(exit: &RecExit) -> Self {
        Self([
            Timer { intid: VIRTUAL_INTID, ctl: exit.cntv_ctl, cval: exit.cntv_cval },
            Timer { intid: PHYSICAL_INTID, ctl: exit.cntp_ctl, cval: exit.cntp_cval },
        ])
    }

    /// As they are when the counter reads `now` and the realm has not run since.
    #[must_use]
    pub fn at(self, now: u64) -> Self {
        Self(self.0.map(|timer| {
            let status = if timer.cval <= now { ISTATUS } else { 0 };
            Timer { ctl: timer.ctl & !ISTATUS | status, ..timer }
        }))
    }

    /// Interrupt and level of each.
    #[must_use]
    pub fn lines(self) -> [(u32, bool); 2] {
        self.0.map(|timer| (timer.intid, timer.can_fire() && timer.ctl & ISTATUS != 0))
    }

    /// When the first of them fires that can.
    #[must_use]
    pub fn deadline(self) -> Option<u64> {
        self.0.into_iter().filter(|timer| timer.can_fire()).map(|timer| timer.cval).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timers(cntv: (u64, u64), cntp: (u64, u64)) -> Timers {
        let mut exit = RecExit::default();
        (exit.cntv_ctl, exit.cntv_cval) = cntv;
        (exit.cntp_ctl, exit.cntp_cval) = cntp;
        Timers::of_exit(&exit)
    }

    #[test]
    fn a_line_is_high_when_the_timer_is_enabled_unmasked_and_met() {
        for (ctl, level) in [(0b101, true), (0b111, false), (0b100, false), (0b001, false)] {
            assert_eq!(timers((ctl, 0), (0, 0)).lines(), [(27, level), (30, false)]);
        }
    }

    #[test]
    fn the_next_deadline_is_of_a_timer_that_can_fire() {
        assert_eq!(timers((1, 50), (1, 40)).deadline(), Some(40));
        assert_eq!(timers((1, 50), (3, 40)).deadline(), Some(50));
        assert_eq!(timers((0, 50), (2, 40)).deadline(), None);
    }

    #[test]
    fn a_timer_fires_while_the_realm_sleeps() {
        let timers = timers((1, 50), (1, 90));
        assert_eq!(timers.at(49).lines(), [(27, false), (30, false)]);
        assert_eq!(timers.at(50).lines(), [(27, true), (30, false)]);
    }
}
