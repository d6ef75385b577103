use super::*;
use realm_abi::rsi::{HostCall, RealmConfig};

const VERSION: u64 = 0xC400_0190;
const FEATURES: u64 = 0xC400_0191;
const MEASUREMENT_READ: u64 = 0xC400_0192;
const MEASUREMENT_EXTEND: u64 = 0xC400_0193;
const REALM_CONFIG: u64 = 0xC400_0196;
const IPA_STATE_SET: u64 = 0xC400_0197;
const IPA_STATE_GET: u64 = 0xC400_0198;
const HOST_CALL: u64 = 0xC400_0199;

const ERROR_INPUT: u64 = 1;

/// An IPA with RAM and no memory, from [`vm`].
const UNASSIGNED: u64 = 0x4000_0000;
/// An EMPTY IPA in the same table as [`Vm::data`].
const EMPTY: u64 = 0x2000;

fn vm<'w, 'a>(w: &'w World<'a>) -> Vm<'w, 'a> {
    Vm::with(
        w,
        |params| params.rpv = [0x3c; 64],
        |vm| {
            let (rd, base) = (vm.rd, UNASSIGNED);
            vm.w.ok(RmiCommand::RttInitRipas { rd, base, top: base + 0x4000_0000 });
        },
    )
}

/// Where buffers of the realm cannot be.
#[track_caller]
fn refuses_buffers(vm: &Vm<'_, '_>, alignment: u64, call: impl Fn(u64) -> Vec<u64>) {
    for addr in [alignment / 2, PROTECTED_TOP, !0xfff, EMPTY] {
        assert_eq!(vm.call(&call(addr))[0], ERROR_INPUT, "{addr:#x}");
    }
    // The Host has to bring memory, and the call is made again.
    let pc = vm.content().context.pc;
    let exit = vm.call_exits(&call(UNASSIGNED));
    assert_exit(&exit, |exit| {
        exit.esr = 0x24 << 26 | 0b000101;
        exit.hpfar = UNASSIGNED >> 8;
    });
    assert_eq!(vm.content().context.pc, pc);
    vm.refuses(REC, |enter| enter.flags = 1);
    vm.refuses(REC, |enter| enter.flags = 2);
}

#[test]
fn smcs_of_nobody_are_not_supported() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = vm(&w);
    // RMI, TRNG, RSI behind the last, SMCCC_ARCH_FEATURES, an odd number.
    for function in [0xC400_0150, 0xC400_0165, 0x8400_0050, 0xC400_019A, 0xC400_01AF, 0x8000_0001, 7] {
        assert_eq!(vm.call(&[function, 1, 2, 3, 4])[..5], [u64::MAX, 0, 0, 0, 4], "{function:#x}");
    }
    assert_eq!(vm.call(&[0x8000_0000])[0], 0x1_0002, "SMCCC_VERSION");
}

#[test]
fn version_1_0_is_granted_and_every_other_is_told_of_it() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = vm(&w);
    for (version, status) in [(0x1_0000, 0), (0x1_0001, 1), (0x2_0000, 1), (9, 1)] {
        assert_eq!(vm.call(&[VERSION, version])[..4], [status, 0x1_0000, 0x1_0000, 0]);
    }
    assert_eq!(vm.call(&[VERSION | 1 << 16, 0x1_0000])[0], 0, "with the SVE hint");
    for index in [0, 1, u64::MAX] {
        assert_eq!(vm.call(&[FEATURES, index, 7])[..3], [0, 0, 0]);
    }
}

