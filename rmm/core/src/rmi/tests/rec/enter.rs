use super::*;
use realm_abi::rmi::{HostStructure, Status};
use realm_abi::{psci, rsi};
use std::sync::mpsc;

const EMUL_MMIO: u64 = 1;
const INJECT_SEA: u64 = 2;

#[test]
fn an_entry_runs_the_rec_with_its_realms_controls() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = Vm::with(&w, |params| (params.vmid, params.flags, params.pmu_num_ctrs) = (7, 4, 3), |_| ());
    let (sender, receiver) = mpsc::channel();
    vm.enter_with(
        |enter| enter.flags = 1 << 2,
        std::vec![observes(move |controls| sender.send(controls.clone()).unwrap())],
    );
    let controls = receiver.recv().unwrap();
    assert_eq!(controls.vttbr >> 48, 7);
    assert_eq!(controls.vtcr & 0x3f, 64 - 33);
    assert_eq!(controls.vmpidr, 1 << 31);
    assert_eq!((controls.trap_wfi, controls.trap_wfe), (true, false));
    assert_eq!((controls.sve_vl, controls.pmu_counters), (None, Some(3)));
}

#[test]
fn a_realm_with_sve_and_without_pmu_gets_just_that() {
    let entries = entries();
    let w = World::with(&entries, |machine| machine.features.sve_vl = Some(3));
    let vm = Vm::with(&w, |params| (params.flags, params.sve_vl) = (2, 1), |_| ());
    let (sender, receiver) = mpsc::channel();
    vm.enter(std::vec![observes(move |controls| sender.send(controls.clone()).unwrap())]);
    let controls = receiver.recv().unwrap();
    assert_eq!((controls.sve_vl, controls.pmu_counters), (Some(1), None));
}

#[test]
fn a_realm_with_a_pmu_finds_it_as_it_left_it() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = Vm::with(&w, |params| (params.flags, params.pmu_num_ctrs) = (4, 3), |_| ());
    let leave = |context: &mut CpuContext| (context.pmu.pmccntr, context.pmu.pmevtyper[30]) = (0x1234, 0x11);
    vm.enter(std::vec![does(leave, RealmExit::Irq)]);
    let find = |context: &mut CpuContext| {
        assert_eq!((context.pmu.pmccntr, context.pmu.pmevtyper[30]), (0x1234, 0x11));
    };
    vm.enter(std::vec![does(find, RealmExit::Irq)]);
}

#[test]
fn run_and_rec_conditions_come_before_all_others() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = Vm::new(&w);
    // It is off and its realm too: still an error of the input.
    w.change_rec(vm.rec, |rec| rec.set_runnable(false));
    vm.put(&RecEnter::default());
    for run_ptr in [vm.run_ptr + 8, OUTSIDE, w.delegated(), vm.rec] {
        w.fails(RmiCommand::RecEnter { rec: vm.rec, run_ptr }, INPUT);
    }
    for rec in [vm.rec + 8, OUTSIDE, vm.rd, w.delegated(), w.fresh()] {
        w.fails(RmiCommand::RecEnter { rec, run_ptr: vm.run_ptr }, INPUT);
    }
    w.machine().faulty.lock().unwrap().insert(vm.run_ptr);
    w.fails(vm.command(), INPUT);
}

#[test]
fn realm_new_and_system_off_are_told_apart_by_the_index() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = Vm::with(&w, |_| (), |vm| vm.refuses(ReturnCode::new(Status::ERROR_REALM, 0), |_| ()));
    vm.call_exits(&[psci::fid::SYSTEM_OFF]);
    vm.refuses(ReturnCode::new(Status::ERROR_REALM, 1), |_| ());
}

#[test]
fn rec_runnable_rec_gicv3_and_rec_mmio_are_errors_of_the_rec() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = Vm::new(&w);
    vm.refuses(REC, |enter| enter.flags = EMUL_MMIO);
    vm.refuses(REC, |enter| enter.flags = INJECT_SEA);
    vm.refuses(REC, |enter| enter.gicv3_hcr = 1 << 8);
    vm.refuses(REC, |enter| enter.gicv3_lrs[1] = 1 << 62 | 1 << 61 | 40);
    w.change_rec(vm.rec, |rec| rec.set_runnable(false));
    vm.refuses(REC, |_| ());
}

