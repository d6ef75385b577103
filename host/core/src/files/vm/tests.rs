//! What the threads of a VMM can do to each other.

use super::Vm;
use crate::error::Phase;
use crate::fake::{ALWAYS, Entry, FakeHost, Granule, KILLED, NEVER, ON_UNLOCK, Process, Step, USER_PA};
use crate::files::device::Limits;
use crate::host::Owner;
use crate::memory::guest_memfd::GuestMemfd;
use crate::memory::memslot::{Memslot, Region};
use crate::realm::ipa::BLOCK_SIZE;
use crate::realm::{CpuParams, Fault, Supply};
use crate::{Device, Errno, Lock};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use realm_abi::kvm::{
    EnableCap, MEMORY_ATTRIBUTE_PRIVATE, MemoryAttributes, RealmCommand, RmeInitRipas, RmePopulate,
    UserMemoryRegion2,
};
use realm_abi::rmi::RmiCommand;
use realm_alloc::Arc;

const RAM: u64 = 0x4000_0000;
const SIZE: u64 = 2 * BLOCK_SIZE;
const PAGE: u64 = 4096;

/// A created realm with a slot for RAM, which alone keeps the private memory.
fn vm() -> (Arc<Device<FakeHost>>, Arc<Vm<FakeHost>>) {
    let (device, vm) = vm_of_bits(33);
    vm.realm.init_ripas(RAM, SIZE, &NEVER).unwrap();
    add_slot(&vm, SIZE);
    (device, vm)
}

fn vm_of_bits(ipa_bits: u8) -> (Arc<Device<FakeHost>>, Arc<Vm<FakeHost>>) {
    let device = Device::new(FakeHost::new(12), Limits::default()).unwrap();
    let vm = Vm::new(&device, 1, Owner { user: 1000, privileged: false }, ipa_bits).unwrap();
    vm.realm.create(&CpuParams { sve_vl: None, num_bps: 1, num_wps: 1, pmu_num_ctrs: None }).unwrap();
    (device, vm)
}

fn add_slot(vm: &Vm<FakeHost>, size: u64) {
    let memfd = Arc::try_new(GuestMemfd::new(vm.device().rmm().clone(), size).unwrap()).unwrap();
    let leaving = AtomicBool::new(false);
    let slot = Memslot { id: 0, base: RAM, size, user_addr: 0x10_0000, private: Some((memfd, 0)), leaving };
    let slot = Arc::try_new(slot).unwrap();
    crate::room::make(&vm.memory, |memory| &mut memory.slots.0, 1).unwrap();
    assert!(vm.memory.lock().slots.insert(slot).is_ok());
}

fn delete_slot(vm: &Vm<FakeHost>, process: &Process) -> Result<i64, Errno> {
    let nothing = Region::check(&UserMemoryRegion2::default(), vm.realm.ipa(), vm.page_size())?;
    vm.set_region(process, nothing)
}

fn assert_ends_well(device: &Device<FakeHost>, vm: &Vm<FakeHost>) {
    assert_eq!(vm.tear_down(), Ok(()));
    let slots = core::mem::take(&mut vm.memory.lock().slots.0);
    drop(slots);
    assert_eq!((device.host().warnings(), device.host().realm_granules().len()), (0, 0));
    FakeHost::assert_all_came_back_or_is_named(device.rmm());
}

