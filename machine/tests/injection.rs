//! A failure at every step in turn: afterwards either everything is back, or the ledger names exactly what is not.

mod common;

use common::{RAM, SETTINGS, World, guest};
use realm_abi::psci::PsciCall;
use realm_abi::rmi::{ReturnCode, Ripas};
use realm_abi::rsi::RsiCall;
use realm_host::Errno;
use realm_machine::config::{ClockKind, DRAM_BASE};
use realm_machine::fault::Point;
use realm_machine::log::Event;
use realm_machine::memory::Pas;
use realm_machine::{Guest, MachineConfig, Process};
use realm_vmm::{RealmVm, Stop, VmError};
use std::collections::BTreeSet;

/// Three blocks, the last with room for little more than the device tree, so that one fault brings few pages.
const RAM_SIZE: u64 = 0x42_0000;
const FREE: u64 = RAM + 0x41_4000;
const IPA_BITS: u8 = 33;
const UNPROTECTED: u64 = 1 << (IPA_BITS - 1);
const UART: u64 = UNPROTECTED | 0x100_0000;
const DRAM_SIZE: u64 = 16 << 20;

/// What the realm does; whether each call succeeds is not its concern here.
fn realm(guest: &mut Guest) {
    let set = |guest: &mut Guest, ripas: Ripas| {
        let call = RsiCall::IpaStateSet { base: FREE, top: FREE + 0x2000, ripas: ripas.0.into(), flags: 1 };
        guest.rsi(&call)
    };
    let _ = guest.write::<u64>(FREE, 1);
    let _ = guest.write::<u8>(UART, b'.');
    set(guest, Ripas::EMPTY);
    let _ = guest.write::<u64>(FREE | UNPROTECTED, 2);
    set(guest, Ripas::RAM);
    let _ = guest.write::<u64>(FREE, 3);
    guest.psci(&PsciCall::CpuOn { smc64: true, target_cpu: 1, entry_point: RAM, context_id: 0 });
    guest.psci(&PsciCall::AffinityInfo { smc64: true, target_affinity: 1, lowest_affinity_level: 0 });
    guest.rsi(&RsiCall::HostCall { addr: FREE + 0x100 });
}

fn life(process: &Process) -> Result<Stop, VmError> {
    let plan = guest(RAM_SIZE, 2);
    let vm = RealmVm::build(process, &plan, &SETTINGS, &mut ())?;
    let stop = vm.run_vcpu(0);
    vm.destroy(&mut ())?;
    stop
}

fn world() -> World {
    let world = World::new(MachineConfig { clock: ClockKind::Manual, ..MachineConfig::new(DRAM_SIZE, 2) });
    world.machine.set_guest(realm);
    // Start-up is not part of what fails.
    world.machine.faults().reset();
    world
}

/// Lives a life without failures and tells how often each kind of call is made.
fn counts(points: &[Point]) -> Vec<u64> {
    let world = world();
    let process = world.process();
    let stop = life(&process);
    assert!(
        matches!(stop, Ok(Stop::Event(_))),
        "{stop:?}\n{}",
        world.device.host().explanations().join("\n")
    );
    drop(process);
    world.assert_all_back();
    points.iter().map(|point| world.machine.faults().count(*point)).collect()
}

/// Asserts that what is missing is what the ledger names, and that the machine saw nothing it must not see.
fn assert_accounted(world: &World, what: &str) {
    let bad: Vec<Event> = world
        .machine
        .log()
        .events()
        .into_iter()
        // An administrator may be told of a granule that is lost.
        .filter(|event| !matches!(event, Event::HostWarning(_)))
        .collect();
    assert!(bad.is_empty(), "{what}: {bad:?}");
    assert_eq!(world.device.reclaim(), 0, "{what}: a VM cannot be destroyed");
    let ledger = world.device.statistics().ledger;
    let losses: BTreeSet<u64> = world.device.rmm().ledger().losses().iter().map(|loss| loss.pa).collect();
    let memory = world.machine.memory();
    let missing: BTreeSet<u64> = (DRAM_BASE..DRAM_BASE + memory.size())
        .step_by(0x1000)
        .filter(|pa| memory.pas(*pa) != Some(Pas::NonSecure))
        .collect();
    assert_eq!(missing, losses, "{what}: missing and named");
    assert_eq!(ledger.leaked, losses.len() as u64, "{what}: counted");
    assert_eq!(ledger.held(), 0, "{what}: {ledger:?}");
    assert_eq!(world.device.host().pages_out(), losses.len() as u64, "{what}: pages out");
    assert_eq!(world.device.host().pinned(), 0, "{what}: pins");
    if !losses.is_empty() {
        let told = world.machine.log().events().iter().any(|event| matches!(event, Event::HostWarning(_)));
        assert!(told, "{what}: nobody was told of {losses:x?}");
    }
}

/// Makes the n-th call at `point` fail with each of `values`, for every n there is.
fn walk(point: Point, values: &[u64]) {
    let count = counts(&[point])[0];
    assert!(count > 0, "{point:?} is never reached");
    for nth in 0..count {
        for value in values {
            let world = world();
            world.machine.faults().fail_nth(point, nth, *value);
            let process = world.process();
            let result = life(&process);
            drop(process);
            assert_eq!(world.machine.faults().fired(), 1, "{point:?} {nth} of {count}");
            world.machine.faults().disarm();
            let explained = world.device.host().explanations().join("\n  ");
            let what =
                format!("{point:?} {nth} of {count} fails with {value:#x}: {result:?}\n  {explained}\n");
            assert_accounted(&world, &what);
        }
    }
}

#[test]
fn any_allocation_may_fail() {
    walk(Point::Alloc, &[0]);
}

#[test]
fn memory_may_run_out_for_good() {
    let count = counts(&[Point::Alloc])[0];
    for nth in 0..count {
        let world = world();
        world.machine.faults().fail_from(Point::Alloc, nth, 0);
        let process = world.process();
        let result = life(&process);
        drop(process);
        assert_accounted(&world, &format!("no memory from allocation {nth} of {count} on: {result:?}"));
    }
}

#[test]
fn any_access_to_user_memory_may_fail() {
    let efault = Errno::EFAULT.0 as u64;
    walk(Point::UserRead, &[efault]);
    walk(Point::Pin, &[efault, Errno::ENOMEM.0 as u64]);
}

#[test]
fn any_granule_may_be_refused_by_el3() {
    walk(Point::GtsiDelegate, &[(-2_i64).cast_unsigned(), (-3_i64).cast_unsigned()]);
}

#[test]
fn any_granule_may_be_kept_by_el3() {
    walk(Point::GtsiUndelegate, &[(-3_i64).cast_unsigned()]);
}

#[test]
fn any_rmi_call_may_be_refused() {
    walk(Point::RmiBefore, &[ReturnCode::ERROR_INPUT.0]);
}

#[test]
fn any_rmi_call_may_be_refused_for_a_realm_or_rec() {
    walk(Point::RmiBefore, &[ReturnCode::ERROR_REALM.0, ReturnCode::ERROR_REC.0]);
}

#[test]
fn any_rmi_call_may_fail_at_a_table() {
    walk(Point::RmiBefore, &[ReturnCode::error_rtt(2).0, ReturnCode::error_rtt(3).0]);
}

#[test]
fn any_rmi_call_may_answer_nonsense() {
    walk(Point::RmiBefore, &[ReturnCode::NOT_SUPPORTED.0, 0x7777]);
}
