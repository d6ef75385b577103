//! Memory slots, guest_memfd and attributes, and what their changes take away from the realm.
//!
//! A change is made first, so that whoever looks at slots and attributes with a block locked maps nothing any more that is
//! going; then the memory is taken away, block by block.

use super::{Memory, Slot, Vm};
use crate::error::RealmError;
use crate::host::user;
use crate::memory::attributes::MORE_RANGES;
use crate::memory::guest_memfd::{GuestMemfd, PrivateRange};
use crate::memory::memslot::{Change, Memslot, Region};
use crate::realm::{Spare, Supply};
use crate::{Errno, File, Host, Lock, UserMemory, room};
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};
use realm_abi::kvm::{
    CreateGuestMemfd, MEMORY_ATTRIBUTE_PRIVATE, MemRegionFlags, MemoryAttributes, UserMemoryRegion,
    UserMemoryRegion2,
};
use realm_alloc::{Arc, Vec};

/// How often a change of attributes is tried with more memory.
const MAX_ATTEMPTS: usize = 4;

/// A guest_memfd with the VM it was made for.
pub struct MemfdFile<H: Host> {
    /// The VM, to be compared only: it may be gone.
    vm: usize,
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
    /// Whether `slot` is what covers `ipas`, and stays so.
    fn has(&self, slot: &Arc<Slot<H>>, ipas: &Range<u64>) -> bool {
        let covers = slot.range().start <= ipas.start && ipas.end <= slot.range().end;
        let found = self.slots.find(ipas.start).is_some_and(|found| Arc::ptr_eq(found, slot));
        covers && found && !slot.is_leaving()
    }
}

impl<H: Host> Vm<H> {
    /// Whether `ipas` are private memory of `slot` and nobody is taking them away.
    pub(crate) fn is_private(&self, slot: &Arc<Slot<H>>, ipas: &Range<u64>) -> bool {
        let memory = self.memory.lock();
        let private = memory.private.around(ipas.start).is_some_and(|range| ipas.end <= range.end);
        private && memory.has(slot, ipas)
    }

    /// Whether `ipas` are shared memory of `slot` and nobody is taking them away.
    pub(crate) fn is_shared(&self, slot: &Arc<Slot<H>>, ipas: &Range<u64>) -> bool {
        let memory = self.memory.lock();
        // Only a slot with a private side has an attribute to disagree with.
        let shared = slot.private.is_none() || !memory.private.meet(ipas);
        shared && memory.has(slot, ipas)
    }

    /// Whether `ipas` are memory of `slot`, private or not, and nobody is taking the slot away.
    pub(super) fn has_slot(&self, slot: &Arc<Slot<H>>, ipas: &Range<u64>) -> bool {
        self.memory.lock().has(slot, ipas)
    }

    /// Waits until a change of slots or attributes that is under way is done.
    pub(crate) fn wait_for_layout(&self) -> Result<(), Errno> {
        drop(self.layout.lock_killable()?);
        Ok(())
    }

