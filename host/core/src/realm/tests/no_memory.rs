//! Out of memory at any time: pages, and the heap.

use super::*;
use crate::fake::{ON_ALLOC, heap};
use crate::realm::Supply;
use alloc::boxed::Box;

fn is_alloc(step: Step) -> bool {
    matches!(step, Step::Alloc(_))
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn one_failure_at_any_allocation_of_the_heap_loses_nothing() {
    for shift in [12, 16] {
        let mut from = 0;
        loop {
            let rmm = FakeHost::started(shift);
            let vm = Vm::new(&rmm);
            heap::fail(from, 1);
            let outcome = vm.live();
            let failed = heap::stop_failing();
            if failed == 0 {
                assert_eq!(outcome, Ok(()));
            }
            assert_eq!(vm.destroy(), Ok(()), "allocation {from}: {outcome:?}");
            drop(vm);
            assert_eq!((rmm.ledger().snapshot().leaked, rmm.vmids().reserved()), (0, 0));
            assert_eq!((rmm.host().pages(), rmm.host().held(), rmm.host().warnings()), (0, 0, 0));
            if failed == 0 {
                break;
            }
            from += 1;
        }
        assert!(from > 10, "{from} allocations");
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_realm_is_taken_down_without_any_memory_wherever_it_stops() {
    for shift in [12, 14, 16] {
        for from in 0.. {
            let rmm = FakeHost::started(shift);
            let (vm, host) = (Vm::new(&rmm), rmm.host());
            host.inject(is_alloc, from, 1);
            let outcome = vm.live();
            let failed = host.stop_injecting();
            host.inject(is_alloc, 0, u64::MAX);
            heap::fail(0, u64::MAX);
            let destroyed = vm.destroy();
            heap::stop_failing();
            assert_eq!(destroyed, Ok(()), "allocation {from}: {outcome:?}");
            drop(vm);
            assert_eq!((host.pages(), host.held(), host.warnings()), (0, 0, 0));
            if failed == 0 {
                break;
            }
        }
    }
}

/// A realm with many private blocks mapped as one, shared blocks, and some of both split.
fn with_blocks(shift: u32, blocks: u64) -> (Arc<Rmm<FakeHost>>, Realm<FakeHost>, GuestMemfd<FakeHost>) {
    let rmm = FakeHost::started(shift);
    let realm = Realm::new(rmm.clone(), 33, many_pins()).unwrap();
    realm.create(&CPU).unwrap();
    let size = blocks * BLOCK_SIZE;
    realm.init_ripas(RAM, size, &NEVER).unwrap();
    realm.activate().unwrap();
    let memfd = GuestMemfd::new(rmm.clone(), size).unwrap();
    let ram = PrivateRange { memfd: &memfd, offset: 0, ipa: RAM, size };
    for block in 0..blocks {
        let ipa = RAM + block * BLOCK_SIZE;
        realm.fault_private(&ram, ipa, &ALWAYS, &ALWAYS).unwrap();
        let pinned = rmm.host().hold(SHARED + block * BLOCK_SIZE, BLOCK_SIZE);
        assert_eq!(realm.map_shared(ipa, pinned, &ALWAYS), Ok(SharedFault::Mapped));
        if block % 3 == 0 {
            let page = rmm.host().page_size();
            realm.unmap_shared(ipa + 4 * page, 2 * page, &mut Supply::HostOrReserve, &NEVER).unwrap();
            realm
                .unmap_private(
                    &ram.within(ipa + page, ipa + 3 * page).unwrap(),
                    &mut Supply::HostOrReserve,
                    &NEVER,
                    &ALWAYS,
                )
                .unwrap();
        }
    }
    (rmm, realm, memfd)
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn many_folded_blocks_are_taken_down_with_one_granule_in_reserve() {
    for shift in [12, 16] {
        let (rmm, realm, memfd) = with_blocks(shift, 16);
        let host = rmm.host();
        // Nothing more comes from the Host, ever.
        host.inject(is_alloc, 0, u64::MAX);
        heap::fail(0, u64::MAX);
        realm.begin_destroy();
        let shared = realm.unmap_shared(0, u64::MAX, &mut Supply::HostOrReserve, &NEVER);
        let ram = PrivateRange { memfd: &memfd, offset: 0, ipa: RAM, size: memfd.size() };
        let private = realm.unmap_private(&ram, &mut Supply::HostOrReserve, &NEVER, &ALWAYS);
        let destroyed = realm.destroy();
        heap::stop_failing();
        assert_eq!((shared, private, destroyed), (Ok(()), Ok(()), Ok(())));
        drop((realm, memfd));
        assert_eq!((host.pages(), host.held(), host.warnings()), (0, 0, 0));
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn memory_can_be_taken_away_from_a_realm_that_lives_when_the_host_has_none() {
    for shift in [12, 16] {
        let (rmm, realm, memfd) = with_blocks(shift, 8);
        let host = rmm.host();
        let page = host.page_size();
        let ram = PrivateRange { memfd: &memfd, offset: 0, ipa: RAM, size: memfd.size() };
        host.inject(is_alloc, 0, u64::MAX);
        // Block by block: each folded one needs a table, and gives it back when it is empty.
        for block in 0..8 {
            let base = RAM + block * BLOCK_SIZE;
            realm
                .unmap_private(
                    &ram.within(base, base + BLOCK_SIZE).unwrap(),
                    &mut Supply::HostOrReserve,
                    &NEVER,
                    &ALWAYS,
                )
                .unwrap();
            realm.unmap_shared(base + page, page, &mut Supply::HostOrReserve, &NEVER).unwrap();
            realm.unmap_shared(base, BLOCK_SIZE, &mut Supply::HostOrReserve, &NEVER).unwrap();
        }
        // A large page may still have granules for tables.
        assert!(host.stop_injecting() > 0 || shift > 12);
        assert_eq!((realm.phase(), host.held()), (Phase::Active, 0));
        realm.destroy().unwrap();
        drop((realm, memfd));
        FakeHost::assert_all_came_back_or_is_named(&rmm);
        assert_eq!((host.pages(), host.warnings()), (0, 0));
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn allocations_that_fail_at_random_lose_nothing() {
    for seed in 0..24 {
        let rmm = FakeHost::started([12, 14, 16][seed as usize % 3]);
        let (vm, host) = (Vm::new(&rmm), rmm.host());
        host.fail_allocations_at_random(seed, 2 + seed % 5);
        for _ in 0..4 {
            // What is done already fails as such.
            let _ = vm.live();
        }
        vm.destroy().unwrap();
        host.fail_allocations_at_random(0, 0);
        drop(vm);
        assert_eq!((host.pages(), host.held(), host.warnings()), (0, 0, 0), "seed {seed}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn whoever_reclaims_memory_may_use_the_realm() {
    let rmm = FakeHost::started(12);
    let vm = Arc::try_new(Vm::new(&rmm)).unwrap();
    let other = vm.clone();
    // It takes memory away wherever another thread allocates, which needs every lock but those of a vCPU.
    ON_ALLOC.set(Some(Box::new(move || {
        let ram = other.ram();
        other
            .realm
            .unmap_private(
                &ram.within(RAM, RAM + 0x1000).unwrap(),
                &mut Supply::HostOrReserve,
                &NEVER,
                &ALWAYS,
            )
            .unwrap();
        other.realm.unmap_shared(RAM, 0x1000, &mut Supply::HostOrReserve, &NEVER).unwrap();
    })));
    let lived = vm.live();
    drop(ON_ALLOC.take());
    assert_eq!(lived, Ok(()));
    vm.destroy().unwrap();
    drop(vm);
    assert_eq!((rmm.host().pages(), rmm.host().held()), (0, 0));
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_guest_gets_other_memory_for_what_the_rmm_refuses() {
    for shift in [12, 14, 16] {
        let vm = Vm::created(shift);
        let host = vm.rmm.host();
        vm.realm.init_ripas(RAM, RAM_SIZE, &NEVER).unwrap();
        vm.realm.activate().unwrap();
        // A block, aligned, and as much again.
        host.refuse_next(2 * BLOCK_SIZE - 1);
        assert_eq!(vm.realm.fault_private(&vm.ram(), RAM + 0x5000, &ALWAYS, &ALWAYS), Ok(Fault::Mapped));
        let block = usize::try_from(BLOCK_SIZE / host.page_size()).unwrap();
        assert_eq!(host.refused_pages() % block, 0, "whole blocks went back");
        assert!(host.refused_pages() > 0);
        // Only memory that is refused is left.
        host.refuse_next(1 << 40);
        let refused = vm.realm.fault_private(&vm.ram(), RAM + BLOCK_SIZE, &ALWAYS, &ALWAYS).unwrap_err();
        assert_eq!(refused.errno(), Errno::ENXIO);
        assert_eq!(vm.realm.phase(), Phase::Active);
        vm.destroy().unwrap();
        let rmm = vm.rmm.clone();
        drop(vm);
        assert_eq!((rmm.ledger().snapshot().leaked, rmm.host().pages()), (0, 0));
    }
}

#[test]
fn a_realm_that_gets_only_refused_memory_is_not_created() {
    for shift in [12, 14, 16] {
        let vm = Vm::new(&FakeHost::started(shift));
        vm.rmm.host().refuse_next(1 << 40);
        assert_eq!(vm.realm.create(&CPU).unwrap_err().errno(), Errno::ENXIO);
        assert_eq!((vm.realm.phase(), vm.rmm.host().pages(), vm.rmm.vmids().reserved()), (Phase::None, 0, 0));
    }
}

#[test]
fn content_that_lies_in_memory_the_rmm_does_not_read_is_copied() {
    for shift in [12, 16] {
        let vm = Vm::created(shift);
        let host = vm.rmm.host();
        host.refuse_next(2 * host.page_size() - 1);
        let source = host.source_page(0x5a);
        let (mut run, pages) = (PopulateRun::new(), host.pages());
        let populated =
            vm.realm.populate_page(&mut run, &vm.ram(), RAM, source.pa, DataFlags::MEASURE, &ALWAYS);
        assert_eq!(populated, Ok(true));
        let granules = host.page_size() / 0x1000;
        assert_eq!(run.created(), granules);
        let rd = vm.realm.rd().unwrap();
        host.with_rmm(|mini| {
            assert!(mini.is_refused(source.pa));
            for at in (RAM..RAM + host.page_size()).step_by(0x1000) {
                let (_, entry) = mini.realms[&rd].entry(at, 3);
                let crate::fake::Entry::Assigned(pa, Ripas::RAM) = entry else { panic!("{entry:?}") };
                assert_eq!(mini.data[&pa], 0x5a);
            }
        });
        let created: std::vec::Vec<_> = host
            .take_commands()
            .into_iter()
            .filter_map(|command| match command {
                RmiCommand::DataCreate { src, flags, .. } => {
                    Some((src >= source.pa && src < source.pa + host.page_size(), flags))
                }
                _ => None,
            })
            .collect();
        assert!(
            created.iter().all(|(_, flags)| *flags == DataFlags::MEASURE),
            "the RIM is what was asked for"
        );
        assert!(
            created.iter().any(|(in_source, _)| *in_source)
                && created.iter().any(|(in_source, _)| !in_source)
        );
        // The memory of the guest, and what tables take; the copies went back.
        let guest = usize::try_from(BLOCK_SIZE / host.page_size()).unwrap();
        assert!(host.pages() <= pages + guest + 1, "{} pages, {pages} before", host.pages());
        host.free(source);
        vm.destroy().unwrap();
    }
}
