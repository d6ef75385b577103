//! The RMM core on the machine, driven by bare RMI calls: what realms see of it.

use realm_abi::GRANULE_SIZE;
use realm_abi::psci::{PsciCall, PsciStatus};
use realm_abi::rmi::{EnterFlags, ExitReason, RecRun, ReturnCode, Ripas, RmiCommand, Version};
use realm_abi::rsi::{RsiCall, RsiStatus};
use realm_machine::bare::{BareHost, BareRealm, ok, realm_params};
use realm_machine::config::ClockKind;
use realm_machine::program::{Access, GuestException};
use realm_machine::{Guest, Machine, MachineConfig};
use std::sync::Arc;

const RAM: u64 = 0x8000_0000;
const IPA_BITS: u8 = 33;
/// Soon after the counter starts, before the Host's scheduler interrupts.
const TIMER: u64 = (1 << 20) + 1000;

fn machine() -> Arc<Machine> {
    let config = MachineConfig { clock: ClockKind::Manual, ..MachineConfig::new(64 << 20, 2) };
    Machine::new(config).expect("a valid size")
}

/// A realm with `pages` pages of RAM and one REC that runs `body`.
fn realm(
    host: &mut BareHost<'_>,
    pages: u64,
    body: impl Fn(&mut Guest) + Send + Sync + 'static,
) -> BareRealm {
    host.machine().set_guest(body);
    let mut realm = host.realm(realm_params(1, IPA_BITS));
    realm.init_ripas(host, RAM, RAM + (2 << 20));
    for page in 0..pages {
        realm.data(host, RAM + page * GRANULE_SIZE, &[page as u8 + 1; 64]);
    }
    realm.rec(host, RAM, [0; 8], true);
    realm.activate(host);
    realm
}

fn enter(host: &BareHost<'_>, realm: &BareRealm, run: &RecRun) -> RecRun {
    realm.enter(host, 0, run).unwrap_or_else(|code| panic!("REC_ENTER: {code}"))
}

/// Asserts that the exit is PSCI_SYSTEM_OFF, the end of a closure that did not panic.
fn assert_off(machine: &Machine, run: &RecRun) {
    machine.log().assert_clean();
    assert_eq!(run.exit.exit_reason, ExitReason::PSCI);
    assert_eq!(run.exit.gprs[0], realm_abi::psci::fid::SYSTEM_OFF);
}

#[test]
fn a_realm_reads_what_was_measured_and_writes_its_own_memory() {
    let machine = machine();
    let mut host = BareHost::new(&machine);
    let realm = realm(&mut host, 2, |guest| {
        assert_eq!(guest.entry(), RAM);
        assert_eq!(guest.read::<u64>(RAM), Ok(0x0101_0101_0101_0101));
        assert_eq!(guest.read::<u8>(RAM + 0x1000), Ok(2));
        guest.write::<u32>(RAM + 0x1ffc, 0xdead_beef).expect("RAM");
        assert_eq!(guest.read_bytes(RAM + 0x1ff8, 8), Ok(vec![0, 0, 0, 0, 0xef, 0xbe, 0xad, 0xde]));
        guest.exec(RAM + 0x40).expect("protected RAM is executable");
    });
    assert_off(&machine, &enter(&host, &realm, &RecRun::default()));
    assert_eq!(
        realm.enter(&host, 0, &RecRun::default()).map(drop),
        Err(ReturnCode::new(realm_abi::rmi::Status::ERROR_REALM, 1))
    );
}

