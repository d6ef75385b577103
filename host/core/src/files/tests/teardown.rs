//! A VM that ends while the RMM answers wrongly: each command of a teardown, each way to answer it.

use super::*;
use crate::realm::rec::{RecConfig, RecParts};
use realm_abi::rmi::{ReturnCode, RmiReply};

/// More commands than any teardown here takes; only one that does not end makes as many.
const ENDLESS: usize = 1 << 20;
/// No memory of the machine.
const FOREIGN: u64 = 0xdead_0000;

/// A way to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// ERROR_INPUT.
    Refuses,
    /// Another granule was there.
    Other,
    /// Nothing is there.
    Hole,
    /// Success, and the next address to look at is this one.
    Stuck,
    /// A hole that ends where it begins, nearly.
    TinyHole,
    /// Something at this level is in the way.
    Blocked(u8),
}

/// What the RMM does of what it denies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    It,
    Nothing,
}

/// How often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lies {
    /// The first time.
    Once,
    /// Some time later, when tables are made that the first time asks for.
    Later,
    Always,
}

/// When the VM is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gone {
    AtOnce,
    WithTheNextTry,
    /// When the RMM no longer lies: until then it has the realm.
    Afterwards,
}

use Answer::{Blocked, Hole, Other, Refuses, Stuck, TinyHole};
use Does::{It, Nothing};
use Gone::{Afterwards, AtOnce, WithTheNextTry};
use Lies::{Always, Later, Once};

/// Granules that are lost in all.
const ALL: u64 = u64::MAX;

impl Answer {
    fn reply(self, command: &RmiCommand) -> RmiReply {
        let (ipa, level) = match *command {
            RmiCommand::DataDestroy { ipa, .. } => (ipa, 3),
            RmiCommand::RttDestroy { ipa, level, .. } => (ipa, level - 1),
            RmiCommand::RttUnmapUnprotected { ipa, level, .. } => (ipa, level),
            _ => (0, 0),
        };
        let behind = ipa + crate::realm::ipa::entry_size(level);
        let out = |pa, top| match command {
            RmiCommand::RttUnmapUnprotected { .. } => [top, 0, 0, 0],
            _ => [pa, top, 0, 0],
        };
        match self {
            Refuses => RmiReply::failed(ReturnCode::ERROR_INPUT),
            Other => RmiReply::success(out(FOREIGN, behind)),
            Hole => RmiReply { code: ReturnCode::error_rtt(level), out: out(0, behind) },
            Stuck => RmiReply::success(out(FOREIGN, ipa)),
            TinyHole => RmiReply { code: ReturnCode::error_rtt(level), out: out(0, ipa + 1) },
            Blocked(level) => RmiReply { code: ReturnCode::error_rtt(level.into()), out: out(0, ipa) },
        }
    }
}

/// Lets the RMM answer a command wrongly, and do it or not.
fn lie(host: &FakeHost, fid: u64, answer: Answer, does: Does, lies: Lies) {
    let (mut calls, mut applicable) = (0, 0);
    let mut lies_to = move |command: &RmiCommand, applies: bool| {
        calls += 1;
        assert!(calls < ENDLESS, "it does not end");
        let applies = command.fid() == fid && applies;
        applicable += u64::from(applies);
        let now = match lies {
            Once => applicable == 1,
            Later => applicable == 8,
            Always => true,
        };
        (applies && now).then(|| answer.reply(command))
    };
    match does {
        Nothing => host.answer(move |command| lies_to(command, true)),
        // What is not done anyway is not denied.
        It => host.mangle(move |command, reply| {
            if let Some(lie) = lies_to(command, reply.code.is_success()) {
                *reply = lie;
            }
        }),
    }
}

/// A realm with two blocks of private memory, a block and a page that are shared, tables and a REC.
fn create_realm(machine: &Machine) -> Vec<i64> {
    let fds = machine.create_realm(&machine.process(1));
    let File::Vm(vm) = machine.get(fds[0]) else { panic!("it is a VM") };
    let slot = vm.memory.lock().slots.find(RAM).cloned().unwrap();
    let range = slot.private_range(&slot.range()).unwrap();
    vm.realm.fault_private(&range, RAM + 3 * BLOCK_SIZE, &ALWAYS, &ALWAYS).unwrap();
    fds
}

