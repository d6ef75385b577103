//! The page a vCPU shares with its VMM (`struct kvm_run` of `linux/kvm.h`) and the exits it tells of
//! (docs/kvm-realm-abi.md section 2.10).

use crate::layout::assert_layout;
use crate::macros::open_enum;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Bytes of [`Run`] as the kernel defines it; KVM_GET_VCPU_MMAP_SIZE may answer more.
pub const RUN_SIZE: usize = 2352;

open_enum! {
    /// Why KVM_RUN returned.
    pub struct ExitReason(u32) {
        /// Unknown; version 8 also reports the SYSTEM_OFF race with it.
        UNKNOWN = 0,
        /// A hypercall for user space.
        HYPERCALL = 3,
        /// A debug event.
        DEBUG = 4,
        /// An access to emulated memory.
        MMIO = 6,
        /// The VM has stopped.
        SHUTDOWN = 8,
        /// The vCPU could not be entered.
        FAIL_ENTRY = 9,
        /// A signal came.
        INTR = 10,
        /// KVM cannot go on.
        INTERNAL_ERROR = 17,
        /// PSCI SYSTEM_OFF or SYSTEM_RESET.
        SYSTEM_EVENT = 24,
        /// A data abort without syndrome.
        ARM_NISV = 28,
        /// An access whose kind disagrees with the memory attributes, or a RIPAS change.
        MEMORY_FAULT = 39,
    }
}

open_enum! {
    /// Type of a [`ExitSystemEvent`].
    pub struct SystemEvent(u32) {
        /// The guest switched itself off.
        SHUTDOWN = 1,
        /// The guest wants to start anew.
        RESET = 2,
        /// The guest crashed.
        CRASH = 3,
    }
}

open_enum! {
    /// Type of a [`ExitInternalError`].
    pub struct InternalError(u32) {
        /// Emulation failed.
        EMULATION = 1,
        /// Events at the same time that cannot be.
        SIMUL_EX = 2,
        /// Delivery of an event failed.
        DELIVERY_EV = 3,
        /// An exit reason the kernel does not know.
        UNEXPECTED_EXIT_REASON = 4,
    }
}

/// In [`ExitMemoryFault::flags`]: the guest meant private memory.
pub const MEMORY_FAULT_PRIVATE: u64 = 1 << 3;

/// The `mmio` member of the exit union.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExitMmio {
    /// The IPA with the unprotected alias bit removed.
    pub phys_addr: u64,
    /// The value, in the first `len` bytes; the VMM writes it for a read.
    pub data: [u8; 8],
    /// 1, 2, 4 or 8.
    pub len: u32,
    /// 1 for a write.
    pub is_write: u8,
    /// Unused.
    pub pad: [u8; 3],
}

/// The `hypercall` member of the exit union.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExitHypercall {
    /// Function identifier.
    pub nr: u64,
    /// Arguments; on arm64 they are read with KVM_GET_ONE_REG instead.
    pub args: [u64; 6],
    /// Result.
    pub ret: u64,
    /// Bit 0: the conduit was SMC.
    pub flags: u64,
}

/// The `system_event` member of the exit union.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExitSystemEvent {
    /// What happened.
    pub event: SystemEvent,
    /// How many of `data` count.
    pub ndata: u32,
    /// Details.
    pub data: [u64; 16],
}

/// The `internal` member of the exit union.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExitInternalError {
    /// What happened.
    pub suberror: InternalError,
    /// How many of `data` count.
    pub ndata: u32,
    /// Details.
    pub data: [u64; 16],
}

/// The `memory_fault` member of the exit union.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExitMemoryFault {
    /// 0 or [`MEMORY_FAULT_PRIVATE`].
    pub flags: u64,
    /// First IPA, the unprotected alias bit removed.
    pub gpa: u64,
    /// Bytes.
    pub size: u64,
}

