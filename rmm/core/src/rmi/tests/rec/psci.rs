use super::*;
use realm_abi::psci::{PsciStatus, fid};

const INVALID_PARAMETERS: u64 = PsciStatus::INVALID_PARAMETERS.0.cast_unsigned();
const NOT_SUPPORTED: u64 = u64::MAX;

/// A realm with REC 0 running and REC 1 off; REC 1.
fn vm<'w, 'a>(w: &'w World<'a>) -> (Vm<'w, 'a>, u64) {
    let mut other = 0;
    let vm = Vm::with(w, |_| (), |vm| other = vm.w.rec_with(vm.rd, 1, |params| params.flags = 0));
    w.change_rec(other, |rec| rec.context.gprs = [0xaa; 31]);
    (vm, other)
}

fn complete(vm: &Vm<'_, '_>, target_rec: u64, status: PsciStatus) -> RmiCommand {
    RmiCommand::PsciComplete { calling_rec: vm.rec, target_rec, status: status.0 }
}

#[test]
fn the_version_is_1_1_and_features_are_told() {
    let entries = entries();
    let w = World::new(&entries);
    let (vm, _) = vm(&w);
    assert_eq!(vm.call(&[fid::VERSION, 1, 2, 3, 4])[..5], [0x1_0001, 0, 0, 0, 4]);
    let supported = [
        fid::VERSION,
        fid::CPU_SUSPEND_32,
        fid::CPU_SUSPEND_64,
        fid::CPU_OFF,
        fid::CPU_ON_32,
        fid::CPU_ON_64,
        fid::AFFINITY_INFO_32,
        fid::AFFINITY_INFO_64,
        fid::SYSTEM_OFF,
        fid::SYSTEM_RESET,
        fid::FEATURES,
        0x8000_0000,
    ];
    for function in supported {
        assert_eq!(vm.call(&[fid::FEATURES, function])[0], 0, "{function:#x}");
    }
    for function in [0x8400_0005, 0xc400_0012, 0xc400_0190, 0] {
        assert_eq!(vm.call(&[fid::FEATURES, function])[0], NOT_SUPPORTED, "{function:#x}");
    }
}

#[test]
fn other_functions_of_its_ranges_are_not_supported() {
    let entries = entries();
    let w = World::new(&entries);
    let (vm, _) = vm(&w);
    for function in [0x8400_0005, 0x8400_001f, 0xc400_0002, 0xc400_001f] {
        assert_eq!(vm.call(&[function])[0], NOT_SUPPORTED, "{function:#x}");
    }
}

#[test]
fn suspend_shows_its_arguments_and_returns_success() {
    let entries = entries();
    let w = World::new(&entries);
    let (vm, _) = vm(&w);
    let exit = vm.call_exits(&[fid::CPU_SUSPEND_64, 1, 2, 3, 4]);
    assert_exit(&exit, |exit| {
        exit.exit_reason = ExitReason::PSCI;
        exit.gprs[..4].copy_from_slice(&[fid::CPU_SUSPEND_64, 1, 2, 3]);
    });
    assert_eq!(vm.resumed_with(|_| ()).gprs[..5], [0, 0, 0, 0, 4]);
}

#[test]
fn a_cpu_that_is_off_is_not_entered() {
    let entries = entries();
    let w = World::new(&entries);
    let (vm, _) = vm(&w);
    let exit = vm.call_exits(&[fid::CPU_OFF, 1, 2, 3]);
    assert_exit(&exit, |exit| (exit.exit_reason, exit.gprs[0]) = (ExitReason::PSCI, fid::CPU_OFF));
    vm.refuses(REC, |_| ());
}

#[test]
fn off_and_reset_end_the_realm() {
    for function in [fid::SYSTEM_OFF, fid::SYSTEM_RESET] {
        let entries = entries();
        let w = World::new(&entries);
        let (vm, other) = vm(&w);
        let exit = vm.call_exits(&[function, 1, 2, 3]);
        assert_exit(&exit, |exit| (exit.exit_reason, exit.gprs[0]) = (ExitReason::PSCI, function));
        let run_ptr = vm.run_ptr;
        for rec in [vm.rec, other] {
            w.fails(RmiCommand::RecEnter { rec, run_ptr }, ReturnCode(0x102));
        }
    }
}

