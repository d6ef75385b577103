//! Several VMMs at once, each with two vCPU threads, whose realms share and unshare memory while the VMM kicks vCPUs,
//! drops memory and dies, and while calls fail at random. In the end everything is accounted for.

mod common;

use common::{RAM, SETTINGS, World, guest};
use realm_abi::psci::PsciCall;
use realm_abi::rmi::{ReturnCode, Ripas};
use realm_abi::rsi::RsiCall;
use realm_machine::config::ClockKind;
use realm_machine::fault::Point;
use realm_machine::log::Event;
use realm_machine::{Guest, MachineConfig};
use realm_vmm::{RealmVm, System};
use std::sync::Mutex;

const RAM_SIZE: u64 = 0x42_0000;
const FREE: u64 = RAM + 0x41_0000;
const UNPROTECTED: u64 = 1 << 32;

/// Shares and unshares pages, uses them and the UART, until it has done enough. What fails is not its concern.
fn realm(guest: &mut Guest) {
    let id = guest.mpidr();
    if id == 0 {
        guest.psci(&PsciCall::CpuOn { smc64: true, target_cpu: 1, entry_point: RAM, context_id: 0 });
    }
    for round in 0..12 {
        let page = FREE + (round * 5 + id * 3) % 16 * 0x1000;
        let ripas = if (round + id).is_multiple_of(2) { Ripas::EMPTY } else { Ripas::RAM };
        let call = RsiCall::IpaStateSet { base: page, top: page + 0x1000, ripas: ripas.0.into(), flags: 1 };
        guest.rsi(&call);
        let _ = guest.write::<u64>(page, round);
        let _ = guest.write::<u64>(page | UNPROTECTED, round);
        let _ = guest.read::<u64>(RAM + 0x20_0000 + round * 0x1000);
        let _ = guest.write::<u8>(UNPROTECTED | 0x100_0000, b'a' + round as u8);
        guest.wfe();
    }
    if id == 0 {
        guest.psci(&PsciCall::SystemOff);
    }
}

/// One VMM's life; how it ends depends on `round`.
fn vmm(world: &World, round: u64) {
    let process = world.process();
    let plan = guest(RAM_SIZE, 2);
    let Ok(vm) = RealmVm::build(&process, &plan, &SETTINGS, &mut ()) else { return };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|id| {
                let vm = &vm;
                scope.spawn(move || {
                    let stop = vm.run_vcpu(id);
                    vm.stop();
                    stop
                })
            })
            .collect();
        let mut looks = 0;
        while threads.iter().any(|thread| !thread.is_finished()) {
            looks += 1;
            match (round + looks) % 5 {
                0 => process.kick(realm_vmm::Fd(5)),
                1 => process.kick(realm_vmm::Fd(6)),
                2 => {
                    // Shared memory the realm may be using: it comes back as zeros.
                    let shared = process.mappings().into_iter().find(|(_, size)| *size == RAM_SIZE);
                    let (addr, _) = shared.expect("RAM's shared side");
                    process.discard(addr + (FREE - RAM), 0x1_0000).expect("it is mapped");
                }
                _ => std::thread::yield_now(),
            }
            if round.is_multiple_of(3) && looks > 20 + round {
                process.exit();
                break;
            }
        }
        for thread in threads {
            let _ended = thread.join().expect("a vCPU thread does not panic");
        }
    });
}

fn storm(faults: &[(Point, u64, u64)]) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock();
    let config = MachineConfig { clock: ClockKind::Real, ..MachineConfig::new(64 << 20, 3) };
    let world = World::new(config);
    world.machine.set_guest(realm);
    for (point, one_in, value) in faults {
        world.machine.faults().fail_one_in(*point, *one_in, *value);
    }
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let world = &world;
            scope.spawn(move || (0..8).for_each(|round| vmm(world, round * 3 + thread)));
        }
    });
    world.machine.faults().disarm();
    assert_eq!(world.device.reclaim(), 0, "a VM cannot be destroyed");
    let bad = |event: &Event| !matches!(event, Event::HostWarning(_));
    let events: Vec<Event> = world.machine.log().events().into_iter().filter(bad).collect();
    assert!(events.is_empty(), "{events:?}");
    let ledger = world.device.statistics().ledger;
    assert_eq!(ledger.held(), 0, "{ledger:?}");
    let missing = world.machine.memory().count(realm_machine::memory::Pas::Realm) as u64;
    assert_eq!((missing, world.device.host().pages_out()), (ledger.leaked, ledger.leaked));
    assert_eq!(world.device.host().pinned(), 0);
    if faults.is_empty() {
        world.assert_all_back();
    }
}

#[test]
fn vmms_that_kick_drop_memory_and_die_leave_nothing_behind() {
    storm(&[]);
}

#[test]
fn vmms_without_memory_leave_nothing_behind() {
    storm(&[(Point::Alloc, 12, 0), (Point::Pin, 9, 12)]);
}

#[test]
fn an_rmm_that_refuses_now_and_then_costs_only_what_is_named() {
    storm(&[(Point::RmiBefore, 150, ReturnCode::ERROR_INPUT.0), (Point::GtsiUndelegate, 200, 5)]);
}
