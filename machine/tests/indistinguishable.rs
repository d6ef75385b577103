//! Two realms with different secrets and the same Host actions: everything the Host can see is equal.

mod common;

use common::{RAM, SETTINGS, World, guest};
use realm_abi::psci::PsciCall;
use realm_abi::rmi::Ripas;
use realm_abi::rsi::RsiCall;
use realm_host::Statistics;
use realm_machine::config::ClockKind;
use realm_machine::memory::Pas;
use realm_machine::program::{Access, Op};
use realm_machine::sysregs::{self, CNTVCT_EL0};
use realm_machine::trace::HostEvent;
use realm_machine::{Guest, MachineConfig};
use realm_vmm::RealmVm;
use std::collections::BTreeMap;

const RAM_SIZE: u64 = 0x42_0000;
const FREE: u64 = RAM + 0x41_4000;
const UNPROTECTED: u64 = 1 << 32;
const UART: u64 = UNPROTECTED | 0x100_0000;

/// Puts the secret wherever software of a realm can: all registers, SIMD, system registers, keys.
fn fill_registers(guest: &mut Guest, secret: u64) {
    guest.context(move |context| {
        context.gprs = [secret; 31];
        let el1 = &mut context.el1;
        for register in [
            &mut el1.sp_el0,
            &mut el1.sp_el1,
            &mut el1.tpidr_el0,
            &mut el1.tpidrro_el0,
            &mut el1.tpidr_el1,
            &mut el1.mair_el1,
            &mut el1.par_el1,
            &mut el1.afsr0_el1,
            &mut el1.ttbr0_el1,
        ] {
            *register = secret;
        }
        context.pauth_keys = [secret; 10];
        context.pmu.pmccntr = secret;
        context.pmu.pmevcntr = [secret; 31];
    });
    for register in 0..32 {
        guest.simd_write(register, u128::from(secret) << 64 | u128::from(secret));
    }
}

/// A realm that uses its secret in every way the Host must not learn of.
fn realm(guest: &mut Guest, secret: u64) {
    let choose = |a: u64, b: u64| if secret & 1 == 0 { a } else { b };
    fill_registers(guest, secret);
    // Where in a page, how, with which register and how wide a fault happens.
    let access = Access {
        rt: choose(2, 17) as u8,
        sign_extend: secret & 2 != 0,
        ..Access::new(FREE + (secret & 0xff8), choose(4, 8) as u8)
    };
    if secret & 4 == 0 {
        guest.load(access).expect("RAM");
    } else {
        guest.store(access, secret).expect("RAM");
    }
    guest.write_bytes(FREE, &secret.to_le_bytes().repeat(0x400)).expect("two pages of RAM");
    fill_registers(guest, secret);
    guest.exec(RAM + 0x38_0000 + (secret & 0xffc)).expect("RAM");
    // Emulated accesses: the register and what its other bytes hold are the realm's.
    let rt = choose(5, 28) as u8;
    guest.store(Access { rt, ..Access::new(UART, 1) }, (secret & !0xff) | u64::from(b'x')).expect("emulated");
    fill_registers(guest, secret);
    guest.load(Access { rt, sign_extend: secret & 2 != 0, ..Access::new(UART + 5, 1) }).expect("emulated");
    fill_registers(guest, secret);
    // Calls that end in the RMM.
    guest.smc(&[0x8400_1234, secret, secret, secret, secret]);
    guest.rsi(&RsiCall::MeasurementExtend { index: 1, size: 1 + (secret & 0x3f), value: [secret; 8] });
    guest.rsi(&RsiCall::MeasurementRead { index: secret & 7 });
    guest.rsi(&RsiCall::IpaStateGet { base: FREE, top: FREE + 0x1000 * (1 + (secret & 3)) });
    guest.rsi(&RsiCall::RealmConfig { addr: FREE + 0x2000 });
    guest.rsi(&RsiCall::AttestationTokenInit { challenge: [secret; 8] });
    guest.rsi(&RsiCall::AttestationTokenContinue { addr: FREE, offset: 0, size: 0x1000 });
    guest.psci(&PsciCall::Features { function: secret & 0xffff });
    let _ = guest.hvc();
    let _ = guest.mrs(sysregs::encoding(3, 0, 0, (secret & 7) as u8, 1));
    let _ = guest.msr(sysregs::encoding(2, 0, 0, (secret & 7) as u8, 4), secret);
    // Faults that are the realm's own.
    assert!(guest.read::<u64>(secret & 0xfff8).expect_err("EMPTY").is_external_abort());
    assert!(guest.exec(UNPROTECTED | (secret & 0xfffc)).expect_err("unprotected").is_external_abort());
    assert!(guest.read::<u8>((2 + (secret & 0xff)) << 32).is_err(), "outside of the IPA space");
    // Exits without an operand.
    let deadline = guest.mrs(CNTVCT_EL0).expect("not trapped") + 100;
    guest.arm_virtual_timer(deadline);
    fill_registers(guest, secret);
    guest.wfi();
    guest.context(|context| context.timers.cntv_ctl = 0);
    let affinity = PsciCall::AffinityInfo { smc64: true, target_affinity: 1, lowest_affinity_level: 0 };
    let mut regs = [secret; 18];
    regs[..4].copy_from_slice(&affinity.to_regs());
    guest.op(Op::Smc(regs)).expect("answered");
    // A host call shows its structure, and only that.
    guest.write_bytes(FREE + 0x100, &[0; 0x100]).expect("RAM");
    let mut regs = [secret; 18];
    regs[..11].copy_from_slice(&RsiCall::HostCall { addr: FREE + 0x100 }.to_regs());
    guest.op(Op::Smc(regs)).expect("answered");
    // Memory that goes back to the Host.
    guest.write_bytes(FREE, &secret.to_le_bytes().repeat(0x400)).expect("two pages of RAM");
    for ripas in [Ripas::EMPTY, Ripas::RAM] {
        let call = RsiCall::IpaStateSet { base: FREE, top: FREE + 0x2000, ripas: ripas.0.into(), flags: 1 };
        let mut regs = [secret; 18];
        regs[..11].copy_from_slice(&call.to_regs());
        guest.op(Op::Smc(regs)).expect("answered");
        if ripas == Ripas::EMPTY {
            guest.write::<u64>(FREE | UNPROTECTED, 1).expect("shared");
        }
    }
    guest.write_bytes(FREE, &secret.to_le_bytes().repeat(0x400)).expect("two pages of RAM");
    fill_registers(guest, secret);
}