#[test]
fn rsi_answers_without_the_host() {
    let machine = machine();
    let mut host = BareHost::new(&machine);
    let realm = realm(&mut host, 1, |guest| {
        let (status, out) = guest.rsi(&RsiCall::Version { req: Version::V1_0 });
        assert_eq!((status, out[0], out[1]), (RsiStatus::SUCCESS, 0x1_0000, 0x1_0000));
        assert_eq!(guest.rsi(&RsiCall::Features { index: 0 }), (RsiStatus::SUCCESS, [0; 8]));
        assert_eq!(guest.rsi(&RsiCall::RealmConfig { addr: RAM }).0, RsiStatus::SUCCESS);
        assert_eq!(guest.read::<u64>(RAM), Ok(u64::from(IPA_BITS)));
        assert_eq!(guest.rsi(&RsiCall::RealmConfig { addr: RAM + 8 }).0, RsiStatus::ERROR_INPUT);
        let (status, out) = guest.rsi(&RsiCall::IpaStateGet { base: RAM, top: RAM + 0x2000 });
        assert_eq!((status, out[0], out[1]), (RsiStatus::SUCCESS, RAM + 0x2000, u64::from(Ripas::RAM.0)));
        let (status, rem) = guest.rsi(&RsiCall::MeasurementRead { index: 1 });
        assert_eq!((status, rem), (RsiStatus::SUCCESS, [0; 8]));
        let extend = RsiCall::MeasurementExtend { index: 1, size: 8, value: [7, 0, 0, 0, 0, 0, 0, 0] };
        assert_eq!(guest.rsi(&extend).0, RsiStatus::SUCCESS);
        assert_ne!(guest.rsi(&RsiCall::MeasurementRead { index: 1 }).1, [0; 8]);
        assert_eq!(guest.psci(&PsciCall::Version), PsciStatus(0x1_0001));
        assert_eq!(guest.smc(&[0xC400_0150])[0], u64::MAX, "RMI is not for realms");
    });
    assert_off(&machine, &enter(&host, &realm, &RecRun::default()));
}

#[test]
fn an_attestation_token_is_made_in_the_realms_memory() {
    let machine = machine();
    let mut host = BareHost::new(&machine);
    let realm = realm(&mut host, 4, |guest| {
        let (status, out) = guest.rsi(&RsiCall::AttestationTokenInit { challenge: [0x4242; 8] });
        assert_eq!(status, RsiStatus::SUCCESS);
        let mut token = Vec::new();
        let mut done = false;
        for page in 0..4 {
            let addr = RAM + page * GRANULE_SIZE;
            let mut offset = 0;
            while !done && offset < GRANULE_SIZE {
                let size = GRANULE_SIZE - offset;
                let (status, out) = guest.rsi(&RsiCall::AttestationTokenContinue { addr, offset, size });
                offset += out[0];
                match status {
                    RsiStatus::SUCCESS => done = true,
                    other => assert_eq!(other, RsiStatus::INCOMPLETE),
                }
            }
            token.extend(guest.read_bytes(addr, offset as usize).expect("RAM"));
        }
        assert!(done && token.len() as u64 <= out[0]);
        assert_eq!(&token[..6], &[0xd9, 0x01, 0x8f, 0xa2, 0x19, 0xac]);
    });
    assert_off(&machine, &enter(&host, &realm, &RecRun::default()));
}

#[test]
fn faults_reach_the_host_or_the_realm_as_the_tables_say() {
    let machine = machine();
    let mut host = BareHost::new(&machine);
    let mut realm = realm(&mut host, 1, |guest| {
        // RAM without data: the Host provides it and the access goes through.
        assert_eq!(guest.read::<u8>(RAM + 0x5000), Ok(0));
        // EMPTY.
        let sea = |result: Result<(), GuestException>| result.is_err_and(|e| e.is_external_abort());
        assert!(sea(guest.read::<u64>(0x1000).map(drop)));
        assert!(sea(guest.exec(0x1000)));
        let unprotected = 1 << (IPA_BITS - 1);
        assert!(sea(guest.exec(unprotected)));
        // Outside of the IPA space: address size fault.
        let outside = guest.read::<u64>(1 << IPA_BITS).expect_err("outside");
        assert_eq!((outside.class(), outside.status(), outside.far), (0x25, 0, 1 << IPA_BITS));
        let huge = guest.read::<u64>(1 << 50).expect_err("no such address");
        assert_eq!((huge.class(), huge.status()), (0x25, 0));
        assert_eq!(guest.hvc().expect_err("undefined").class(), 0);
    });
    let run = enter(&host, &realm, &RecRun::default());
    assert_eq!((run.exit.exit_reason, run.exit.esr >> 26), (ExitReason::SYNC, 0x24));
    assert_eq!((run.exit.hpfar, run.exit.far, run.exit.esr >> 24 & 1), ((RAM + 0x5000) >> 8, 0, 0));
    realm.data_unknown(&mut host, RAM + 0x5000);
    assert_off(&machine, &enter(&host, &realm, &RecRun::default()));
}

