//! The RIM predicted ahead of time is the one that is measured, whatever steps a VMM takes, and a step that cannot be
//! predicted is one that fails.

use crate::vmm::{PAGE, RAM_SIZE, Stage, V8, Vmm, rec_features};
use proptest::prelude::*;
use realm_abi::kvm::reg::RegId;
use realm_abi::kvm::{ExitReason, POPULATE_MEASURE, RealmCommand, RmeConfig, RmePopulate};
use realm_abi::rmi::HashAlgorithm;
use realm_abi::rsi::RsiCall;
use realm_attest::rim::{PopulateError, RealmParameters, RimPredictor};
use realm_machine::config::ClockKind;
use realm_machine::{Machine, MachineConfig};
use realm_vmm::{Fd, System};
use std::sync::{Arc, Mutex};
use zerocopy::IntoBytes;

/// The memory slot lies around a boundary of 1 GiB, so that its halves are in different tables.
const SLOT: u64 = (1 << 30) - RAM_SIZE / 2;
const SLOT_PAGES: u64 = RAM_SIZE / PAGE;

#[derive(Clone, Debug)]
enum Step {
    InitRipas { base: u64, size: u64 },
    Populate { ipa: u64, pages: u64, measured: bool },
}

fn step(ipa_bits: u8) -> impl Strategy<Value = Step> {
    let half_pages = 1_u64 << (ipa_bits - 1 - 12);
    let size = move |pages: u64| pages.min(half_pages) * PAGE;
    let in_slot = (0..SLOT_PAGES, 1_u64..40);
    prop_oneof![
        // Few or many entries of any level, at any multiple of them, and a ragged end.
        3 => (0_u32..4, any::<u64>(), 1_u64..6, 0_u64..3).prop_map(move |(level, index, count, ragged)| {
            let entry = 1 << (9 * level);
            let base = (index % half_pages.div_ceil(entry)) * entry;
            let pages = (count * entry + ragged).min(half_pages - base);
            Step::InitRipas { base: base * PAGE, size: size(pages) }
        }),
        3 => in_slot.clone().prop_map(|(page, pages)| Step::InitRipas {
            base: SLOT + page * PAGE,
            size: pages * 16 * PAGE,
        }),
        3 => (in_slot, any::<bool>()).prop_map(|((page, pages), measured)| Step::Populate {
            ipa: SLOT + page * PAGE,
            pages: pages.min(SLOT_PAGES - page),
            measured,
        }),
    ]
}

fn scenario() -> impl Strategy<Value = (u8, HashAlgorithm, Vec<Step>, u64, [u64; 3])> {
    let hash = prop_oneof![Just(HashAlgorithm::SHA_256), Just(HashAlgorithm::SHA_512)];
    (32_u8..=52, hash, any::<u32>(), any::<[u64; 3]>()).prop_flat_map(|(ipa_bits, hash, pc, gprs)| {
        let pc = u64::from(pc) & !3;
        (Just(ipa_bits), Just(hash), proptest::collection::vec(step(ipa_bits), 1..8), Just(pc), Just(gprs))
    })
}

fn machine(ipa_bits: u8) -> Arc<Machine> {
    let mut config = MachineConfig { clock: ClockKind::Manual, ..MachineConfig::new(64 << 20, 1) };
    if ipa_bits > 48 {
        (config.features.pa_bits, config.features.lpa2) = (52, true);
    }
    Machine::new(config).expect("a valid size")
}

/// A VM with one vCPU, a slot at [`SLOT`], and a realm that is created.
fn vmm(machine: &Arc<Machine>, ipa_bits: u8, hash: HashAlgorithm) -> Vmm {
    let mut vmm = Vmm::at(machine, Stage::Vm, 0);
    vmm.process.close(vmm.vm);
    vmm.vm = vmm.create_vm(ipa_bits).expect("a VM");
    let memfd: Fd = vmm.memfd(RAM_SIZE);
    vmm.set_slot(&vmm.slot(0, SLOT, RAM_SIZE, Some(memfd))).expect("a slot");
    vmm.process.close(memfd);
    vmm.add_vcpu(0, &rec_features());
    vmm.add_gic();
    vmm.realm(RealmCommand::CONFIG_REALM, &RmeConfig::hash_algo(hash.0.into())).expect("CONFIG");
    vmm.realm(RealmCommand::CREATE_REALM, &()).expect("CREATE_REALM");
    vmm
}

