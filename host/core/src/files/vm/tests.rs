//! What the threads of a VMM can do to each other.

use super::Vm;
use crate::fake::{FakeHost, ON_UNLOCK, OVER_IOCTLS};
use crate::host::PinnedPage;
use crate::memory::guest_memfd::GuestMemfd;
use crate::memory::memslot::Memslot;
use crate::realm::CpuParams;
use crate::realm::ipa::BLOCK_SIZE;
use crate::{Device, Errno, Host, Lock, UserMemory};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};
use realm_abi::kvm::{RmePopulate, UserMemoryRegion2};

const RAM: u64 = 0x4000_0000;
const SIZE: u64 = 2 * BLOCK_SIZE;
const PAGE: u64 = 4096;

/// A created realm with a slot for RAM, which alone keeps the private memory.
fn vm() -> (Arc<Device<FakeHost>>, Arc<Vm<FakeHost>>) {
    let (device, vm) = vm_of_bits(33);
    vm.realm.init_ripas(RAM, SIZE).unwrap();
    add_slot(&vm, SIZE);
    (device, vm)
}

fn vm_of_bits(ipa_bits: u8) -> (Arc<Device<FakeHost>>, Arc<Vm<FakeHost>>) {
    // `config` and `layout`.
    OVER_IOCTLS.set(2);
    let device = Device::new(FakeHost::new(12));
    let vm = Vm::new(&device, ipa_bits).unwrap();
    vm.realm.create(&CpuParams { sve_vl: None, num_bps: 1, num_wps: 1, pmu_num_ctrs: None }).unwrap();
    (device, vm)
}

fn add_slot(vm: &Vm<FakeHost>, size: u64) {
    let memfd = Arc::new(GuestMemfd::new(vm.device().rmm().clone(), size).unwrap());
    let slot = Memslot { id: 0, base: RAM, size, user_addr: 0x10_0000, private: Some((memfd, 0)) };
    vm.memory.lock().slots.insert(slot).unwrap();
}

fn delete_slot(vm: &Vm<FakeHost>) -> Result<i64, Errno> {
    vm.set_region(&UserMemoryRegion2::default())
}

fn assert_ends_well(device: &Device<FakeHost>, vm: &Vm<FakeHost>) {
    assert_eq!(vm.tear_down(), Ok(()));
    assert_eq!((device.host().warnings(), device.host().realm_granules().len()), (0, 0));
    FakeHost::assert_all_came_back_or_is_named(device.rmm());
}

/// A process that does something else whenever one of its pages is pinned.
struct Process<F: Fn()> {
    page: PinnedPage,
    meanwhile: F,
}

impl<F: Fn()> UserMemory for Process<F> {
    fn read(&self, _addr: u64, _out: &mut [u8]) -> Result<(), Errno> {
        Err(Errno::EFAULT)
    }
    fn write(&self, _addr: u64, _bytes: &[u8]) -> Result<(), Errno> {
        Err(Errno::EFAULT)
    }
    fn pin(&self, _addr: u64, _write: bool) -> Result<PinnedPage, Errno> {
        (self.meanwhile)();
        Ok(PinnedPage { ..self.page })
    }
    fn unpin(&self, _page: PinnedPage) {}
    fn interrupted(&self) -> bool {
        false
    }
}

#[test]
fn a_fault_finds_no_slot_whose_memory_was_just_taken_away() {
    let (device, vm) = vm();
    let (other, faults) = (vm.clone(), Arc::new(AtomicU64::new(0)));
    let count = faults.clone();
    // A fault of a vCPU, as it is served: a look at the slots and the mapping under one lock.
    let fault = move || {
        let memory = other.memory.lock();
        let slot = memory.slots.find(RAM).filter(|_| memory.removals == 0).cloned();
        if let Some(range) = slot.as_ref().and_then(|slot| slot.private_range(&slot.range())) {
            other.realm.fault_private(&range, RAM).unwrap();
            count.fetch_add(1, Ordering::Relaxed);
        }
    };
    fault();
    ON_UNLOCK.set(Some(Box::new(fault)));
    let deleted = delete_slot(&vm);
    ON_UNLOCK.set(None);
    assert_eq!(deleted, Ok(0));
    assert!(faults.load(Ordering::Relaxed) > 1, "faults came before the removal");
    assert_ends_well(&device, &vm);
}

#[test]
fn a_slot_that_goes_while_it_is_populated_takes_everything_with_it() {
    let (device, vm) = vm();
    let source = device.host().source_page(7);
    let pins = Cell::new(0);
    let process = Process {
        page: PinnedPage { pa: source.pa, writable: true, block: 0x1000 },
        meanwhile: || {
            pins.set(pins.get() + 1);
            if pins.get() == 3 {
                delete_slot(&vm).unwrap();
            }
        },
    };
    let request = RmePopulate { base: RAM, size: 8 * PAGE, flags: 0, reserved: [0; 3] };
    assert_eq!(vm.populate(&process, &request), Err(Errno::EFAULT));
    assert_eq!(pins.get(), 3);
    device.host().free(source);
    assert_ends_well(&device, &vm);
}

#[test]
fn a_slot_that_is_replaced_while_it_is_populated_gets_the_rest() {
    let (device, vm) = vm();
    let source = device.host().source_page(7);
    let pins = Cell::new(0);
    let process = Process {
        page: PinnedPage { pa: source.pa, writable: true, block: 0x1000 },
        meanwhile: || {
            pins.set(pins.get() + 1);
            if pins.get() == 3 {
                delete_slot(&vm).unwrap();
                add_slot(&vm, SIZE);
            }
        },
    };
    let request = RmePopulate { base: RAM, size: 8 * PAGE, flags: 0, reserved: [0; 3] };
    assert_eq!(vm.populate(&process, &request), Ok(0));
    assert_eq!(pins.get(), 9, "one page is looked up again");
    device.host().free(source);
    assert_eq!(delete_slot(&vm), Ok(0));
    assert_ends_well(&device, &vm);
}

#[test]
fn what_was_never_used_of_a_huge_slot_takes_no_time() {
    let (device, vm) = vm_of_bits(48);
    let size = 1 << 42;
    add_slot(&vm, size);
    let slot = vm.memory.lock().slots.find(RAM).cloned().unwrap();
    for ipa in [RAM, RAM + size / 2 + PAGE, RAM + size - PAGE] {
        vm.realm.fault_private(&slot.private_range(&slot.range()).unwrap(), ipa).unwrap();
    }
    drop(slot);
    let looks = Arc::new(AtomicU64::new(0));
    let count = looks.clone();
    ON_UNLOCK.set(Some(Box::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
    })));
    let process = Process {
        page: PinnedPage { pa: 0, writable: true, block: 0x1000 },
        meanwhile: || panic!("it is not populated"),
    };
    let request = RmePopulate { base: RAM, size: size + PAGE, flags: 0, reserved: [0; 3] };
    assert_eq!(vm.populate(&process, &request), Err(Errno::EFAULT));
    ON_UNLOCK.set(None);
    assert!(looks.load(Ordering::Relaxed) < 20, "{looks:?} looks");
    let before = device.host().yields();
    delete_slot(&vm).unwrap();
    assert!(device.host().yields() - before < 20, "{} pauses", device.host().yields() - before);
    assert_ends_well(&device, &vm);
}