#[test]
fn mmio_is_emulated_through_the_register_of_the_instruction() {
    let machine = machine();
    let mut host = BareHost::new(&machine);
    let uart = (1 << (IPA_BITS - 1)) | 0x100_0000;
    let realm = realm(&mut host, 1, move |guest| {
        guest.store(Access { rt: 3, ..Access::new(uart, 1) }, 0x1_41).expect("emulated");
        let loaded = guest.load(Access { rt: 5, sign_extend: true, wide: true, ..Access::new(uart + 4, 2) });
        assert_eq!(loaded, Ok(0xffff_ffff_ffff_8001));
        let loaded = guest.load(Access { rt: 6, sign_extend: true, ..Access::new(uart + 4, 1) });
        assert_eq!(loaded, Ok(0xffff_ff80));
        assert_eq!(guest.load(Access { rt: 31, ..Access::new(uart, 4) }), Ok(0));
        let refused = guest.read::<u32>(uart).expect_err("the Host injects an abort");
        assert!(refused.is_external_abort());
        assert_eq!(refused.far, uart);
    });
    let mut run = enter(&host, &realm, &RecRun::default());
    let abort = |run: &RecRun| {
        (run.exit.esr >> 26, run.exit.esr >> 24 & 1, run.exit.esr >> 22 & 3, run.exit.esr >> 6 & 1)
    };
    assert_eq!((abort(&run), run.exit.gprs[0], run.exit.far), ((0x24, 1, 0, 1), 0x41, 0));
    assert_eq!(run.exit.hpfar, uart >> 8);
    run.enter.flags = EnterFlags::EMUL_MMIO.bits();
    run = enter(&host, &realm, &run);
    assert_eq!((abort(&run), run.exit.far), ((0x24, 1, 1, 0), 4));
    run.enter.gprs[0] = 0x7_8001;
    run = enter(&host, &realm, &run);
    assert_eq!(abort(&run), (0x24, 1, 0, 0));
    run.enter.gprs[0] = 0x80;
    run = enter(&host, &realm, &run);
    assert_eq!(abort(&run), (0x24, 1, 2, 0));
    run.enter.gprs[0] = 0x1234;
    run = enter(&host, &realm, &run);
    run.enter.flags = EnterFlags::INJECT_SEA.bits();
    assert_off(&machine, &enter(&host, &realm, &run));
}

#[test]
fn memory_is_shared_and_taken_back_with_the_realms_consent() {
    let machine = machine();
    let mut host = BareHost::new(&machine);
    let unprotected = 1 << (IPA_BITS - 1);
    let page = RAM + 0x3000;
    let mut realm = realm(&mut host, 4, move |guest| {
        let change = |guest: &mut Guest, ripas: Ripas, flags| {
            let set = RsiCall::IpaStateSet { base: page, top: page + 0x1000, ripas: ripas.0.into(), flags };
            let (status, out) = guest.rsi(&set);
            assert_eq!((status, out[0], out[1]), (RsiStatus::SUCCESS, page + 0x1000, 0));
        };
        change(guest, Ripas::EMPTY, 0);
        assert!(guest.read::<u64>(page).expect_err("EMPTY").is_external_abort());
        guest.write_bytes(page | unprotected, b"for the Host").expect("shared");
        guest.write::<u16>(RAM + 0x100, 0x77).expect("RAM");
        assert_eq!(guest.rsi(&RsiCall::HostCall { addr: RAM + 0x100 }).0, RsiStatus::SUCCESS);
        assert_eq!(guest.read::<u64>(RAM + 0x108 + 8 * 30), Ok(30));
        assert_eq!(guest.read_bytes(page | unprotected, 4), Ok(b"FOR ".to_vec()));
        change(guest, Ripas::RAM, 1);
        assert_eq!(guest.read::<u64>(page), Ok(0), "wiped");
    });
    let (rec, rd) = (realm.recs[0].rec, realm.rd);
    let set = |host: &BareHost<'_>, run: &RecRun| {
        assert_eq!(run.exit.exit_reason, ExitReason::RIPAS_CHANGE);
        let (base, top) = (run.exit.ripas_base, run.exit.ripas_top);
        assert_eq!((base, top), (page, page + 0x1000));
        assert_eq!(ok(host.rmi(RmiCommand::RttSetRipas { rd, rec, base, top }))[0], top);
    };
    let run = enter(&host, &realm, &RecRun::default());
    set(&host, &run);
    let [data, ..] = ok(host.rmi(RmiCommand::DataDestroy { rd: realm.rd, ipa: page }));
    ok(host.rmi(RmiCommand::GranuleUndelegate { addr: data }));
    assert_eq!(host.read::<[u8; 64]>(data), [0; 64]);
    let run = enter(&host, &realm, &RecRun::default());
    assert_eq!((run.exit.exit_reason, run.exit.hpfar), (ExitReason::SYNC, (page | unprotected) >> 8));
    let shared = realm.share(&mut host, page | unprotected);
    let mut run = enter(&host, &realm, &RecRun::default());
    assert_eq!((run.exit.exit_reason, run.exit.imm), (ExitReason::HOST_CALL, 0x77));
    assert_eq!(host.read::<[u8; 12]>(shared), *b"for the Host");
    host.write(shared, b"FOR ");
    run.enter.gprs = std::array::from_fn(|i| i as u64);
    let run = enter(&host, &realm, &run);
    set(&host, &run);
    let run = enter(&host, &realm, &RecRun::default());
    assert_eq!((run.exit.exit_reason, run.exit.hpfar), (ExitReason::SYNC, page >> 8));
    realm.data_unknown(&mut host, page);
    assert_off(&machine, &enter(&host, &realm, &RecRun::default()));
}