#[test]
fn rec_psci_a_pending_request_is_completed_before_entry() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = Vm::with(&w, |_| (), |vm| _ = vm.w.rec_with(vm.rd, 1, |_| ()));
    vm.call_exits(&[psci::fid::CPU_ON_64, 1, 0, 0]);
    vm.refuses(REC, |_| ());
}

#[test]
fn a_running_rec_is_left_alone_by_everybody() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = Vm::with(&w, |_| (), |vm| _ = vm.w.rec_with(vm.rd, 1, |params| params.flags = 0));
    let (running, runs) = mpsc::channel();
    let (go, goes) = mpsc::channel();
    vm.put(&RecEnter::default());
    vm.script(std::vec![Box::new(move |_, _| {
        running.send(()).unwrap();
        goes.recv().unwrap();
        RealmExit::Irq
    })]);
    let other_run_ptr = w.fresh();
    std::thread::scope(|scope| {
        let entry = scope.spawn(|| w.ok(vm.command()));
        runs.recv().unwrap();
        w.fails(RmiCommand::RecEnter { rec: vm.rec, run_ptr: other_run_ptr }, REC);
        w.fails(RmiCommand::RecDestroy { rec: vm.rec }, REC);
        w.fails(RmiCommand::RealmDestroy { rd: vm.rd }, REALM);
        w.fails(RmiCommand::GranuleUndelegate { addr: vm.rec }, INPUT);
        go.send(()).unwrap();
        entry.join().unwrap();
    });
    w.ok(RmiCommand::RecDestroy { rec: vm.rec });
}

#[test]
fn an_exit_that_cannot_be_written_is_an_input_error_after_the_realm_ran() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = Vm::new(&w);
    vm.put(&RecEnter::default());
    vm.script(std::vec![does(|context| context.gprs[5] = 55, RealmExit::Irq)]);
    w.machine().ns_accesses_left.store(RecEnter::USED.len(), Ordering::Relaxed);
    assert_eq!(w.run(vm.command()).code, INPUT);
    w.machine().ns_accesses_left.store(usize::MAX, Ordering::Relaxed);
    assert_eq!(vm.content().context.gprs[5], 55);
    // The REC is READY again.
    vm.enter(std::vec![irq()]);
}

#[test]
fn list_registers_go_in_and_come_back() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = Vm::new(&w);
    let pending = 1 << 62 | 1 << 60 | 27;
    let exit = vm.enter_with(
        |enter| (enter.gicv3_hcr, enter.gicv3_lrs[0], enter.gicv3_lrs[9]) = (2, pending, pending),
        std::vec![does(
            |context| {
                assert_eq!(context.gic.ich_hcr, 2 | 0x8101);
                assert_eq!(context.gic.ich_lrs[..2], [1 << 62 | 1 << 60 | 27, 0]);
                context.gic.ich_lrs[0] = 27;
                context.gic.ich_hcr |= 3 << 27;
                (context.gic.ich_misr, context.gic.ich_vmcr) = (4, 0x10);
            },
            RealmExit::Irq,
        )],
    );
    assert_exit(&exit, |exit| {
        exit.exit_reason = ExitReason::IRQ;
        (exit.gicv3_hcr, exit.gicv3_lrs[0]) = (3 << 27 | 2, 27);
        (exit.gicv3_misr, exit.gicv3_vmcr) = (4, 0x10);
    });
}

