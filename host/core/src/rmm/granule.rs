//! Who owns a granule, as a type.
//!
//! An [`OwnedGranule`] is the Host's: it may be read, written, delegated or put back into the [`GranulePool`]. A
//! [`DelegatedGranule`] is the RMM's: the Host can do nothing with it but use its address in commands and ask for it
//! back. A granule the RMM does not give back is lost: it is written into the [`Ledger`](crate::rmm::ledger::Ledger) and its memory is never used
//! again.

mod pool;

pub use pool::{GranulePool, MAX_RUN};

use crate::Host;
use crate::rmm::ledger::Loss;
use crate::rmm::rmi::{Rmi, RmiError};

/// A granule of the Host. Neither `Clone` nor constructible outside this crate: whoever holds it may use the memory.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a granule that is dropped is never freed"]
pub struct OwnedGranule {
    pa: u64,
}

/// A granule the RMM holds.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a granule that is dropped is never undelegated"]
pub struct DelegatedGranule {
    pa: u64,
}

/// Delegation failed: the granule is still the Host's.
#[derive(Debug)]
pub struct NotDelegated {
    /// The granule.
    pub granule: OwnedGranule,
    /// Why.
    pub error: RmiError,
}

impl OwnedGranule {
    /// The granule at `pa`. The caller hands over the only right to that memory.
    pub(crate) const fn new(pa: u64) -> Self {
        Self { pa }
    }

    /// Physical address.
    #[must_use]
    pub const fn pa(&self) -> u64 {
        self.pa
    }

    /// Gives the right to the memory up.
    pub(crate) fn into_pa(self) -> u64 {
        self.pa
    }

    /// Gives the granule to the RMM (RMI_GRANULE_DELEGATE).
    ///
    /// # Errors
    /// The RMM refused; the granule comes back with the reason.
    pub fn delegate<H: Host>(self, rmi: &Rmi<H>) -> Result<DelegatedGranule, NotDelegated> {
        match rmi.granule_delegate(self.pa) {
            Ok(()) => {
                rmi.ledger().count_delegated(rmi.host().cpu());
                Ok(DelegatedGranule { pa: self.pa })
            }
            Err(error) => Err(NotDelegated { granule: self, error }),
        }
    }
}

impl DelegatedGranule {
    /// Physical address.
    #[must_use]
    pub const fn pa(&self) -> u64 {
        self.pa
    }

    /// The granule at `pa`, which the RMM holds. The caller hands over the only right to it.
    pub(crate) const fn new(pa: u64) -> Self {
        Self { pa }
    }

    /// Gives the right to the granule up; whoever keeps the address has it.
    pub(crate) fn into_pa(self) -> u64 {
        self.pa
    }

    /// Takes the granule back (RMI_GRANULE_UNDELEGATE).
    ///
    /// # Errors
    /// The RMM refused. The granule is lost: counted, written into the ledger, never used again.
    pub fn undelegate<H: Host>(self, rmi: &Rmi<H>) -> Result<OwnedGranule, RmiError> {
        match rmi.granule_undelegate(self.pa) {
            Ok(()) => {
                rmi.ledger().count_undelegated(rmi.host().cpu());
                Ok(OwnedGranule { pa: self.pa })
            }
            Err(error) => {
                self.lose(rmi, error);
                Err(error)
            }
        }
    }

    /// Asks for the granule back (RMI_GRANULE_UNDELEGATE): if the RMM refuses, the granule is still its own.
    #[inline(never)]
    pub(crate) fn ask_back<H: Host>(self, rmi: &Rmi<H>) -> Result<OwnedGranule, Self> {
        match rmi.granule_undelegate(self.pa) {
            Ok(()) => {
                rmi.ledger().count_undelegated(rmi.host().cpu());
                Ok(OwnedGranule { pa: self.pa })
            }
            Err(_) => Err(self),
        }
    }

