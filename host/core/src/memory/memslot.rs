//! Memory slots (KVM_SET_USER_MEMORY_REGION2): which guest addresses have memory, and where it comes from.

use crate::Errno;
use crate::realm::ipa::IpaSpace;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};
use realm_abi::kvm::{MemRegionFlags, UserMemoryRegion2};
use realm_alloc::{Arc, Vec};

/// Slots of a VM.
pub const MAX_SLOTS: u32 = 32_767;
/// Bits of the slot number that name the slot; the others name an address space, of which there is one.
const SLOT_BITS: u32 = 16;
/// KVM_MEM_MAX_NR_PAGES.
const MAX_PAGES: u64 = (1 << 31) - 1;
/// End of the addresses a process can have (52-bit virtual addresses).
const USER_END: u64 = 1 << 52;

/// A memory slot; `F` is the file behind its private side.
#[derive(Debug)]
pub struct Memslot<F> {
    /// The number the VMM gave it.
    pub id: u32,
    /// First protected IPA.
    pub base: u64,
    /// Bytes.
    pub size: u64,
    /// User address of the shared side.
    pub user_addr: u64,
    /// The private side: a file and an offset into it.
    pub private: Option<(F, u64)>,
    /// It is being taken away: nothing of it is mapped any more.
    pub leaving: AtomicBool,
}

impl<F> Memslot<F> {
    /// The protected IPAs it covers.
    #[must_use]
    pub const fn range(&self) -> Range<u64> {
        self.base..self.base.saturating_add(self.size)
    }

    /// The user address behind an IPA of the slot.
    #[must_use]
    pub const fn user_addr_of(&self, ipa: u64) -> u64 {
        self.user_addr.wrapping_add(ipa.wrapping_sub(self.base))
    }

    /// Whether it is being taken away.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }
}

/// What a region structure asks for, checked as far as it can be without looking at other slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Slot number.
    pub id: u32,
    /// First protected IPA.
    pub base: u64,
    /// Bytes, 0 to delete.
    pub size: u64,
    /// User address.
    pub user_addr: u64,
    /// Descriptor and offset of the private side.
    pub private: Option<(i32, u64)>,
}

impl Region {
    /// Checks a region for a realm with this IPA space, in the order of the kernel.
    ///
    /// # Errors
    /// `EINVAL` for unknown flags, misaligned or wrapping ranges, a slot number that does not exist; `EFAULT` for
    /// memory beyond the protected half.
    pub fn check(region: &UserMemoryRegion2, ipa: IpaSpace, page: u64) -> Result<Self, Errno> {
        let aligned = |value: u64| value.is_multiple_of(page);
        let flags = MemRegionFlags::from_bits_retain(region.flags);
        let private = flags.contains(MemRegionFlags::GUEST_MEMFD);
        // A realm's memory can neither be logged nor write-protected, so those flags are unknown here.
        if !MemRegionFlags::GUEST_MEMFD.contains(flags) {
            return Err(Errno::EINVAL);
        }
        // The structure is new with this flag, so its reserved fields are zero in every correct VMM.
        if private && (region.pad1 != 0 || region.pad2 != [0; 14]) {
            return Err(Errno::EINVAL);
        }
        if region.slot >> SLOT_BITS != 0 || region.slot >= MAX_SLOTS {
            return Err(Errno::EINVAL);
        }
        if !aligned(region.memory_size) || !aligned(region.guest_phys_addr) || !aligned(region.userspace_addr)
        {
            return Err(Errno::EINVAL);
        }
        if region.userspace_addr.checked_add(region.memory_size).is_none_or(|end| end > USER_END) {
            return Err(Errno::EINVAL);
        }
        if private
            && (!aligned(region.guest_memfd_offset)
                || region.guest_memfd_offset.checked_add(region.memory_size).is_none())
        {
            return Err(Errno::EINVAL);
        }
        let Some(end) = region.guest_phys_addr.checked_add(region.memory_size) else {
            return Err(Errno::EINVAL);
        };
        if region.memory_size.checked_div(page).is_none_or(|pages| pages > MAX_PAGES) {
            return Err(Errno::EINVAL);
        }
        if region.memory_size != 0 && end > ipa.protected_end() {
            return Err(Errno::EFAULT);
        }
        Ok(Self {
            id: region.slot,
            base: region.guest_phys_addr,
            size: region.memory_size,
            user_addr: region.userspace_addr,
            private: private.then(|| (region.guest_memfd.cast_signed(), region.guest_memfd_offset)),
        })
    }
}

