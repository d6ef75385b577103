//! Whole realm lives through the ioctls: VMM, Host core, RMM core and realm, each the real one.

mod common;

use common::{RAM, World, guest, live_well};
use realm_abi::psci::{PsciCall, PsciStatus};
use realm_abi::rmi::Ripas;
use realm_abi::rsi::{RsiCall, RsiStatus};
use realm_attest::rim::{RealmParameters, RimPredictor};
use realm_attest::token::{Expectations, PublicKey, Token, verify};
use realm_machine::Guest;
use realm_machine::el3::keys;
use realm_machine::sysregs::{CNTVCT_EL0, ICC_SGI1R_EL1, ID_AA64DFR0_EL1, ID_AA64PFR0_EL1};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

const RAM_SIZE: u64 = 8 << 20;
const IPA_BITS: u8 = 33;
const UNPROTECTED: u64 = 1 << (IPA_BITS - 1);
const UART: u64 = UNPROTECTED | 0x100_0000;
/// The GIC's distributor; the redistributors are before it.
const DIST: u64 = UNPROTECTED | 0x3fff_0000;
const REDIST_SIZE: u64 = 0x2_0000;
/// RAM that no image is in.
const FREE: u64 = RAM + (4 << 20);

fn print(guest: &mut Guest, text: &str) {
    for byte in text.bytes() {
        assert_eq!(guest.read::<u8>(UART + 5), Ok(0x60), "the transmitter is idle");
        guest.write::<u8>(UART, byte).expect("the UART is emulated");
    }
}

fn system_off(guest: &mut Guest) {
    guest.psci(&PsciCall::SystemOff);
    unreachable!("the realm is off");
}

#[test]
fn a_realm_boots_prints_and_turns_itself_off() {
    let world = World::manual();
    let plan = guest(RAM_SIZE, 1);
    let dtb = plan.boot_argument();
    world.machine.set_guest(move |guest| {
        assert_eq!((guest.entry(), guest.start_regs()), (RAM, [dtb, 0, 0, 0, 0, 0, 0, 0]));
        guest.exec(RAM).expect("the kernel is mapped");
        assert_eq!(guest.read::<u32>(RAM + 56), Ok(u32::from_le_bytes(*b"ARM\x64")));
        assert_eq!(guest.read::<u32>(dtb), Ok(0xedfe_0dd0), "the device tree's magic, big-endian");
        print(guest, "Hello from a realm\n");
    });
    assert_eq!(live_well(&world, &plan), b"Hello from a realm\n");
    world.assert_all_back();
}

#[test]
fn the_measured_rim_is_the_predicted_one() {
    let world = World::manual();
    let plan = guest(RAM_SIZE, 2);
    let measured = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&measured);
    world.machine.set_guest(move |guest| {
        let (status, words) = guest.rsi(&RsiCall::MeasurementRead { index: 0 });
        assert_eq!(status, RsiStatus::SUCCESS);
        sink.lock().expect("one writer").extend(words.iter().flat_map(|word| word.to_le_bytes()));
    });
    live_well(&world, &plan);
    let features = world.machine.rmm().features();
    let parameters = RealmParameters {
        ipa_bits: plan.layout.ipa_bits,
        hash: common::SETTINGS.hash,
        lpa2: false,
        sve_vl: None,
        num_bps: features.num_bps() as u8 + 1,
        num_wps: features.num_wps() as u8 + 1,
        pmu_num_ctrs: None,
    };
    let mut predictor = RimPredictor::new(&parameters).expect("valid parameters");
    predictor.init_ripas(plan.layout.ram.base, plan.layout.ram.size).expect("RAM fits");
    for part in &plan.parts {
        let mut content = part.content.as_slice();
        let read = |out: &mut [u8]| -> Result<(), ()> {
            let (now, rest) = content.split_at(out.len());
            out.copy_from_slice(now);
            content = rest;
            Ok(())
        };
        predictor.populate(part.region.base, part.region.size, true, read).expect("parts lie in RAM");
    }
    predictor.rec(plan.entry(), &[plan.boot_argument()], true).expect("one register");
    let measured = measured.lock().expect("nobody writes any more");
    assert_eq!(predictor.rim().as_bytes(), &measured[..32]);
    assert_eq!(measured[32..], [0; 32]);
    world.assert_all_back();
}

