//! How a test looks into a machine: what went wrong, what passed between the worlds, and faults it makes on purpose.

pub mod fault;
pub mod log;
pub mod trace;
