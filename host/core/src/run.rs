//! Running a vCPU: its ioctls, entering its REC, and serving the exits.

mod enter;
mod exit;
mod fault;
pub mod irqchip;
mod kvm_run;
mod mmio;
mod pending;
mod psci;
pub(crate) mod regs;
mod timer;
mod vcpu;

pub use vcpu::Vcpu;
