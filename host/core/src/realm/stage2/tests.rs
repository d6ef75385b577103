//! What the tables of a realm look like after what the Host did.

use crate::error::RealmError;
use crate::fake::{Entry, FakeHost, Step};
use crate::memory::guest_memfd::{GuestMemfd, PrivateRange};
use crate::realm::ipa::BLOCK_SIZE;
use crate::realm::{CpuParams, Fault, Realm, SharedPage};
use crate::rmm::Rmm;
use crate::rmm::rmi::Failure;
use crate::{Errno, Host};
use alloc::sync::Arc;
use alloc::vec::Vec;
use realm_abi::rmi::{ReturnCode, Ripas, RmiCommand, RmiReply, UnprotectedDesc};

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
        vm.realm.init_ripas(RAM, SIZE).unwrap();
        vm.realm.activate().unwrap();
        vm.rmm.host().take_commands();
        vm
    }

    fn new(page_shift: u32) -> Self {
        let rmm = FakeHost::started(page_shift);
        let realm = Realm::new(rmm.clone(), 33).unwrap();
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

    fn tables(&self) -> usize {
        let rd = self.realm.rd().unwrap();
        self.rmm.host().with_rmm(|mini| mini.realms[&rd].tables.len() - 1)
    }

    fn end(self) {
        self.realm.unmap_shared(0, u64::MAX).unwrap();
        self.realm.unmap_private(&self.ram()).unwrap();
        self.realm.destroy().unwrap();
        let rmm = self.rmm.clone();
        drop(self);
        assert_eq!((rmm.ledger().snapshot().leaked, rmm.host().pages()), (0, 0));
    }
}

fn page(ipa: u64, pa: u64, size: u64) -> SharedPage {
    SharedPage { ipa, pa, size, with_block: false, writable: true }
}

fn with_block(ipa: u64, pa: u64) -> SharedPage {
    SharedPage { with_block: true, ..page(ipa, pa, 0x1000) }
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
    vm.realm.init_ripas(RAM, SIZE).unwrap();
    assert_eq!((vm.tables(), vm.measured()), (0, 1 + 4));
    assert_eq!(names(&vm.rmm.host().take_commands()), ["RMI_RTT_INIT_RIPAS"]);
    // A head and a tail that are not aligned need one table each.
    let start = RAM + SIZE + BLOCK_SIZE - 0x2000;
    vm.realm.init_ripas(start, 0x2000 + BLOCK_SIZE + 0x3000).unwrap();
    assert_eq!((vm.tables(), vm.measured()), (2, 5 + 2 + 1 + 3));
    assert_eq!(vm.entry(start + 0x2000, 3), (2, Entry::Unassigned(Ripas::RAM)));
    vm.end();
}

