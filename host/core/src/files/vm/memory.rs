//! Memory slots, guest_memfd and attributes, and what their changes take away from the realm.

use super::{Memory, Slot, Vm};
use crate::error::RealmError;
use crate::host::user;
use crate::memory::guest_memfd::{GuestMemfd, PrivateRange};
use crate::memory::memslot::{Change, Memslot, Region};
use crate::{Errno, File, Host, Lock, UserMemory};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering;
use realm_abi::kvm::{
    CreateGuestMemfd, MEMORY_ATTRIBUTE_PRIVATE, MemRegionFlags, MemoryAttributes, UserMemoryRegion,
    UserMemoryRegion2,
};

/// A guest_memfd with the VM it was made for.
pub struct MemfdFile<H: Host> {
    vm: Weak<Vm<H>>,
    memfd: Arc<GuestMemfd<H>>,
}

impl<H: Host> MemfdFile<H> {
    /// The memory.
    #[must_use]
    pub fn memory(&self) -> &Arc<GuestMemfd<H>> {
        &self.memfd
    }
}

impl<H: Host> Slot<H> {
    /// The private memory of the slot in a range of IPAs, `None` if there is none.
    pub(crate) fn private_range(&self, ipas: &Range<u64>) -> Option<PrivateRange<'_, H>> {
        let (memfd, offset) = self.private.as_ref()?;
        let whole = PrivateRange { memfd, offset: *offset, ipa: self.base, size: self.size };
        whole.within(ipas.start, ipas.end)
    }
}

impl<H: Host> Memory<H> {
    fn removal_begins(&mut self) {
        self.removals = self.removals.saturating_add(1);
    }

    fn removal_ends(&mut self) {
        self.removals = self.removals.saturating_sub(1);
        self.generation = self.generation.wrapping_add(1);
    }

    /// The slots that have something in a range.
    pub(crate) fn slots_in(&self, ipas: &Range<u64>) -> Vec<Arc<Slot<H>>> {
        let meets = |slot: &&Arc<Slot<H>>| slot.base < ipas.end && ipas.start < slot.range().end;
        self.slots.iter().filter(meets).cloned().collect()
    }
}

impl<H: Host> Vm<H> {
    /// Runs `removal`, during which and after which nothing is mapped that was looked up before.
    pub(super) fn removing<R>(
        &self,
        announce: impl FnOnce(&mut Memory<H>) -> Result<(), Errno>,
        removal: impl FnOnce() -> R,
    ) -> Result<R, Errno> {
        {
            let mut memory = self.memory.lock();
            announce(&mut memory)?;
            memory.removal_begins();
        }
        let result = removal();
        self.memory.lock().removal_ends();
        Ok(result)
    }

    /// Takes both sides of a part of a slot away from the realm.
    pub(super) fn unmap_slot(&self, slot: &Slot<H>, ipas: &Range<u64>) -> Result<(), RealmError> {
        let size = ipas.end.saturating_sub(ipas.start);
        let shared = self.realm.unmap_shared(ipas.start, size);
        let private = slot.private_range(ipas).map_or(Ok(()), |range| self.realm.unmap_private(&range));
        shared.and(private)
    }

    pub(super) fn set_region_v1(&self, user: &impl UserMemory, arg: u64) -> Result<i64, Errno> {
        let region: UserMemoryRegion = user::read(user, arg)?;
        // A guest_memfd needs the fields of the longer structure.
        if MemRegionFlags::from_bits_retain(region.flags).contains(MemRegionFlags::GUEST_MEMFD) {
            return Err(Errno::EINVAL);
        }
        self.set_region(&UserMemoryRegion2 {
            slot: region.slot,
            flags: region.flags,
            guest_phys_addr: region.guest_phys_addr,
            memory_size: region.memory_size,
            userspace_addr: region.userspace_addr,
            ..UserMemoryRegion2::default()
        })
    }

    pub(super) fn set_region(&self, region: &UserMemoryRegion2) -> Result<i64, Errno> {
        let region = Region::check(region, self.realm.ipa(), self.page_size())?;
        let _layout = self.layout.lock();
        let change = self.memory.lock().slots.plan(&region)?;
        match change {
            Change::Nothing => {}
            Change::Create => {
                let slot = self.make_slot(&region)?;
                self.memory.lock().slots.insert(slot)?;
            }
            Change::Delete => self.replace_slot(region.id, None)?,
            Change::Move => self.replace_slot(region.id, Some(region.base))?,
        }
        Ok(0)
    }

    /// Takes a slot's memory away from the realm and puts the slot to another address, or away. If the realm does not let
    /// go of the memory the slot stays, so that it can be tried again and no memory is freed that the realm can still
    /// reach.
    fn replace_slot(&self, id: u32, base: Option<u64>) -> Result<(), Errno> {
        // It is held until no lock is: it may be the last that keeps a guest_memfd.
        let slot = self.memory.lock().slots.by_id(id).cloned().ok_or(Errno::EINVAL)?;
        // The slot changes before the removal ends, or a fault in between would map memory of it that nobody takes away.
        self.removing(
            |_| Ok(()),
            || {
                let unmapped = self.unmap_slot(&slot, &slot.range());
                unmapped.map_err(|error| self.explain("KVM_SET_USER_MEMORY_REGION2", &error))?;
                let mut memory = self.memory.lock();
                memory.slots.remove(id);
                base.map_or(Ok(()), |base| memory.slots.insert(Memslot { base, ..(*slot).clone() }))
            },
        )?
    }