    /// Locks the layout, with room for `more` elements in a list that only who has that lock changes.
    fn lock_layout_with_room<T>(
        &self,
        list: impl Fn(&mut Memory<H>) -> &mut Vec<T> + Copy,
        more: usize,
    ) -> Result<<H::Lock<()> as Lock<()>>::Guard<'_>, Errno> {
        loop {
            room::make(&self.memory, list, more)?;
            let layout = self.layout.lock_killable()?;
            if list(&mut self.memory.lock()).spare() >= more {
                return Ok(layout);
            }
        }
    }

    /// Takes the private memory of all slots in a range away from the realm. Long.
    #[inline(never)]
    pub(crate) fn unmap_private_of(
        &self,
        ipas: &Range<u64>,
        supply: &mut Supply<'_>,
        stop: &impl Fn() -> bool,
    ) -> Result<(), RealmError> {
        self.each_slot(ipas, |slot, part| {
            let valid = || self.has_slot(slot, &part);
            let range = slot.private_range(&part);
            range.map_or(Ok(()), |range| self.realm.unmap_private(&range, supply, stop, &valid))
        })
    }

    /// Does `work` with every slot in a range and the part of the range that it covers, until it fails.
    #[inline(never)]
    fn each_slot(
        &self,
        ipas: &Range<u64>,
        mut work: impl FnMut(&Arc<Slot<H>>, Range<u64>) -> Result<(), RealmError>,
    ) -> Result<(), RealmError> {
        let mut rest = ipas.clone();
        loop {
            let next = self.memory.lock().slots.first_in(&rest).cloned();
            let Some(slot) = next else { return Ok(()) };
            work(&slot, slot.base.max(ipas.start)..slot.range().end.min(ipas.end))?;
            rest.start = slot.range().end;
        }
    }

    #[inline(never)]
    pub(super) fn read_region_v1(&self, user: &impl UserMemory, arg: u64) -> Result<Region, Errno> {
        let region: UserMemoryRegion = user::read(user, arg)?;
        // A guest_memfd needs the fields of the longer structure.
        if MemRegionFlags::from_bits_retain(region.flags).contains(MemRegionFlags::GUEST_MEMFD) {
            return Err(Errno::EINVAL);
        }
        let region = UserMemoryRegion2 {
            slot: region.slot,
            flags: region.flags,
            guest_phys_addr: region.guest_phys_addr,
            memory_size: region.memory_size,
            userspace_addr: region.userspace_addr,
            ..UserMemoryRegion2::default()
        };
        Region::check(&region, self.realm.ipa(), self.page_size())
    }

    #[inline(never)]
    pub(super) fn read_region(&self, user: &impl UserMemory, arg: u64) -> Result<Region, Errno> {
        let region: UserMemoryRegion2 = user::read(user, arg)?;
        Region::check(&region, self.realm.ipa(), self.page_size())
    }

    #[inline(never)]
    pub(super) fn set_region(&self, user: &impl UserMemory, region: Region) -> Result<i64, Errno> {
        // What the new slot is made of, before there is a lock; what is wrong with it counts after what is wrong with the
        // region.
        let file = region.private.map(|(fd, _)| self.host().file(fd));
        let new = match (&file, region.private) {
            (Some(Some(File::GuestMemfd(file))), Some((_, offset))) => {
                Some(Arc::try_new(region.slot(Some((file.memfd.clone(), offset))))?)
            }
            (None, _) if region.size > 0 => Some(Arc::try_new(region.slot(None))?),
            _ => None,
        };
        self.realm.fill_reserve();
        let _layout = self.lock_layout_with_room(|memory| &mut memory.slots.0, 1)?;
        let change = self.memory.lock().slots.plan(&region)?;
        let new = match (change, file) {
            (Change::Create, Some(None)) => return Err(Errno::EBADF),
            (Change::Create, Some(Some(File::GuestMemfd(file)))) => {
                self.check_bindable(&file, &region)?;
                new
            }
            (Change::Create, Some(Some(_))) => return Err(Errno::EINVAL),
            (Change::Nothing, _) => return Ok(0),
            (Change::Delete, _) => None,
            (Change::Create | Change::Move, _) => new,
        };
        if change != Change::Create {
            self.remove_slot(user, region.id)?;
        }
        if let Some(slot) = new {
            // Room was made, and only who has the layout's lock adds a slot.
            self.memory.lock().slots.insert(slot).map_err(|_| Errno::ENOMEM)?;
        }
        Ok(0)
    }

    /// Takes a slot's memory away from the realm, and the slot. If the realm does not let go of the memory the slot stays, so
    /// that it can be tried again and no memory is freed that the realm can still reach.
    #[inline(never)]
    fn remove_slot(&self, user: &impl UserMemory, id: u32) -> Result<(), Errno> {
        // It is held until no lock is: it may be the last that keeps a guest_memfd.
        let slot = self.memory.lock().slots.by_id(id).cloned().ok_or(Errno::EINVAL)?;
        slot.leaving.store(true, Ordering::Release);
        let stop = || user.must_die();
        // A block is shared or folded as one only where a slot covers it, so none has to be split.
        let mut stock = Spare::new();
        let mut supply = Supply::Stock(&mut stock);
        let shared = self.realm.unmap_shared(slot.base, slot.size, &mut supply, &stop);
        let private = slot
            .private_range(&slot.range())
            .map_or(Ok(()), |range| self.realm.unmap_private(&range, &mut supply, &stop, &|| true));
        self.realm.put_away(&mut stock);
        if let Err(error) = shared.and(private) {
            slot.leaving.store(false, Ordering::Release);
            return Err(self.explain("KVM_SET_USER_MEMORY_REGION2", &error));
        }
        let removed = self.memory.lock().slots.remove(id);
        drop(removed);
        Ok(())
    }

    /// Whether the part of a guest_memfd that `region` names may back a slot of this VM.
    fn check_bindable(&self, file: &MemfdFile<H>, region: &Region) -> Result<(), Errno> {
        let Some((_, offset)) = region.private else { return Ok(()) };
        let end = offset.checked_add(region.size).ok_or(Errno::EINVAL)?;
        if file.vm != self.identity() || end > file.memfd.size() {
            return Err(Errno::EINVAL);
        }
        // One page of private memory has one address.
        let bound_twice = self.memory.lock().slots.iter().any(|slot| {
            slot.private.as_ref().is_some_and(|(memfd, start)| {
                let bound = *start..start.saturating_add(slot.size);
                Arc::ptr_eq(memfd, &file.memfd) && bound.start < end && offset < bound.end
            })
        });
        if bound_twice { Err(Errno::EEXIST) } else { Ok(()) }
    }

    fn identity(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }

    #[inline(never)]
    pub(super) fn create_guest_memfd(&self, user: &impl UserMemory, arg: u64) -> Result<i64, Errno> {
        self.device().install(self.new_guest_memfd(user, arg)?)
    }

    #[inline(never)]
    fn new_guest_memfd(&self, user: &impl UserMemory, arg: u64) -> Result<File<H>, Errno> {
        let request: CreateGuestMemfd = user::read(user, arg)?;
        if request.flags != 0 || request.reserved != [0; 6] {
            return Err(Errno::EINVAL);
        }
        let memfd = GuestMemfd::new(self.device().rmm().clone(), request.size)
            .map_err(|error| self.explain("KVM_CREATE_GUEST_MEMFD", &error))?;
        let file = MemfdFile { vm: self.identity(), memfd: Arc::try_new(memfd)? };
        Ok(File::GuestMemfd(Arc::try_new(file)?))
    }

    #[inline(never)]
    pub(super) fn set_attributes(
        &self,
        user: &impl UserMemory,
        request: &MemoryAttributes,
    ) -> Result<i64, Errno> {
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
        let explain = |error: RealmError| self.explain("KVM_SET_MEMORY_ATTRIBUTES", &error);
        // A fault may make a block of what had to be split a moment ago: then it is done again.
        for _ in 0..MAX_ATTEMPTS {
            let mut stock = self.realm.stock(address, size);
            let changed = self.change_attributes(user, &ipas, private, &mut stock);
            self.realm.put_away(&mut stock);
            match changed? {
                Err(RealmError::NoMemory) => {}
                result => return result.map(|()| 0).map_err(explain),
            }
        }
        Err(explain(RealmError::NoMemory))
    }

    #[inline(never)]
    fn change_attributes(
        &self,
        user: &impl UserMemory,
        ipas: &Range<u64>,
        private: bool,
        stock: &mut Spare,
    ) -> Result<Result<(), RealmError>, Errno> {
        let _layout = self.lock_layout_with_room(|memory| &mut memory.private.0, MORE_RANGES)?;
        self.memory.lock().private.set(ipas.clone(), private)?;
        // What is now private loses its shared side, and the other way round.
        let stop = || user.must_die();
        let mut supply = Supply::Stock(stock);
        if !private {
            return Ok(self.unmap_private_of(ipas, &mut supply, &stop));
        }
        Ok(self.each_slot(ipas, |_, part| {
            let size = part.end.saturating_sub(part.start);
            self.realm.unmap_shared(part.start, size, &mut supply, &stop)
        }))
    }
}

impl Region {
    /// The slot that the region describes.
    fn slot<F>(&self, private: Option<(F, u64)>) -> Memslot<F> {
        let &Self { id, base, size, user_addr, .. } = self;
        Memslot { id, base, size, user_addr, private, leaving: AtomicBool::new(false) }
    }
}