#[test]
fn a_page_taken_from_under_a_realm_is_its_granule_protection_fault() {
    let machine = machine();
    let mut host = BareHost::new(&machine);
    let shared = 1 << (IPA_BITS - 1);
    let mut realm = realm(&mut host, 1, move |guest| {
        guest.write::<u64>(shared, 1).expect("shared");
        guest.arm_virtual_timer(TIMER);
        guest.spin_until_interrupted();
        let fault = guest.write::<u64>(shared, 2).expect_err("delegated meanwhile");
        assert_eq!((fault.class(), fault.status(), fault.far), (0x25, 0x28, shared));
    });
    let page = realm.share(&mut host, shared);
    let run = enter(&host, &realm, &RecRun::default());
    assert_eq!(run.exit.exit_reason, ExitReason::IRQ);
    assert_eq!((run.exit.cntv_ctl, run.exit.cntv_cval), (0b101, TIMER));
    ok(host.rmi(RmiCommand::GranuleDelegate { addr: page }));
    let run = enter(&host, &realm, &RecRun::default());
    assert_off(&machine, &run);
}

#[test]
fn two_cpus_build_run_and_destroy_realms_at_the_same_time() {
    let machine = machine();
    machine.set_guest(|guest| {
        let secret = 0x1000 + u64::from(guest.key().vmid);
        for page in 0..8 {
            guest.write::<u64>(RAM + page * GRANULE_SIZE, secret + page).expect("RAM");
        }
        for page in 0..8 {
            assert_eq!(guest.read::<u64>(RAM + page * GRANULE_SIZE), Ok(secret + page));
        }
        assert_eq!(
            guest.rsi(&RsiCall::MeasurementExtend { index: 2, size: 64, value: [secret; 8] }).0,
            RsiStatus::SUCCESS
        );
    });
    std::thread::scope(|scope| {
        for thread in 0..2_u64 {
            let machine = &machine;
            scope.spawn(move || {
                for round in 0..4_u64 {
                    let first = realm_machine::config::DRAM_BASE + (thread * 4 + round) * (8 << 20);
                    let mut host = BareHost::from(machine, first);
                    let mut realm = host.realm(realm_params(thread as u16 + 1, IPA_BITS));
                    realm.init_ripas(&mut host, RAM, RAM + (2 << 20));
                    realm.rec(&mut host, RAM, [0; 8], true);
                    realm.activate(&host);
                    let mut run = enter(&host, &realm, &RecRun::default());
                    while run.exit.exit_reason == ExitReason::SYNC {
                        realm.data_unknown(&mut host, run.exit.hpfar << 8);
                        run = enter(&host, &realm, &RecRun::default());
                    }
                    assert_eq!(run.exit.exit_reason, ExitReason::PSCI);
                    realm.destroy(&host);
                }
            });
        }
    });
    machine.log().assert_clean();
    assert_eq!(machine.memory().count(realm_machine::memory::Pas::Realm), 0);
}

