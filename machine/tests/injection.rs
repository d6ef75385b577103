//! A failure at every step in turn: afterwards either everything is back, or the ledger names exactly what is not.

mod common;

use common::{RAM, SETTINGS, World, guest_on};
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
const FREE: u64 = RAM + 0x41_0000;
/// Of a realm with more RAM: a block without any image.
const BLOCK: u64 = RAM + 0x20_0000;
const IPA_BITS: u8 = 33;
const UNPROTECTED: u64 = 1 << (IPA_BITS - 1);
const UART: u64 = UNPROTECTED | 0x100_0000;
const DRAM_SIZE: u64 = 16 << 20;

/// A life, and how densely failures are put into it.
#[derive(Clone, Copy)]
struct Scenario {
    realm: fn(&mut Guest),
    ram_size: u64,
    host_page_shift: u32,
    /// Every so many calls one fails.
    stride: usize,
}

const SMALL: Scenario = Scenario { realm, ram_size: 0x42_0000, host_page_shift: 12, stride: 1 };
const LARGE_PAGES: Scenario = Scenario { host_page_shift: 16, ..SMALL };
/// A block is made and taken away with the same call 512 times.
const WHOLE_BLOCK: Scenario = Scenario { realm: block_realm, ram_size: 0x82_0000, stride: 61, ..SMALL };

