//! The same life on other machines: every IPA width, LPA2, other host pages, the other hash.

mod common;

use common::{RAM, SETTINGS, World, kernel};
use realm_abi::rmi::{HashAlgorithm, Ripas};
use realm_abi::rsi::{RsiCall, RsiStatus};
use realm_machine::config::ClockKind;
use realm_machine::{Guest, MachineConfig};
use realm_vmm::{GuestConfig, RealmVm, Stop};
use std::sync::{Arc, Mutex};

const RAM_SIZE: u64 = 0x60_0000;
/// RAM that no image is in, aligned to any host page.
const FREE: u64 = RAM + 0x10_0000;
/// The largest host page.
const SPAN: u64 = 0x1_0000;

/// Uses protected memory, shares some, uses a device, takes the memory back.
fn realm(guest: &mut Guest) {
    let (status, _) = guest.rsi(&RsiCall::RealmConfig { addr: FREE });
    assert_eq!(status, RsiStatus::SUCCESS);
    let ipa_bits = guest.read::<u64>(FREE).expect("RAM");
    let unprotected = 1 << (ipa_bits - 1);
    for page in (FREE..FREE + 2 * SPAN).step_by(0x1000) {
        guest.write::<u64>(page, page).expect("RAM");
    }
    for (ripas, expected) in [(Ripas::EMPTY, 0), (Ripas::RAM, 0)] {
        let call = RsiCall::IpaStateSet { base: FREE, top: FREE + SPAN, ripas: ripas.0.into(), flags: 1 };
        let (status, out) = guest.rsi(&call);
        assert_eq!((status, out[0], out[1]), (RsiStatus::SUCCESS, FREE + SPAN, 0));
        let seen = if ripas == Ripas::RAM { FREE } else { FREE | unprotected };
        for page in (seen..seen + SPAN).step_by(0x1000) {
            assert_eq!(guest.read::<u64>(page), Ok(expected), "nothing is left of what was there");
            guest.write::<u64>(page, !page).expect("memory");
            assert_eq!(guest.read::<u64>(page), Ok(!page));
        }
    }
    assert_eq!(guest.read::<u64>(FREE + SPAN), Ok(FREE + SPAN), "what stayed private is as it was");
    let outside = guest.read::<u64>(if ipa_bits == 52 { 1 << 52 } else { 1 << ipa_bits });
    assert_eq!(outside.expect_err("outside of the IPA space").status() & !0b11, 0, "address size fault");
    for byte in ipa_bits.to_string().bytes() {
        guest.write::<u8>(unprotected | 0x100_0000, byte).expect("emulated");
    }
}

fn live(config: MachineConfig, ipa_bits: u8, hash: HashAlgorithm) {
    let page_size = 1 << config.host_page_shift;
    let world = World::new(config);
    world.machine.set_guest(realm);
    let file = kernel();
    let config = GuestConfig {
        kernel: &file,
        initrd: Some(b"initial file system"),
        bootargs: None,
        ram_size: RAM_SIZE,
        cpus: 1,
        ipa_bits: Some(ipa_bits),
        page_size,
    };
    let guest = realm_vmm::Guest::new(&config).expect("a valid plan");
    let process = world.process();
    let explained = || world.device.host().explanations().join("\n");
    let settings = realm_vmm::RealmSettings { hash, ..SETTINGS };
    let vm = RealmVm::build(&process, &guest, &settings, &mut ())
        .unwrap_or_else(|error| panic!("{ipa_bits} bits, pages of {page_size:#x}: {error}\n{}", explained()));
    let stop = vm.run_vcpu(0);
    world.machine.log().assert_clean();
    assert!(matches!(stop, Ok(Stop::Event(_))), "{ipa_bits} bits: {stop:?}\n{}", explained());
    assert_eq!(vm.output(), ipa_bits.to_string().as_bytes());
    vm.destroy(&mut ()).expect("it is destroyed");
    drop(process);
    world.assert_all_back();
}

fn small() -> MachineConfig {
    MachineConfig { clock: ClockKind::Manual, ..MachineConfig::new(32 << 20, 1) }
}

#[test]
fn every_ipa_width_works_on_48_address_bits() {
    for ipa_bits in 33..=48 {
        live(small(), ipa_bits, HashAlgorithm::SHA_256);
    }
}

#[test]
fn every_ipa_width_works_with_lpa2() {
    let mut config = small();
    (config.features.pa_bits, config.features.lpa2) = (52, true);
    for ipa_bits in 33..=52 {
        live(config.clone(), ipa_bits, HashAlgorithm::SHA_256);
    }
}

#[test]
fn pages_of_16_and_64_kib_hold_granules_of_4_kib() {
    for host_page_shift in [14, 16] {
        live(MachineConfig { host_page_shift, ..small() }, 33, HashAlgorithm::SHA_256);
        live(MachineConfig { host_page_shift, ..small() }, 40, HashAlgorithm::SHA_512);
    }
}

#[test]
fn a_realm_measured_with_sha_512_has_64_bytes_of_measurement() {
    let world = World::manual();
    let seen = Arc::new(Mutex::new([0; 8]));
    let sink = Arc::clone(&seen);
    world.machine.set_guest(move |guest| {
        *sink.lock().expect("one writer") = guest.rsi(&RsiCall::MeasurementRead { index: 0 }).1;
    });
    let process = world.process();
    let settings = realm_vmm::RealmSettings { hash: HashAlgorithm::SHA_512, ..SETTINGS };
    let vm = RealmVm::build(&process, &common::guest(RAM_SIZE, 1), &settings, &mut ()).expect("it builds");
    vm.run_vcpu(0).expect("it ends");
    vm.destroy(&mut ()).expect("it is destroyed");
    drop(process);
    world.assert_all_back();
    assert!(seen.lock().expect("nobody writes any more").iter().all(|word| *word != 0));
}

#[test]
fn vcpus_of_one_realm_fault_on_the_same_memory_at_the_same_time() {
    let config = MachineConfig { clock: ClockKind::Real, ..MachineConfig::new(64 << 20, 4) };
    let world = World::new(config);
    world.machine.set_guest(|guest| {
        let id = guest.mpidr();
        if id == 0 {
            for target_cpu in 1..4 {
                let entry_point = RAM;
                let on =
                    realm_abi::psci::PsciCall::CpuOn { smc64: true, target_cpu, entry_point, context_id: 0 };
                assert_eq!(guest.psci(&on), realm_abi::psci::PsciStatus::SUCCESS);
            }
        }
        // Everyone walks the same pages, each from its own start, and owns a word of every page.
        let pages = RAM_SIZE / 0x1000 - 0x100;
        for step in 0..pages {
            let page = FREE + (step + id * pages / 4) % pages * 0x1000;
            if !(RAM + 0x20_0000..RAM + 0x42_0000).contains(&page) {
                guest.write::<u64>(page + 8 * id, page + id).expect("RAM");
            }
        }
        for step in 0..pages {
            let page = FREE + step * 0x1000;
            if !(RAM + 0x20_0000..RAM + 0x42_0000).contains(&page) {
                assert_eq!(guest.read::<u64>(page + 8 * id), Ok(page + id));
            }
        }
        guest.write::<u64>(FREE + 0x100 + 8 * id, 1).expect("RAM");
        if id == 0 {
            for other in 1..4 {
                while guest.read::<u64>(FREE + 0x100 + 8 * other) != Ok(1) {
                    guest.wfe();
                }
            }
        }
    });
    common::live_well(&world, &common::guest(RAM_SIZE, 4));
    world.assert_all_back();
}