/// What a checked region does to the slots there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new slot.
    Create,
    /// The slot moves to another IPA.
    Move,
    /// The slot goes away.
    Delete,
    /// Nothing differs.
    Nothing,
}

/// All slots of a VM, by address.
#[derive(Debug)]
pub struct Memslots<F>(pub(crate) Vec<Arc<Memslot<F>>>);

impl<F> Default for Memslots<F> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<F> Memslots<F> {
    /// The slot that covers an IPA.
    #[must_use]
    pub fn find(&self, ipa: u64) -> Option<&Arc<Memslot<F>>> {
        let index = self.0.partition_point(|slot| slot.base <= ipa).checked_sub(1)?;
        self.0.get(index).filter(|slot| slot.range().contains(&ipa))
    }

    /// The slot with this number.
    #[must_use]
    pub fn by_id(&self, id: u32) -> Option<&Arc<Memslot<F>>> {
        self.0.iter().find(|slot| slot.id == id)
    }

    /// All slots, by address.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Memslot<F>>> {
        self.0.iter()
    }

    /// What `region` would do.
    ///
    /// # Errors
    /// `EINVAL` to delete what is not there or to change a slot in a way KVM does not allow, `EEXIST` if another slot
    /// is in the way.
    pub fn plan(&self, region: &Region) -> Result<Change, Errno> {
        let old = self.by_id(region.id);
        if region.size == 0 {
            return if old.is_some() { Ok(Change::Delete) } else { Err(Errno::EINVAL) };
        }
        let change = match old {
            None => Change::Create,
            Some(old) => {
                // A slot with a private side never changes; the size and the user address of no slot do.
                if old.private.is_some()
                    || region.private.is_some()
                    || old.size != region.size
                    || old.user_addr != region.user_addr
                {
                    return Err(Errno::EINVAL);
                }
                if old.base == region.base { Change::Nothing } else { Change::Move }
            }
        };
        let wanted = region.base..region.base.saturating_add(region.size);
        let in_the_way = |slot: &Arc<Memslot<F>>| {
            slot.id != region.id && slot.base < wanted.end && wanted.start < slot.range().end
        };
        if change != Change::Nothing && self.0.iter().any(in_the_way) {
            return Err(Errno::EEXIST);
        }
        Ok(change)
    }

    /// Puts a slot in; nothing may be in the way.
    ///
    /// # Errors
    /// There is no room for it; nothing is changed then.
    pub fn insert(&mut self, slot: Arc<Memslot<F>>) -> Result<(), Arc<Memslot<F>>> {
        let index = self.0.partition_point(|other| other.base < slot.base);
        self.0.insert_within(index, slot)
    }

    /// The first slot that has something in a range.
    #[must_use]
    pub fn first_in(&self, ipas: &Range<u64>) -> Option<&Arc<Memslot<F>>> {
        let index = self.0.partition_point(|slot| slot.range().end <= ipas.start);
        self.0.get(index).filter(|slot| slot.base < ipas.end)
    }

    /// Takes a slot out.
    pub fn remove(&mut self, id: u32) -> Option<Arc<Memslot<F>>> {
        let index = self.0.iter().position(|slot| slot.id == id)?;
        self.0.remove(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    fn region(slot: u32, base: u64, size: u64) -> UserMemoryRegion2 {
        UserMemoryRegion2 {
            slot,
            guest_phys_addr: base,
            memory_size: size,
            userspace_addr: 0x10_0000,
            ..Default::default()
        }
    }

    fn check(region: &UserMemoryRegion2) -> Result<Region, Errno> {
        Region::check(region, IpaSpace::new(33).unwrap(), PAGE)
    }

    fn slots(regions: &[(u32, u64, u64)]) -> Memslots<()> {
        let mut slots = Memslots::default();
        for &(id, base, size) in regions {
            let leaving = AtomicBool::new(false);
            let slot = Memslot { id, base, size, user_addr: 0x10_0000, private: None, leaving };
            slots.0.try_reserve(1).unwrap();
            slots.insert(Arc::try_new(slot).unwrap()).unwrap();
        }
        slots
    }

    #[test]
    fn a_region_is_checked_before_anything_is_looked_up() {
        let good = region(0, 0x8000_0000, 0x10_0000);
        assert!(check(&good).is_ok());
        let memfd = MemRegionFlags::GUEST_MEMFD.bits();
        for (what, bad, errno) in [
            ("unknown flag", UserMemoryRegion2 { flags: 1 << 7, ..good }, Errno::EINVAL),
            ("dirty log", UserMemoryRegion2 { flags: 1, ..good }, Errno::EINVAL),
            ("read-only", UserMemoryRegion2 { flags: 2, ..good }, Errno::EINVAL),
            ("slot number", UserMemoryRegion2 { slot: MAX_SLOTS, ..good }, Errno::EINVAL),
            ("address space", UserMemoryRegion2 { slot: 1 << 16, ..good }, Errno::EINVAL),
            ("size", UserMemoryRegion2 { memory_size: 0x800, ..good }, Errno::EINVAL),
            ("base", UserMemoryRegion2 { guest_phys_addr: 0x8000_0800, ..good }, Errno::EINVAL),
            ("user address", UserMemoryRegion2 { userspace_addr: 0x10_0800, ..good }, Errno::EINVAL),
            ("user end", UserMemoryRegion2 { userspace_addr: USER_END, ..good }, Errno::EINVAL),
            ("wrap", UserMemoryRegion2 { guest_phys_addr: u64::MAX - 0xfff, ..good }, Errno::EINVAL),
            ("offset", UserMemoryRegion2 { flags: memfd, guest_memfd_offset: 1, ..good }, Errno::EINVAL),
            (
                "offset wrap",
                UserMemoryRegion2 { flags: memfd, guest_memfd_offset: !0xfff, ..good },
                Errno::EINVAL,
            ),
            ("reserved", UserMemoryRegion2 { flags: memfd, pad1: 1, ..good }, Errno::EINVAL),
            ("unprotected half", UserMemoryRegion2 { guest_phys_addr: 1 << 32, ..good }, Errno::EFAULT),
            (
                "over the middle",
                UserMemoryRegion2 { guest_phys_addr: (1 << 32) - 0x1000, ..good },
                Errno::EFAULT,
            ),
        ] {
            assert_eq!(check(&bad), Err(errno), "{what}");
        }
    }

    #[test]
    fn slots_do_not_overlap_and_change_only_as_kvm_allows() {
        let slots = slots(&[(0, 0x1000_0000, 0x10_0000), (1, 0x2000_0000, 0x10_0000)]);
        let plan = |id, base, size| slots.plan(&check(&region(id, base, size)).unwrap());
        assert_eq!(plan(2, 0x3000_0000, 0x1000), Ok(Change::Create));
        assert_eq!(plan(2, 0x100f_f000, 0x1000), Err(Errno::EEXIST));
        assert_eq!(plan(2, 0x1010_0000, 0x1000), Ok(Change::Create));
        assert_eq!(plan(0, 0x1000_0000, 0x10_0000), Ok(Change::Nothing));
        assert_eq!(plan(0, 0x1800_0000, 0x10_0000), Ok(Change::Move));
        assert_eq!(plan(0, 0x1008_0000, 0x10_0000), Ok(Change::Move));
        assert_eq!(plan(0, 0x2008_0000, 0x10_0000), Err(Errno::EEXIST));
        assert_eq!(plan(0, 0x1000_0000, 0x20_0000), Err(Errno::EINVAL));
        assert_eq!(plan(1, 0, 0), Ok(Change::Delete));
        assert_eq!(plan(7, 0, 0), Err(Errno::EINVAL));
    }

    #[test]
    fn an_address_finds_its_slot() {
        let slots = slots(&[(5, 0x2000, 0x2000), (3, 0x6000, 0x1000)]);
        let find = |ipa| slots.find(ipa).map(|slot| slot.id);
        assert_eq!(
            [0x1fff, 0x2000, 0x3fff, 0x4000, 0x6fff, 0x7000].map(find),
            [None, Some(5), Some(5), None, Some(3), None]
        );
    }
}