/// What the realm does; whether each call succeeds is not its concern here.
fn realm(guest: &mut Guest) {
    let set = |guest: &mut Guest, ripas: Ripas| {
        let call = RsiCall::IpaStateSet { base: FREE, top: FREE + 0x1_0000, ripas: ripas.0.into(), flags: 1 };
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

/// The middle of RAM: a whole block of private memory that comes with one fault, then a page of it that is shared.
fn block_realm(guest: &mut Guest) {
    let _ = guest.write::<u64>(BLOCK, 1);
    let set = RsiCall::IpaStateSet { base: BLOCK, top: BLOCK + 0x1000, ripas: 0, flags: 1 };
    guest.rsi(&set);
    let _ = guest.write::<u64>(BLOCK | UNPROTECTED, 2);
    let _ = guest.write::<u64>(BLOCK + 0x1000, 3);
}

fn life(process: &Process, scenario: &Scenario) -> Result<Stop, VmError> {
    let plan = guest_on(scenario.ram_size, 2, 1 << scenario.host_page_shift);
    let vm = RealmVm::build(process, &plan, &SETTINGS, &mut ())?;
    let stop = vm.run_vcpu(0);
    vm.destroy(&mut ())?;
    stop
}

fn world(scenario: &Scenario) -> World {
    let world = World::new(MachineConfig {
        clock: ClockKind::Manual,
        host_page_shift: scenario.host_page_shift,
        ..MachineConfig::new(DRAM_SIZE, 2)
    });
    world.machine.set_guest(scenario.realm);
    // Start-up is not part of what fails.
    world.machine.faults().reset();
    world
}

/// Lives a life without failures and tells how often this kind of call is made.
fn count(scenario: &Scenario, point: Point) -> u64 {
    let world = world(scenario);
    let process = world.process();
    let stop = life(&process, scenario);
    assert!(
        matches!(stop, Ok(Stop::Event(_))),
        "{stop:?}\n{}",
        world.device.host().explanations().join("\n")
    );
    drop(process);
    world.assert_all_back();
    let count = world.machine.faults().count(point);
    assert!(count > 0, "{point:?} is never reached");
    count
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
    let losses: BTreeSet<u64> = world.device.rmm().ledger().losses().map(|loss| loss.pa).collect();
    let memory = world.machine.memory();
    let missing: BTreeSet<u64> = (DRAM_BASE..DRAM_BASE + memory.size())
        .step_by(0x1000)
        .filter(|pa| memory.pas(*pa) != Some(Pas::NonSecure))
        .collect();
    assert_eq!(missing, losses, "{what}: missing and named");
    assert_eq!(ledger.leaked, losses.len() as u64, "{what}: counted");
    assert_eq!(ledger.held(), 0, "{what}: {ledger:?}");
    let shift = world.machine.config().host_page_shift;
    let pages: BTreeSet<u64> = losses.iter().map(|pa| pa >> shift).collect();
    assert_eq!(world.device.host().pages_out(), pages.len() as u64, "{what}: pages out");
    assert_eq!(world.device.host().pinned(), 0, "{what}: pins");
    if !losses.is_empty() {
        let told = world.machine.log().events().iter().any(|event| matches!(event, Event::HostWarning(_)));
        assert!(told, "{what}: nobody was told of {losses:x?}");
    }
}

/// Makes the n-th call at `point` fail with each of `values`, for every n of the scenario.
fn walk(scenario: &Scenario, point: Point, values: &[u64]) {
    let count = count(scenario, point);
    for nth in (0..count).step_by(scenario.stride) {
        for value in values {
            let world = world(scenario);
            world.machine.faults().fail_nth(point, nth, *value);
            let process = world.process();
            let result = life(&process, scenario);
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

const BAD_ADDRESS: u64 = (-2_i64).cast_unsigned();
const BAD_PAS: u64 = (-3_i64).cast_unsigned();

#[test]
fn one_fault_brings_a_whole_block() {
    assert!(count(&WHOLE_BLOCK, Point::GtsiDelegate) > 512);
}

#[test]
fn any_allocation_may_fail() {
    walk(&SMALL, Point::Alloc, &[0]);
    walk(&LARGE_PAGES, Point::Alloc, &[0]);
    walk(&Scenario { stride: 1, ..WHOLE_BLOCK }, Point::Alloc, &[0]);
}

#[test]
fn memory_may_run_out_for_good() {
    for scenario in [SMALL, LARGE_PAGES] {
        let count = count(&scenario, Point::Alloc);
        for nth in 0..count {
            let world = world(&scenario);
            world.machine.faults().fail_from(Point::Alloc, nth, 0);
            let process = world.process();
            let result = life(&process, &scenario);
            drop(process);
            assert_accounted(&world, &format!("no memory from allocation {nth} of {count} on: {result:?}"));
        }
    }
}

#[test]
fn any_access_to_user_memory_may_fail() {
    let efault = Errno::EFAULT.0 as u64;
    walk(&SMALL, Point::UserRead, &[efault]);
    walk(&SMALL, Point::UserWrite, &[efault]);
    walk(&SMALL, Point::Pin, &[efault, Errno::ENOMEM.0 as u64]);
}

#[test]
fn any_granule_may_be_refused_by_el3() {
    walk(&SMALL, Point::GtsiDelegate, &[BAD_ADDRESS, BAD_PAS]);
    walk(&LARGE_PAGES, Point::GtsiDelegate, &[BAD_PAS]);
    walk(&WHOLE_BLOCK, Point::GtsiDelegate, &[BAD_PAS]);
}

#[test]
fn any_granule_may_be_kept_by_el3() {
    walk(&SMALL, Point::GtsiUndelegate, &[BAD_PAS]);
    walk(&LARGE_PAGES, Point::GtsiUndelegate, &[BAD_PAS]);
    walk(&WHOLE_BLOCK, Point::GtsiUndelegate, &[BAD_PAS]);
}

#[test]
fn any_rmi_call_may_be_refused() {
    walk(&SMALL, Point::RmiBefore, &[ReturnCode::ERROR_INPUT.0]);
    walk(&Scenario { stride: 7, ..LARGE_PAGES }, Point::RmiBefore, &[ReturnCode::ERROR_INPUT.0]);
    walk(&WHOLE_BLOCK, Point::RmiBefore, &[ReturnCode::ERROR_INPUT.0]);
}

#[test]
fn any_rmi_call_may_be_refused_for_a_realm_or_rec() {
    walk(&SMALL, Point::RmiBefore, &[ReturnCode::ERROR_REALM.0, ReturnCode::ERROR_REC.0]);
}

#[test]
fn any_rmi_call_may_fail_at_a_table() {
    walk(&SMALL, Point::RmiBefore, &[ReturnCode::error_rtt(2).0, ReturnCode::error_rtt(3).0]);
    walk(&WHOLE_BLOCK, Point::RmiBefore, &[ReturnCode::error_rtt(3).0]);
}

#[test]
fn any_rmi_call_may_answer_nonsense() {
    walk(&SMALL, Point::RmiBefore, &[ReturnCode::NOT_SUPPORTED.0, 0x7777]);
}

/// An RMM that says a command failed which it carried out: the Host cannot keep its books right, but nothing may panic
/// and its files must close.
#[test]
fn an_rmm_that_lies_about_success_breaks_no_ioctl() {
    let count = count(&SMALL, Point::RmiAfter);
    for nth in 0..count {
        let world = world(&SMALL);
        world.machine.faults().fail_nth(Point::RmiAfter, nth, ReturnCode::ERROR_INPUT.0);
        let process = world.process();
        let result = life(&process, &SMALL);
        drop(process);
        assert_eq!(world.machine.faults().fired(), 1, "{nth} of {count}: {result:?}");
        assert_eq!(world.device.host().pinned(), 0, "{nth} of {count}: {result:?}");
    }
}