/// All a Host could ever see of one life.
#[derive(Debug, PartialEq)]
struct View {
    /// Registers of every call, writes of the RMM, content of every granule that came back, in order.
    events: Vec<HostEvent>,
    /// Non-secure memory while the realm still exists.
    before: BTreeMap<u64, Vec<u8>>,
    /// Non-secure memory after it.
    after: BTreeMap<u64, Vec<u8>>,
    /// Which granules are whose while the realm still exists.
    delegated: usize,
    output: Vec<u8>,
    statistics: Statistics,
    explanations: Vec<String>,
}

fn live(secret: u64) -> View {
    let config =
        MachineConfig { clock: ClockKind::Manual, record_host_view: true, ..MachineConfig::new(16 << 20, 1) };
    let world = World::new(config);
    world.machine.set_guest(move |guest| realm(guest, secret));
    let process = world.process();
    let vm = RealmVm::build(&process, &guest(RAM_SIZE, 2), &SETTINGS, &mut ()).expect("it builds");
    let stop = vm.run_vcpu(0);
    world.machine.log().assert_clean();
    stop.expect("it ends");
    let output = vm.output();
    let memory = world.machine.memory();
    let (before, delegated) = (memory.content(Pas::NonSecure), memory.count(Pas::Realm));
    vm.destroy(&mut ()).expect("it is destroyed");
    drop(process);
    world.assert_all_back();
    View {
        events: world.machine.trace().events(),
        before,
        after: memory.content(Pas::NonSecure),
        delegated,
        output,
        statistics: world.device.statistics(),
        explanations: world.device.host().explanations(),
    }
}

fn contains(content: &BTreeMap<u64, Vec<u8>>, secret: u64) -> Option<u64> {
    let needle = secret.to_le_bytes();
    content.iter().find(|(_, bytes)| bytes.windows(8).any(|window| window == needle)).map(|(pa, _)| *pa)
}

#[test]
fn the_host_sees_the_same_whatever_the_secret() {
    let secrets = [0x5eca_e75e_ca5e_7018, 0x1dea_11fe_ed5e_cbfd, 0xa5a5_5a5a_c3c3_3c37];
    let views = secrets.map(live);
    for (secret, view) in secrets.iter().zip(&views) {
        assert!(!view.events.is_empty() && view.delegated > 0 && view.output == b"x");
        assert_eq!(contains(&view.before, *secret), None, "the secret lies in Non-secure memory");
        assert_eq!(contains(&view.after, *secret), None, "the secret was left behind");
        let (first, same) = (&views[0], views[0].events.iter().zip(&view.events).position(|(a, b)| a != b));
        if let Some(index) = same {
            panic!("event {index}: {:x?}\nand: {:x?}", first.events[index], view.events[index]);
        }
        assert_eq!(first.events.len(), view.events.len());
        assert_eq!(first.before.keys().collect::<Vec<_>>(), view.before.keys().collect::<Vec<_>>());
        assert!(first == view, "what is left: {:?} and {:?}", first.statistics, view.statistics);
    }
}

#[test]
fn what_the_realm_shows_on_purpose_makes_a_difference() {
    let view = |value: u8| {
        let config = MachineConfig {
            clock: ClockKind::Manual,
            record_host_view: true,
            ..MachineConfig::new(16 << 20, 1)
        };
        let world = World::new(config);
        world.machine.set_guest(move |guest| guest.write::<u8>(UART, value).expect("emulated"));
        common::live_well(&world, &guest(RAM_SIZE, 1));
        world.machine.trace().events()
    };
    assert_eq!(view(1), view(1));
    assert_ne!(view(1), view(2));
}
