use super::*;

#[test]
fn interrupts_show_nothing_but_that_they_came() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = Vm::new(&w);
    for (happening, reason) in [(RealmExit::Irq, ExitReason::IRQ), (RealmExit::Fiq, ExitReason::FIQ)] {
        let exit = vm.enter(std::vec![does(|context| context.gprs = [0x5ec2e7; 31], happening)]);
        assert_exit(&exit, |exit| exit.exit_reason = reason);
    }
}

#[test]
fn wfx_shows_which_and_the_timeout_if_it_has_one() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = Vm::new(&w);
    // CV, COND, RN = 9.
    let noise = 1 << 24 | 0xe << 20 | 9 << 5;
    let rv = 1 << 2;
    for (ti, rv, timeout) in [(0, rv, 0), (1, rv, 0), (2, rv, 777), (3, rv, 777), (2, 0, 0), (3, 0, 0)] {
        let pc = vm.content().context.pc;
        let esr = esr::EC_WFX << 26 | esr::IL | noise | rv | ti;
        let exit = vm.enter_with(
            |enter| enter.flags = 0b1100,
            std::vec![does(|context| context.gprs[9] = 777, RealmExit::Sync { esr, far: 1, hpfar: 2 })],
        );
        assert_exit(&exit, |exit| {
            exit.esr = esr::EC_WFX << 26 | ti;
            exit.gprs[0] = timeout;
        });
        assert_eq!(vm.content().context.pc, pc + 4);
    }
}

#[test]
fn hvc_and_hidden_simd_are_undefined_to_the_realm() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = Vm::new(&w);
    for (class, at) in [(0x16, 0x4ffc), (0x19, 0x5000), (0x1d, 0x5000), (0x07, 0x5000)] {
        let at_5000 = |context: &mut CpuContext| {
            (context.pc, context.pstate, context.el1.vbar_el1) = (0x5000, 0x3c5, 0x8000);
        };
        let exit = RealmExit::Sync { esr: class << 26 | esr::IL | 0xffff, far: 1, hpfar: 2 };
        vm.enter(std::vec![does(at_5000, exit), irq()]);
        let context = vm.content().context;
        assert_eq!(context.pc, 0x8200);
        assert_eq!((context.el1.esr_el1, context.el1.elr_el1), (esr::IL, at), "class {class:#x}");
    }
}

#[test]
fn a_class_nobody_knows_exits_without_a_syndrome() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = Vm::new(&w);
    let exit = vm.enter(std::vec![sync(0x3c << 26 | 0xffff, 0x1111, 0x2222)]);
    assert_exit(&exit, |exit| exit.exit_reason = ExitReason::SYNC);
}

#[test]
fn an_serror_is_reported_and_given_to_the_realm_if_it_is_its_own() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = Vm::new(&w);
    for (aet, injected) in [(1, true), (2, false), (3, true), (6, false)] {
        let esr = 0x2f << 26 | esr::IL | 0x5 << 13 | aet << 10 | 1 << 9 | 0x11;
        let exit = vm.enter(std::vec![happens(RealmExit::SError { esr })]);
        assert_exit(&exit, |exit| {
            exit.exit_reason = ExitReason::SERROR;
            exit.esr = 0x2f << 26 | aet << 10 | 1 << 9 | 0x11;
        });
        let context = vm.content().context;
        assert_eq!((context.vse, context.vsesr), if injected { (1, esr & 0x1ff_ffff) } else { (0, 0) });
        w.change_rec(vm.rec, |rec| (rec.context.vse, rec.context.vsesr) = (0, 0));
    }
}

#[test]
fn an_serror_that_was_not_contained_ends_the_realm() {
    for syndrome in [0x11, 1 << 24, 1 << 10 | 0x10] {
        let entries = entries();
        let w = World::new(&entries);
        let vm = Vm::new(&w);
        let exit = vm.enter(std::vec![happens(RealmExit::SError { esr: 0x2f << 26 | syndrome })]);
        assert_eq!(exit.exit_reason, ExitReason::SERROR);
        vm.refuses(ReturnCode(0x102), |_| ());
    }
}

#[test]
fn two_realms_with_different_secrets_look_the_same() {
    let exits = [1_u64, 2].map(|secret| {
        let entries = entries();
        let w = World::new(&entries);
        let vm = Vm::new(&w);
        let hides = move |context: &mut CpuContext| {
            context.gprs = [secret; 31];
            context.gprs[0] = 0xc400_0192;
            (context.el1.sp_el1, context.el1.ttbr0_el1, context.pauth_keys[0]) = (secret, secret, secret);
        };
        let to_host = [
            RealmExit::Irq,
            RealmExit::Fiq,
            RealmExit::Sync { esr: esr::EC_WFX << 26, far: secret, hpfar: secret },
            RealmExit::Sync { esr: 0x3c << 26 | secret, far: secret, hpfar: secret },
        ];
        // An EMPTY page, and an ID register.
        let to_realm = [
            RealmExit::Sync { esr: 0x24 << 26 | 7, far: 0x4000_0000 + secret, hpfar: 0x40_0000 },
            RealmExit::Sync { esr: esr::EC_SYSREG << 26 | 3 << 20 | 1, far: secret, hpfar: secret },
        ];
        let mut seen = Vec::new();
        for happening in to_host {
            seen.extend_from_slice(vm.enter(std::vec![does(hides, happening)]).as_bytes());
        }
        for happening in to_realm {
            seen.extend_from_slice(vm.enter(std::vec![does(hides, happening), irq()]).as_bytes());
        }
        seen
    });
    assert!(exits[0] == exits[1]);
}

#[test]
fn an_serror_waits_for_the_realm_to_run() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = Vm::new(&w);
    let esr = 0x2f << 26 | 1 << 10 | 0x11;
    vm.enter(std::vec![does(
        |context| (context.timers.cntv_ctl, context.timers.cntv_cval) = (1, 1000),
        RealmExit::SError { esr }
    )]);
    // The timer comes first, and the realm does not run.
    w.machine().counter.store(1000, Ordering::Relaxed);
    assert_eq!(vm.enter(Vec::new()).cntv_ctl, 5);
    assert_eq!(vm.content().context.vse, 1);
}

#[test]
fn an_serror_a_realm_masks_waits_until_the_realm_takes_it() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = Vm::new(&w);
    let esr = 0x2f << 26 | 1 << 10 | 0x11;
    vm.enter(std::vec![happens(RealmExit::SError { esr })]);
    // The realm runs with SErrors masked, makes a call, and is interrupted.
    let sees =
        move |context: &mut CpuContext| assert_eq!((context.vse, context.vsesr), (1, esr & 0x1ff_ffff));
    let call = RealmExit::Sync { esr: esr::EC_SMC << 26, far: 0, hpfar: 0 };
    vm.enter(std::vec![does(sees, call), does(sees, RealmExit::Irq)]);
    let takes = move |context: &mut CpuContext| {
        sees(context);
        context.vse = 0;
    };
    vm.enter(std::vec![does(takes, RealmExit::Irq)]);
    vm.enter(std::vec![does(|context| assert_eq!(context.vse, 0), RealmExit::Irq)]);
}