#[test]
fn a_fault_finds_no_slot_whose_memory_was_just_taken_away() {
    let (device, vm) = vm();
    let process = Process::new(device.rmm(), 1);
    let (other, faults, refused) =
        (vm.clone(), std::sync::Arc::new(AtomicU64::new(0)), std::sync::Arc::new(AtomicU64::new(0)));
    let (count, count_refused) = (faults.clone(), refused.clone());
    // A fault of a vCPU, as it is served: a look at the slots, and another one with the block locked.
    let fault = move || {
        let slot = other.memory.lock().slots.find(RAM).cloned();
        let Some(slot) = slot else { return };
        let range = slot.private_range(&slot.range()).unwrap();
        let valid = || other.has_slot(&slot, &(RAM..RAM + PAGE));
        let counter = match other.realm.fault_private(&range, RAM, &valid, &ALWAYS).unwrap() {
            Fault::Changed => &count_refused,
            _ => &count,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    };
    fault();
    ON_UNLOCK.set(Some(Box::new(fault)));
    let deleted = delete_slot(&vm, &process);
    ON_UNLOCK.set(None);
    assert_eq!(deleted, Ok(0));
    assert!(faults.load(Ordering::Relaxed) > 1, "faults came before the removal");
    assert!(refused.load(Ordering::Relaxed) > 1, "and while it was under way");
    assert_ends_well(&device, &vm);
}

#[test]
fn a_slot_that_goes_while_it_is_populated_takes_everything_with_it() {
    let (device, vm) = vm();
    let process = Process::new(device.rmm(), 1);
    let (other, other_process) = (vm.clone(), Process::new(device.rmm(), 1));
    *process.on_pin.borrow_mut() = Some(Box::new(move |before| {
        if before == 2 {
            delete_slot(&other, &other_process).unwrap();
        }
    }));
    let request = RmePopulate { base: RAM, size: 8 * PAGE, flags: 0, reserved: [0; 3] };
    assert_eq!(vm.populate(&process, &request), Err(Errno::EFAULT));
    assert_eq!(process.pins(), 3);
    assert_ends_well(&device, &vm);
}

#[test]
fn a_slot_that_is_replaced_while_it_is_populated_gets_the_rest() {
    let (device, vm) = vm();
    let process = Process::new(device.rmm(), 1);
    let (other, other_process) = (vm.clone(), Process::new(device.rmm(), 1));
    *process.on_pin.borrow_mut() = Some(Box::new(move |before| {
        if before == 2 {
            delete_slot(&other, &other_process).unwrap();
            add_slot(&other, SIZE);
        }
    }));
    let request = RmePopulate { base: RAM, size: 8 * PAGE, flags: 0, reserved: [0; 3] };
    assert_eq!(vm.populate(&process, &request), Ok(0));
    assert_eq!(process.pins(), 9, "one page is looked up again");
    assert_eq!(delete_slot(&vm, &process), Ok(0));
    assert_ends_well(&device, &vm);
}

#[test]
fn what_was_never_used_of_a_huge_slot_takes_no_time() {
    let (device, vm) = vm_of_bits(48);
    let process = Process::new(device.rmm(), 1);
    let size = 1 << 42;
    add_slot(&vm, size);
    let slot = vm.memory.lock().slots.find(RAM).cloned().unwrap();
    for ipa in [RAM, RAM + size / 2 + PAGE, RAM + size - PAGE] {
        let range = slot.private_range(&slot.range()).unwrap();
        vm.realm.fault_private(&range, ipa, &ALWAYS, &ALWAYS).unwrap();
    }
    drop(slot);
    let looks = std::sync::Arc::new(AtomicU64::new(0));
    let count = looks.clone();
    ON_UNLOCK.set(Some(Box::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
    })));
    let request = RmePopulate { base: RAM, size: size + PAGE, flags: 0, reserved: [0; 3] };
    assert_eq!(vm.populate(&process, &request), Err(Errno::EFAULT));
    ON_UNLOCK.set(None);
    assert!(looks.load(Ordering::Relaxed) < 20, "{looks:?} looks");
    assert_eq!(process.pins(), 0, "it is not populated");
    let before = device.host().yields();
    delete_slot(&vm, &process).unwrap();
    assert!(device.host().yields() - before < 20, "{} pauses", device.host().yields() - before);
    assert_ends_well(&device, &vm);
}

#[test]
fn a_table_that_stays_keeps_no_other_but_those_above_it() {
    let (device, vm) = vm_of_bits(48);
    add_slot(&vm, 1 << 42);
    let slot = vm.memory.lock().slots.find(RAM).cloned().unwrap();
    // Tables of the levels 1, 2 and 3 for each, and none in common.
    for ipa in [RAM, RAM + (1 << 40), RAM + (1 << 41)] {
        let range = slot.private_range(&slot.range()).unwrap();
        vm.realm.fault_private(&range, ipa, &ALWAYS, &ALWAYS).unwrap();
    }
    drop(slot);
    let tables = |vm: &Vm<FakeHost>| {
        let rd = vm.realm.rd().unwrap();
        device.host().with_rmm(|rmm| rmm.realms[&rd].tables.keys().map(|table| table.0).collect::<Vec<_>>())
    };
    assert_eq!(tables(&vm), [0, 1, 1, 1, 2, 2, 2, 3, 3, 3]);
    let stays =
        |step| matches!(step, Step::Call(RmiCommand::RttDestroy { ipa, level: 2, .. }) if ipa >> 40 == 1);
    device.host().inject(stays, 0, u64::MAX);
    assert!(vm.tear_down().is_err());
    assert_eq!(tables(&vm), [0, 1, 2]);
    device.host().stop_injecting();
    assert_ends_well(&device, &vm);
}

/// Ends the death of the thread that makes the ioctls of a test.
struct Lives;

impl Drop for Lives {
    fn drop(&mut self) {
        KILLED.set(false);
    }
}

fn phase_after(vm: &Vm<FakeHost>) -> Phase {
    KILLED.set(false);
    vm.realm.phase()
}

