//! The VMM's memory at unprotected addresses.

use super::*;

#[test]
fn shared_memory_is_mapped_at_the_alias_and_held_while_it_is() {
    let vm = Vm::active(12);
    let pa = 0x9_0000_3000;
    assert_eq!(vm.share(RAM + 0x3000, pa, 0x1000), Ok(SharedFault::Mapped));
    assert_eq!(vm.shared(RAM + 0x3000), Some(UnprotectedDesc::normal_rw(pa)));
    assert_eq!((vm.realm.pinned(), vm.rmm.host().held()), (0x1000, 0x1000));
    // Whoever comes second lets go of what it held.
    assert_eq!(vm.share(RAM + 0x3000, pa, 0x1000), Ok(SharedFault::AlreadyMapped));
    assert_eq!(vm.share(RAM + 0x3000, pa + 0x1000, 0x1000), Ok(SharedFault::AlreadyMapped));
    assert_eq!(vm.shared(RAM + 0x3000), Some(UnprotectedDesc::normal_rw(pa)));
    assert_eq!((vm.realm.pinned(), vm.rmm.host().held()), (0x1000, 0x1000));
    vm.realm.unmap_shared(RAM + 0x3000, 0x1000, &mut Supply::HostOrReserve, &NEVER).unwrap();
    assert_eq!((vm.shared(RAM + 0x3000), vm.realm.pinned(), vm.rmm.host().held()), (None, 0, 0));
    vm.end();
}

#[test]
fn host_pages_larger_than_a_granule_are_shared_whole() {
    let vm = Vm::active(16);
    vm.share(RAM, 0x9_0000_0000, 0x1_0000).unwrap();
    for offset in (0..0x1_0000).step_by(0x1000) {
        assert_eq!(vm.shared(RAM + offset), Some(UnprotectedDesc::normal_rw(0x9_0000_0000 + offset)));
    }
    assert_eq!(vm.shared(RAM + 0x1_0000), None);
    vm.end();
}

