//! A realm as its VMM drives it: the ioctls from the first to the last, and what to do when KVM_RUN returns.

mod build;

pub use build::Settings;

use crate::device::{Access, Devices, Request};
use crate::host::{BareHost, User};
use crate::memory;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use realm_abi::Errno;
use realm_abi::kvm::{
    ExitMmio, ExitReason, Generation, Ioctl, IrqLevel, IrqLine, MEMORY_ATTRIBUTE_PRIVATE,
    MEMORY_FAULT_PRIVATE, MemoryAttributes, MpState, Run, SystemEvent, VcpuEvents,
};
use realm_el2::lock::Mutex;
use realm_host::{Device, File, Host, Vcpu};
use zerocopy::{FromZeros, Immutable, IntoBytes};

/// First address of a realm's RAM.
pub const RAM_BASE: u64 = 0x8000_0000;
/// Bytes of RAM.
pub const RAM_SIZE: u64 = 16 << 20;
/// IPA width: the protected half ends behind RAM.
const IPA_BITS: u8 = 33;
/// How often in a row one and the same fault may be reported: other vCPUs may undo a conversion in between.
const SAME_FAULT_LIMIT: u32 = 8;

/// Why a vCPU runs no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The realm switched itself off or wants to start anew.
    Event(SystemEvent),
    /// Another vCPU did.
    Off,
    /// [`Realm::stop`].
    Stopped,
    /// The same fault again and again, at this address.
    Fault(u64),
    /// KVM_RUN failed.
    Failed(Errno),
    /// KVM_RUN returned for a reason nobody can do anything about.
    Exit(ExitReason),
}

/// A realm that can run.
pub struct Realm {
    device: realm_host::Arc<Device<BareHost>>,
    /// Files in the order they were opened; the VM is the second, behind the device.
    files: Vec<i32>,
    vm: i32,
    vcpus: Vec<(i32, realm_host::Arc<Vcpu<BareHost>>)>,
    /// Where RAM's shared side is.
    shared: u64,
    devices: Mutex<Devices>,
    stopping: AtomicBool,
}

/// Makes ioctls.
struct Caller<'a> {
    host: &'a BareHost,
    user: User<'a>,
}

impl Caller<'_> {
    /// An ioctl whose argument is a number or an address.
    fn value(&self, fd: i32, ioctl: Ioctl, arg: u64) -> Result<i64, Errno> {
        let file = self.host.file(fd).ok_or(Errno::EBADF)?;
        let number = ioctl.number(&Generation::V8).ok_or(Errno::ENOTTY)?;
        file.ioctl(&self.user, number, arg)
    }

    /// An ioctl that reads a structure.
    fn with<T: IntoBytes + Immutable>(&self, fd: i32, ioctl: Ioctl, arg: &T) -> Result<i64, Errno> {
        self.value(fd, ioctl, core::ptr::from_ref(arg).expose_provenance() as u64)
    }

    /// An ioctl that writes a structure, too.
    fn exchange<T>(&self, fd: i32, ioctl: Ioctl, arg: &mut T) -> Result<i64, Errno> {
        self.value(fd, ioctl, core::ptr::from_mut(arg).expose_provenance() as u64)
    }
}

