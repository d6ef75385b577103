//! The KVM user ABI on arm64 as far as a VMM for realms uses it: file kinds, ioctl numbers, structures, register
//! identifiers and exits.
//!
//! What the posted versions of the Linux realm series number differently is in a [`Generation`]; code that drives or
//! serves a realm's life asks it and holds no such number itself.

pub mod cap;
mod device;
mod enable_cap;
mod encoding;
mod generation;
mod ioctl;
mod memory;
mod realm;
pub mod reg;
mod run;
mod vcpu;

pub use cap::Cap;
pub use device::{
    CreateDevice, DeviceAttr, DeviceType, IrqLevel, IrqLine, VGIC_CTRL_INIT, VGIC_GRP_ADDR, VGIC_GRP_CTRL,
    VGIC_GRP_NR_IRQS, VGIC_V3_ADDR_DIST, VGIC_V3_ADDR_REDIST,
};
pub use enable_cap::EnableCap;
pub use encoding::{KVM_MAGIC, io, ior, iow, iowr};
pub use generation::{Generation, VmType, VmTypeError};
pub use ioctl::{FileKind, Ioctl, numbers};
pub use memory::{
    CreateGuestMemfd, MEMORY_ATTRIBUTE_PRIVATE, MemRegionFlags, MemoryAttributes, UserMemoryRegion,
    UserMemoryRegion2,
};
pub use realm::{
    ConfigItem, POPULATE_MEASURE, PsciComplete, RealmCommand, RmeConfig, RmeInitRipas, RmePopulate,
};
pub use run::{
    ExitHypercall, ExitInternalError, ExitMemoryFault, ExitMmio, ExitReason, ExitSystemEvent, InternalError,
    MEMORY_FAULT_PRIVATE, RUN_SIZE, Run, SystemEvent,
};
pub use vcpu::{
    CounterOffset, GuestDebug, MAX_VCPU_FEATURES, MpState, OneReg, RegListHeader, RegMaskRange,
    TARGET_GENERIC_V8, VcpuEvents, VcpuFeature, VcpuInit, vcpu_mpidr,
};

/// What KVM_GET_API_VERSION answers, since Linux 2.6.22.
pub const API_VERSION: i64 = 12;