fn enable(vm: &Vm<FakeHost>, process: &Process, base: u64, size: u64) -> Result<i64, Errno> {
    let request = RmeInitRipas { base, size, reserved: [0; 2] };
    let pointer = process.put(&request);
    let cap = EnableCap::realm(vm.device().generation(), RealmCommand::INIT_RIPAS_REALM, pointer);
    vm.enable_cap(process, process.put_argument(&cap))
}

#[test]
fn a_killed_thread_ends_an_init_ripas_and_the_realm_if_part_is_measured() {
    let _lives = Lives;
    for (asked, phase) in [(0, Phase::New), (1, Phase::Dying)] {
        let (device, vm) = vm_of_bits(33);
        let process = Process::new(device.rmm(), 1);
        process.dies_after.set(Some(asked));
        // The head, the middle and the tail are pieces of their own.
        assert_eq!(enable(&vm, &process, RAM + PAGE, 3 * BLOCK_SIZE), Err(Errno::EINTR));
        assert_eq!(phase_after(&vm), phase, "killed when asked for the time {asked}");
        assert_ends_well(&device, &vm);
    }
}

#[test]
fn a_killed_thread_ends_a_populate_and_the_realm() {
    let _lives = Lives;
    for (asked, pins, phase) in [(0, 0, Phase::New), (3, 3, Phase::Dying)] {
        let (device, vm) = vm();
        let process = Process::new(device.rmm(), 1);
        process.dies_after.set(Some(asked));
        let request = RmePopulate { base: RAM, size: 8 * PAGE, flags: 0, reserved: [0; 3] };
        assert_eq!(vm.populate(&process, &request), Err(Errno::EINTR));
        assert_eq!((process.pins(), phase_after(&vm)), (pins, phase));
        assert_ends_well(&device, &vm);
    }
}

/// An active realm whose two blocks are private and mapped.
fn with_private_memory() -> (Arc<Device<FakeHost>>, Arc<Vm<FakeHost>>) {
    let (device, vm) = vm();
    vm.realm.activate().unwrap();
    let process = Process::new(device.rmm(), 1);
    set_private(&vm, &process, true).unwrap();
    let slot = vm.memory.lock().slots.find(RAM).cloned().unwrap();
    let range = slot.private_range(&slot.range()).unwrap();
    for block in 0..2 {
        vm.realm.fault_private(&range, RAM + block * BLOCK_SIZE, &ALWAYS, &ALWAYS).unwrap();
    }
    (device, vm)
}

fn set_private(vm: &Vm<FakeHost>, process: &Process, private: bool) -> Result<i64, Errno> {
    let attributes = if private { MEMORY_ATTRIBUTE_PRIVATE } else { 0 };
    vm.set_attributes(process, &MemoryAttributes { address: RAM, size: SIZE, attributes, flags: 0 })
}

