//! What is left over between two entries of a REC.

use crate::realm::RipasChange;
use crate::run::mmio::Access;

/// What an exit left to be answered with the next entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pending {
    /// Nothing.
    Nothing,
    /// An access the VMM emulates.
    Mmio(Access),
    /// An access that is emulated, with the value of a read.
    Emulated {
        /// The value, 0 for a write.
        value: u64,
    },
    /// An access that ends in an external abort.
    InjectSea,
    /// A RIPAS change the VMM was told of; `base` moves as it is done.
    RipasChange(RipasChange),
    /// A RIPAS change that cannot be.
    RejectRipas,
    /// A host call: the vCPU's registers are the reply.
    HostCall,
    /// The value of a trapped register read.
    Register(u64),
}

/// What to do after an exit.
pub(crate) enum Next {
    /// Enter the realm again.
    Resume,
    /// Return to the VMM with success; the run page says why.
    Return,
}