#[test]
fn measurements_are_read_and_extended_within_bounds() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = vm(&w);
    let read = |index| vm.call(&[MEASUREMENT_READ, index])[..9].as_bytes().to_vec();
    assert_eq!(read(0)[8..], w.rim(vm.rd));
    assert_eq!(read(4), [0; 72]);
    assert_eq!(vm.call(&[MEASUREMENT_READ, 5])[0], ERROR_INPUT);
    for (index, size) in [(0, 8), (5, 8), (u64::MAX, 8), (1, 65), (1, u64::MAX)] {
        assert_eq!(vm.call(&[MEASUREMENT_EXTEND, index, size])[0], ERROR_INPUT, "{index} {size}");
    }
    let value = 0x0807_0605_0403_0201_u64;
    assert_eq!(vm.call(&[MEASUREMENT_EXTEND, 2, 8, value])[0], 0);
    let hash =
        crate::measurement::hash(w.machine(), HashAlgorithm::SHA_256, &[&[0; 32], &[1, 2, 3, 4, 5, 6, 7, 8]]);
    assert_eq!(read(2)[8..], hash);
    for untouched in [1, 3, 4] {
        assert_eq!(read(untouched), [0; 72]);
    }
    assert_eq!(vm.call(&[MEASUREMENT_EXTEND, 2, 0])[0], 0, "an empty value is allowed");
    assert_ne!(read(2)[8..], hash);
}

#[test]
fn the_configuration_fills_its_page() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = vm(&w);
    w.machine().memory(vm.data, |_, granule| granule.as_mut_bytes().fill(0xff));
    assert_eq!(vm.call(&[REALM_CONFIG, 0, 2, 3])[..4], [0; 4]);
    let mut expected = RealmConfig::default();
    (expected.ipa_width, expected.rpv) = (33, [0x3c; 64]);
    assert_eq!(&w.machine().content(vm.data)[..], expected.as_bytes());
    refuses_buffers(&vm, 4096, |addr| std::vec![REALM_CONFIG, addr]);
}

#[test]
fn a_host_call_goes_there_and_back() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = vm(&w);
    let mut call = HostCall::default();
    (call.imm, call.gprs) = (0xabcd, core::array::from_fn(|n| n as u64 + 100));
    w.machine()
        .memory(vm.data, |_, granule| granule.as_mut_bytes()[0x300..0x400].copy_from_slice(call.as_bytes()));
    let exit = vm.call_exits(&[HOST_CALL, 0x300, 2, 3, 4]);
    assert_exit(&exit, |exit| {
        exit.exit_reason = ExitReason::HOST_CALL;
        (exit.imm, exit.gprs) = (0xabcd, call.gprs);
    });
    let context = vm.resumed_with(|enter| enter.gprs = [0x77; 31]);
    assert_eq!(context.gprs[..5], [0, 0, 0, 0, 4]);
    assert_eq!(context.pc, 0x1004);
    call.gprs = [0x77; 31];
    let content = w.machine().content(vm.data);
    assert_eq!(&content[0x300..0x400], call.as_bytes());
    assert!(
        content[..0x300].iter().chain(&content[0x400..]).all(|byte| *byte == 0),
        "nothing beside it is written"
    );
    refuses_buffers(&vm, 256, |addr| std::vec![HOST_CALL, addr]);
}

#[test]
fn a_host_call_whose_memory_is_gone_waits_for_it() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = vm(&w);
    vm.call_exits(&[HOST_CALL, 0x300]);
    w.ok(RmiCommand::DataDestroy { rd: vm.rd, ipa: 0 });
    for _ in 0..2 {
        // The realm does not run.
        let exit = vm.enter_with(|enter| enter.gprs = [0x77; 31], Vec::new());
        assert_exit(&exit, |exit| exit.esr = 0x24 << 26 | 0b000111);
    }
    // The page became EMPTY by the will of another REC, say.
    let rd = vm.rd;
    w.ok(RmiCommand::RttDestroy { rd, ipa: 0, level: 3 });
    assert_eq!(vm.enter(Vec::new()).esr, 0x24 << 26 | 0b000110, "the level where the walk ends");
}

#[test]
fn conditions_of_ranges() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = vm(&w);
    for (base, top) in [
        (0x800, 0x2000),
        (0x1000, 0x2800),
        (0x2000, 0x2000),
        (0x2000, 0x1000),
        (0, PROTECTED_TOP + 0x1000),
        (PROTECTED_TOP, PROTECTED_TOP + 0x1000),
        (0x1000, 0),
        (!0xfff, 0),
    ] {
        assert_eq!(vm.call(&[IPA_STATE_SET, base, top, 1, 0])[0], ERROR_INPUT, "{base:#x} {top:#x}");
        assert_eq!(vm.call(&[IPA_STATE_GET, base, top])[0], ERROR_INPUT, "{base:#x} {top:#x}");
    }
    for ripas in [2, 3, 0x101] {
        assert_eq!(vm.call(&[IPA_STATE_SET, 0, 0x1000, ripas, 0])[0], ERROR_INPUT, "RIPAS {ripas}");
    }
}

