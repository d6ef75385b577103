use super::*;

const DATA: u64 = 0x24 << 26;
const FETCH: u64 = 0x20 << 26;
const PAGE: u64 = PROTECTED_TOP + 0x5000;
const RAM_UNASSIGNED: u64 = 0x4000_0000;
const DESTROYED: u64 = 0x1000;
const EMPTY: u64 = 0x2000;

/// All bits of the ISS but FSC.
const NOISE: u64 = 0x01ff_ffc0;
const TRANSLATION: u64 = 0x7;
const PERMISSION: u64 = 0xf;

const fn hpfar(ipa: u64) -> u64 {
    ipa >> 12 << 4
}

/// A realm with RAM and no memory at 1 GiB, a destroyed page, and an EMPTY one.
fn vm<'w, 'a>(w: &'w World<'a>) -> Vm<'w, 'a> {
    let vm = Vm::with(
        w,
        |_| (),
        |vm| {
            let (rd, base) = (vm.rd, RAM_UNASSIGNED);
            vm.w.data(rd, DESTROYED);
            vm.w.ok(RmiCommand::RttInitRipas { rd, base, top: base + 0x4000_0000 });
        },
    );
    w.ok(RmiCommand::DataDestroy { rd: vm.rd, ipa: DESTROYED });
    vm
}

#[test]
fn a_protected_address_without_memory_shows_the_granule_only() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = vm(&w);
    for ipa in [RAM_UNASSIGNED + 0x3000, DESTROYED] {
        let exit = vm.enter(std::vec![sync(DATA | esr::IL | NOISE | TRANSLATION, ipa | 0x123, hpfar(ipa))]);
        assert_exit(&exit, |exit| {
            exit.esr = DATA | esr::SET | esr::FNV | esr::EA | TRANSLATION;
            exit.hpfar = ipa >> 8;
        });
        let exit = vm.enter(std::vec![sync(FETCH | esr::IL | NOISE | TRANSLATION, ipa | 0x124, hpfar(ipa))]);
        assert_exit(&exit, |exit| {
            exit.esr = FETCH | esr::SET | esr::EA | TRANSLATION;
            exit.hpfar = ipa >> 8;
        });
        // It is neither emulatable nor to be answered by an abort.
        vm.refuses(REC, |enter| enter.flags = 1);
        vm.refuses(REC, |enter| enter.flags = 2);
        assert_eq!(vm.content().context.pc, 0x1000);
    }
}

#[test]
fn memory_that_came_in_the_meantime_is_just_used() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = vm(&w);
    let exit = vm.enter(std::vec![sync(DATA | TRANSLATION, 0, 0), sync(FETCH | TRANSLATION, 0, 0), irq()]);
    assert_eq!(exit.exit_reason, ExitReason::IRQ);
    assert_eq!(vm.content().context.pc, 0x1000);
}

#[test]
fn empty_addresses_are_external_aborts_to_the_realm() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = vm(&w);
    for (class, same_level) in [(DATA, 0x25 << 26), (FETCH, 0x21 << 26)] {
        w.change_rec(vm.rec, |rec| (rec.context.pc, rec.context.el1.vbar_el1) = (0x1000, 0x8000));
        vm.enter(std::vec![sync(class | esr::IL | TRANSLATION, EMPTY | 8, hpfar(EMPTY)), irq()]);
        let context = vm.content().context;
        assert_eq!(context.el1.esr_el1, same_level | esr::IL | esr::EA | 0x10);
        assert_eq!((context.el1.far_el1, context.el1.elr_el1, context.pc), (EMPTY | 8, 0x1000, 0x8200));
    }
}

#[test]
fn fetching_from_unprotected_memory_is_an_external_abort() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = vm(&w);
    vm.enter(std::vec![sync(FETCH | PERMISSION, PAGE, hpfar(PAGE)), irq()]);
    assert_eq!(vm.content().context.el1.esr_el1, 0x21 << 26 | esr::EA | 0x10);
}

#[test]
fn addresses_outside_the_space_are_address_size_faults() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = vm(&w);
    for (sctlr, fsc) in [(0, 0), (1, 3)] {
        for (class, same_level) in [(DATA, 0x25 << 26), (FETCH, 0x21 << 26)] {
            w.change_rec(vm.rec, |rec| rec.context.el1.sctlr_el1 = sctlr);
            vm.enter(std::vec![sync(class | 4, 1 << 33, hpfar(1 << 33)), irq()]);
            assert_eq!(vm.content().context.el1.esr_el1, same_level | fsc);
        }
    }
}

/// A valid syndrome of an access of `1 << sas` bytes by register `srt`.
const fn access(sas: u64, sse: bool, srt: u64, sf: bool, write: bool) -> u64 {
    DATA | esr::IL
        | esr::ISV
        | sas << 22
        | (sse as u64) << 21
        | srt << 16
        | (sf as u64) << 15
        | (write as u64) << 6
        | TRANSLATION
}

