//! What a realm's calls and aborts come to, line by line of the specification's tables, on the model.

#[path = "tables/host.rs"]
#[allow(dead_code, reason = "the tables of commands need more of a Host")]
mod host;

use host::Host;
use realm_abi::psci::{PsciCall, PsciStatus};
use realm_abi::rmi::{
    DataFlags, EnterFlags, ExitReason, RecExit, RecFlags, RecParams, RecRun, ReturnCode, Ripas, RmiCommand,
    Status,
};
use realm_abi::rsi::RsiCall;
use realm_model::{Outcome, Registers, Trap};
use zerocopy::IntoBytes;

const PAGE: u64 = 0x1000;
/// First unprotected IPA of a 40-bit realm.
const SHARED: u64 = 1 << 39;

/// An active 40-bit realm with pages of RAM at 0 and two RECs, the first runnable.
struct World {
    host: Host,
    rd: u64,
    recs: [u64; 2],
}

impl World {
    fn new() -> Self {
        let mut host = Host::new();
        let rd = host.realm(40, 0);
        host.tables(rd, 0, 3);
        for i in 0..4 {
            host.data(rd, i * PAGE, 0, DataFlags::NO_MEASURE);
        }
        let mut params = RecParams::default();
        params.flags = RecFlags::RUNNABLE.bits();
        let first = host.rec(rd, &params);
        params.flags = 0;
        let second = host.rec(rd, &params);
        host.ok(RmiCommand::RealmActivate { rd });
        Self { host, rd, recs: [first, second] }
    }

    fn enter(&mut self, rec: usize, flags: EnterFlags) -> Outcome {
        let mut run = RecRun::default();
        run.enter.flags = flags.bits();
        let run_ptr = self.host.ns_page(run.as_bytes());
        self.host.call(RmiCommand::RecEnter { rec: self.recs[rec], run_ptr })
    }

    /// Enters a REC that can run; the registers it finds.
    fn resume(&mut self, rec: usize, flags: EnterFlags) -> Registers {
        assert_eq!(self.enter(rec, flags), Outcome::Entered);
        let regs = self.host.model.expected_resume().expect("the realm goes on");
        self.host.model.observe_resume(&regs).unwrap();
        regs
    }

    /// The first REC makes a call.
    fn smc(&mut self, call: &[u64]) {
        let mut regs = self.resume(0, EnterFlags::empty());
        regs.gprs[..call.len()].copy_from_slice(call);
        self.host.model.trap(&regs, sync(0x17 << 26, 0)).unwrap();
    }

    fn exits(&mut self, exit: &RecExit) {
        self.host.model.observe_exit(exit).unwrap();
    }
}

fn sync(esr: u64, ipa: u64) -> Trap {
    Trap::Sync { esr, far: ipa, hpfar: ipa >> 12 << 4 }
}

fn exit(reason: ExitReason) -> RecExit {
    let mut exit = RecExit::default();
    exit.exit_reason = reason;
    exit
}

/// A PSCI call the first REC makes about the second, and that the Host learns of.
fn psci(world: &mut World, call: PsciCall) {
    let regs = call.to_regs();
    world.smc(&regs);
    let mut exit = exit(ExitReason::PSCI);
    exit.gprs[..4].copy_from_slice(&regs);
    world.exits(&exit);
}

#[test]
fn psci_complete_answers_as_its_table_says() {
    let on = PsciCall::CpuOn { smc64: true, target_cpu: 1, entry_point: 2 * PAGE, context_id: 77 };
    let info = PsciCall::AffinityInfo { smc64: true, target_affinity: 1, lowest_affinity_level: 0 };
    let success = PsciStatus::SUCCESS;
    // Call, status, what X0 becomes (`None`: the status is refused), whether the target can run afterwards.
    let rows = [
        (on, success, Some(0), true),
        (on, PsciStatus::DENIED, Some(PsciStatus::DENIED.0), false),
        (on, PsciStatus::ALREADY_ON, None, false),
        (info, success, Some(1), false),
        (info, PsciStatus::DENIED, None, false),
    ];
    for (call, status, x0, runs) in rows {
        let mut world = World::new();
        psci(&mut world, call);
        let [calling_rec, target_rec] = world.recs;
        let complete = RmiCommand::PsciComplete { calling_rec, target_rec, status: status.0 };
        assert!(matches!(world.enter(0, EnterFlags::empty()), Outcome::Failure(_)), "a call is pending");
        let Some(x0) = x0 else {
            world.host.fails(complete, ReturnCode::ERROR_INPUT, [None; 4]);
            continue;
        };
        world.host.ok(complete);
        world.host.fails(complete, ReturnCode::ERROR_INPUT, [None; 4]);
        let regs = world.resume(0, EnterFlags::empty());
        assert_eq!(regs.gprs[..4], [x0.cast_unsigned(), 0, 0, 0], "{call:?} {status}");
        assert_eq!(regs.pc, 4);
        world.host.model.trap(&regs, Trap::Irq).unwrap();
        world.exits(&exit(ExitReason::IRQ));
        if runs {
            let regs = world.resume(1, EnterFlags::empty());
            assert_eq!((regs.pc, regs.gprs[0], regs.gprs[1]), (2 * PAGE, 77, 0));
        } else {
            assert!(matches!(world.enter(1, EnterFlags::empty()), Outcome::Failure(_)));
        }
    }
}