#[test]
fn cpu_on_is_refused_for_what_the_rmm_can_see_itself() {
    let entries = entries();
    let w = World::new(&entries);
    let (vm, _) = vm(&w);
    let invalid_address = PsciStatus::INVALID_ADDRESS.0.cast_unsigned();
    for entry in [PROTECTED_TOP, u64::MAX] {
        assert_eq!(vm.call(&[fid::CPU_ON_64, 1, entry, 0])[0], invalid_address);
    }
    // No such REC, and bits that are no affinity.
    for target in [2, 1 | 1 << 4, 1 | 1 << 31, 1 | 1 << 63] {
        assert_eq!(vm.call(&[fid::CPU_ON_64, target, 0, 0])[0], INVALID_PARAMETERS);
        assert_eq!(vm.call(&[fid::AFFINITY_INFO_64, target, 0])[0], INVALID_PARAMETERS);
    }
    assert_eq!(vm.call(&[fid::CPU_ON_64, 0, 0, 0])[0], PsciStatus::ALREADY_ON.0.cast_unsigned());
    assert_eq!(vm.call(&[fid::AFFINITY_INFO_64, 1, 1])[0], INVALID_PARAMETERS);
    assert_eq!(vm.call(&[fid::AFFINITY_INFO_64, 0, 0])[0], 0, "it is on itself");
}

#[test]
fn cpu_on_granted_starts_the_other_rec_from_nothing() {
    let entries = entries();
    let w = World::new(&entries);
    let (vm, other) = vm(&w);
    w.change_rec(vm.rec, |rec| rec.context.el1.sctlr_el1 |= 1 << 25);
    let exit = vm.call_exits(&[fid::CPU_ON_64, 1, 0x4000, 0x1_0000_0007, 44]);
    assert_exit(&exit, |exit| {
        exit.exit_reason = ExitReason::PSCI;
        exit.gprs[..4].copy_from_slice(&[fid::CPU_ON_64, 1, 0x4000, 0x1_0000_0007]);
    });
    w.ok(complete(&vm, other, PsciStatus::SUCCESS));
    assert_eq!(vm.resumed_with(|_| ()).gprs[..5], [0, 0, 0, 0, 44]);
    let started = w.rec(other);
    assert!(started.is_runnable());
    assert_eq!((started.context.gprs[0], started.context.pc), (0x1_0000_0007, 0x4000));
    assert_eq!(started.context.gprs[1..], [0; 30]);
    assert_eq!(started.context.pstate, 0x3c5);
    assert_eq!(started.context.el1.sctlr_el1 >> 25 & 1, 1, "the caller's endianness");

    // Again: it is on.
    vm.call_exits(&[fid::CPU_ON_64, 1, 0x8000, 0]);
    w.fails(complete(&vm, other, PsciStatus::DENIED), INPUT);
    w.ok(complete(&vm, other, PsciStatus::SUCCESS));
    assert_eq!(vm.resumed_with(|_| ()).gprs[0], PsciStatus::ALREADY_ON.0.cast_unsigned());
    assert_eq!(w.rec(other).context.pc, 0x4000);
}

#[test]
fn the_32_bit_forms_use_the_low_halves() {
    let entries = entries();
    let w = World::new(&entries);
    let (vm, other) = vm(&w);
    let exit = vm.call_exits(&[fid::CPU_ON_32, 1 | 1 << 40, 0x4000 | 1 << 40, 7 | 1 << 40]);
    assert_eq!(exit.gprs[..4], [fid::CPU_ON_32, 1, 0x4000, 7]);
    w.ok(complete(&vm, other, PsciStatus::SUCCESS));
    let context = w.rec(other).context;
    assert_eq!((context.pc, context.gprs[0]), (0x4000, 7));
}

