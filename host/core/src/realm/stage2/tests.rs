//! What the tables of a realm look like after what the Host did.

mod shared;

use crate::error::RealmError;
use crate::fake::{ALWAYS, Entry, FakeHost, NEVER, Step, heap, many_pins, pins};
use crate::memory::guest_memfd::{GuestMemfd, PrivateRange};
use crate::realm::ipa::BLOCK_SIZE;
use crate::realm::{CpuParams, Fault, Pins, Realm, SharedFault, Supply};
use crate::rmm::Rmm;
use crate::rmm::rmi::Failure;
use crate::{Errno, Host, Lock};
use alloc::vec::Vec;
use core::cell::Cell;
use realm_abi::rmi::{ReturnCode, Ripas, RmiCommand, RmiReply, UnprotectedDesc};
use realm_alloc::Arc;

const RAM: u64 = 0x4000_0000;
const ALIAS: u64 = 1 << 32;
const SIZE: u64 = 4 * BLOCK_SIZE;

struct Vm {
    realm: Realm<FakeHost>,
    memfd: GuestMemfd<FakeHost>,
    rmm: Arc<Rmm<FakeHost>>,
}

impl Vm {
    /// An active realm with RAM.
    fn active(page_shift: u32) -> Self {
        let vm = Self::new(page_shift);
        vm.realm.init_ripas(RAM, SIZE, &NEVER).unwrap();
        vm.realm.activate().unwrap();
        vm.rmm.host().take_commands();
        vm
    }

    fn new(page_shift: u32) -> Self {
        Self::created(page_shift, many_pins())
    }

    fn with_limit(page_shift: u32, pin_limit: u64) -> Self {
        let vm = Self::created(page_shift, pins(pin_limit));
        vm.realm.activate().unwrap();
        vm
    }

    fn created(page_shift: u32, pins: Pins) -> Self {
        let rmm = FakeHost::started(page_shift);
        let realm = Realm::new(rmm.clone(), 33, pins).unwrap();
        realm.create(&CpuParams { sve_vl: None, num_bps: 1, num_wps: 1, pmu_num_ctrs: None }).unwrap();
        rmm.host().take_commands();
        Self { realm, memfd: GuestMemfd::new(rmm.clone(), SIZE).unwrap(), rmm }
    }

    fn ram(&self) -> PrivateRange<'_, FakeHost> {
        PrivateRange { memfd: &self.memfd, offset: 0, ipa: RAM, size: SIZE }
    }

    fn part(&self, from: u64, to: u64) -> PrivateRange<'_, FakeHost> {
        self.ram().within(RAM + from, RAM + to).unwrap()
    }

    fn entry(&self, ipa: u64, level: i64) -> (i64, Entry) {
        let rd = self.realm.rd().unwrap();
        self.rmm.host().with_rmm(|mini| mini.realms[&rd].entry(ipa, level))
    }

    fn measured(&self) -> u64 {
        let rd = self.realm.rd().unwrap();
        self.rmm.host().with_rmm(|mini| mini.realms[&rd].measured)
    }

    fn assigned(&self, ipa: u64) -> bool {
        matches!(self.entry(ipa, 3).1, Entry::Assigned(..))
    }

    fn shared(&self, ipa: u64) -> Option<UnprotectedDesc> {
        match self.entry(ipa + ALIAS, 3) {
            (level, Entry::AssignedNs(desc)) => {
                let offset = if level == 2 { ipa % BLOCK_SIZE } else { 0 };
                Some(UnprotectedDesc(desc.0 + offset))
            }
            _ => None,
        }
    }

    /// Shares memory of the VMM: a page, or a block.
    fn share(&self, ipa: u64, pa: u64, size: u64) -> Result<SharedFault, RealmError> {
        let pinned = self.rmm.host().hold(pa, size);
        self.realm.map_shared(ipa, pinned, &ALWAYS)
    }

    fn tables(&self) -> usize {
        let rd = self.realm.rd().unwrap();
        self.rmm.host().with_rmm(|mini| mini.realms[&rd].tables.len() - 1)
    }

    fn end(self) {
        self.realm.unmap_shared(0, u64::MAX, &mut Supply::HostOrReserve, &NEVER).unwrap();
        self.realm.unmap_private(&self.ram(), &mut Supply::HostOrReserve, &NEVER, &ALWAYS).unwrap();
        self.realm.destroy().unwrap();
        let rmm = self.rmm.clone();
        drop(self);
        let host = rmm.host();
        assert_eq!((rmm.ledger().snapshot().leaked, host.pages(), host.held()), (0, 0, 0));
    }
}

