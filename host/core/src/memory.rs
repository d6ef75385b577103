//! A VM's memory: its slots, which of it is private, and the private memory itself.

pub(crate) mod attributes;
pub mod guest_memfd;
pub(crate) mod memslot;