#[test]
fn a_table_that_exists_already_costs_no_granule() {
    let vm = Vm::active(12);
    vm.realm.fault_private(&vm.part(0, 0x2000), RAM).unwrap();
    assert_eq!(vm.tables(), 1);
    let held = vm.rmm.ledger().snapshot().held();
    // The first DATA_CREATE_UNKNOWN seems to miss the table, so that the Host tries to create it again.
    let mut lies = 1;
    vm.rmm.host().mangle(move |command, reply| {
        if matches!(command, RmiCommand::DataCreateUnknown { .. }) && lies > 0 {
            lies -= 1;
            *reply = RmiReply::failed(ReturnCode::error_rtt(2));
        }
    });
    // The RMM did create the data the first time, so the repetition is refused; but the spare table came back.
    let refused = vm.realm.fault_private(&vm.part(0, 0x2000), RAM + 0x1000).unwrap_err();
    assert!(matches!(refused, RealmError::Rmi(_)));
    assert_eq!(vm.tables(), 1);
    let now = vm.rmm.ledger().snapshot();
    assert_eq!(
        (now.held(), now.leaked),
        (held, 1),
        "the data granule the RMM kept is named, the table is not lost"
    );
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_fault_in_untouched_memory_maps_and_folds_its_whole_block() {
    for shift in [12, 14, 16] {
        let vm = Vm::active(shift);
        let fault = vm.realm.fault_private(&vm.ram(), RAM + BLOCK_SIZE + 0x7123);
        assert_eq!(fault, Ok(Fault::Mapped { base: RAM + BLOCK_SIZE, size: BLOCK_SIZE }));
        assert!(matches!(vm.entry(RAM + BLOCK_SIZE, 3), (2, Entry::Assigned(..))));
        assert_eq!(vm.tables(), 0);
        assert_eq!(vm.realm.fault_private(&vm.ram(), RAM + BLOCK_SIZE), Ok(Fault::AlreadyMapped));
        vm.end();
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_fault_maps_one_granule_where_a_block_is_not_possible() {
    let granule = |ipa| Ok(Fault::Mapped { base: ipa, size: 0x1000 });
    // Not active.
    let vm = Vm::new(12);
    assert_eq!(vm.realm.fault_private(&vm.ram(), RAM), granule(RAM));
    vm.end();
    // Not wholly private.
    let vm = Vm::active(12);
    assert_eq!(vm.realm.fault_private(&vm.part(0, BLOCK_SIZE - 0x1000), RAM), granule(RAM));
    // Touched before.
    assert_eq!(vm.realm.fault_private(&vm.ram(), RAM + 0x1000), granule(RAM + 0x1000));
    vm.end();
    // Memory not contiguous.
    for shift in [12, 14, 16] {
        let vm = Vm::active(shift);
        vm.rmm.host().limit_allocations(1);
        assert_eq!(vm.realm.fault_private(&vm.ram(), RAM + 0x5000), granule(RAM + 0x5000));
        vm.end();
    }
    // The file is not aligned as the addresses are.
    let vm = Vm::active(12);
    let range = PrivateRange { memfd: &vm.memfd, offset: 0x1000, ipa: RAM, size: SIZE - 0x1000 };
    assert_eq!(vm.realm.fault_private(&range, RAM + BLOCK_SIZE - 0x1000), granule(RAM + BLOCK_SIZE - 0x1000));
    vm.realm.unmap_private(&range).unwrap();
    vm.end();
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn the_granule_that_completes_a_block_folds_it() {
    let vm = Vm::active(12);
    for page in (0..512).rev() {
        let at = page * 0x1000;
        assert_eq!(vm.entry(RAM, 3).0, if at + 0x1000 == BLOCK_SIZE { 2 } else { 3 });
        vm.realm.fault_private(&vm.part(at, at + 0x1000), RAM + at).unwrap();
    }
    assert!(matches!(vm.entry(RAM, 3), (2, Entry::Assigned(..))));
    vm.end();
}

#[test]
fn a_block_that_fails_in_the_middle_keeps_what_is_mapped() {
    let vm = Vm::active(12);
    vm.rmm.host().inject(|step| matches!(step, Step::Call(RmiCommand::GranuleDelegate { .. })), 100, 1);
    let fault = vm.realm.fault_private(&vm.ram(), RAM + 0x2000).unwrap();
    assert!(matches!(fault, Fault::Mapped { base: RAM, size } if size < BLOCK_SIZE));
    assert!(vm.assigned(RAM + 0x2000) && !vm.assigned(RAM + BLOCK_SIZE - 0x1000));
    let last = RAM + BLOCK_SIZE - 0x1000;
    assert_eq!(vm.realm.fault_private(&vm.ram(), last), Ok(Fault::Mapped { base: last, size: 0x1000 }));
    vm.end();
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn taking_part_of_a_block_splits_it() {
    let vm = Vm::active(12);
    vm.realm.fault_private(&vm.ram(), RAM).unwrap();
    vm.realm.unmap_private(&vm.part(0x4000, 0x6000)).unwrap();
    for at in (0..BLOCK_SIZE).step_by(0x1000) {
        assert_eq!(vm.assigned(RAM + at), !(0x4000..0x6000).contains(&at), "{at:#x}");
    }
    assert_eq!(vm.entry(RAM + 0x4000, 3), (3, Entry::Unassigned(Ripas::DESTROYED)));
    // The memory came back to the file and serves the next fault.
    assert_eq!(
        vm.realm.fault_private(&vm.ram(), RAM + 0x4000),
        Ok(Fault::Mapped { base: RAM + 0x4000, size: 0x1000 })
    );
    vm.end();
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_block_that_is_taken_whole_leaves_no_table() {
    let vm = Vm::active(12);
    vm.realm.fault_private(&vm.ram(), RAM).unwrap();
    vm.realm.unmap_private(&vm.part(0, BLOCK_SIZE)).unwrap();
    assert_eq!((vm.tables(), vm.entry(RAM, 3)), (0, (2, Entry::Unassigned(Ripas::DESTROYED))));
    vm.end();
}

#[test]
fn unmapping_what_was_never_mapped_asks_the_rmm_nothing() {
    let vm = Vm::active(12);
    vm.realm.unmap_private(&vm.ram()).unwrap();
    assert_eq!(vm.rmm.host().take_commands(), []);
    vm.end();
}

#[test]
fn shared_memory_is_mapped_at_the_alias_with_the_access_it_has() {
    let vm = Vm::active(12);
    let pa = 0x9_0000_3000;
    vm.realm.map_shared(&page(RAM + 0x3000, pa, 0x1000)).unwrap();
    assert_eq!(vm.shared(RAM + 0x3000), Some(UnprotectedDesc::normal_rw(pa)));
    // The same again replaces it, here with less access and then at another address.
    vm.realm.map_shared(&SharedPage { writable: false, ..page(RAM + 0x3000, pa, 0x1000) }).unwrap();
    let read_only = UnprotectedDesc(UnprotectedDesc::normal_rw(pa).0 & !UnprotectedDesc::WRITE);
    assert_eq!(vm.shared(RAM + 0x3000), Some(read_only));
    vm.realm.map_shared(&page(RAM + 0x3000, pa + 0x1000, 0x1000)).unwrap();
    assert_eq!(vm.shared(RAM + 0x3000), Some(UnprotectedDesc::normal_rw(pa + 0x1000)));
    vm.realm.unmap_shared(RAM + 0x3000, 0x1000).unwrap();
    assert_eq!(vm.shared(RAM + 0x3000), None);
    vm.end();
}

#[test]
fn host_pages_larger_than_a_granule_are_shared_whole() {
    let vm = Vm::active(16);
    vm.realm.map_shared(&page(RAM, 0x9_0000_0000, 0x1_0000)).unwrap();
    for offset in (0..0x1_0000).step_by(0x1000) {
        assert_eq!(vm.shared(RAM + offset), Some(UnprotectedDesc::normal_rw(0x9_0000_0000 + offset)));
    }
    assert_eq!(vm.shared(RAM + 0x1_0000), None);
    vm.end();
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn shared_blocks_are_mapped_whole_and_split_when_part_of_them_goes() {
    let vm = Vm::active(12);
    let pa = 0x9_0000_0000;
    vm.realm.map_shared(&with_block(RAM + 0x7000, pa + 0x7000)).unwrap();
    assert_eq!((vm.tables(), vm.entry(RAM + ALIAS, 3).0), (0, 2));
    vm.realm.unmap_shared(RAM + 0x5000, 0x2000).unwrap();
    for at in (0..BLOCK_SIZE).step_by(0x1000) {
        let expected = (!(0x5000..0x7000).contains(&at)).then_some(UnprotectedDesc::normal_rw(pa + at));
        assert_eq!(vm.shared(RAM + at), expected, "{at:#x}");
    }
    // Mapping one granule over a block splits it too.
    vm.realm.map_shared(&with_block(RAM + BLOCK_SIZE, pa)).unwrap();
    vm.realm.map_shared(&page(RAM + BLOCK_SIZE + 0x1000, 0xa_0000_0000, 0x1000)).unwrap();
    assert_eq!(vm.shared(RAM + BLOCK_SIZE + 0x1000), Some(UnprotectedDesc::normal_rw(0xa_0000_0000)));
    assert_eq!(vm.shared(RAM + BLOCK_SIZE + 0x2000), Some(UnprotectedDesc::normal_rw(pa + 0x2000)));
    vm.end();
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_block_that_cannot_be_split_goes_as_a_whole() {
    let faults: [fn(Step) -> bool; 3] = [
        |step| matches!(step, Step::Alloc(_)),
        |step| matches!(step, Step::Call(RmiCommand::GranuleDelegate { .. })),
        |step| matches!(step, Step::Call(RmiCommand::RttCreate { .. })),
    ];
    for (fault, neighbour) in faults.into_iter().flat_map(|fault| [(fault, false), (fault, true)]) {
        let vm = Vm::active(12);
        let pa = 0x9_0000_0000;
        vm.realm.map_shared(&with_block(RAM, pa)).unwrap();
        vm.realm.map_shared(&with_block(RAM + BLOCK_SIZE, pa + BLOCK_SIZE)).unwrap();
        vm.rmm.host().inject(fault, 0, u64::MAX);
        let from = if neighbour { BLOCK_SIZE - 0x1000 } else { 0x5000 };
        vm.realm.unmap_shared(RAM + from, 0x2000).unwrap();
        assert!(vm.rmm.host().stop_injecting() > 0);
        assert_eq!(vm.shared(RAM), None);
        assert_eq!(vm.shared(RAM + BLOCK_SIZE).is_none(), neighbour, "a block nobody asked for stays");
        // A fault brings it back.
        vm.realm.map_shared(&with_block(RAM + 0x1000, pa + 0x1000)).unwrap();
        assert_eq!(vm.shared(RAM), Some(UnprotectedDesc::normal_rw(pa)));
        vm.end();
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_block_takes_the_place_of_what_is_in_its_way() {
    let vm = Vm::active(12);
    let pa = 0x9_0000_0000;
    let is_block = || {
        let desc = vm.shared(RAM + 0x1000);
        (vm.entry(RAM + ALIAS, 3).0, desc) == (2, Some(UnprotectedDesc::normal_rw(pa + 0x1000)))
    };
    // Other memory, and holes.
    vm.realm.map_shared(&page(RAM + 0x1000, 0xa_0000_0000, 0x1000)).unwrap();
    vm.realm.map_shared(&with_block(RAM, pa)).unwrap();
    assert!(is_block() && vm.tables() == 0);
    // Itself, all but a page: nothing else is touched.
    vm.realm.unmap_shared(RAM + 0x5000, 0x1000).unwrap();
    vm.rmm.host().take_commands();
    vm.realm.map_shared(&with_block(RAM + 0x5000, pa + 0x5000)).unwrap();
    assert_eq!(
        names(&vm.rmm.host().take_commands())[..3],
        ["RMI_RTT_FOLD", "RMI_RTT_MAP_UNPROTECTED", "RMI_RTT_FOLD"]
    );
    assert!(is_block() && vm.tables() == 0);
    // An empty table.
    vm.realm.unmap_shared(RAM, 0x1000).unwrap();
    vm.realm.unmap_shared(RAM + 0x1000, BLOCK_SIZE - 0x1000).unwrap();
    vm.realm.map_shared(&with_block(RAM, pa)).unwrap();
    assert!(is_block() && vm.tables() == 0);
    // Another block.
    vm.realm.map_shared(&with_block(RAM, 0xa_0000_0000)).unwrap();
    vm.realm.map_shared(&with_block(RAM + 0x3000, pa + 0x3000)).unwrap();
    assert!(is_block());
    vm.end();
}

#[test]
fn a_table_that_cannot_be_folded_keeps_its_pages() {
    let vm = Vm::active(12);
    vm.realm.map_shared(&page(RAM + 0x1000, 0xa_0000_0000, 0x1000)).unwrap();
    vm.rmm.host().inject(|step| matches!(step, Step::Call(RmiCommand::RttFold { .. })), 0, u64::MAX);
    vm.realm.map_shared(&with_block(RAM, 0x9_0000_0000)).unwrap();
    vm.rmm.host().stop_injecting();
    assert_eq!(vm.shared(RAM), Some(UnprotectedDesc::normal_rw(0x9_0000_0000)));
    assert_eq!(vm.entry(RAM + ALIAS, 3).0, 3);
    vm.end();
}

#[test]
fn unmapping_the_whole_shared_half_reaches_its_last_granule_and_skips_holes() {
    let vm = Vm::active(12);
    let last = ALIAS - 0x1000;
    for ipa in [0, RAM, last] {
        vm.realm.map_shared(&page(ipa, 0x9_0000_0000, 0x1000)).unwrap();
    }
    vm.rmm.host().take_commands();
    vm.realm.unmap_shared(0, u64::MAX).unwrap();
    for ipa in [0, RAM, last] {
        assert_eq!(vm.shared(ipa), None, "{ipa:#x}");
    }
    assert!(vm.rmm.host().take_commands().len() < 64, "4 GiB with three granules in it take few commands");
    vm.end();
}

#[test]
fn an_rmm_that_returns_foreign_memory_is_not_believed() {
    let vm = Vm::active(12);
    vm.realm.fault_private(&vm.part(0, 0x1000), RAM).unwrap();
    vm.rmm.host().mangle(|command, reply| {
        if matches!(command, RmiCommand::DataDestroy { .. }) {
            reply.out[0] = 0xdead_0000;
        }
    });
    let refused = vm.realm.unmap_private(&vm.ram()).unwrap_err();
    assert_eq!(refused.errno(), Errno::ENXIO);
    assert!(matches!(refused, RealmError::Rmi(error) if matches!(error.failure, Failure::Implausible(_))));
    let commands = vm.rmm.host().take_commands();
    assert!(
        !commands
            .iter()
            .any(|command| matches!(command, RmiCommand::GranuleUndelegate { addr: 0xdead_0000 }))
    );
}

#[test]
fn an_rmm_that_returns_another_table_is_not_believed() {
    let vm = Vm::active(12);
    vm.realm.fault_private(&vm.part(0, 0x1000), RAM).unwrap();
    vm.realm.unmap_private(&vm.ram()).unwrap();
    vm.realm.map_shared(&page(0, 0x9_0000_0000, 0x1000)).unwrap();
    vm.rmm.host().mangle(|command, reply| {
        if matches!(command, RmiCommand::RttDestroy { .. } | RmiCommand::RttFold { .. }) {
            reply.out[0] = 0xdead_0000;
        }
    });
    assert!(vm.realm.destroy().is_err());
    assert_eq!(vm.rmm.ledger().snapshot().leaked, 1);
    assert!(vm.realm.destroy().is_ok() || vm.realm.destroy().is_ok(), "the rest can still be destroyed");
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
        vm.rmm.host().mangle(lie);
        assert!(vm.realm.unmap_shared(0, u64::MAX).is_err());
        assert!(vm.rmm.host().take_commands().len() < 32);
    }
    let vm = Vm::new(12);
    vm.rmm.host().mangle(|command, reply| {
        if matches!(command, RmiCommand::RttInitRipas { .. }) {
            *reply = RmiReply::failed(ReturnCode::error_rtt(2));
        }
    });
    assert!(vm.realm.init_ripas(RAM + 0x1000, 0x1000).is_err());
    vm.rmm.host().mangle(|command, reply| {
        if let RmiCommand::RttInitRipas { base, .. } = command {
            *reply = RmiReply::success([*base, 0, 0, 0]);
        }
    });
    assert!(vm.realm.init_ripas(RAM, 0x1000).is_err());
    assert!(vm.rmm.host().take_commands().len() < 32);
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn memory_is_freed_when_a_hole_is_punched_and_not_before_it_is_unmapped() {
    for shift in [12, 14, 16] {
        let vm = Vm::active(shift);
        let blocks = |vm: &Vm| vm.rmm.host().pages();
        let before = blocks(&vm);
        vm.realm.fault_private(&vm.ram(), RAM).unwrap();
        let mapped = blocks(&vm);
        vm.memfd.punch_hole(0, SIZE);
        assert_eq!(blocks(&vm), mapped, "the realm holds it");
        vm.realm.unmap_private(&vm.ram()).unwrap();
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
    vm.realm.fault_private(&range, RAM).unwrap();
    vm.rmm.host().inject(|step| matches!(step, Step::Call(RmiCommand::GranuleUndelegate { .. })), 0, 1);
    vm.realm.unmap_private(&range).unwrap();
    assert_eq!(vm.realm.fault_private(&range, RAM), Err(RealmError::MemoryLost { ipa: RAM }));
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