#[test]
fn a_timer_that_fires_is_reported_once_and_then_masked_until_it_changes() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = Vm::new(&w);
    let exit = vm.enter(std::vec![does(
        |context| (context.timers.cntp_ctl, context.timers.cntp_cval) = (1, 1000),
        RealmExit::Irq
    )]);
    assert_eq!((exit.cntp_ctl, exit.cntp_cval), (1, 1000));

    // It is due while the Host runs: the Host hears of it before the realm runs.
    w.machine().counter.store(1000, Ordering::Relaxed);
    let exit = vm.enter(Vec::new());
    assert_exit(&exit, |exit| (exit.exit_reason, exit.cntp_ctl, exit.cntp_cval) = (ExitReason::IRQ, 5, 1000));

    // Now it knows.
    let (sender, receiver) = mpsc::channel();
    vm.enter(std::vec![observes(move |controls| {
        sender.send((controls.mask_ptimer, controls.mask_vtimer)).unwrap();
    })]);
    assert_eq!(receiver.recv().unwrap(), (true, false));

    // The realm moves it: its output falls, which the Host must see although nothing else happens.
    let exit = vm.enter(std::vec![does(
        |context| {
            context.timers.cntp_cval = 5000;
            context.gprs[0] = rsi::RsiCall::Features { index: 0 }.fid();
        },
        RealmExit::Sync { esr: esr::EC_SMC << 26, far: 0, hpfar: 0 }
    )]);
    assert_exit(&exit, |exit| (exit.exit_reason, exit.cntp_ctl, exit.cntp_cval) = (ExitReason::IRQ, 1, 5000));
}

#[test]
fn pmu_overflow_is_reported_to_a_realm_with_a_pmu_only() {
    let overflow = |context: &mut CpuContext| {
        let pmu = &mut context.pmu;
        (pmu.pmcr, pmu.pmovs, pmu.pminten, pmu.pmcnten) = (1, 0b110, 0b011, 0b010);
    };
    for (flags, status) in [(4, 1), (0, 0)] {
        let entries = entries();
        let w = World::new(&entries);
        let vm = Vm::with(&w, |params| (params.flags, params.pmu_num_ctrs) = (flags, 4), |_| ());
        assert_eq!(vm.enter(std::vec![does(overflow, RealmExit::Irq)]).pmu_ovf_status, status);
        let disabled = |context: &mut CpuContext| context.pmu.pmcr = 0;
        assert_eq!(vm.enter(std::vec![does(disabled, RealmExit::Irq)]).pmu_ovf_status, 0);
    }
}

#[test]
fn a_cpu_forgets_a_virtual_cpu_before_it_runs_another_of_the_same_realm() {
    let entries = entries();
    let w = World::new(&entries);
    let other = std::cell::Cell::new(0);
    let vm = Vm::with(&w, |params| params.vmid = 7, |vm| other.set(w.rec_with(vm.rd, 1, |_| ())));
    let forgotten = |cpu: usize, rec| {
        w.machine().cpu.store(cpu, Ordering::Relaxed);
        vm.put(&RecEnter::default());
        w.ok(RmiCommand::RecEnter { rec, run_ptr: vm.run_ptr });
        core::mem::take(&mut *w.machine().forgotten.lock().unwrap())
    };
    let other = other.get();
    // The first on a CPU, and the same again, find nothing of another.
    assert_eq!(forgotten(0, vm.rec), []);
    assert_eq!(forgotten(0, vm.rec), []);
    assert_eq!(forgotten(0, other), [(0, 7)]);
    assert_eq!(forgotten(0, vm.rec), [(0, 7)]);
    // Each CPU has its own last one; having been elsewhere does not matter.
    assert_eq!(forgotten(1023, other), []);
    assert_eq!(forgotten(0, vm.rec), []);
    assert_eq!(forgotten(1023, vm.rec), [(1023, 7)]);
    // Of CPUs without end nothing is known: there is always something to forget.
    assert_eq!(forgotten(1024, vm.rec), [(1024, 7)]);
    assert_eq!(forgotten(usize::MAX, vm.rec), [(usize::MAX, 7)]);
    // An entry that is refused runs nothing.
    w.machine().cpu.store(0, Ordering::Relaxed);
    w.change_rec(other, |rec| rec.set_runnable(false));
    w.fails(RmiCommand::RecEnter { rec: other, run_ptr: vm.run_ptr }, REC);
    assert_eq!(*w.machine().forgotten.lock().unwrap(), []);
    assert_eq!(forgotten(0, vm.rec), []);
}