    /// Gives the granule up for lost because of `error`. The administrator is told of the first, and with the end of a VM how
    /// many others there were ([`Ledger::unreported`](crate::rmm::ledger::Ledger::unreported)).
    #[inline(never)]
    pub fn lose<H: Host>(self, rmi: &Rmi<H>, error: RmiError) {
        if rmi.ledger().count_lost(Loss { pa: self.pa, error }) {
            rmi.host().warn(format_args!("granule {:#x} is lost: {error}", self.pa));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::error::RealmError;
    use crate::fake::{FakeHost, Step};
    use alloc::string::ToString;
    use realm_abi::rmi::RmiCommand;

    fn is_undelegate(step: Step) -> bool {
        matches!(step, Step::Call(RmiCommand::GranuleUndelegate { .. }))
    }

    fn is_delegate(step: Step) -> bool {
        matches!(step, Step::Call(RmiCommand::GranuleDelegate { .. }))
    }

    #[test]
    fn a_granule_that_goes_and_comes_back_is_counted_twice_and_freed() {
        let rmm = FakeHost::started(12);
        let granule = rmm.take_delegated().unwrap();
        assert_eq!((rmm.ledger().snapshot().held(), rmm.host().pages()), (1, 1));
        assert!(rmm.give_back(granule));
        let now = rmm.ledger().snapshot();
        assert_eq!((now.delegated, now.undelegated, now.leaked, rmm.host().pages()), (1, 1, 0, 0));
        assert!(now.calls().eq([
            ("RMI_VERSION", 1),
            ("RMI_GRANULE_DELEGATE", 1),
            ("RMI_GRANULE_UNDELEGATE", 1),
            ("RMI_FEATURES", 1)
        ]));
        assert_eq!(now.total_calls(), 4);
    }

    #[test]
    fn a_granule_the_rmm_keeps_is_named_and_its_page_is_never_freed() {
        for shift in [12, 14, 16] {
            let rmm = FakeHost::started(shift);
            let (lost, other) = (rmm.take_delegated().unwrap(), rmm.take_delegated().unwrap());
            let pa = lost.pa();
            rmm.host().inject(is_undelegate, 0, 1);
            assert!(!rmm.give_back(lost) && rmm.give_back(other));
            FakeHost::assert_all_came_back_or_is_named(&rmm);
            assert_eq!((rmm.host().pages(), rmm.host().warnings()), (1, 1));
            let losses = FakeHost::losses(&rmm);
            let text = std::format!(
                "granule {pa:#x}: RMI_GRANULE_UNDELEGATE of granule {pa:#x} failed: RMI_ERROR_INPUT"
            );
            assert_eq!(losses.iter().map(ToString::to_string).collect::<std::vec::Vec<_>>(), [text]);
        }
    }

    #[test]
    fn one_loss_is_told_and_the_others_are_counted_until_they_are() {
        let rmm = FakeHost::started(12);
        rmm.host().inject(is_undelegate, 0, 5);
        for (round, lost) in [(1, 3), (2, 2)] {
            for _ in 0..lost {
                let granule = rmm.take_delegated().unwrap();
                assert!(!rmm.give_back(granule));
            }
            assert_eq!((rmm.host().warnings(), rmm.ledger().unreported()), (round, lost - 1));
        }
        assert_eq!((rmm.ledger().unreported(), rmm.ledger().snapshot().leaked), (0, 5));
    }

    #[test]
    fn a_granule_the_rmm_does_not_take_is_still_ours() {
        let rmm = FakeHost::started(12);
        rmm.host().inject(is_delegate, 0, u64::MAX);
        assert!(matches!(rmm.take_delegated(), Err(RealmError::Rmi(_))));
        assert_eq!((rmm.ledger().snapshot().delegated, rmm.host().pages()), (0, 0));
    }

    #[test]
    fn memory_the_rmm_refuses_goes_back_as_such_and_other_memory_is_taken() {
        for (shift, refused_pages) in [(12, 3), (14, 3), (16, 3)] {
            let rmm = FakeHost::started(shift);
            let host = rmm.host();
            host.refuse_next(3 * host.page_size());
            let granule = rmm.take_delegated().unwrap();
            assert_eq!((host.refused_pages(), host.pages()), (refused_pages, 1), "pages of {shift} bits");
            assert!(rmm.give_back(granule));
            host.refuse_next(0x1_0000);
            let run = rmm.take_delegated_run(16).unwrap();
            assert_eq!(rmm.give_back_all(run), 0);
            assert!(host.refused_pages() > refused_pages);
            // All memory is refused.
            host.refuse_next(1 << 40);
            let before = rmm.ledger().snapshot().delegated;
            assert!(matches!(rmm.take_delegated(), Err(RealmError::Rmi(_))));
            assert!(matches!(rmm.take_delegated_run(16), Err(RealmError::Rmi(_))));
            assert_eq!((rmm.ledger().snapshot().delegated, host.pages()), (before, 0));
        }
    }

    #[test]
    fn a_run_that_is_refused_in_the_middle_comes_back_whole() {
        /// An interpreter takes a second for each.
        const STEP: usize = if cfg!(miri) { 5 } else { 1 };
        for shift in [12, 14, 16] {
            for refused in (0..16).step_by(STEP) {
                let rmm = FakeHost::started(shift);
                rmm.host().inject(is_delegate, refused, u64::MAX);
                assert!(rmm.take_delegated_run(16).is_err());
                assert_eq!(rmm.ledger().snapshot().delegated, refused);
                FakeHost::assert_all_came_back_or_is_named(&rmm);
                assert_eq!(rmm.host().pages(), 0);
            }
        }
    }

    #[test]
    fn one_failed_undelegation_does_not_stop_the_others() {
        for shift in [12, 14, 16] {
            let rmm = FakeHost::started(shift);
            let run = rmm.take_delegated_run(16).unwrap();
            rmm.host().inject(is_undelegate, 3, 2);
            assert_eq!(rmm.give_back_all(run), 2);
            assert_eq!(rmm.ledger().snapshot().undelegated, 14);
            FakeHost::assert_all_came_back_or_is_named(&rmm);
        }
    }
}