fn names(commands: &[RmiCommand]) -> Vec<&'static str> {
    let mut names: Vec<_> = commands.iter().filter_map(RmiCommand::name).collect();
    names.dedup();
    names
}

#[test]
fn initialising_ripas_makes_tables_only_down_to_the_level_the_range_needs() {
    // The widest entries of 33 bits are 2 MiB, the starting level: aligned RAM needs no table at all.
    let vm = Vm::new(12);
    vm.realm.init_ripas(RAM, SIZE, &NEVER).unwrap();
    assert_eq!((vm.tables(), vm.measured()), (0, 1 + 4));
    assert_eq!(names(&vm.rmm.host().take_commands()), ["RMI_RTT_INIT_RIPAS"]);
    // A head and a tail that are not aligned need one table each.
    let start = RAM + SIZE + BLOCK_SIZE - 0x2000;
    vm.realm.init_ripas(start, 0x2000 + BLOCK_SIZE + 0x3000, &NEVER).unwrap();
    assert_eq!((vm.tables(), vm.measured()), (2, 5 + 2 + 1 + 3));
    assert_eq!(vm.entry(start + 0x2000, 3), (2, Entry::Unassigned(Ripas::RAM)));
    vm.end();
}

#[test]
fn a_table_that_exists_already_costs_no_granule() {
    let vm = Vm::active(12);
    vm.realm.fault_private(&vm.part(0, 0x2000), RAM, &ALWAYS, &ALWAYS).unwrap();
    assert_eq!(vm.tables(), 1);
    let held = vm.rmm.ledger().snapshot().held();
    // DATA_CREATE_UNKNOWN seems to miss the table, so that the Host has one ready and wants to create it again.
    let chosen = |step| matches!(step, Step::Call(RmiCommand::DataCreateUnknown { .. }));
    vm.rmm.host().inject_code(chosen, 0, 2, ReturnCode::error_rtt(2));
    let part = vm.part(0, 0x2000);
    assert_eq!(vm.realm.fault_private(&part, RAM + 0x1000, &ALWAYS, &ALWAYS), Ok(Fault::Mapped));
    assert_eq!((vm.rmm.host().stop_injecting(), vm.tables()), (2, 1));
    let now = vm.rmm.ledger().snapshot();
    assert_eq!((now.held(), now.leaked), (held + 1, 0), "the data; the spare table came back");
    vm.end();
}