#[test]
fn a_host_page_that_cannot_be_shared_whole_is_not_shared() {
    for from in [0, 1, 15] {
        let vm = Vm::active(16);
        vm.rmm.host().inject(
            |step| matches!(step, Step::Call(RmiCommand::RttMapUnprotected { .. })),
            from + 1,
            1,
        );
        assert!(vm.share(RAM, 0x9_0000_0000, 0x1_0000).is_err());
        assert_eq!(vm.rmm.host().stop_injecting(), 1);
        assert!((0..0x1_0000).step_by(0x1000).all(|offset| vm.shared(RAM + offset).is_none()));
        assert_eq!((vm.realm.pinned(), vm.rmm.host().held()), (0, 0));
        vm.end();
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn shared_blocks_are_mapped_whole_and_split_when_part_of_them_goes() {
    for shift in [12, 14, 16] {
        let vm = Vm::active(shift);
        let page = vm.rmm.host().page_size();
        let (pa, gone) = (0x9_0000_0000, page..3 * page);
        assert_eq!(vm.share(RAM + page, pa, BLOCK_SIZE), Ok(SharedFault::Mapped));
        assert_eq!((vm.tables(), vm.entry(RAM + ALIAS, 3).0), (0, 2));
        vm.realm
            .unmap_shared(RAM + gone.start, gone.end - gone.start, &mut Supply::HostOrReserve, &NEVER)
            .unwrap();
        for at in (0..BLOCK_SIZE).step_by(0x1000) {
            let expected = (!gone.contains(&at)).then_some(UnprotectedDesc::normal_rw(pa + at));
            assert_eq!(vm.shared(RAM + at), expected, "{at:#x}");
        }
        let rest = BLOCK_SIZE - 2 * page;
        assert_eq!((vm.realm.pinned(), vm.rmm.host().held()), (rest, rest));
        vm.end();
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_block_that_cannot_be_split_goes_as_a_whole() {
    let pa = 0x9_0000_0000;
    for (neighbour, from) in [(false, 0x5000), (true, BLOCK_SIZE - 0x1000)] {
        let vm = Vm::active(12);
        vm.share(RAM, pa, BLOCK_SIZE).unwrap();
        vm.share(RAM + BLOCK_SIZE, pa + BLOCK_SIZE, BLOCK_SIZE).unwrap();
        // The reserve is what a table is made of when the Host has no memory; somebody else has it.
        let reserve = vm.realm.tables.reserve.lock().take().unwrap();
        vm.rmm.host().inject(|step| matches!(step, Step::Alloc(_)), 0, u64::MAX);
        vm.realm.unmap_shared(RAM + from, 0x2000, &mut Supply::HostOrReserve, &NEVER).unwrap();
        assert!(vm.rmm.host().stop_injecting() > 0);
        assert_eq!(vm.shared(RAM), None);
        assert_eq!(vm.shared(RAM + BLOCK_SIZE).is_none(), neighbour, "a block nobody asked for stays");
        vm.realm.unmap_shared(0, u64::MAX, &mut Supply::HostOrReserve, &NEVER).unwrap();
        // A fault brings it back.
        assert_eq!(vm.share(RAM, pa, BLOCK_SIZE), Ok(SharedFault::Mapped));
        vm.realm.unmap_shared(0, u64::MAX, &mut Supply::HostOrReserve, &NEVER).unwrap();
        assert!(vm.rmm.give_back(reserve));
        vm.end();
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_split_that_the_rmm_refuses_can_be_tried_again() {
    let faults: [fn(Step) -> bool; 2] = [
        |step| matches!(step, Step::Call(RmiCommand::GranuleDelegate { .. })),
        |step| matches!(step, Step::Call(RmiCommand::RttCreate { .. })),
    ];
    for fault in faults {
        let vm = Vm::active(12);
        vm.share(RAM, 0x9_0000_0000, BLOCK_SIZE).unwrap();
        vm.rmm.host().inject(fault, 0, u64::MAX);
        // The reserve needs no delegation.
        let first = vm.realm.unmap_shared(RAM + 0x5000, 0x2000, &mut Supply::HostOrReserve, &NEVER);
        assert!(vm.rmm.host().stop_injecting() > 0);
        if first.is_err() {
            assert_eq!((vm.shared(RAM + 0x5000).is_some(), vm.rmm.host().held()), (true, BLOCK_SIZE));
            vm.realm.unmap_shared(RAM + 0x5000, 0x2000, &mut Supply::HostOrReserve, &NEVER).unwrap();
        }
        assert_eq!((vm.shared(RAM + 0x5000), vm.rmm.host().held()), (None, BLOCK_SIZE - 0x2000));
        vm.end();
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_block_is_shared_as_one_only_where_nothing_is_shared_yet() {
    let vm = Vm::active(12);
    let pa = 0x9_0000_0000;
    assert!(vm.realm.shares_nothing_around(RAM + 0x7000));
    vm.share(RAM + 0x1000, pa + 0x1000, 0x1000).unwrap();
    assert!(!vm.realm.shares_nothing_around(RAM + 0x7000));
    assert_eq!(vm.share(RAM, pa, BLOCK_SIZE), Ok(SharedFault::NotAsBlock));
    assert_eq!((vm.shared(RAM), vm.rmm.host().held()), (None, 0x1000));
    // The empty table that is left when its page goes is in nobody's way.
    vm.realm.unmap_shared(RAM, BLOCK_SIZE, &mut Supply::HostOrReserve, &NEVER).unwrap();
    assert_eq!(vm.share(RAM, pa, BLOCK_SIZE), Ok(SharedFault::Mapped));
    assert_eq!((vm.entry(RAM + ALIAS, 3).0, vm.tables()), (2, 0));
    // In a block that is mapped everything is.
    assert_eq!(vm.share(RAM + 0x1000, pa, 0x1000), Ok(SharedFault::AlreadyMapped));
    vm.end();
}

#[test]
fn an_empty_table_that_cannot_be_folded_keeps_a_block_out() {
    let vm = Vm::new(12);
    // Before activation a table stays when its last page goes.
    vm.share(RAM + 0x1000, 0xa_0000_0000, 0x1000).unwrap();
    vm.realm.unmap_shared(RAM, BLOCK_SIZE, &mut Supply::HostOrReserve, &NEVER).unwrap();
    assert_eq!(vm.tables(), 1);
    vm.rmm.host().inject(|step| matches!(step, Step::Call(RmiCommand::RttFold { .. })), 0, u64::MAX);
    assert_eq!(vm.share(RAM, 0x9_0000_0000, BLOCK_SIZE), Ok(SharedFault::NotAsBlock));
    assert!(vm.rmm.host().stop_injecting() > 0);
    assert_eq!((vm.shared(RAM), vm.rmm.host().held()), (None, 0));
    assert_eq!(vm.share(RAM, 0x9_0000_0000, 0x1000), Ok(SharedFault::Mapped));
    assert_eq!(
        (vm.shared(RAM), vm.entry(RAM + ALIAS, 3).0),
        (Some(UnprotectedDesc::normal_rw(0x9_0000_0000)), 3)
    );
    vm.end();
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_realm_that_is_destroyed_holds_nothing_in_place() {
    for size in [0x1000, BLOCK_SIZE] {
        let vm = Vm::active(12);
        vm.share(RAM, 0x9_0000_0000, size).unwrap();
        vm.rmm.host().inject(
            |step| matches!(step, Step::Call(RmiCommand::RttUnmapUnprotected { .. })),
            0,
            u64::MAX,
        );
        assert!(vm.realm.unmap_shared(0, u64::MAX, &mut Supply::HostOrReserve, &NEVER).is_err());
        assert_eq!((vm.realm.pinned(), vm.rmm.host().held()), (size, size));
        // It goes with its table, or with the realm.
        vm.realm.destroy().unwrap();
        assert_eq!((vm.realm.pinned(), vm.rmm.host().held()), (0, 0));
    }
}

#[test]
fn a_realm_shares_no_more_than_its_vm_may_hold() {
    let vm = Vm::with_limit(12, 3 * 0x1000);
    for page in 0..3 {
        assert_eq!(
            vm.share(RAM + page * 0x1000, 0x9_0000_0000 + page * 0x1000, 0x1000),
            Ok(SharedFault::Mapped)
        );
    }
    let refused = vm.share(RAM + 0x5000, 0x9_0000_5000, 0x1000).unwrap_err();
    assert_eq!((refused, refused.errno()), (RealmError::TooMuchPinned { limit: 0x3000 }, Errno::ENOMEM));
    assert!(vm.share(RAM + BLOCK_SIZE, 0xa_0000_0000, BLOCK_SIZE).is_err());
    assert_eq!((vm.shared(RAM + 0x5000), vm.realm.pinned(), vm.rmm.host().held()), (None, 0x3000, 0x3000));
    // What comes second counts once; and what goes makes room.
    assert!(vm.realm.unmap_shared(RAM, 0x1000, &mut Supply::HostOrReserve, &NEVER).is_ok());
    assert_eq!(vm.share(RAM + 0x1000, 0x9_0000_1000, 0x1000), Ok(SharedFault::AlreadyMapped));
    assert_eq!(vm.share(RAM + 0x5000, 0x9_0000_5000, 0x1000), Ok(SharedFault::Mapped));
    vm.end();
}

#[test]
fn unmapping_the_whole_shared_half_reaches_its_last_granule_and_skips_holes() {
    let vm = Vm::active(12);
    let last = ALIAS - 0x1000;
    for ipa in [0, RAM, last] {
        vm.share(ipa, 0x9_0000_0000, 0x1000).unwrap();
    }
    vm.rmm.host().take_commands();
    vm.realm.unmap_shared(0, u64::MAX, &mut Supply::HostOrReserve, &NEVER).unwrap();
    for ipa in [0, RAM, last] {
        assert_eq!(vm.shared(ipa), None, "{ipa:#x}");
    }
    assert!(vm.rmm.host().take_commands().len() < 64, "4 GiB with three granules in it take few commands");
    vm.end();
}