/// Granules of data the RMM has.
fn data(device: &Device<FakeHost>) -> usize {
    device.host().with_rmm(|rmm| rmm.granules.values().filter(|state| **state == Granule::Data).count())
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_killed_thread_ends_a_change_of_attributes_which_can_be_made_again() {
    let _lives = Lives;
    let (device, vm) = with_private_memory();
    let process = Process::new(device.rmm(), 1);
    process.dies_after.set(Some(3));
    assert_eq!(set_private(&vm, &process, false), Err(Errno::EINTR));
    let left = data(&device);
    assert!(left > 0 && left < 2 * 512, "{left} granules");
    assert_eq!(set_private(&vm, &process, false), Err(Errno::EINTR), "nor does a dead thread take a lock");
    assert_eq!((data(&device), phase_after(&vm)), (left, Phase::Active));
    assert_eq!(set_private(&vm, &process, false), Ok(0));
    assert_eq!(data(&device), 0);
    assert_ends_well(&device, &vm);
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_slot_stays_when_the_thread_that_removes_it_is_killed() {
    let _lives = Lives;
    let (device, vm) = with_private_memory();
    let process = Process::new(device.rmm(), 1);
    process.dies_after.set(Some(3));
    assert_eq!(delete_slot(&vm, &process), Err(Errno::EINTR));
    assert_eq!(phase_after(&vm), Phase::Active);
    let slot = vm.memory.lock().slots.find(RAM).cloned().expect("the slot stays");
    assert!(!slot.is_leaving() && data(&device) > 0);
    // It is as good as before: what was taken away comes back.
    let range = slot.private_range(&slot.range()).unwrap();
    let valid = || vm.is_private(&slot, &(RAM..RAM + PAGE));
    assert_eq!(vm.realm.fault_private(&range, RAM, &valid, &ALWAYS), Ok(Fault::Mapped));
    assert_eq!(delete_slot(&vm, &process), Ok(0));
    assert_eq!((data(&device), vm.memory.lock().slots.find(RAM).is_none()), (0, true));
    drop(slot);
    assert_ends_well(&device, &vm);
}

#[test]
fn a_slot_whose_memory_the_rmm_keeps_stays() {
    let (device, vm) = with_private_memory();
    let process = Process::new(device.rmm(), 1);
    device.host().inject(|step| matches!(step, Step::Call(RmiCommand::DataDestroy { .. })), 700, 1);
    assert_eq!(delete_slot(&vm, &process), Err(Errno::ENXIO));
    assert_eq!((data(&device), vm.memory.lock().slots.find(RAM).is_some()), (1, true));
    assert_eq!(delete_slot(&vm, &process), Ok(0));
    assert_ends_well(&device, &vm);
}

/// Uses the reserve up: a part of the last block is taken away while the Host has no memory.
fn use_reserve_up(device: &Device<FakeHost>, vm: &Vm<FakeHost>) {
    device.host().inject(|step| matches!(step, Step::Alloc(_)), 0, u64::MAX);
    let slot = vm.memory.lock().slots.find(RAM).cloned().unwrap();
    let part = slot.private_range(&(RAM + BLOCK_SIZE..RAM + BLOCK_SIZE + PAGE)).unwrap();
    vm.realm.unmap_private(&part, &mut Supply::HostOrReserve, &NEVER, &ALWAYS).unwrap();
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_vm_is_torn_down_without_memory_also_when_its_reserve_is_in_use() {
    let (device, vm) = with_private_memory();
    use_reserve_up(&device, &vm);
    assert_ends_well(&device, &vm);
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_slot_can_be_removed_when_the_reserve_is_in_use_and_the_host_has_memory_again() {
    let (device, vm) = with_private_memory();
    use_reserve_up(&device, &vm);
    device.host().stop_injecting();
    assert_eq!(delete_slot(&vm, &Process::new(device.rmm(), 1)), Ok(0));
    assert_eq!(data(&device), 0);
    assert_ends_well(&device, &vm);
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_slot_is_removed_without_any_memory() {
    let (device, vm) = with_private_memory();
    device.host().inject(|step| matches!(step, Step::Alloc(_)), 0, u64::MAX);
    assert_eq!(delete_slot(&vm, &Process::new(device.rmm(), 1)), Ok(0));
    assert_eq!(data(&device), 0);
    assert_ends_well(&device, &vm);
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn faults_during_a_change_of_attributes_leave_only_what_the_attributes_say() {
    for private in [false, true] {
        let (device, vm) = with_private_memory();
        let process = Process::new(device.rmm(), 1);
        if private {
            set_private(&vm, &process, false).unwrap();
        }
        // Two pages in the middle of a block change; another vCPU touches the block at every moment, both halves.
        let changed = RAM + 8 * PAGE..RAM + 10 * PAGE;
        let (other, host) = (vm.clone(), device.rmm().clone());
        let touch = move || {
            let slot = other.memory.lock().slots.find(RAM).cloned().unwrap();
            let block = RAM..RAM + BLOCK_SIZE;
            let range = slot.private_range(&block).unwrap();
            for at in [RAM, RAM + 8 * PAGE] {
                let around = other.memory.lock().private.around(at);
                let covered = around
                    .map_or(block.clone(), |around| around.start.max(block.start)..around.end.min(block.end));
                let range = range.within(covered.start, covered.end).unwrap();
                let valid = || other.is_private(&slot, &covered);
                other.realm.fault_private(&range, at, &valid, &ALWAYS).unwrap();
                let pinned = host.host().hold(USER_PA + at, PAGE);
                let page = at..at + PAGE;
                other.realm.map_shared(at, pinned, &|| other.is_shared(&slot, &page)).unwrap();
            }
        };
        ON_UNLOCK.set(Some(Box::new(touch)));
        let request = MemoryAttributes {
            address: changed.start,
            size: changed.end - changed.start,
            attributes: if private { MEMORY_ATTRIBUTE_PRIVATE } else { 0 },
            flags: 0,
        };
        let result = vm.set_attributes(&process, &request);
        drop(ON_UNLOCK.take());
        assert_eq!(result, Ok(0));
        let rd = vm.realm.rd().unwrap();
        for at in (RAM..RAM + BLOCK_SIZE).step_by(0x1000) {
            let is_private = private == changed.contains(&at);
            let (mapped, shared) = device.host().with_rmm(|rmm| {
                let entry = |ipa| rmm.realms[&rd].entry(ipa, 3).1;
                let half = 1 << 32;
                (matches!(entry(at), Entry::Assigned(..)), matches!(entry(at + half), Entry::AssignedNs(_)))
            });
            let wrong = if is_private { shared } else { mapped };
            assert!(!wrong, "{at:#x}: {mapped} {shared}");
        }
        assert_ends_well(&device, &vm);
    }
}