#[test]
fn cpu_on_denied_changes_nothing_but_the_answer() {
    let entries = entries();
    let w = World::new(&entries);
    let (vm, other) = vm(&w);
    vm.call_exits(&[fid::CPU_ON_64, 1, 0x4000, 7]);
    w.ok(complete(&vm, other, PsciStatus::DENIED));
    assert_eq!(vm.resumed_with(|_| ()).gprs[0], PsciStatus::DENIED.0.cast_unsigned());
    assert!(!w.rec(other).is_runnable());
    assert_eq!(w.rec(other).context.gprs, [0xaa; 31]);
}

#[test]
fn an_entry_that_is_about_to_fail_turns_no_cpu_on() {
    let entries = entries();
    let w = World::new(&entries);
    let (vm, other) = vm(&w);
    // The Host enters both on other CPUs at the same time, which have claimed them and not looked further.
    let claim = |rec, change| w.rmm.granules().lock(rec, GranuleState::Rec).unwrap().count(change).unwrap();
    for (function, answer) in [(fid::AFFINITY_INFO_64, 1), (fid::CPU_ON_64, 0)] {
        vm.call_exits(&[function, 1, 0, 7]);
        claim(vm.rec, 1);
        claim(other, 1);
        w.ok(complete(&vm, other, PsciStatus::SUCCESS));
        claim(vm.rec, -1);
        claim(other, -1);
        assert_eq!(vm.resumed_with(|_| ()).gprs[0], answer);
    }
    assert!(w.rec(other).is_runnable());
}

#[test]
fn affinity_info_tells_on_from_off() {
    let entries = entries();
    let w = World::new(&entries);
    let (vm, other) = vm(&w);
    for (runnable, answer) in [(false, 1), (true, 0)] {
        w.change_rec(other, |rec| rec.set_runnable(runnable));
        let exit = vm.call_exits(&[fid::AFFINITY_INFO_64, 1, 0, 99]);
        assert_exit(&exit, |exit| {
            exit.exit_reason = ExitReason::PSCI;
            exit.gprs[..2].copy_from_slice(&[fid::AFFINITY_INFO_64, 1]);
        });
        w.fails(complete(&vm, other, PsciStatus::DENIED), INPUT);
        w.ok(complete(&vm, other, PsciStatus::SUCCESS));
        assert_eq!(vm.resumed_with(|_| ()).gprs[0], answer);
    }
}

#[test]
fn conditions_of_completion() {
    let entries = entries();
    let w = World::new(&entries);
    let mut third = 0;
    let mut other = 0;
    let vm = Vm::with(
        &w,
        |_| (),
        |vm| {
            other = vm.w.rec_with(vm.rd, 1, |params| params.flags = 0);
            third = vm.w.rec_with(vm.rd, 2, |params| params.flags = 0);
        },
    );
    let foreign_realm = w.realm_with(1, |params| params.vmid = 2);
    w.rec_with(foreign_realm, 0, |_| ());
    let foreign = w.rec_with(foreign_realm, 1, |params| params.flags = 0);

    // pending
    w.fails(complete(&vm, other, PsciStatus::SUCCESS), INPUT);
    vm.call_exits(&[fid::CPU_ON_64, 1, 0x4000, 7]);
    // alias
    w.fails(complete(&vm, vm.rec, PsciStatus::SUCCESS), INPUT);
    // target_align, target_bound, target_state
    for target in [other + 8, OUTSIDE, vm.rd, w.delegated(), w.fresh()] {
        w.fails(complete(&vm, target, PsciStatus::SUCCESS), INPUT);
        let calling = RmiCommand::PsciComplete { calling_rec: target, target_rec: other, status: 0 };
        w.fails(calling, INPUT);
    }
    // owner, target
    w.fails(complete(&vm, foreign, PsciStatus::SUCCESS), INPUT);
    w.fails(complete(&vm, third, PsciStatus::SUCCESS), INPUT);
    // status
    for status in [PsciStatus::ALREADY_ON, PsciStatus::INTERNAL_FAILURE, PsciStatus(1), PsciStatus(i64::MIN)]
    {
        w.fails(complete(&vm, other, status), INPUT);
    }
    w.ok(complete(&vm, other, PsciStatus::SUCCESS));
    w.fails(complete(&vm, other, PsciStatus::SUCCESS), INPUT);
}