#[test]
fn every_rsi_call_is_answered() {
    let world = World::manual();
    world.machine.set_guest(|guest| {
        let call = |guest: &mut Guest, call| guest.rsi(&call);
        let version = RsiCall::Version { req: realm_abi::rmi::Version::V1_0 };
        assert_eq!(call(guest, version).0, RsiStatus::SUCCESS);
        assert_eq!(call(guest, RsiCall::Features { index: 3 }), (RsiStatus::SUCCESS, [0; 8]));
        assert_eq!(call(guest, RsiCall::RealmConfig { addr: FREE }).0, RsiStatus::SUCCESS);
        assert_eq!(guest.read::<u64>(FREE), Ok(u64::from(IPA_BITS)));
        assert_eq!(guest.read_bytes(FREE + 0x200, 64), Ok(vec![0x52; 64]), "the personalization value");
        let get = RsiCall::IpaStateGet { base: FREE, top: FREE + 0x1000 };
        assert_eq!(call(guest, get).1[1], u64::from(Ripas::RAM.0));
        assert_eq!(call(guest, RsiCall::MeasurementRead { index: 5 }).0, RsiStatus::ERROR_INPUT);
        let extend = RsiCall::MeasurementExtend { index: 4, size: 32, value: [1; 8] };
        assert_eq!(call(guest, extend).0, RsiStatus::SUCCESS);
        guest.write::<u64>(FREE + 0x108, 0x8000_0000).expect("RAM");
        assert_eq!(call(guest, RsiCall::HostCall { addr: FREE + 0x100 }).0, RsiStatus::SUCCESS);
        assert_eq!(guest.read::<u64>(FREE + 0x108), Ok(0x1_0001), "SMCCC_VERSION");
        assert_eq!(call(guest, RsiCall::HostCall { addr: FREE + 8 }).0, RsiStatus::ERROR_INPUT);
        let nothing = RsiCall::AttestationTokenContinue { addr: FREE, offset: 0, size: 64 };
        assert_eq!(call(guest, nothing).0, RsiStatus::ERROR_STATE);
        system_off(guest);
    });
    live_well(&world, &guest(RAM_SIZE, 1));
    world.assert_all_back();
}

#[test]
fn a_realms_token_verifies_with_the_machines_key() {
    let world = World::manual();
    let token = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&token);
    world.machine.set_guest(move |guest| {
        let (status, out) = guest.rsi(&RsiCall::AttestationTokenInit { challenge: [0x0123_4567; 8] });
        assert_eq!(status, RsiStatus::SUCCESS);
        let mut offset = 0;
        loop {
            let call = RsiCall::AttestationTokenContinue { addr: FREE, offset, size: 0x100 };
            let (status, out) = guest.rsi(&call);
            offset += out[0];
            if status == RsiStatus::SUCCESS {
                break;
            }
            assert_eq!(status, RsiStatus::INCOMPLETE);
        }
        assert!(offset <= out[0]);
        let bytes = guest.read_bytes(FREE, offset as usize).expect("RAM");
        sink.lock().expect("one writer").extend(bytes);
    });
    live_well(&world, &guest(RAM_SIZE, 1));
    let token = token.lock().expect("nobody writes any more");
    let token = Token::decode(&token).expect("a CCA token");
    let key = PublicKey::parse(keys::platform_public_key_pem().as_bytes()).expect("a key");
    let challenge: Vec<u8> = [0x0123_4567_u64; 8].iter().flat_map(|word| word.to_le_bytes()).collect();
    let expectations = Expectations {
        platform_key: &key,
        secured: true,
        rim: None,
        rpv: Some(&[0x52; 64]),
        challenge: Some(&challenge),
    };
    let report = verify(&token, &expectations);
    assert!(report.ok, "{:?}", report.checks);
    world.assert_all_back();
}

#[test]
fn four_vcpus_are_turned_on_and_share_memory() {
    let world = World::manual();
    world.machine.set_guest(|guest| {
        let id = guest.mpidr();
        if id == 0 {
            for target_cpu in 1..4 {
                let context_id = 0x100 + target_cpu;
                let entry_point = RAM + 0x1000 * target_cpu;
                let on = PsciCall::CpuOn { smc64: true, target_cpu, entry_point, context_id };
                assert_eq!(guest.psci(&on), PsciStatus::SUCCESS);
            }
            for other in 1..4 {
                while guest.read::<u64>(FREE + 8 * other) == Ok(0) {
                    guest.wfe();
                }
                assert_eq!(guest.read::<u64>(FREE + 8 * other), Ok(0x100 + other));
            }
            let again = PsciCall::CpuOn { smc64: true, target_cpu: 9, entry_point: RAM, context_id: 0 };
            assert_eq!(guest.psci(&again), PsciStatus::INVALID_PARAMETERS);
            system_off(guest);
        }
        assert_eq!(guest.entry(), RAM + 0x1000 * id);
        let context_id = guest.start_regs()[0];
        guest.write::<u64>(FREE + 8 * id, context_id).expect("RAM");
    });
    live_well(&world, &guest(RAM_SIZE, 4));
    world.assert_all_back();
}

