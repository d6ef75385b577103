//! Stage 2 translation tables (RMM 1.0, realm memory management): what the Host manages and the MMU walks.
//!
//! Every function that changes an entry holds the lock of the table the entry is in, and does the TLB maintenance before
//! it lets go. The reference count of a table is its number of live protected entries, ASSIGNED and TABLE; ASSIGNED_NS
//! does not count, as it does not keep a table alive (RMM 1.0, RTT liveness).

mod entry;
mod fold;
mod ripas;
mod stage2;
#[cfg(test)]
mod tests;
mod translate;
mod walk;

pub(crate) use entry::{Rtte, is_valid_unprotected};
pub(crate) use fold::{fold, uncount, unfold};
pub(crate) use ripas::{common_ripas, init_ripas, set_ripas};
pub use stage2::Stage2;
pub(crate) use stage2::{entry_number, entry_size, is_aligned};
pub(crate) use translate::{Translate, translate};
pub(crate) use walk::{Table, Walk, walk};