#[test]
fn the_state_of_a_range_is_told_as_far_as_it_is_the_same() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = vm(&w);
    let get = |base, top| vm.call(&[IPA_STATE_GET, base, top])[..4].to_vec();
    assert_eq!(get(0, 0x10_0000), [0, 0x1000, 1, 0]);
    assert_eq!(get(0x1000, 0x10_0000), [0, 0x10_0000, 0, 0]);
    assert_eq!(get(0x1000, UNASSIGNED), [0, 0x20_0000, 0, 0], "it ends with the table");
    assert_eq!(get(UNASSIGNED + 0x1000, PROTECTED_TOP), [0, UNASSIGNED + 0x4000_0000, 1, 0]);
}

#[test]
fn a_ripas_change_is_shown_and_what_became_of_it_told() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = vm(&w);
    const REJECT: u64 = 1 << 4;
    // What the Host did, its flag, and X0 to X3 of the realm.
    for (ripas, done, flags, answer) in [
        (1, 0x9000, 0, [0, 0x9000, 0, 0]),
        (1, 0x9000, REJECT, [0, 0x9000, 0, 0]),
        (1, 0x5000, 0, [0, 0x5000, 0, 0]),
        (1, 0x5000, REJECT, [0, 0x5000, 1, 0]),
        (1, 0x4000, REJECT, [0, 0x4000, 1, 0]),
        (0, 0x4000, REJECT, [0, 0x4000, 0, 0]),
    ] {
        let exit = vm.call_exits(&[IPA_STATE_SET, 0x4000, 0x9000, ripas, 1, 5]);
        assert_exit(&exit, |exit| {
            exit.exit_reason = ExitReason::RIPAS_CHANGE;
            (exit.ripas_base, exit.ripas_top) = (0x4000, 0x9000);
            exit.ripas_value = Ripas(ripas as u8);
        });
        w.change_rec(vm.rec, |rec| {
            let change = rec.ripas_change();
            assert_eq!((change.addr, change.top, change.destroyed), (0x4000, 0x9000, true));
            rec.set_ripas_addr(done);
        });
        let context = vm.resumed_with(|enter| enter.flags = flags);
        assert_eq!(context.gprs[..4], answer);
        assert_eq!(vm.content().ripas_change().top, 0, "entering closes the request");
    }
}

#[test]
fn two_recs_of_a_realm_call_at_once_and_no_call_is_lost() {
    const CALLS: usize = 100;
    let entries = entries();
    let w = World::new(&entries);
    let mut other = 0;
    let vm = Vm::with(&w, |_| (), |vm| other = vm.w.rec_with(vm.rd, 1, |_| ()));
    // Whichever REC comes first takes the next piece of work.
    for _ in 0..CALLS {
        let work = [smc(&[MEASUREMENT_EXTEND, 1, 8, 7]), smc(&[REALM_CONFIG, 0]), irq()];
        w.machine().runs.lock().unwrap().extend(work);
    }
    let other_run_ptr = w.fresh();
    vm.put(&RecEnter::default());
    w.machine().host_write(other_run_ptr, RecEnter::default().as_bytes());
    std::thread::scope(|scope| {
        for (rec, run_ptr) in [(vm.rec, vm.run_ptr), (other, other_run_ptr)] {
            let w = &w;
            scope.spawn(move || {
                while !w.machine().runs.lock().unwrap().is_empty() {
                    w.ok(RmiCommand::RecEnter { rec, run_ptr });
                    w.ok(RmiCommand::RttReadEntry { rd: w.rec(rec).owner, ipa: 0, level: 3 });
                }
            });
        }
    });
    let expected = (0..CALLS).fold([0; 64], |old, _| {
        crate::measurement::hash(w.machine(), HashAlgorithm::SHA_256, &[&old[..32], &7_u64.to_le_bytes()])
    });
    assert_eq!(vm.call(&[MEASUREMENT_READ, 1])[1..9].as_bytes(), expected);
}
