//! A vCPU's thread: KVM_RUN and what to do when it returns (docs/kvm-realm-abi.md section 2.10).

use super::calls::Caller;
use super::{RealmVm, Vcpu, VmError};
use crate::{System, lock};
use realm_abi::Errno;
use realm_abi::kvm::{
    ExitMemoryFault, ExitMmio, ExitReason, Ioctl, MEMORY_ATTRIBUTE_PRIVATE, MEMORY_FAULT_PRIVATE,
    MemoryAttributes, Run, SystemEvent, VcpuEvents,
};
use std::sync::atomic::Ordering;
use zerocopy::IntoBytes;

/// How often a vCPU may report one and the same fault in a row. Other vCPUs may undo a conversion in between, so
/// once is not too often.
const SAME_FAULT_LIMIT: u32 = 64;
/// Why a vCPU's thread has nothing more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The realm switched itself off, wants to start anew or crashed.
    Event(SystemEvent),
    /// The realm is off; this vCPU found out on its way in.
    RealmOff,
    /// [`RealmVm::stop`].
    Stopped,
}

impl<S: System> RealmVm<'_, S> {
    /// Runs a vCPU until the realm ends or [`Self::stop`]. Call it on a thread of its own for each vCPU; when one returns
    /// anything but [`Stop::Stopped`], call [`Self::stop`] for the others.
    ///
    /// # Errors
    /// See [`VmError`]; the vCPU cannot go on.
    pub fn run_vcpu(&self, id: u32) -> Result<Stop, VmError> {
        let vcpu = *self.vcpus.get(id as usize).ok_or(VmError::NoVcpu(id))?;
        let mut thread =
            VcpuThread { vm: self, caller: self.caller(vcpu.scratch), id, vcpu, last_fault: None };
        loop {
            if self.stopping.load(Ordering::SeqCst) {
                return Ok(Stop::Stopped);
            }
            if let Some(stop) = thread.run_once()? {
                return Ok(stop);
            }
        }
    }
}

struct VcpuThread<'a, 's, S: System> {
    vm: &'a RealmVm<'s, S>,
    caller: Caller<'a, S>,
    id: u32,
    vcpu: Vcpu,
    /// The last exit, if it was a memory fault, and how often it came in a row.
    last_fault: Option<(ExitMemoryFault, u32)>,
}

impl<S: System> VcpuThread<'_, '_, S> {
    fn run_once(&mut self) -> Result<Option<Stop>, VmError> {
        let result = self.caller.value(self.vcpu.fd, Ioctl::Run, 0);
        let run = self.read_run()?;
        let faulted = match result {
            Ok(_) => false,
            Err(VmError::Ioctl { errno: Errno::EINTR, .. }) => return Ok(None),
            Err(VmError::Ioctl { errno: Errno::EAGAIN, .. }) => {
                std::thread::yield_now();
                return Ok(None);
            }
            Err(VmError::Ioctl { errno: Errno::EFAULT, .. })
                if run.exit_reason == ExitReason::MEMORY_FAULT =>
            {
                true
            }
            Err(error) => return Err(error),
        };
        *lock(&self.vm.exits).entry(run.exit_reason).or_default() += 1;
        if faulted {
            return self.memory_fault(run.memory_fault()).map(|()| None);
        }
        self.last_fault = None;
        match run.exit_reason {
            ExitReason::MMIO => self.mmio(run.mmio()).map(|()| None),
            ExitReason::SYSTEM_EVENT => Ok(Some(Stop::Event(run.system_event().event))),
            // Version 8 reports the end of the realm on another vCPU as UNKNOWN, later ones as SHUTDOWN.
            ExitReason::SHUTDOWN | ExitReason::UNKNOWN => Ok(Some(Stop::RealmOff)),
            ExitReason::INTERNAL_ERROR => {
                let error = run.internal_error();
                let count = (error.ndata as usize).min(error.data.len());
                let what = format!("KVM reports {} {:x?}", error.suberror, &error.data[..count]);
                Err(VmError::Exit { vcpu: self.id, what })
            }
            other => Err(VmError::Exit { vcpu: self.id, what: format!("KVM_RUN returned with {other}") }),
        }
    }

    /// The shared page up to the end of the exit union.
    fn read_run(&self) -> Result<Run, VmError> {
        const USED: usize = Run::EXIT_OFFSET + 256;
        let mut run = Run::default();
        self.caller.read(self.vcpu.run, &mut run.as_mut_bytes()[..USED])?;
        Ok(run)
    }

    /// Makes the memory what the realm expects it to be; the next KVM_RUN goes on from there.
    fn memory_fault(&mut self, fault: ExitMemoryFault) -> Result<(), VmError> {
        let ExitMemoryFault { flags, gpa: base, size } = fault;
        let repeated = self.last_fault.filter(|(last, _)| *last == fault).map_or(0, |(_, times)| times + 1);
        if repeated >= SAME_FAULT_LIMIT {
            return Err(VmError::NoProgress { vcpu: self.id, base });
        }
        self.last_fault = Some((fault, repeated));
        let ram = self.vm.layout.ram;
        if !ram.contains(base, size) {
            return Err(VmError::FaultOutsideRam { vcpu: self.id, base, size });
        }
        let private = flags & MEMORY_FAULT_PRIVATE != 0;
        let attributes = if private { MEMORY_ATTRIBUTE_PRIVATE } else { 0 };
        let convert = MemoryAttributes { address: base, size, attributes, flags: 0 };
        self.caller.with(self.vm.vm, Ioctl::SetMemoryAttributes, &convert)?;
        if private {
            let discarded = self.caller.system.discard(self.vm.shared_ram + (base - ram.base), size);
            discarded.map_err(|errno| VmError::System { what: "dropping shared memory", errno })?;
        }
        Ok(())
    }

    fn mmio(&self, access: ExitMmio) -> Result<(), VmError> {
        let ExitMmio { phys_addr: address, len, mut data, .. } = access;
        let Some(bytes) = data.get_mut(..len as usize).filter(|bytes| matches!(bytes.len(), 1 | 2 | 4 | 8))
        else {
            let what = format!("KVM reports an access of {len} bytes");
            return Err(VmError::Exit { vcpu: self.id, what });
        };
        let there = if access.is_write != 0 {
            self.vm.mmio_write(&self.caller, address, bytes)?
        } else {
            self.vm.mmio_read(&self.caller, address, bytes)?
        };
        if !there {
            return self.abort();
        }
        if access.is_write == 0 {
            let place =
                self.vcpu.run + Run::EXIT_OFFSET as u64 + core::mem::offset_of!(ExitMmio, data) as u64;
            self.caller.write(place, bytes)?;
        }
        Ok(())
    }

    /// Answers an access to nothing with an external abort.
    fn abort(&self) -> Result<(), VmError> {
        let events = VcpuEvents { ext_dabt_pending: 1, ..Default::default() };
        self.caller.with(self.vcpu.fd, Ioctl::SetVcpuEvents, &events).map(drop)
    }
}
