//! Ioctls with typed arguments, and what has to be given back at the end.

use super::error::{Call, VmError};
use crate::{Fd, Region, System};
use realm_abi::kvm::{EnableCap, Generation, Ioctl, RealmCommand};
use realm_abi::{Errno, kvm};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Where in a scratch page, of at least 4 KiB, the argument's own argument is.
const INNER: u64 = 0x800;

/// Makes ioctls whose arguments lie in one scratch page. One thread at a time uses a page.
pub(super) struct Caller<'a, S> {
    pub(super) system: &'a S,
    generation: &'a Generation,
    scratch: u64,
}

impl<'a, S: System> Caller<'a, S> {
    pub(super) const fn new(system: &'a S, generation: &'a Generation, scratch: u64) -> Self {
        Self { system, generation, scratch }
    }

    fn make(&self, fd: Fd, call: Call, arg: u64) -> Result<i64, VmError> {
        let number = call.ioctl.number(self.generation);
        let result = number.ok_or(Errno::ENOTTY).and_then(|number| self.system.ioctl(fd, number, arg));
        result.map_err(|errno| VmError::Ioctl { call, errno })
    }

    /// An ioctl whose argument is a number.
    pub(super) fn value(&self, fd: Fd, ioctl: Ioctl, arg: u64) -> Result<i64, VmError> {
        self.make(fd, Call { ioctl, command: None }, arg)
    }

    /// An ioctl that returns a file.
    pub(super) fn file(&self, fd: Fd, ioctl: Ioctl, arg: u64) -> Result<Fd, VmError> {
        self.value(fd, ioctl, arg).map(|fd| Fd(fd as i32))
    }

    fn put<T: IntoBytes + Immutable + ?Sized>(&self, offset: u64, value: &T) -> Result<u64, VmError> {
        let addr = self.scratch + offset;
        self.write(addr, value.as_bytes())?;
        Ok(addr)
    }

    pub(super) fn write(&self, addr: u64, bytes: &[u8]) -> Result<(), VmError> {
        let written = self.system.write(addr, bytes);
        written.map_err(|errno| VmError::System { what: "writing to the VMM's memory", errno })
    }

    pub(super) fn read(&self, addr: u64, out: &mut [u8]) -> Result<(), VmError> {
        let read = self.system.read(addr, out);
        read.map_err(|errno| VmError::System { what: "reading the VMM's memory", errno })
    }

    /// An ioctl that reads a structure.
    pub(super) fn with<T: IntoBytes + Immutable>(
        &self,
        fd: Fd,
        ioctl: Ioctl,
        arg: &T,
    ) -> Result<i64, VmError> {
        let addr = self.put(0, arg)?;
        self.value(fd, ioctl, addr)
    }

    /// An ioctl that reads and writes, or only writes, a structure.
    pub(super) fn exchange<T: IntoBytes + FromBytes + Immutable>(
        &self,
        fd: Fd,
        ioctl: Ioctl,
        arg: &mut T,
    ) -> Result<i64, VmError> {
        let result = self.with(fd, ioctl, arg)?;
        self.read(self.scratch, arg.as_mut_bytes())?;
        Ok(result)
    }

    /// A realm command with its structure; `&()` where it has none.
    pub(super) fn realm<T: IntoBytes + Immutable>(
        &self,
        vm: Fd,
        command: RealmCommand,
        arg: &T,
    ) -> Result<(), VmError> {
        let inner = if size_of::<T>() == 0 { 0 } else { self.put(INNER, arg)? };
        let addr = self.put(0, &EnableCap::realm(self.generation, command, inner))?;
        self.make(vm, Call { ioctl: Ioctl::EnableCap, command: Some(command) }, addr).map(drop)
    }

    /// Sets a 64-bit register.
    pub(super) fn set_register(&self, vcpu: Fd, id: kvm::reg::RegId, value: u64) -> Result<(), VmError> {
        let addr = self.put(INNER, &value)?;
        self.with(vcpu, Ioctl::SetOneReg, &kvm::OneReg { id: id.0, addr }).map(drop)
    }

    /// Sets an attribute of an emulated device.
    pub(super) fn set_attribute<T: IntoBytes + Immutable>(
        &self,
        device: Fd,
        group: u32,
        attr: u64,
        value: &T,
    ) -> Result<(), VmError> {
        let addr = self.put(INNER, value)?;
        self.with(device, Ioctl::SetDeviceAttr, &kvm::DeviceAttr { flags: 0, group, attr, addr }).map(drop)
    }
}

/// Files and mappings of a VM, given back in the opposite order.
pub(super) struct Resources<'s, S: System> {
    system: &'s S,
    held: Vec<Resource>,
}

enum Resource {
    File(Fd),
    Mapping(Region),
}

impl<'s, S: System> Resources<'s, S> {
    pub(super) const fn new(system: &'s S) -> Self {
        Self { system, held: Vec::new() }
    }

    pub(super) const fn system(&self) -> &'s S {
        self.system
    }

    /// Holds a file.
    pub(super) fn file(&mut self, fd: Fd) -> Fd {
        self.held.push(Resource::File(fd));
        fd
    }

    /// Makes and holds anonymous memory.
    pub(super) fn map(&mut self, size: u64) -> Result<u64, VmError> {
        let base = self.system.map(size);
        let base = base.map_err(|errno| VmError::System { what: "mapping memory for the VMM", errno })?;
        self.held.push(Resource::Mapping(Region { base, size }));
        Ok(base)
    }

    /// Maps and holds the page a vCPU shares with its VMM.
    pub(super) fn map_run(&mut self, vcpu: Fd, size: u64) -> Result<u64, VmError> {
        let base = self.system.map_run(vcpu, size);
        let base = base.map_err(|errno| VmError::System { what: "mapping the vCPU's page", errno })?;
        self.held.push(Resource::Mapping(Region { base, size }));
        Ok(base)
    }

    /// Gives everything back.
    pub(super) fn release(&mut self) -> Result<(), VmError> {
        let mut result = Ok(());
        while let Some(resource) = self.held.pop() {
            match resource {
                Resource::File(fd) => self.system.close(fd),
                Resource::Mapping(Region { base, size }) => {
                    let unmapped = self.system.unmap(base, size);
                    let unmapped =
                        unmapped.map_err(|errno| VmError::System { what: "unmapping memory", errno });
                    result = result.and(unmapped);
                }
            }
        }
        result
    }
}

impl<S: System> Drop for Resources<'_, S> {
    fn drop(&mut self) {
        // Whoever wants to know calls `release` first; here there is nobody left to tell.
        let _ = self.release();
    }
}
