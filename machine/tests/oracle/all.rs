//! The oracle's parts, for the test and for the fuzz targets.

pub mod addresses;
pub mod build;
pub mod commands;
pub mod coverage;
pub mod driver;
pub mod enter;
pub mod guest;
pub mod guest_choice;
pub mod pick;
pub mod random;
pub mod sequence;
pub mod state;
pub mod steps;
