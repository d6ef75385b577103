//! The page a vCPU shares with its VMM (`struct kvm_run`). The VMM can write all of it at any time, so the Host core
//! reads two things only, each once: `immediate_exit`, and the value of an MMIO read.

use crate::Host;
use realm_abi::kvm::{
    ExitInternalError, ExitMemoryFault, ExitMmio, ExitReason, ExitSystemEvent, InternalError,
    MEMORY_FAULT_PRIVATE, Run, SystemEvent,
};
use zerocopy::{Immutable, IntoBytes};

/// The page, by its physical address.
pub struct RunPage<'a, H: Host> {
    host: &'a H,
    pa: u64,
}

impl<'a, H: Host> RunPage<'a, H> {
    /// The page at `pa`, which the Host core owns.
    pub const fn new(host: &'a H, pa: u64) -> Self {
        Self { host, pa }
    }

    fn at(&self, offset: usize) -> u64 {
        self.pa.wrapping_add(offset as u64)
    }

    /// Whether the VMM wants KVM_RUN to return at once.
    pub fn immediate_exit(&self) -> bool {
        let mut byte = [0];
        self.host.read_phys(self.at(core::mem::offset_of!(Run, immediate_exit)), &mut byte);
        byte != [0]
    }

    /// What the VMM put into `mmio.data`.
    pub fn mmio_data(&self) -> [u8; 8] {
        let mut data = [0; 8];
        let offset = core::mem::offset_of!(ExitMmio, data);
        self.host.read_phys(self.at(Run::EXIT_OFFSET.wrapping_add(offset)), &mut data);
        data
    }

    /// Tells why KVM_RUN returns, with nothing to add.
    pub fn exit(&self, reason: ExitReason) {
        self.host.write_phys(self.at(core::mem::offset_of!(Run, exit_reason)), reason.as_bytes());
    }

    /// The whole union is written, so that no exit shows what an earlier one left.
    fn exit_with(&self, reason: ExitReason, details: &(impl IntoBytes + Immutable)) {
        let end = core::mem::offset_of!(Run, kvm_valid_regs);
        for offset in (Run::EXIT_OFFSET..end).step_by(size_of::<u64>()) {
            self.host.write_phys(self.at(offset), &[0; size_of::<u64>()]);
        }
        self.host.write_phys(self.at(Run::EXIT_OFFSET), details.as_bytes());
        self.exit(reason);
    }

    /// An access the VMM shall emulate; `value` is what the realm writes, `None` for a read.
    pub fn exit_mmio(&self, ipa: u64, len: usize, value: Option<u64>) {
        let data = value.unwrap_or(0).to_le_bytes();
        let (len, is_write) = (u32::try_from(len).unwrap_or(0), u8::from(value.is_some()));
        let mmio = ExitMmio { phys_addr: ipa, data, len, is_write, pad: [0; 3] };
        self.exit_with(ExitReason::MMIO, &mmio);
    }

    /// Memory the VMM has to convert first.
    pub fn exit_memory_fault(&self, gpa: u64, size: u64, private: bool) {
        let flags = if private { MEMORY_FAULT_PRIVATE } else { 0 };
        self.exit_with(ExitReason::MEMORY_FAULT, &ExitMemoryFault { flags, gpa, size });
    }

    /// The realm switched itself off or wants to start anew.
    pub fn exit_system_event(&self, event: SystemEvent) {
        let event = ExitSystemEvent { event, ndata: 1, data: [0; 16] };
        self.exit_with(ExitReason::SYSTEM_EVENT, &event);
    }

    /// Something the Host core cannot go on with, with details.
    pub fn exit_internal_error(&self, suberror: InternalError, detail: u64) {
        let mut data = [0; 16];
        data[0] = detail;
        self.exit_with(ExitReason::INTERNAL_ERROR, &ExitInternalError { suberror, ndata: 1, data });
    }
}