impl Realm {
    fn caller(&self) -> Caller<'_> {
        self.caller_with(u32::MAX)
    }

    /// See [`User::patience`].
    fn caller_with(&self, patience: u32) -> Caller<'_> {
        let user = User { stop: &self.stopping, patience: AtomicU32::new(patience) };
        Caller { host: self.device.host(), user }
    }

    /// Makes all [`Self::run`] return soon.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        for (_, vcpu) in &self.vcpus {
            vcpu.kick();
        }
    }

    /// What the realm wrote last to the first word of its shared memory at 4 MiB.
    pub fn shared_counter(&self) -> u64 {
        let mut word = [0; 8];
        memory::read(self.shared + (4 << 20), &mut word);
        u64::from_le_bytes(word)
    }

    /// Runs a vCPU on this CPU until there is nothing more to do. Call [`Self::stop`] for the others then.
    pub fn run(&self, id: usize) -> Stop {
        loop {
            if let Some(stop) = self.run_with(id, &self.caller()) {
                return stop;
            }
        }
    }

    /// Runs a vCPU for a few entries, unless it is off; why it runs no more, if it does not. One that sleeps or goes off meanwhile
    /// keeps the CPU.
    pub fn turn(&self, id: usize) -> Option<Stop> {
        /// Two an entry.
        const PATIENCE: u32 = 5;
        let caller = self.caller_with(PATIENCE);
        let mut power = MpState::STOPPED;
        match caller.exchange(self.vcpus[id].0, Ioctl::GetMpState, &mut power) {
            Err(error) => Some(Stop::Failed(error)),
            Ok(_) if power == MpState::STOPPED => None,
            Ok(_) => self.run_with(id, &caller),
        }
    }

    /// [`Self::run`], but it may return without a reason when the caller loses patience.
    fn run_with(&self, id: usize, caller: &Caller<'_>) -> Option<Stop> {
        let (fd, vcpu) = &self.vcpus[id];
        let mut last_fault = (0, 0);
        loop {
            let result = caller.value(*fd, Ioctl::Run, 0);
            let mut run = Run::new_zeroed();
            memory::read(vcpu.run_page(), run.as_mut_bytes());
            match result {
                Err(Errno::EINTR) if self.stopping.load(Ordering::SeqCst) => return Some(Stop::Stopped),
                Err(Errno::EINTR) => return None,
                Err(Errno::EAGAIN) => continue,
                Err(Errno::EFAULT) if run.exit_reason == ExitReason::MEMORY_FAULT => {
                    let fault = run.memory_fault();
                    last_fault = (fault.gpa, if last_fault.0 == fault.gpa { last_fault.1 + 1 } else { 0 });
                    if last_fault.1 == SAME_FAULT_LIMIT {
                        return Some(Stop::Fault(fault.gpa));
                    }
                    let private = fault.flags & MEMORY_FAULT_PRIVATE != 0;
                    if let Err(error) = self.convert(caller, fault.gpa, fault.size, private) {
                        return Some(Stop::Failed(error));
                    }
                    continue;
                }
                Err(error) => return Some(Stop::Failed(error)),
                Ok(_) => {}
            }
            last_fault = (0, 0);
            match run.exit_reason {
                ExitReason::MMIO => {
                    if let Err(error) = self.mmio(caller, *fd, vcpu, &run.mmio()) {
                        return Some(Stop::Failed(error));
                    }
                }
                ExitReason::SYSTEM_EVENT => return Some(Stop::Event(run.system_event().event)),
                ExitReason::SHUTDOWN => return Some(Stop::Off),
                reason => return Some(Stop::Exit(reason)),
            }
        }
    }

    /// Makes memory private or shared.
    fn convert(&self, caller: &Caller<'_>, base: u64, size: u64, private: bool) -> Result<(), Errno> {
        let attributes = if private { MEMORY_ATTRIBUTE_PRIVATE } else { 0 };
        let convert = MemoryAttributes { address: base, size, attributes, flags: 0 };
        caller.with(self.vm, Ioctl::SetMemoryAttributes, &convert).map(drop)
    }

    fn mmio(
        &self,
        caller: &Caller<'_>,
        fd: i32,
        vcpu: &Vcpu<BareHost>,
        access: &ExitMmio,
    ) -> Result<(), Errno> {
        let (address, len) = (access.phys_addr, (access.len as usize).min(8));
        let mut devices = self.devices.lock();
        let outcome = if access.is_write != 0 {
            devices.store(address, access.data, len)
        } else {
            devices.load(address, len)
        };
        drop(devices);
        match outcome {
            Access::Done(value) => {
                let data =
                    vcpu.run_page() + Run::EXIT_OFFSET as u64 + core::mem::offset_of!(ExitMmio, data) as u64;
                if access.is_write == 0 {
                    memory::write(data, &value.to_le_bytes());
                }
                Ok(())
            }
            Access::Absent => {
                let events = VcpuEvents { ext_dabt_pending: 1, ..Default::default() };
                caller.with(fd, Ioctl::SetVcpuEvents, &events).map(drop)
            }
            Access::Request(request) => {
                let answer = self.serve(caller, request).unwrap_or_else(|error| error.0 as u64);
                self.devices.lock().answer(answer);
                Ok(())
            }
        }
    }

    /// Does what the realm asks for; the answer.
    fn serve(&self, caller: &Caller<'_>, request: Request) -> Result<u64, Errno> {
        match request {
            Request::MakeShared(ipa) => self.convert(caller, ipa, memory::PAGE, false)?,
            Request::MakePrivate(ipa) => self.convert(caller, ipa, memory::PAGE, true)?,
            Request::Line(intid, high) => {
                let intid = u16::try_from(intid).map_err(|_| Errno::EINVAL)?;
                let level = IrqLevel { irq: IrqLine::spi(intid).0, level: high.into() };
                caller.with(self.vm, Ioctl::IrqLine, &level)?;
            }
            Request::Fill(ipa) => {
                let pattern = [(ipa >> 12) as u8; memory::PAGE as usize];
                memory::write(self.shared_page(ipa)?, &pattern);
            }
            Request::Sum(ipa) => {
                let mut page = [0; memory::PAGE as usize];
                memory::read(self.shared_page(ipa)?, &mut page);
                return Ok(page.iter().map(|byte| u64::from(*byte)).sum());
            }
            Request::Preempt(entries) => self.device.host().preempt(entries),
        }
        Ok(0)
    }

    /// Where the shared page behind a protected or unprotected address is.
    fn shared_page(&self, ipa: u64) -> Result<u64, Errno> {
        let offset = (ipa & !(1 << (IPA_BITS - 1)) & !(memory::PAGE - 1)).checked_sub(RAM_BASE);
        offset.filter(|offset| *offset < RAM_SIZE).map(|offset| self.shared + offset).ok_or(Errno::EINVAL)
    }

    /// Ends the realm; the VM goes with its last file, and its memory with the last reference to it.
    pub fn destroy(self: Arc<Self>) {
        for fd in self.files.iter().rev() {
            self.device.host().close(*fd);
        }
        // The shared side was allocated as one block, which nothing maps any more.
        if let Err(granule) = memory::free(self.shared, (RAM_SIZE / memory::PAGE) as usize) {
            self.device.host().warn(format_args!("shared page {granule:#x} is another world's"));
        }
    }
}

/// The file a descriptor stands for, as a vCPU.
fn vcpu(host: &BareHost, fd: i32) -> Result<realm_host::Arc<Vcpu<BareHost>>, Errno> {
    match host.file(fd) {
        Some(File::Vcpu(vcpu)) => Ok(vcpu),
        _ => Err(Errno::EBADF),
    }
}