#[test]
fn a_virtual_cpu_is_turned_on_by_another_and_runs_beside_it() {
    let machine = machine();
    let mut host = BareHost::new(&machine);
    machine.set_guest(|guest| match guest.mpidr() {
        0 => {
            let on = |target_cpu, entry_point| PsciCall::CpuOn {
                smc64: true,
                target_cpu,
                entry_point,
                context_id: 99,
            };
            assert_eq!(guest.psci(&on(7, RAM)), PsciStatus::INVALID_PARAMETERS);
            assert_eq!(guest.psci(&on(1, 1 << 40)), PsciStatus::INVALID_ADDRESS);
            assert_eq!(guest.psci(&on(1, RAM + 0x800)), PsciStatus::SUCCESS);
            assert_eq!(guest.psci(&on(1, RAM)), PsciStatus::ALREADY_ON);
            while guest.read::<u8>(RAM + 8) == Ok(1) {
                guest.wfe();
            }
            let affinity =
                PsciCall::AffinityInfo { smc64: true, target_affinity: 1, lowest_affinity_level: 0 };
            assert_eq!(guest.psci(&affinity), PsciStatus(1), "off again");
        }
        _ => {
            assert_eq!((guest.entry(), guest.start_regs()[0]), (RAM + 0x800, 99));
            guest.write::<u8>(RAM + 8, 0).expect("RAM");
        }
    });
    let mut realm = host.realm(realm_params(3, IPA_BITS));
    realm.data(&mut host, RAM, &[1; 64]);
    realm.rec(&mut host, RAM, [0; 8], true);
    realm.rec(&mut host, 0, [0; 8], false);
    realm.activate(&host);
    assert_eq!(realm.enter(&host, 1, &RecRun::default()).map(drop), Err(ReturnCode::ERROR_REC));
    let complete = |target: usize| {
        let (calling_rec, target_rec) = (realm.recs[0].rec, realm.recs[target].rec);
        host.rmi(RmiCommand::PsciComplete { calling_rec, target_rec, status: 0 })
    };
    let mut exits = Vec::new();
    loop {
        let mut run = RecRun::default();
        run.enter.flags = EnterFlags::TRAP_WFE.bits();
        run = enter(&host, &realm, &run);
        match (run.exit.exit_reason, run.exit.gprs[0]) {
            (ExitReason::PSCI, realm_abi::psci::fid::CPU_ON_64 | realm_abi::psci::fid::AFFINITY_INFO_64) => {
                exits.push(run.exit.gprs[1]);
                ok(complete(1));
            }
            (ExitReason::PSCI, _) => {
                assert_off(&machine, &run);
                break;
            }
            _ => {
                assert_eq!(run.exit.esr, 1 << 26 | 1, "WFE");
                let other = realm.enter(&host, 1, &RecRun::default()).expect("turned on");
                assert_eq!(other.exit.gprs[0], realm_abi::psci::fid::CPU_OFF);
            }
        }
    }
    assert_eq!(exits, [1, 1, 1]);
    realm.destroy(&host);
    machine.log().assert_clean();
}

#[test]
fn virtual_cpus_that_share_a_cpu_do_not_share_translations() {
    let machine = machine();
    let mut host = BareHost::new(&machine);
    machine.set_guest(|guest| {
        for _ in 0..3 {
            guest.write::<u64>(RAM + 8 * guest.key().mpidr, guest.key().mpidr).expect("RAM");
            guest.rsi(&RsiCall::HostCall { addr: RAM });
        }
    });
    let mut realm = host.realm(realm_params(1, IPA_BITS));
    realm.init_ripas(&mut host, RAM, RAM + (2 << 20));
    realm.data(&mut host, RAM, &[0; 64]);
    for _ in 0..2 {
        realm.rec(&mut host, RAM, [0; 8], true);
    }
    realm.activate(&host);
    for _ in 0..3 {
        for rec in [0, 1] {
            realm.enter(&host, rec, &RecRun::default()).expect("both run");
        }
    }
    // The next realm with this VMID starts where nothing is known.
    realm.destroy(&host);
    let next = crate::realm(&mut host, 1, |_| ());
    assert_off(&machine, &enter(&host, &next, &RecRun::default()));
}
