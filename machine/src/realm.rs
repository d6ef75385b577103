//! What realms run: programs of operations, or closures, and which virtual CPU is in which.

pub mod guest;
pub(crate) mod instance;
pub mod program;
pub(crate) mod programs;
