//! The Host core's ioctls as a process meets them: the real Host core over the real RMM core.

mod errors;
mod limits;
mod prediction;
mod run;
mod shared;
mod vmm;