/// `struct kvm_run`.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Run {
    /// Not used on arm64.
    pub request_interrupt_window: u8,
    /// 1 makes KVM_RUN return EINTR at once.
    pub immediate_exit: u8,
    pad_2: [u8; 6],
    /// Why KVM_RUN returned.
    pub exit_reason: ExitReason,
    /// Not used on arm64.
    pub ready_for_interrupt_injection: u8,
    /// Not used on arm64.
    pub if_flag: u8,
    /// Flags by exit.
    pub flags: u16,
    /// Not used on arm64.
    pub cr8: u64,
    /// Not used on arm64.
    pub apic_base: u64,
    exit: [u8; 256],
    /// Not used for realms.
    pub kvm_valid_regs: u64,
    /// Not used for realms.
    pub kvm_dirty_regs: u64,
    sync_regs: [u8; 2048],
}

assert_layout!(ExitMmio, 24, { phys_addr: 0, data: 8, len: 16, is_write: 20 });
assert_layout!(ExitHypercall, 72, { nr: 0, args: 8, ret: 56, flags: 64 });
assert_layout!(ExitSystemEvent, 136, { event: 0, ndata: 4, data: 8 });
assert_layout!(ExitInternalError, 136, { suberror: 0, ndata: 4, data: 8 });
assert_layout!(ExitMemoryFault, 24, { flags: 0, gpa: 8, size: 16 });
assert_layout!(Run, RUN_SIZE, {
    immediate_exit: 1, exit_reason: 8, ready_for_interrupt_injection: 12, if_flag: 13, flags: 14, cr8: 16,
    apic_base: 24, exit: 32, kvm_valid_regs: 288, kvm_dirty_regs: 296, sync_regs: 304,
});

impl Default for Run {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

/// Access to one member of the exit union; it has no say over which one is valid, [`Run::exit_reason`] has.
macro_rules! exit_views {
    ($($(#[$meta:meta])* $get:ident $set:ident: $ty:ident = $reason:ident;)*) => {
        impl Run {
            /// Offset of the exit union, for those who copy only a part of the page.
            pub const EXIT_OFFSET: usize = core::mem::offset_of!(Self, exit);

            $(
                $(#[$meta])*
                #[must_use]
                pub fn $get(&self) -> $ty {
                    let mut value = $ty::new_zeroed();
                    let bytes = value.as_mut_bytes();
                    bytes.copy_from_slice(&self.exit[..size_of::<$ty>()]);
                    value
                }
                #[doc = concat!("Sets the exit reason to ", stringify!($reason), " with its details.")]
                pub fn $set(&mut self, exit: &$ty) {
                    self.exit_reason = ExitReason::$reason;
                    self.exit.fill(0);
                    self.exit[..size_of::<$ty>()].copy_from_slice(exit.as_bytes());
                }
            )*
        }
    };
}

exit_views! {
    /// Details of an MMIO exit.
    mmio set_mmio: ExitMmio = MMIO;
    /// Details of a hypercall exit.
    hypercall set_hypercall: ExitHypercall = HYPERCALL;
    /// Details of a system event.
    system_event set_system_event: ExitSystemEvent = SYSTEM_EVENT;
    /// Details of an internal error.
    internal_error set_internal_error: ExitInternalError = INTERNAL_ERROR;
    /// Details of a memory fault.
    memory_fault set_memory_fault: ExitMemoryFault = MEMORY_FAULT;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_is_read_back_as_it_was_set() {
        let mut run = Run::default();
        let mmio = ExitMmio {
            phys_addr: 0x100_0000,
            data: [1, 2, 3, 4, 0, 0, 0, 0],
            len: 4,
            is_write: 1,
            pad: [0; 3],
        };
        run.set_mmio(&mmio);
        assert_eq!((run.exit_reason, run.mmio()), (ExitReason::MMIO, mmio));
        assert_eq!(run.as_bytes()[32..40], 0x100_0000_u64.to_le_bytes());
        let fault = ExitMemoryFault { flags: MEMORY_FAULT_PRIVATE, gpa: 0x8000_0000, size: 0x1000 };
        run.set_memory_fault(&fault);
        assert_eq!((run.exit_reason, run.memory_fault()), (ExitReason::MEMORY_FAULT, fault));
        let event = ExitSystemEvent { event: SystemEvent::SHUTDOWN, ndata: 0, data: [0; 16] };
        run.set_system_event(&event);
        assert_eq!((run.exit_reason, run.system_event()), (ExitReason::SYSTEM_EVENT, event));
    }
}