#[test]
fn a_ripas_change_is_answered_as_its_table_says() {
    let reject = EnterFlags::RIPAS_RESPONSE;
    let (ram, empty) = (Ripas::RAM, Ripas::EMPTY);
    // Value, how far the Host goes, what it says at the next entry; X1 and X2 then.
    let rows = [
        (ram, 3 * PAGE, EnterFlags::empty(), [3 * PAGE, 0]),
        (ram, 3 * PAGE, reject, [3 * PAGE, 0]),
        (ram, PAGE, EnterFlags::empty(), [PAGE, 0]),
        (ram, PAGE, reject, [PAGE, 1]),
        (ram, 0, reject, [0, 1]),
        (empty, PAGE, reject, [PAGE, 0]),
        (empty, 3 * PAGE, EnterFlags::empty(), [3 * PAGE, 0]),
    ];
    for (value, top, flags, expected) in rows {
        let mut world = World::new();
        let call = RsiCall::IpaStateSet { base: 0, top: 3 * PAGE, ripas: value.0.into(), flags: 0 };
        world.smc(&call.to_regs());
        let mut seen = exit(ExitReason::RIPAS_CHANGE);
        (seen.ripas_base, seen.ripas_top, seen.ripas_value) = (0, 3 * PAGE, value);
        world.exits(&seen);
        let set = RmiCommand::RttSetRipas { rd: world.rd, rec: world.recs[0], base: 0, top };
        if top != 0 {
            assert_eq!(world.host.ok(set)[0], top);
            assert_eq!(world.host.entry(world.rd, 0, 3).ripas(), Some(value));
        }
        let regs = world.resume(0, flags);
        assert_eq!(regs.gprs[..3], [0, expected[0], expected[1]], "{value}, {top:#x}, {flags:?}");
        // Entering the REC has closed the request.
        let again = RmiCommand::RttSetRipas { rd: world.rd, rec: world.recs[0], base: 0, top: 3 * PAGE };
        assert!(matches!(world.host.call(again), Outcome::Failure(_)));
    }
}

#[test]
fn an_abort_shows_the_host_what_its_table_says() {
    const ISV: u64 = 1 << 24;
    const IL: u64 = 1 << 25;
    const EVERYTHING: u64 =
        3 << 22 | 1 << 21 | 5 << 16 | 1 << 15 | 3 << 11 | 1 << 10 | 1 << 9 | 1 << 8 | 1 << 7;
    const DATA: u64 = 0x24 << 26;
    const FETCH: u64 = 0x20 << 26;
    let always = 3 << 11 | 1 << 10 | 1 << 9 | 7;
    let write = 1 << 6;
    // IPA, ESR_EL2; ESR, FAR and X0 the Host sees.
    let rows = [
        (SHARED + 8, DATA | IL | ISV | EVERYTHING | 7, DATA | ISV | 3 << 22 | 1 << 15 | always, 8, 0),
        (
            SHARED + 8,
            DATA | IL | ISV | EVERYTHING | write | 7,
            DATA | ISV | 3 << 22 | 1 << 15 | write | always,
            8,
            55,
        ),
        (SHARED + 8, DATA | IL | EVERYTHING | write | 7, DATA | always, 0, 0),
        (5 * PAGE, DATA | IL | ISV | EVERYTHING | write | 7, DATA | always, 0, 0),
        (5 * PAGE, FETCH | IL | EVERYTHING | 7, FETCH | 3 << 11 | 1 << 9 | 7, 0, 0),
    ];
    for (ipa, esr, shown, far, x0) in rows {
        let mut world = World::new();
        // RAM with nothing behind it: taken away by the Host.
        world.host.data_unknown(world.rd, 5 * PAGE);
        world.host.ok(RmiCommand::DataDestroy { rd: world.rd, ipa: 5 * PAGE });
        world.host.tables(world.rd, SHARED, 3);
        let ask = RsiCall::IpaStateSet { base: 5 * PAGE, top: 6 * PAGE, ripas: 1, flags: 1 };
        world.smc(&ask.to_regs());
        let mut change = exit(ExitReason::RIPAS_CHANGE);
        (change.ripas_base, change.ripas_top, change.ripas_value) = (5 * PAGE, 6 * PAGE, Ripas::RAM);
        world.exits(&change);
        let set = RmiCommand::RttSetRipas { rd: world.rd, rec: world.recs[0], base: 5 * PAGE, top: 6 * PAGE };
        world.host.ok(set);
        let mut regs = world.resume(0, EnterFlags::empty());
        regs.gprs[5] = 55;
        world.host.model.trap(&regs, sync(esr, ipa)).unwrap();
        let mut seen = exit(ExitReason::SYNC);
        (seen.esr, seen.far, seen.hpfar, seen.gprs[0]) = (shown, far, ipa >> 12 << 4, x0);
        world.exits(&seen);
        // Only an access the Host was shown whole can it have emulated.
        let emulated = world.enter(0, EnterFlags::EMUL_MMIO) == Outcome::Entered;
        assert_eq!(emulated, shown & ISV != 0, "{esr:#x} at {ipa:#x}");
    }
}

#[test]
fn a_realm_that_is_off_cannot_be_entered_again() {
    let mut world = World::new();
    let run_ptr = world.host.ns_page(RecRun::default().as_bytes());
    let regs = PsciCall::SystemOff.to_regs();
    world.smc(&regs);
    let mut seen = exit(ExitReason::PSCI);
    seen.gprs[0] = regs[0];
    world.exits(&seen);
    let enter = RmiCommand::RecEnter { rec: world.recs[0], run_ptr };
    world.host.fails(enter, ReturnCode::new(Status::ERROR_REALM, 1), [None; 4]);
}

#[test]
fn an_exit_that_shows_too_much_is_found() {
    let mut world = World::new();
    world.smc(&PsciCall::CpuOff.to_regs());
    let mut seen = exit(ExitReason::PSCI);
    seen.gprs[0] = PsciCall::CpuOff.to_regs()[0];
    seen.gprs[9] = 1;
    assert!(world.host.model.observe_exit(&seen).is_err());
}