/// The pages of the slot: no two are equal.
fn content(first: u64, pages: u64) -> Vec<u8> {
    (first..first + pages).flat_map(|page| (page.to_le_bytes()).repeat(512)).collect()
}

/// Takes a step on the machine and in the prediction; whether both succeeded.
fn take(vmm: &Vmm, predictor: &mut RimPredictor, step: &Step) -> Result<bool, TestCaseError> {
    let (real, predicted) = match *step {
        Step::InitRipas { base, size } => {
            (vmm.init_ripas(base, size), predictor.init_ripas(base, size).map_err(|error| error.to_string()))
        }
        Step::Populate { ipa, pages, measured } => {
            let flags = if measured { POPULATE_MEASURE } else { 0 };
            let request = RmePopulate { base: ipa, size: pages * PAGE, flags, reserved: [0; 3] };
            let bytes = content((ipa - SLOT) / PAGE, pages);
            vmm.process.write(vmm.ram + (ipa - SLOT), &bytes).expect("RAM");
            let mut rest = bytes.as_slice();
            let read = |out: &mut [u8]| std::io::Read::read_exact(&mut rest, out);
            let predicted = predictor.populate(ipa, bytes.len() as u64, measured, read);
            let predicted = predicted.map_err(|error| match error {
                PopulateError::Step(error) => error.to_string(),
                PopulateError::Read(error) => error.to_string(),
            });
            (vmm.realm(RealmCommand::POPULATE_REALM, &request), predicted)
        }
    };
    prop_assert_eq!(real.is_ok(), predicted.is_ok(), "{:?}: {:?}, predicted {:?}", step, real, predicted);
    Ok(real.is_ok())
}

/// Activates and runs the realm, which reads its own RIM.
fn measured(vmm: &Vmm, pc: u64, gprs: [u64; 3]) -> Vec<u8> {
    let found = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&found);
    vmm.machine.set_guest(move |cpu| {
        let (_, words) = cpu.rsi(&RsiCall::MeasurementRead { index: 0 });
        seen.lock().expect("one thread").extend_from_slice(words.as_bytes());
    });
    vmm.set_reg(0, RegId::PC, &pc).expect("the entry point");
    for (n, value) in (0..).zip(gprs) {
        vmm.set_reg(0, RegId::x(n).expect("a register"), &value).expect("a register");
    }
    vmm.finalize(0, V8.vcpu_rec).expect("a REC");
    vmm.realm(RealmCommand::ACTIVATE_REALM, &()).expect("ACTIVATE");
    vmm.run(0).expect("KVM_RUN");
    assert_eq!(vmm.exit(0).exit_reason, ExitReason::SYSTEM_EVENT);
    let found = found.lock().expect("the guest has ended");
    found.clone()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_predicted_measurement_is_the_measured_one((ipa_bits, hash, steps, pc, gprs) in scenario()) {
        let machine = machine(ipa_bits);
        let vmm = vmm(&machine, ipa_bits, hash);
        let features = machine.config().features;
        let parameters = RealmParameters {
            lpa2: ipa_bits > 48,
            num_bps: features.num_bps + 1,
            num_wps: features.num_wps + 1,
            ..RealmParameters::plain(ipa_bits, hash)
        };
        let mut predictor = RimPredictor::new(&parameters).expect("valid parameters");
        let mut all = true;
        for step in &steps {
            all = take(&vmm, &mut predictor, step)?;
            if !all {
                break;
            }
        }
        if all {
            predictor.rec(pc, &gprs, true).expect("three registers");
            prop_assert_eq!(measured(&vmm, pc, gprs), predictor.rim().slot().to_vec());
        }
        vmm.end();
    }
}
