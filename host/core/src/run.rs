//! Running a vCPU: its ioctls, entering its REC, and serving the exits.

mod enter;
mod exit;
mod exit_record;
mod fault;
pub(crate) mod gic;
pub mod irqchip;
mod kvm_run;
mod mmio;
mod pending;
mod psci;
pub(crate) mod regs;
mod timer;
mod vcpu;
pub(crate) mod waker;

pub use gic::Gic;
pub use vcpu::Vcpu;
