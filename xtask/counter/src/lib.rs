//! A plugin for QEMU's code generator. It counts the instructions executed between two marks in the guest's code, by the
//! world they belong to (a range of addresses each) and by [`kind::Kind`].
//!
//! The guest executes `hint #120` where counting begins and `hint #121` where it ends; neither is counted. From reset on
//! it counts too, so the first sample is the boot. Arguments are `NAME=VALUE`:
//!
//! * `out=FILE`: a line of JSON a sample, `{"el3": {"plain": 12, ...}, ...}`.
//! * `world=NAME:START:END` (hexadecimal), any number of times; what lies in none is `elsewhere`.
//! * `profile=N:FILE`: how often each address was executed in sample N, `ADDRESS COUNT` a line.
//!
//! It is for machines with one CPU.

pub mod kind;
pub mod samples;
// A test program has none of the functions QEMU exports.
#[cfg(not(test))]
mod qemu;