#[test]
fn an_emulatable_write_shows_the_value_and_the_offset() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = vm(&w);
    for (sas, value) in [(0, 0x88), (1, 0x7788), (2, 0x5566_7788), (3, 0x1122_3344_5566_7788_u64)] {
        let esr = access(sas, false, 3, sas == 3, true) | esr::SET | esr::FNV | esr::EA | 1 << 8;
        let exit = vm.enter(std::vec![does(
            |context| context.gprs[3] = 0x1122_3344_5566_7788,
            RealmExit::Sync { esr, far: 0xffff_0000_0000_0abc, hpfar: hpfar(PAGE) }
        )]);
        assert_exit(&exit, |exit| {
            let sf = if sas == 3 { esr::SF } else { 0 };
            exit.esr =
                DATA | esr::ISV | sas << 22 | sf | esr::SET | esr::FNV | esr::EA | esr::WNR | TRANSLATION;
            exit.far = 0xabc;
            exit.hpfar = PAGE >> 8;
            exit.gprs[0] = value;
        });
    }
    let zero = access(3, false, 31, true, true);
    assert_eq!(vm.enter(std::vec![sync(zero, 0, hpfar(PAGE))]).gprs[0], 0);
}

#[test]
fn an_emulated_read_is_sized_extended_and_put_where_it_belongs() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = vm(&w);
    let given = 0xfedc_ba98_7654_8281;
    for (sas, sse, sf, expected) in [
        (0, false, true, 0x81),
        (0, true, true, 0xffff_ffff_ffff_ff81),
        (0, true, false, 0xffff_ff81),
        (1, false, false, 0x8281),
        (1, true, true, 0xffff_ffff_ffff_8281),
        (2, true, true, 0x7654_8281),
        (2, false, false, 0x7654_8281),
        (3, false, true, given),
    ] {
        let pc = vm.content().context.pc;
        let exit = vm.enter(std::vec![sync(access(sas, sse, 7, sf, false), 0x10, hpfar(PAGE))]);
        assert_eq!(exit.gprs[0], 0, "a read shows no register");
        let context = vm.resumed_with(|enter| (enter.flags, enter.gprs[0]) = (1, given));
        assert_eq!(context.gprs[7], expected);
        assert_eq!(context.pc, pc + 4);
    }
}

#[test]
fn an_access_that_was_not_emulated_is_tried_again() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = vm(&w);
    vm.enter(std::vec![sync(access(3, false, 7, true, false), 0x10, hpfar(PAGE))]);
    let context = vm.resumed_with(|enter| enter.gprs[0] = 5);
    assert_eq!((context.pc, context.gprs[7]), (0x1000, 0));
    // And only the last exit counts.
    vm.refuses(REC, |enter| enter.flags = 1);
}

#[test]
fn an_access_without_a_syndrome_shows_its_length_and_is_not_emulated() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = vm(&w);
    let not_valid = DATA | esr::IL | NOISE & !esr::ISV;
    for (esr, pstate) in [(not_valid, 0x3c5), (not_valid | esr::ISV, 0x10)] {
        w.change_rec(vm.rec, |rec| rec.context.pstate = pstate);
        let exit = vm.enter(std::vec![sync(esr | PERMISSION, 0x10, hpfar(PAGE))]);
        assert_exit(&exit, |exit| {
            exit.esr = DATA | esr::SET | esr::FNV | esr::EA | PERMISSION;
            exit.hpfar = PAGE >> 8;
        });
        vm.refuses(REC, |enter| enter.flags = 1);
    }
}

#[test]
fn the_host_can_answer_an_unprotected_access_by_an_external_abort() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = vm(&w);
    for esr in [access(3, false, 7, true, false), DATA | esr::IL | TRANSLATION] {
        w.change_rec(vm.rec, |rec| (rec.context.pc, rec.context.el1.vbar_el1) = (0x1000, 0x8000));
        vm.enter(std::vec![sync(esr, 0xabc_0010, hpfar(PAGE))]);
        // emul_mmio does not count then.
        let context = vm.resumed_with(|enter| (enter.flags, enter.gprs[0]) = (3, 5));
        assert_eq!(context.el1.esr_el1, 0x25 << 26 | esr::IL | esr::EA | 0x10);
        assert_eq!((context.el1.far_el1, context.el1.elr_el1), (0xabc_0010, 0x1000));
        assert_eq!((context.pc, context.gprs[7]), (0x8200, 0));
    }
}

#[test]
fn external_aborts_from_below_go_to_the_host_and_if_recoverable_to_the_realm() {
    for (class, shown) in [(DATA, esr::SET | esr::FNV | esr::EA), (FETCH, esr::SET | esr::EA)] {
        for (set, to_realm, ends) in [(0, true, false), (3, false, false), (2, false, true)] {
            let entries = entries();
            let w = World::new(&entries);
            let vm = vm(&w);
            let esr = class | esr::IL | set << 11 | 1 << 9 | 1 << 24 | 0x10;
            let exit = vm.enter(std::vec![sync(esr, 0x77, hpfar(0x9000))]);
            assert_exit(&exit, |exit| exit.esr = class | (set << 11 | 1 << 9) & shown | 0x10);
            assert_eq!(vm.content().context.el1.far_el1 == 0x77, to_realm);
            if ends {
                vm.refuses(ReturnCode(0x102), |_| ());
            } else {
                vm.enter(std::vec![irq()]);
            }
        }
    }
}

#[test]
fn a_granule_protection_fault_is_the_realms_to_see() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = vm(&w);
    let exit = vm.enter(std::vec![sync(DATA | esr::IL | 0x28, 0x55, hpfar(PAGE)), irq()]);
    assert_eq!(exit.exit_reason, ExitReason::IRQ);
    assert_eq!(vm.content().context.el1.esr_el1, 0x25 << 26 | esr::IL | 0x28);
}
