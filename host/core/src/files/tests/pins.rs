//! What the VMs of a user hold in place, together.

use super::*;
use crate::files::vm::Vm;
use crate::realm::{RealmError, SharedFault, Supply};
use alloc::string::ToString;

const PAGE: u64 = 0x1000;
/// What [`Machine::create_realm`] shares.
const SHARED: u64 = BLOCK_SIZE + PAGE;
/// Where it shares nothing.
const FREE: u64 = RAM + 3 * BLOCK_SIZE;

fn of_user(machine: &Machine, number: u64, user: u32, privileged: bool) -> Process {
    let mut process = machine.process(number);
    process.owner = crate::host::Owner { user, privileged };
    process
}

fn vm(machine: &Machine, fds: &[i64]) -> Arc<Vm<FakeHost>> {
    let File::Vm(vm) = machine.get(fds[0]) else { panic!("it is a VM") };
    vm
}

/// Shares a page of the VMM.
fn share(vm: &Vm<FakeHost>, page: u64) -> Result<SharedFault, RealmError> {
    let ipa = FREE + page * PAGE;
    let pinned = vm.host().hold(0xb_0000_0000 + ipa, PAGE);
    vm.realm.map_shared(ipa, pinned, &ALWAYS)
}

fn unshare(vm: &Vm<FakeHost>) -> Result<(), RealmError> {
    vm.realm.unmap_shared(FREE, BLOCK_SIZE, &mut Supply::HostOrReserve, &|| false)
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn the_vms_of_a_user_share_what_the_user_may_hold() {
    // Room for two realms and three pages.
    let limit = 2 * SHARED + 3 * PAGE;
    let machine = Machine::new(Limits { pinned_by_user: limit, ..Limits::default() });
    let (device, host) = (&machine.device, machine.device.host());
    let processes = [
        of_user(&machine, 1, 1000, false),
        of_user(&machine, 2, 1000, false),
        of_user(&machine, 3, 1001, false),
        of_user(&machine, 4, 1000, true),
    ];
    let fds: Vec<_> = processes[..3].iter().map(|process| machine.create_realm(process)).collect();
    let [one, two, other] = [0, 1, 2].map(|place: usize| vm(&machine, &fds[place]));
    assert_eq!((device.pinned_by(1000), device.pinned_by(1001)), (2 * SHARED, SHARED));

    for (vm, page) in [(&one, 0), (&two, 0), (&two, 1)] {
        assert_eq!(share(vm, page), Ok(SharedFault::Mapped));
    }
    assert_eq!(device.pinned_by(1000), limit);
    for (vm, held) in [(&one, SHARED + PAGE), (&two, SHARED + 2 * PAGE)] {
        let refused = share(vm, 2).unwrap_err();
        assert_eq!((refused, refused.errno()), (RealmError::TooMuchPinnedByUser { limit }, Errno::ENOMEM));
        assert!(refused.to_string().contains("a user may hold in place"), "{refused}");
        assert_eq!((vm.pinned(), device.pinned_by(1000)), (held, limit), "nothing is counted");
    }
    assert_eq!(host.held(), limit + SHARED, "and nothing held");
    // Others have their own.
    assert_eq!(share(&other, 0), Ok(SharedFault::Mapped));
    assert_eq!(device.pinned_by(1001), SHARED + PAGE);

    // What one VM lets go of the other can have.
    assert_eq!(unshare(&one), Ok(()));
    assert_eq!(share(&two, 2), Ok(SharedFault::Mapped));
    // Who is privileged is not limited, but counts.
    let root = machine.create_realm(&processes[3]);
    assert_eq!(device.pinned_by(1000), limit + SHARED);
    assert_eq!(unshare(&two), Ok(()));
    assert!(share(&two, 0).is_err());
    machine.close(&root);
    assert_eq!(share(&two, 0), Ok(SharedFault::Mapped));
    assert_eq!(device.pinned_by(1000), 2 * SHARED + PAGE);

    // A VM that goes leaves all it had to the others.
    drop(one);
    machine.close(&fds[0]);
    let again = machine.create_realm(&processes[0]);
    assert_eq!(device.pinned_by(1000), 2 * SHARED + PAGE);
    drop((two, other));
    machine.close(&[&fds[1][..], &fds[2][..], &again[..]].concat());
    assert_eq!((device.pinned_by(1000), device.pinned_by(1001)), (0, 0));
    machine.assert_nothing_is_left();
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn memory_that_is_not_mapped_after_all_is_not_counted() {
    let machine = Machine::new(Limits::default());
    let (device, host) = (&machine.device, machine.device.host());
    let fds = machine.create_realm(&machine.process(1));
    let realm = vm(&machine, &fds);
    host.inject(|step| matches!(step, Step::Call(RmiCommand::RttMapUnprotected { .. })), 0, 2);
    assert!(share(&realm, 0).is_err());
    host.stop_injecting();
    host.inject(|step| matches!(step, Step::Alloc(_)), 0, u64::MAX);
    assert_eq!(share(&realm, 0), Err(RealmError::NoMemory));
    host.stop_injecting();
    let pinned = host.hold(0xb_0000_0000, PAGE);
    assert_eq!(realm.realm.map_shared(FREE, pinned, &|| false), Ok(SharedFault::Changed));
    assert_eq!((device.pinned_by(1000), host.held()), (SHARED, SHARED));
    assert_eq!(share(&realm, 0), Ok(SharedFault::Mapped));
    assert_eq!(share(&realm, 0), Ok(SharedFault::AlreadyMapped));
    assert_eq!((device.pinned_by(1000), host.held()), (SHARED + PAGE, SHARED + PAGE));
    drop(realm);
    machine.close(&fds);
    machine.assert_nothing_is_left();
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn what_a_vm_holds_is_counted_until_its_realm_is_gone_whatever_is_lost() {
    let machine = Machine::new(Limits { pinned_by_user: SHARED, ..Limits::default() });
    let (device, host) = (&machine.device, machine.device.host());
    let fds = machine.create_realm(&machine.process(1));
    // The RMM unmaps nothing and destroys nothing.
    host.inject(
        |step| {
            let Step::Call(command) = step else { return false };
            matches!(
                command,
                RmiCommand::RttUnmapUnprotected { .. }
                    | RmiCommand::RttDestroy { .. }
                    | RmiCommand::RealmDestroy { .. }
            )
        },
        0,
        u64::MAX,
    );
    machine.close(&fds);
    assert_eq!((device.pinned_by(1000), host.held()), (SHARED, SHARED));
    host.stop_injecting();
    // It destroys, and gives nothing back.
    host.inject(|step| matches!(step, Step::Call(RmiCommand::GranuleUndelegate { .. })), 0, u64::MAX);
    assert_eq!(device.reclaim(), 0);
    host.stop_injecting();
    assert!(device.statistics().ledger.leaked > 0);
    assert_eq!((device.pinned_by(1000), host.held()), (0, 0));
    let fds = machine.create_realm(&machine.process(1));
    assert_eq!(device.pinned_by(1000), SHARED);
    machine.close(&fds);
}

#[test]
fn users_without_vms_are_forgotten() {
    let machine = Machine::new(Limits::default());
    let create = |user| machine.create_vm(&of_user(&machine, u64::from(user), user, false)).unwrap();
    let kept = create(7);
    for user in 1000..1010 {
        let fd = create(user);
        machine.close(&[fd]);
    }
    assert!(machine.device.known_users() <= 3, "{}", machine.device.known_users());
    // Whoever has a VM is known, and the same for all of them.
    let again = create(7);
    assert!(Arc::ptr_eq(
        vm(&machine, &[kept]).realm.pins().of_user(),
        vm(&machine, &[again]).realm.pins().of_user()
    ));
    machine.close(&[kept, again]);
    machine.assert_nothing_is_left();
}
