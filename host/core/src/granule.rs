//! Who owns a granule, as a type.
//!
//! An [`OwnedGranule`] is the Host's: it may be read, written, delegated or put back into the [`GranulePool`]. A
//! [`DelegatedGranule`] is the RMM's: the Host can do nothing with it but use its address in commands and ask for it
//! back. A granule the RMM does not give back is lost: it is written into the [`Ledger`] and its memory is never used
//! again.

mod ledger;
mod pool;

pub use ledger::{CALL_SLOTS, Ledger, LedgerSnapshot, Loss, MAX_LOSSES};
pub use pool::GranulePool;

use crate::Host;
use crate::rmi::{Rmi, RmiError};

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

    /// Gives the granule to the RMM (RMI_GRANULE_DELEGATE).
    ///
    /// # Errors
    /// The RMM refused; the granule comes back with the reason.
    pub fn delegate<H: Host>(self, rmi: &Rmi<H>) -> Result<DelegatedGranule, NotDelegated> {
        match rmi.granule_delegate(self.pa) {
            Ok(()) => {
                rmi.ledger().count_delegated();
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

    /// Takes the granule back (RMI_GRANULE_UNDELEGATE).
    ///
    /// # Errors
    /// The RMM refused. The granule is lost: counted, written into the ledger, never used again.
    pub fn undelegate<H: Host>(self, rmi: &Rmi<H>) -> Result<OwnedGranule, RmiError> {
        match rmi.granule_undelegate(self.pa) {
            Ok(()) => {
                rmi.ledger().count_undelegated();
                Ok(OwnedGranule { pa: self.pa })
            }
            Err(error) => {
                self.lose(rmi, error);
                Err(error)
            }
        }
    }

    /// Gives the granule up for lost because of `error`.
    pub fn lose<H: Host>(self, rmi: &Rmi<H>, error: RmiError) {
        rmi.ledger().count_lost(Loss { pa: self.pa, error });
        rmi.host().warn(format_args!("granule {:#x} is lost: {error}", self.pa));
    }
}