#[test]
fn a_granule_the_rmm_took_and_denies_is_named() {
    let vm = Vm::active(12);
    let part = vm.part(0, 0x2000);
    vm.realm.fault_private(&part, RAM, &ALWAYS, &ALWAYS).unwrap();
    let (held, mut lies) = (vm.rmm.ledger().snapshot().held(), 1);
    vm.rmm.host().mangle(move |command, reply| {
        if matches!(command, RmiCommand::DataCreateUnknown { .. }) && lies > 0 {
            lies -= 1;
            *reply = RmiReply::failed(ReturnCode::error_rtt(2));
        }
    });
    let refused = vm.realm.fault_private(&part, RAM + 0x1000, &ALWAYS, &ALWAYS);
    assert_eq!(refused, Err(RealmError::MemoryLost { ipa: RAM + 0x1000 }));
    let now = vm.rmm.ledger().snapshot();
    assert_eq!((now.held(), now.leaked, vm.tables()), (held, 1, 1));
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_fault_in_untouched_memory_maps_and_folds_its_whole_block() {
    for shift in [12, 14, 16] {
        let vm = Vm::active(shift);
        let fault = vm.realm.fault_private(&vm.ram(), RAM + BLOCK_SIZE + 0x7123, &ALWAYS, &ALWAYS);
        assert_eq!(fault, Ok(Fault::Mapped));
        assert!(matches!(vm.entry(RAM + BLOCK_SIZE, 3), (2, Entry::Assigned(..))));
        assert_eq!(vm.tables(), 0);
        assert_eq!(
            vm.realm.fault_private(&vm.ram(), RAM + BLOCK_SIZE, &ALWAYS, &ALWAYS),
            Ok(Fault::AlreadyMapped)
        );
        vm.end();
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_fault_maps_one_granule_where_a_block_is_not_possible() {
    /// How many granules of a block are mapped.
    fn mapped(vm: &Vm, base: u64) -> usize {
        (0..BLOCK_SIZE).step_by(0x1000).filter(|at| vm.assigned(base + at)).count()
    }
    // Not active.
    let vm = Vm::new(12);
    assert_eq!(vm.realm.fault_private(&vm.ram(), RAM, &ALWAYS, &ALWAYS), Ok(Fault::Mapped));
    assert_eq!(mapped(&vm, RAM), 1);
    vm.end();
    // Not wholly private.
    let vm = Vm::active(12);
    let part = vm.part(0, BLOCK_SIZE - 0x1000);
    assert_eq!(vm.realm.fault_private(&part, RAM, &ALWAYS, &ALWAYS), Ok(Fault::Mapped));
    assert_eq!(mapped(&vm, RAM), 1);
    vm.end();
    // Memory not contiguous.
    for shift in [12, 14, 16] {
        let vm = Vm::active(shift);
        vm.rmm.host().limit_allocations(1);
        assert_eq!(vm.realm.fault_private(&vm.ram(), RAM + 0x5000, &ALWAYS, &ALWAYS), Ok(Fault::Mapped));
        assert_eq!(mapped(&vm, RAM), 1);
        vm.end();
    }
    // The file is not aligned as the addresses are.
    let vm = Vm::active(12);
    let range = PrivateRange { memfd: &vm.memfd, offset: 0x1000, ipa: RAM, size: SIZE - 0x1000 };
    let last = RAM + BLOCK_SIZE - 0x1000;
    assert_eq!(vm.realm.fault_private(&range, last, &ALWAYS, &ALWAYS), Ok(Fault::Mapped));
    assert_eq!(mapped(&vm, RAM), 1);
    vm.realm.unmap_private(&range, &mut Supply::HostOrReserve, &NEVER, &ALWAYS).unwrap();
    vm.end();
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_fault_in_a_block_that_is_mapped_in_part_maps_the_rest() {
    let vm = Vm::active(12);
    vm.realm.fault_private(&vm.part(0x3000, 0x4000), RAM + 0x3000, &ALWAYS, &ALWAYS).unwrap();
    assert_eq!((vm.entry(RAM + 0x3000, 3).0, vm.assigned(RAM)), (3, false));
    assert_eq!(vm.realm.fault_private(&vm.ram(), RAM + 0x1000, &ALWAYS, &ALWAYS), Ok(Fault::Mapped));
    assert!(matches!(vm.entry(RAM, 3), (2, Entry::Assigned(..))));
    vm.end();
}

#[test]
fn a_thread_that_is_wanted_elsewhere_maps_no_more_than_a_piece_of_its_block() {
    let vm = Vm::active(12);
    let left = Cell::new(1);
    let go_on = || left.replace(0) > 0;
    assert_eq!(vm.realm.fault_private(&vm.ram(), RAM + 0x5000, &ALWAYS, &go_on), Ok(Fault::Mapped));
    let mapped = (0..BLOCK_SIZE).step_by(0x1000).filter(|at| vm.assigned(RAM + at)).count();
    assert_eq!(mapped, super::PIECE, "the granule that faulted is in the first piece");
    vm.end();
}

#[test]
fn nothing_is_mapped_once_what_was_looked_up_is_no_longer_so() {
    let vm = Vm::active(12);
    assert_eq!(vm.realm.fault_private(&vm.ram(), RAM, &NEVER, &ALWAYS), Ok(Fault::Changed));
    let pinned = vm.rmm.host().hold(0x9_0000_0000, 0x1000);
    assert_eq!(vm.realm.map_shared(RAM, pinned, &NEVER), Ok(SharedFault::Changed));
    assert_eq!((vm.assigned(RAM), vm.shared(RAM), vm.realm.pinned()), (false, None, 0));
    // It changes after the granule that faulted.
    let valid = || !vm.assigned(RAM);
    assert_eq!(vm.realm.fault_private(&vm.ram(), RAM, &valid, &ALWAYS), Ok(Fault::Mapped));
    assert!(vm.assigned(RAM) && !vm.assigned(RAM + 0x1000));
    vm.end();
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn the_granule_that_completes_a_block_folds_it() {
    let vm = Vm::active(12);
    for page in (0..512).rev() {
        // Each thread is wanted elsewhere before it maps more, but for the last one.
        let go_on = || page == 0;
        assert_eq!(vm.entry(RAM, 3).0, if page == 511 { 2 } else { 3 });
        vm.realm.fault_private(&vm.ram(), RAM + page * 0x1000, &ALWAYS, &go_on).unwrap();
    }
    assert!(matches!(vm.entry(RAM, 3), (2, Entry::Assigned(..))));
    vm.end();
}

#[test]
fn a_block_that_fails_in_the_middle_keeps_what_is_mapped() {
    let vm = Vm::active(12);
    vm.rmm.host().inject(|step| matches!(step, Step::Call(RmiCommand::GranuleDelegate { .. })), 100, 1);
    assert_eq!(vm.realm.fault_private(&vm.ram(), RAM + 0x2000, &ALWAYS, &ALWAYS), Ok(Fault::Mapped));
    let last = RAM + BLOCK_SIZE - 0x1000;
    assert!(vm.assigned(RAM + 0x2000) && vm.assigned(RAM) && !vm.assigned(last));
    assert_eq!(vm.realm.fault_private(&vm.ram(), last, &ALWAYS, &ALWAYS), Ok(Fault::Mapped));
    assert!(matches!(vm.entry(RAM, 3), (2, Entry::Assigned(..))), "the next fault maps the rest");
    vm.end();
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn taking_part_of_a_block_splits_it() {
    let vm = Vm::active(12);
    vm.realm.fault_private(&vm.ram(), RAM, &ALWAYS, &ALWAYS).unwrap();
    vm.realm.unmap_private(&vm.part(0x4000, 0x6000), &mut Supply::HostOrReserve, &NEVER, &ALWAYS).unwrap();
    for at in (0..BLOCK_SIZE).step_by(0x1000) {
        assert_eq!(vm.assigned(RAM + at), !(0x4000..0x6000).contains(&at), "{at:#x}");
    }
    assert_eq!(vm.entry(RAM + 0x4000, 3), (3, Entry::Unassigned(Ripas::DESTROYED)));
    // The memory came back to the file and serves the next fault.
    assert_eq!(vm.realm.fault_private(&vm.ram(), RAM + 0x4000, &ALWAYS, &ALWAYS), Ok(Fault::Mapped));
    vm.end();
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_block_that_is_taken_whole_leaves_no_table() {
    let vm = Vm::active(12);
    vm.realm.fault_private(&vm.ram(), RAM, &ALWAYS, &ALWAYS).unwrap();
    vm.realm.unmap_private(&vm.part(0, BLOCK_SIZE), &mut Supply::HostOrReserve, &NEVER, &ALWAYS).unwrap();
    assert_eq!((vm.tables(), vm.entry(RAM, 3)), (0, (2, Entry::Unassigned(Ripas::DESTROYED))));
    vm.end();
}

#[test]
fn unmapping_what_was_never_mapped_asks_the_rmm_nothing() {
    let vm = Vm::active(12);
    vm.realm.unmap_private(&vm.ram(), &mut Supply::HostOrReserve, &NEVER, &ALWAYS).unwrap();
    assert_eq!(vm.rmm.host().take_commands(), []);
    vm.end();
}

#[test]
fn memory_of_the_guest_is_kept_when_its_table_gets_none() {
    let vm = Vm::active(12);
    vm.ram().ensure(RAM).unwrap();
    let host = vm.rmm.host();
    host.refuse_next(1 << 40);
    let pages = host.pages();
    let refused = vm.realm.fault_private(&vm.ram(), RAM, &ALWAYS, &ALWAYS).unwrap_err();
    assert_eq!(refused.errno(), Errno::ENXIO);
    assert!(vm.ram().has_memory(RAM) && host.pages() == pages && host.refused_pages() > 0);
    vm.end();
}

#[test]
fn an_rmm_that_returns_foreign_memory_is_not_believed() {
    let vm = Vm::active(12);
    vm.realm.fault_private(&vm.part(0, 0x1000), RAM, &ALWAYS, &ALWAYS).unwrap();
    vm.rmm.host().mangle(|command, reply| {
        if matches!(command, RmiCommand::DataDestroy { .. }) {
            reply.out[0] = 0xdead_0000;
        }
    });
    let refused = vm.realm.unmap_private(&vm.ram(), &mut Supply::HostOrReserve, &NEVER, &ALWAYS).unwrap_err();
    assert_eq!(refused.errno(), Errno::ENXIO);
    assert!(matches!(refused, RealmError::Rmi(error) if matches!(error.failure, Failure::Implausible(_))));
    let commands = vm.rmm.host().take_commands();
    assert!(
        !commands
            .iter()
            .any(|command| matches!(command, RmiCommand::GranuleUndelegate { addr: 0xdead_0000 }))
    );
    assert_eq!(vm.rmm.ledger().snapshot().leaked, 0, "a realm that lives loses nothing");
}

#[test]
fn an_rmm_that_returns_another_table_is_not_believed() {
    let vm = Vm::active(12);
    vm.realm.fault_private(&vm.part(0, 0x1000), RAM, &ALWAYS, &ALWAYS).unwrap();
    vm.realm.unmap_private(&vm.ram(), &mut Supply::HostOrReserve, &NEVER, &ALWAYS).unwrap();
    vm.share(0, 0x9_0000_0000, 0x1000).unwrap();
    vm.rmm.host().mangle(|command, reply| {
        if matches!(command, RmiCommand::RttDestroy { .. } | RmiCommand::RttFold { .. }) {
            reply.out[0] = 0xdead_0000;
        }
    });
    assert_eq!(vm.realm.destroy(), Ok(()), "the rest can still be destroyed");
    assert_eq!(vm.rmm.ledger().snapshot().leaked, 2, "the tables");
}

#[test]
fn an_rmm_that_makes_no_progress_ends_the_walk() {
    let lies: [fn(&RmiCommand, &mut RmiReply); 3] = [
        |command, reply| {
            if let RmiCommand::RttUnmapUnprotected { ipa, .. } = command {
                *reply = RmiReply { code: ReturnCode::SUCCESS, out: [*ipa, 0, 0, 0] };
            }
        },
        |command, reply| {
            if let RmiCommand::RttUnmapUnprotected { ipa, level, .. } = command {
                *reply = RmiReply { code: ReturnCode::error_rtt(*level), out: [*ipa + 1, 0, 0, 0] };
            }
        },
        |command, reply| {
            if let RmiCommand::RttUnmapUnprotected { ipa, .. } = command {
                *reply = RmiReply { code: ReturnCode::error_rtt(2), out: [*ipa, 0, 0, 0] };
            }
        },
    ];
    for lie in lies {
        let vm = Vm::active(12);
        vm.share(RAM, 0x9_0000_0000, 0x1000).unwrap();
        vm.rmm.host().take_commands();
        vm.rmm.host().mangle(lie);
        assert!(vm.realm.unmap_shared(0, u64::MAX, &mut Supply::HostOrReserve, &NEVER).is_err());
        assert!(vm.rmm.host().take_commands().len() < 32);
    }
    let vm = Vm::new(12);
    vm.rmm.host().mangle(|command, reply| {
        if matches!(command, RmiCommand::RttInitRipas { .. }) {
            *reply = RmiReply::failed(ReturnCode::error_rtt(2));
        }
    });
    assert!(vm.realm.init_ripas(RAM + 0x1000, 0x1000, &NEVER).is_err());
    vm.rmm.host().mangle(|command, reply| {
        if let RmiCommand::RttInitRipas { base, .. } = command {
            *reply = RmiReply::success([*base, 0, 0, 0]);
        }
    });
    assert!(vm.realm.init_ripas(RAM, 0x1000, &NEVER).is_err());
    assert!(vm.rmm.host().take_commands().len() < 32);
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn memory_is_freed_when_a_hole_is_punched_and_not_before_it_is_unmapped() {
    for shift in [12, 14, 16] {
        let vm = Vm::active(shift);
        let blocks = |vm: &Vm| vm.rmm.host().pages();
        let before = blocks(&vm);
        vm.realm.fault_private(&vm.ram(), RAM, &ALWAYS, &ALWAYS).unwrap();
        let mapped = blocks(&vm);
        vm.memfd.punch_hole(0, SIZE);
        assert_eq!(blocks(&vm), mapped, "the realm holds it");
        vm.realm.unmap_private(&vm.ram(), &mut Supply::HostOrReserve, &NEVER, &ALWAYS).unwrap();
        vm.memfd.punch_hole(0, BLOCK_SIZE / 2);
        assert_eq!(blocks(&vm), mapped, "half a block is not freed");
        vm.memfd.punch_hole(0, BLOCK_SIZE);
        assert_eq!(blocks(&vm), before);
        vm.end();
    }
}

#[test]
fn memory_lost_to_a_failed_undelegation_serves_no_fault_again() {
    let vm = Vm::active(12);
    let range = vm.part(0, 0x1000);
    vm.realm.fault_private(&range, RAM, &ALWAYS, &ALWAYS).unwrap();
    vm.rmm.host().inject(|step| matches!(step, Step::Call(RmiCommand::GranuleUndelegate { .. })), 0, 1);
    vm.realm.unmap_private(&range, &mut Supply::HostOrReserve, &NEVER, &ALWAYS).unwrap();
    assert_eq!(
        vm.realm.fault_private(&range, RAM, &ALWAYS, &ALWAYS),
        Err(RealmError::MemoryLost { ipa: RAM })
    );
    assert_eq!(vm.rmm.ledger().snapshot().leaked, 1);
}

#[test]
fn a_file_has_whole_host_pages() {
    let rmm = FakeHost::started(16);
    for size in [0, 0x1000, 0x1_1000, !0xffff] {
        assert_eq!(GuestMemfd::new(rmm.clone(), size).map(|_| ()).unwrap_err().errno(), Errno::EINVAL);
    }
    assert_eq!(GuestMemfd::new(rmm.clone(), 0x1_0000).unwrap().size(), 0x1_0000);
    assert_eq!(rmm.host().page_shift(), 16);
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn vcpus_that_fault_in_different_blocks_do_not_wait_for_each_other() {
    /// Long enough for any machine: only a test that fails waits for it.
    const PATIENCE: core::time::Duration = core::time::Duration::from_secs(60);
    let vm = Vm::active(12);
    std::thread::scope(|threads| {
        let (vm, (done, served)) = (&vm, std::sync::mpsc::channel());
        // A vCPU that is at work in a block, and stays there.
        let busy = vm.realm.tables.blocks.of(super::number(RAM)).lock();
        // A thread takes memory.
        let _pause = heap::Pause::new();
        threads.spawn(move || {
            let fault = vm.realm.fault_private(&vm.ram(), RAM + BLOCK_SIZE, &ALWAYS, &ALWAYS);
            let shared = vm.share(RAM + 2 * BLOCK_SIZE, 0x9_0000_0000, BLOCK_SIZE);
            done.send((fault, shared)).unwrap();
        });
        let outcome = served.recv_timeout(PATIENCE);
        drop(busy);
        assert_eq!(outcome, Ok((Ok(Fault::Mapped), Ok(SharedFault::Mapped))));
    });
    vm.end();
}

#[test]
fn what_the_host_remembers_of_a_block_of_memory_is_small() {
    // As a guest of 8 GiB.
    const BLOCKS: u64 = 4096;
    let rmm = FakeHost::started(12);
    let before = heap::live();
    let memfd = GuestMemfd::new(rmm.clone(), BLOCKS * BLOCK_SIZE).unwrap();
    let range = PrivateRange { memfd: &memfd, offset: 0, ipa: 0, size: memfd.size() };
    for block in 0..BLOCKS {
        range.ensure(block * BLOCK_SIZE).unwrap();
    }
    let each = (heap::live() - before) / BLOCKS;
    assert!(each > 0 && each < 300, "{each} bytes for each 2 MiB");
    drop(memfd);
    assert_eq!((heap::live(), rmm.host().pages()), (before, 0));
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn what_splits_the_ends_of_a_range_is_gathered_before_a_lock_is_taken() {
    let vm = Vm::active(12);
    for block in 0..3 {
        vm.realm.fault_private(&vm.ram(), RAM + block * BLOCK_SIZE, &ALWAYS, &ALWAYS).unwrap();
    }
    let half = BLOCK_SIZE / 2;
    for (base, size, tables) in [
        (RAM, 3 * BLOCK_SIZE, 0),
        (RAM, BLOCK_SIZE + half, 1),
        (RAM + half, BLOCK_SIZE, 2),
        (RAM + 3 * BLOCK_SIZE + half, 0x1000, 0),
    ] {
        let mut stock = vm.realm.stock(base, size);
        assert_eq!(stock.tables(), tables, "{base:#x} {size:#x}");
        vm.realm.put_away(&mut stock);
    }
    vm.end();
}

#[test]
fn memory_of_a_slot_that_went_meanwhile_is_not_taken_through_it() {
    let vm = Vm::active(12);
    let pages = [RAM, RAM + 0x1000, RAM + BLOCK_SIZE];
    for page in pages {
        vm.realm.fault_private(&vm.ram(), page, &ALWAYS, &ALWAYS).unwrap();
    }
    let until_the_first_went = || vm.assigned(RAM);
    vm.realm.unmap_private(&vm.ram(), &mut Supply::HostOrReserve, &NEVER, &until_the_first_went).unwrap();
    assert_eq!(pages.map(|page| vm.assigned(page)), [false, false, true]);
    vm.end();
}

#[test]
fn shared_memory_stays_held_as_long_as_the_realm_reaches_a_part_of_it() {
    let vm = Vm::active(16);
    let fails = |step| match step {
        Step::Call(RmiCommand::RttMapUnprotected { ipa, .. }) => ipa & 0xffff == 0x3000,
        Step::Call(RmiCommand::RttUnmapUnprotected { ipa, .. }) => ipa & 0xffff == 0x1000,
        _ => false,
    };
    let host = vm.rmm.host();
    host.inject(fails, 0, 2);
    let _ = vm.share(RAM, 0x9000_0000, 0x1_0000);
    assert_eq!(host.stop_injecting(), 2);
    assert!(vm.shared(RAM + 0x2000).is_some(), "the realm reaches a part of the page");
    assert_eq!(host.held(), 0x1_0000);
    vm.end();
}