/// Such a realm, whose files are closed while the RMM lies.
fn end_with(fid: u64, answer: Answer, does: Does, lies: Lies, lost: u64, gone: Gone) {
    let what = std::format!(
        "{} {answer:?}, does {does:?}, {lies:?}",
        RmiCommand::from_regs(&[fid, 0, 0, 0, 0, 0, 0, 0]).name().unwrap()
    );
    let machine = Machine::new(Limits::default());
    let (host, rmm) = (machine.device.host(), machine.device.rmm());
    let fds = create_realm(&machine);
    let held = rmm.ledger().snapshot().held();
    lie(host, fid, answer, does, lies);
    machine.close(&fds);
    let mut tries = [machine.device.vms().count(), 1, 1];
    tries[1] = machine.device.reclaim();
    if gone == Afterwards {
        assert_eq!(tries, [1, 1, 1], "{what}");
        let now = rmm.ledger().snapshot();
        assert_eq!((now.leaked, rmm.vmids().reserved()), (0, 1), "{what}: the RMM has the realm");
        assert_eq!((machine.device.statistics().unfinished_vms, host.warnings()), (1, 0), "{what}");
        host.stop_injecting();
    }
    tries[2] = machine.device.reclaim();
    let expected = match gone {
        AtOnce => [0, 0, 0],
        WithTheNextTry => [1, 0, 0],
        Afterwards => [1, 1, 0],
    };
    assert_eq!(tries, expected, "{what}");
    host.stop_injecting();

    let lost = if lost == ALL { held } else { lost };
    let now = rmm.ledger().snapshot();
    assert_eq!((now.leaked, now.held()), (lost, 0), "{what}");
    assert_eq!((rmm.vmids().reserved(), machine.device.vcpu_numbers().reserved()), (0, 0), "{what}");
    assert_eq!((host.held(), host.with_rmm(|rmm| rmm.realms.len())), (0, 0), "{what}");
    // No page went back to the kernel that was lost, and no other stayed away.
    assert_eq!(host.pages() as u64, lost, "{what}");
    let losses = FakeHost::losses(rmm);
    assert!(losses.iter().all(|loss| host.is_allocated(loss.pa)), "{what}");
    assert!(losses.iter().all(|loss| loss.error.kind().fid() == fid), "{what}: {losses:?}");
    // The first loss is told, and how many there were.
    assert_eq!(host.warnings(), lost.min(2), "{what}");
    assert!(host.most_calls_without_yield() < 300, "{what}: {}", host.most_calls_without_yield());
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_teardown_ends_whatever_data_destroy_answers() {
    let fid = RmiCommand::DataDestroy { rd: 0, ipa: 0 }.fid();
    for (answer, does, lies, lost, gone) in [
        // Asked again with a table for the block.
        (Refuses, Nothing, Once, 0, AtOnce),
        (Refuses, Nothing, Later, 0, WithTheNextTry),
        (Refuses, Nothing, Always, 0, Afterwards),
        (Refuses, It, Later, 0, AtOnce),
        (Refuses, It, Always, 0, AtOnce),
        (Other, It, Later, 1, AtOnce),
        (Other, It, Always, 1024, AtOnce),
        (Hole, It, Later, 0, AtOnce),
        (Hole, It, Always, 0, AtOnce),
        (Hole, Nothing, Later, 0, WithTheNextTry),
        (Hole, Nothing, Always, 0, Afterwards),
        (Stuck, It, Later, 0, AtOnce),
        (Stuck, It, Always, 0, AtOnce),
        (TinyHole, Nothing, Later, 0, WithTheNextTry),
        (TinyHole, Nothing, Always, 0, Afterwards),
        (Blocked(3), Nothing, Later, 0, WithTheNextTry),
        (Blocked(3), Nothing, Always, 0, Afterwards),
        (Blocked(2), Nothing, Always, 0, Afterwards),
        (Blocked(0), Nothing, Always, 0, Afterwards),
    ] {
        end_with(fid, answer, does, lies, lost, gone);
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_teardown_ends_whatever_is_answered_for_a_table() {
    let create = RmiCommand::RttCreate { rd: 0, rtt: 0, ipa: 0, level: 0 }.fid();
    for (answer, does, lies, gone) in [
        (Refuses, Nothing, Once, WithTheNextTry),
        (Refuses, Nothing, Always, Afterwards),
        (Blocked(2), Nothing, Once, WithTheNextTry),
        (Refuses, It, Once, AtOnce),
        (Refuses, It, Always, AtOnce),
        (Blocked(2), It, Always, AtOnce),
    ] {
        end_with(create, answer, does, lies, 0, gone);
    }
    let fid = RmiCommand::RttDestroy { rd: 0, ipa: 0, level: 0 }.fid();
    for (answer, does, lies, lost, gone) in [
        (Refuses, Nothing, Once, 0, AtOnce),
        (Refuses, Nothing, Always, 0, Afterwards),
        (Refuses, It, Once, 0, AtOnce),
        (Refuses, It, Always, 0, AtOnce),
        (Other, It, Once, 1, AtOnce),
        // The table of the shared page and those of the two blocks: each is split with a granule that takes the place of the last.
        (Other, It, Always, 3, AtOnce),
        (Hole, It, Always, 0, AtOnce),
        (Hole, Nothing, Once, 0, AtOnce),
        (Hole, Nothing, Always, 0, Afterwards),
        (Stuck, It, Once, 0, AtOnce),
        (Stuck, It, Always, 0, AtOnce),
        (TinyHole, Nothing, Always, 0, Afterwards),
        (Blocked(3), Nothing, Once, 0, AtOnce),
        (Blocked(3), Nothing, Always, 0, Afterwards),
    ] {
        end_with(fid, answer, does, lies, lost, gone);
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_teardown_ends_whatever_is_answered_for_shared_memory() {
    let fid = RmiCommand::RttUnmapUnprotected { rd: 0, ipa: 0, level: 0 }.fid();
    for answer in [Refuses, Hole, Stuck, TinyHole, Blocked(0), Blocked(2), Blocked(3)] {
        for (does, lies) in [(It, Once), (It, Always), (Nothing, Once), (Nothing, Always)] {
            // A realm that is destroyed reaches nothing.
            end_with(fid, answer, does, lies, 0, AtOnce);
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_teardown_ends_whatever_is_answered_for_a_rec_and_a_realm() {
    for fid in [RmiCommand::RecDestroy { rec: 0 }.fid(), RmiCommand::RealmDestroy { rd: 0 }.fid()] {
        for (does, lies, gone) in [
            (Nothing, Once, WithTheNextTry),
            (Nothing, Always, Afterwards),
            (It, Once, AtOnce),
            (It, Always, AtOnce),
        ] {
            end_with(fid, Refuses, does, lies, 0, gone);
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_teardown_ends_when_the_rmm_gives_nothing_back() {
    let fid = RmiCommand::GranuleUndelegate { addr: 0 }.fid();
    for does in [It, Nothing] {
        end_with(fid, Refuses, does, Once, 1, AtOnce);
        end_with(fid, Refuses, does, Always, ALL, AtOnce);
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_realm_goes_whose_memory_was_answered_for_wrongly_while_it_ran() {
    for answer in [Refuses, Other, Hole, Stuck] {
        let machine = Machine::new(Limits::default());
        let process = machine.process(1);
        let fds = machine.create_realm(&process);
        lie(machine.device.host(), RmiCommand::DataDestroy { rd: 0, ipa: 0 }.fid(), answer, It, Always);
        let nothing = UserMemoryRegion2::default();
        for _ in 0..2 {
            let removed =
                process.ioctl_with(&machine.get(fds[0]), cmd(Ioctl::SetUserMemoryRegion2), &nothing);
            assert_eq!(removed, Err(Errno::ENXIO), "{answer:?}: the slot stays");
        }
        machine.device.host().stop_injecting();
        assert_eq!(machine.device.rmm().ledger().snapshot().leaked, 0, "{answer:?}");
        machine.close(&fds);
        machine.assert_nothing_is_left();
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn what_the_rmm_lets_go_of_comes_back_although_the_realm_has_to_stay() {
    const ALIAS: u64 = 1 << 32;
    let machine = Machine::new(Limits::default());
    let (host, rmm) = (machine.device.host(), machine.device.rmm());
    let fds = create_realm(&machine);
    // The first of each kind stays: the shared block, its neighbour's table, the first granule of memory.
    host.answer(|command| {
        let stays = match *command {
            RmiCommand::RttUnmapUnprotected { ipa, .. } => ipa == ALIAS + RAM + BLOCK_SIZE,
            RmiCommand::RttDestroy { ipa, .. } => ipa == ALIAS + RAM + 2 * BLOCK_SIZE,
            RmiCommand::DataDestroy { ipa, .. } => ipa == RAM,
            _ => false,
        };
        stays.then(|| RmiReply::failed(ReturnCode::ERROR_INPUT))
    });
    machine.close(&fds);
    let root = crate::realm::ipa::IpaSpace::new(33).unwrap().root_tables() as u64;
    // RD, reserve, the table and the granule that stay, and the table that the granule is in.
    assert_eq!(rmm.ledger().snapshot().held(), root + 1 + 1 + 1 + 1 + 1);
    assert_eq!((host.held(), host.warnings()), (BLOCK_SIZE, 0));
    host.stop_injecting();
    assert_eq!(machine.device.reclaim(), 0);
    machine.assert_nothing_is_left();
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_realm_goes_that_has_what_the_rmm_denied() {
    let machine = Machine::new(Limits::default());
    let process = machine.process(1);
    let (host, rmm) = (machine.device.host(), machine.device.rmm());
    let fds = machine.create_realm(&process);
    {
        let File::Vm(vm) = machine.get(fds[0]) else { panic!("it is a VM") };
        let slot = vm.memory.lock().slots.find(RAM).cloned().unwrap();
        let range = slot.private_range(&slot.range()).unwrap();
        let page = RAM + 3 * BLOCK_SIZE;
        vm.realm.fault_private(&range, page, &ALWAYS, &|| false).unwrap();
        lie(host, RmiCommand::DataCreateUnknown { rd: 0, data: 0, ipa: 0 }.fid(), Refuses, It, Once);
        vm.realm.fault_private(&range, page + BLOCK_SIZE / 2, &ALWAYS, &|| false).unwrap_err();
        host.stop_injecting();
    }
    assert_eq!(rmm.ledger().snapshot().leaked, 1, "the RMM did not give it back");
    machine.close(&fds);
    let now = rmm.ledger().snapshot();
    assert_eq!((now.leaked, now.held(), rmm.vmids().reserved(), machine.device.vms().count()), (1, 0, 0, 0));
    assert_eq!((host.pages(), host.held()), (1, 0));
}

#[test]
fn a_rec_that_was_made_and_denied_keeps_nothing() {
    let rmm = FakeHost::started(12);
    let realm = crate::realm::Realm::new(rmm.clone(), 33, crate::fake::many_pins()).unwrap();
    let cpu = crate::realm::CpuParams { sve_vl: None, num_bps: 1, num_wps: 1, pmu_num_ctrs: None };
    realm.create(&cpu).unwrap();
    let config = RecConfig { mpidr: 0, pc: 0, gprs: [0; 8], runnable: true };
    lie(rmm.host(), RmiCommand::RecCreate { rd: 0, rec: 0, params_ptr: 0 }.fid(), Refuses, It, Once);
    let denied = RecParts::gather(&realm).unwrap().create(&realm, &config).unwrap_err();
    assert_eq!(denied.errno(), Errno::ENXIO);
    assert_eq!(realm.destroy(), Ok(()));
    assert_eq!(
        (rmm.ledger().snapshot().leaked, rmm.ledger().snapshot().held(), rmm.host().pages()),
        (0, 0, 0)
    );
}