#[test]
fn memory_becomes_shared_and_private_again() {
    let world = World::manual();
    world.machine.set_guest(|guest| {
        guest.write_bytes(FREE, b"secret").expect("RAM");
        // The VMM converts memory before the RIPAS changes, so the realm allows a change from DESTROYED, as Linux does.
        let set = |guest: &mut Guest, ripas: Ripas| {
            let (base, top) = (FREE, FREE + 0x3000);
            let call = RsiCall::IpaStateSet { base, top, ripas: ripas.0.into(), flags: 1 };
            let (status, out) = guest.rsi(&call);
            assert_eq!((status, out[0], out[1]), (RsiStatus::SUCCESS, top, 0));
        };
        set(guest, Ripas::EMPTY);
        assert!(guest.read::<u8>(FREE).expect_err("EMPTY").is_external_abort());
        assert_eq!(guest.read_bytes(FREE | UNPROTECTED, 6), Ok(vec![0; 6]), "nothing of the secret");
        guest.write_bytes((FREE | UNPROTECTED) + 0xffc, b"shared!!").expect("two pages");
        assert_eq!(guest.read_bytes((FREE | UNPROTECTED) + 0xffc, 8), Ok(b"shared!!".to_vec()));
        assert!(guest.exec(FREE | UNPROTECTED).expect_err("never executable").is_external_abort());
        set(guest, Ripas::RAM);
        assert_eq!(guest.read_bytes(FREE, 6), Ok(vec![0; 6]), "fresh memory");
        assert_eq!(guest.read_bytes(FREE + 0xffc, 8), Ok(vec![0; 8]));
    });
    live_well(&world, &guest(RAM_SIZE, 1));
    world.assert_all_back();
}

#[test]
fn all_of_ram_is_provided_on_first_use() {
    let world = World::manual();
    world.machine.set_guest(|guest| {
        for page in (0..RAM_SIZE).step_by(0x1000).skip(4) {
            if page % 0x20_0000 == 0 {
                guest.exec(RAM + page).expect("an instruction abort brings memory too");
            }
        }
        for page in (FREE..RAM + RAM_SIZE).step_by(0x1000) {
            guest.write::<u64>(page, page).expect("RAM");
        }
        for page in (FREE..RAM + RAM_SIZE).step_by(0x1000) {
            assert_eq!(guest.read::<u64>(page), Ok(page));
        }
        assert!(guest.read::<u64>(RAM + RAM_SIZE).expect_err("no RAM").is_external_abort());
        assert!(guest.read::<u64>(0).expect_err("no RAM").is_external_abort());
    });
    live_well(&world, &guest(RAM_SIZE, 1));
    world.assert_all_back();
}

#[test]
fn an_access_to_no_device_is_an_abort_the_vmm_injects() {
    let world = World::manual();
    world.machine.set_guest(|guest| {
        let nowhere = UNPROTECTED | 0x900_0000;
        let abort = guest.read::<u32>(nowhere).expect_err("nothing is there");
        assert!(abort.is_external_abort());
        assert_eq!(abort.far, nowhere);
        print(guest, "ok");
    });
    assert_eq!(live_well(&world, &guest(RAM_SIZE, 1)), b"ok");
    world.assert_all_back();
}

/// The first pending interrupt in the list registers, made active and finished at once.
fn take_interrupt(guest: &mut Guest) -> Option<u32> {
    guest.context(|context| {
        let lr = context.gic.ich_lrs.iter_mut().find(|lr| **lr >> 62 == 1)?;
        let intid = (*lr & 0xffff_ffff) as u32;
        *lr &= !(3 << 62);
        Some(intid)
    })
}

#[test]
fn a_timer_wakes_a_waiting_realm_with_its_interrupt() {
    let world = World::manual();
    world.machine.set_guest(|guest| {
        guest.take_interrupts(DIST, DIST - REDIST_SIZE, &[27, 30]);
        for round in 1..4_u64 {
            let deadline = guest.mrs(CNTVCT_EL0).expect("not trapped") + round * 1000;
            guest.arm_virtual_timer(deadline);
            let mut taken = None;
            while taken.is_none() {
                guest.wfi();
                taken = take_interrupt(guest);
            }
            assert_eq!(taken, Some(27), "the virtual timer");
            assert!(guest.mrs(CNTVCT_EL0).expect("not trapped") >= deadline);
            guest.context(|context| context.timers.cntv_ctl = 0);
        }
        let deadline = guest.mrs(CNTVCT_EL0).expect("not trapped") + 5000;
        guest.arm_physical_timer(deadline);
        guest.spin_until_interrupted();
        let mut taken = take_interrupt(guest);
        while taken.is_none() {
            guest.wfi();
            taken = take_interrupt(guest);
        }
        assert_eq!(taken, Some(30), "the physical timer");
    });
    live_well(&world, &guest(RAM_SIZE, 1));
    world.assert_all_back();
}