    fn make_slot(&self, region: &Region) -> Result<Slot<H>, Errno> {
        let private = match region.private {
            None => None,
            Some((fd, offset)) => {
                let file = match self.host().file(fd) {
                    Some(File::GuestMemfd(file)) => file,
                    Some(_) => return Err(Errno::EINVAL),
                    None => return Err(Errno::EBADF),
                };
                Some((self.bindable(&file, offset, region.size)?, offset))
            }
        };
        let &Region { id, base, size, user_addr, .. } = region;
        Ok(Memslot { id, base, size, user_addr, private })
    }

    /// A guest_memfd, if `[offset, offset + size)` of it may back a slot of this VM.
    fn bindable(&self, file: &MemfdFile<H>, offset: u64, size: u64) -> Result<Arc<GuestMemfd<H>>, Errno> {
        let end = offset.checked_add(size).ok_or(Errno::EINVAL)?;
        if !core::ptr::eq(file.vm.as_ptr(), self) || end > file.memfd.size() {
            return Err(Errno::EINVAL);
        }
        // One page of private memory has one address.
        let bound_twice = self.memory.lock().slots.iter().any(|slot| {
            slot.private.as_ref().is_some_and(|(memfd, start)| {
                let bound = *start..start.saturating_add(slot.size);
                Arc::ptr_eq(memfd, &file.memfd) && bound.start < end && offset < bound.end
            })
        });
        if bound_twice { Err(Errno::EEXIST) } else { Ok(file.memfd.clone()) }
    }

    pub(super) fn create_guest_memfd(self: &Arc<Self>, request: &CreateGuestMemfd) -> Result<i64, Errno> {
        if request.flags != 0 || request.reserved != [0; 6] {
            return Err(Errno::EINVAL);
        }
        let memfd = GuestMemfd::new(self.device().rmm().clone(), request.size)
            .map_err(|error| self.explain("KVM_CREATE_GUEST_MEMFD", &error))?;
        let file = MemfdFile { vm: Arc::downgrade(self), memfd: Arc::new(memfd) };
        self.device().install(File::GuestMemfd(Arc::new(file)))
    }

    pub(super) fn set_attributes(&self, request: &MemoryAttributes) -> Result<i64, Errno> {
        let page = self.page_size();
        let &MemoryAttributes { address, size, attributes, flags } = request;
        if flags != 0 || attributes & !MEMORY_ATTRIBUTE_PRIVATE != 0 {
            return Err(Errno::EINVAL);
        }
        let end = address.checked_add(size).ok_or(Errno::EINVAL)?;
        if size == 0 || !address.is_multiple_of(page) || !size.is_multiple_of(page) {
            return Err(Errno::EINVAL);
        }
        let (ipas, private) = (address..end, attributes != 0);
        let _layout = self.layout.lock();
        let slots = self.memory.lock().slots_in(&ipas);
        let result = self.removing(
            |memory| memory.private.set(ipas.clone(), private),
            || {
                // What is now private loses its shared side, and the other way round.
                slots.iter().try_for_each(|slot| {
                    let part = slot.base.max(ipas.start)..slot.range().end.min(ipas.end);
                    if private {
                        self.realm.unmap_shared(part.start, part.end.saturating_sub(part.start))
                    } else {
                        slot.private_range(&part).map_or(Ok(()), |range| self.realm.unmap_private(&range))
                    }
                })
            },
        )?;
        result.map_err(|error| self.explain("KVM_SET_MEMORY_ATTRIBUTES", &error))?;
        Ok(0)
    }

    /// The process is about to unmap, move or write-protect `[start, end)` of its memory: nothing of it may stay mapped
    /// into the realm (its shared half; private memory is not the process's). When this returns the realm cannot reach it,
    /// and will not before [`Self::invalidation_ends`], which must follow when the process no longer maps the memory and
    /// before anybody else gets it. Both may be called for any number of ranges at once.
    ///
    /// If the RMM refuses to unmap something the realm never runs again: what it still maps is out of its reach too.
    pub fn invalidation_begins(&self, start: u64, end: u64) {
        let user = start..end;
        let ranges: Vec<Range<u64>> = {
            let mut memory = self.memory.lock();
            memory.removal_begins();
            let parts = memory.slots.iter().map(|slot| slot.ipas_of_user_range(&user));
            parts.filter(|ipas| !ipas.is_empty()).collect()
        };
        let unmap =
            |ipas: &Range<u64>| self.realm.unmap_shared(ipas.start, ipas.end.saturating_sub(ipas.start));
        if let Err(error) = ranges.iter().try_for_each(unmap) {
            self.explain("a range of user memory could not be unmapped, so the realm cannot go on", &error);
            self.realm.doom();
            self.dead.store(true, Ordering::SeqCst);
            self.evict_vcpus();
        }
    }

    /// Ends [`Self::invalidation_begins`]: from now on faults get what the process has there now.
    pub fn invalidation_ends(&self) {
        self.memory.lock().removal_ends();
    }
}