#[test]
fn a_software_interrupt_reaches_another_vcpu() {
    let world = World::manual();
    world.machine.set_guest(|guest| {
        if guest.mpidr() == 0 {
            let on = PsciCall::CpuOn { smc64: true, target_cpu: 1, entry_point: RAM, context_id: 0 };
            assert_eq!(guest.psci(&on), PsciStatus::SUCCESS);
            guest.msr(ICC_SGI1R_EL1, 5 << 24 | 1 << 1).expect("emulated by the Host");
            while guest.read::<u8>(FREE) == Ok(0) {
                guest.wfe();
            }
            assert_eq!(guest.read::<u8>(FREE), Ok(5));
            return;
        }
        guest.take_interrupts(DIST, DIST - REDIST_SIZE, &[5]);
        let mut taken = take_interrupt(guest);
        while taken.is_none() {
            guest.wfi();
            taken = take_interrupt(guest);
        }
        guest.write::<u8>(FREE, taken.unwrap_or(0) as u8).expect("RAM");
    });
    live_well(&world, &guest(RAM_SIZE, 2));
    world.assert_all_back();
}

#[test]
fn id_registers_hide_what_realms_do_not_get() {
    let world = World::manual();
    world.machine.set_guest(|guest| {
        let pfr0 = guest.mrs(ID_AA64PFR0_EL1).expect("emulated");
        assert_eq!((pfr0 >> 44 & 0xf, pfr0 >> 32 & 0xf), (0, 0), "AMU and SVE");
        let dfr0 = guest.mrs(ID_AA64DFR0_EL1).expect("emulated");
        assert_eq!((dfr0 >> 4 & 0xf, dfr0 >> 32 & 0xf), (0, 0), "trace and SPE");
        guest.simd_write(3, 0x0123_4567_89ab_cdef_u128 << 40);
        print(guest, "x");
        assert_eq!(guest.simd_read(3), 0x0123_4567_89ab_cdef_u128 << 40);
    });
    live_well(&world, &guest(RAM_SIZE, 1));
    world.assert_all_back();
}

#[test]
fn two_realms_live_side_by_side_on_two_cpus() {
    let world = World::manual();
    world.machine.set_guest(|guest| {
        let mark = u64::from(guest.key().vmid) + 1;
        for page in (FREE..FREE + 0x10_0000).step_by(0x1000) {
            guest.write::<u64>(page, mark).expect("RAM");
        }
        for page in (FREE..FREE + 0x10_0000).step_by(0x1000) {
            assert_eq!(guest.read::<u64>(page), Ok(mark));
        }
        print(guest, "done");
    });
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..2 {
                    assert_eq!(live_well(&world, &guest(RAM_SIZE, 1)), b"done");
                }
            });
        }
    });
    world.assert_all_back();
}

#[test]
fn a_vmm_that_dies_leaves_nothing_behind() {
    let world = World::manual();
    let running = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&running);
    world.machine.set_guest(move |guest| {
        guest.write::<u64>(FREE, 1).expect("RAM");
        flag.store(true, Ordering::Release);
        guest.spin_until(|| false);
    });
    let process = world.process();
    let plan = guest(RAM_SIZE, 2);
    let vm = realm_vmm::RealmVm::build(&process, &plan, &common::SETTINGS, &mut ()).expect("it builds");
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|id| {
                scope.spawn({
                    let vm = &vm;
                    move || vm.run_vcpu(id)
                })
            })
            .collect();
        while !running.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        vm.stop();
        process.exit();
        for thread in threads {
            let _ended = thread.join().expect("a vCPU thread does not panic");
        }
    });
    drop(vm);
    drop(process);
    world.assert_all_back();
}

#[test]
fn memory_taken_away_without_consent_stops_the_realm_and_not_the_host() {
    let world = World::manual();
    world.machine.set_guest(|guest| {
        guest.write::<u64>(FREE, 1).expect("RAM");
        // The realm does not agree to losing the content, which the VMM has taken away by then.
        let call = RsiCall::IpaStateSet { base: FREE, top: FREE + 0x1000, ripas: 0, flags: 0 };
        let (status, out) = guest.rsi(&call);
        assert_eq!((status, out[0]), (RsiStatus::SUCCESS, FREE), "nothing was changed");
        let _ = guest.read::<u64>(FREE);
        unreachable!("DESTROYED memory cannot be used");
    });
    let process = world.process();
    let error = common::live(&process, &guest(RAM_SIZE, 1)).expect_err("it cannot go on");
    assert!(matches!(error, realm_vmm::VmError::NoProgress { base: FREE, .. }), "{error}");
    let explained = world.device.host().explanations();
    assert!(explained.iter().any(|text| text.contains("without its consent")), "{explained:?}");
    drop(process);
    world.assert_all_back();
}
