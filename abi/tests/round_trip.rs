//! Every call table against the specifications' identifiers, and every call there and back through its registers.

use proptest::prelude::*;
use realm_abi::psci::{self, PsciCall, PsciStatus};
use realm_abi::rmi::{
    FeatureRegister0, HashAlgorithm, ReturnCode, Ripas, RmiCommand, RmiReply, RttEntryState, Status,
    UnprotectedDesc, Version,
};
use realm_abi::rmm_el3::{El3Call, El3Reply};
use realm_abi::rsi::{RsiCall, RsiStatus};

fn config() -> ProptestConfig {
    // Miri interprets every instruction and has no files.
    ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 256 },
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Registers for a call: an identifier of the table or any other one, then anything.
fn registers<const N: usize>(table: &'static [(u64, &'static str)]) -> impl Strategy<Value = [u64; N]> {
    let known = proptest::sample::select(table).prop_map(|(fid, _)| fid);
    let fid = prop_oneof![3 => known, 1 => any::<u64>()];
    (fid, proptest::collection::vec(any::<u64>(), N - 1)).prop_map(|(fid, rest)| {
        let mut regs = [0; N];
        regs[0] = fid;
        regs[1..].copy_from_slice(&rest);
        regs
    })
}

macro_rules! table_round_trips {
    ($($name:ident: $call:ident<$count:literal>;)*) => {
        proptest! {
            #![proptest_config(config())]
            $(
                #[test]
                fn $name(regs in registers::<$count>($call::TABLE)) {
                    let call = $call::from_regs(&regs);
                    let written = call.to_regs();
                    prop_assert_eq!($call::from_regs(&written), call);
                    prop_assert_eq!(call.fid(), regs[0]);
                    let known = $call::TABLE.iter().find(|(fid, _)| *fid == regs[0]).map(|(_, name)| *name);
                    prop_assert_eq!(call.name(), known);
                    if known.is_none() {
                        prop_assert_eq!(written, regs, "an unknown call keeps all registers");
                    }
                    // What a known call writes is what it read; what it does not use it writes as zero.
                    for (index, (before, after)) in regs.iter().zip(&written).enumerate() {
                        prop_assert!(*after == *before || *after == 0, "X{}", index);
                    }
                }
            )*
        }
    };
}

table_round_trips! {
    an_rmi_command_survives_the_round_trip: RmiCommand<8>;
    an_rsi_call_survives_the_round_trip: RsiCall<11>;
    a_call_to_el3_survives_the_round_trip: El3Call<12>;
}

const PSCI_FIDS: [u64; 11] = [
    psci::fid::VERSION,
    psci::fid::CPU_SUSPEND_32,
    psci::fid::CPU_SUSPEND_64,
    psci::fid::CPU_OFF,
    psci::fid::CPU_ON_32,
    psci::fid::CPU_ON_64,
    psci::fid::AFFINITY_INFO_32,
    psci::fid::AFFINITY_INFO_64,
    psci::fid::SYSTEM_OFF,
    psci::fid::SYSTEM_RESET,
    psci::fid::FEATURES,
];

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_psci_call_survives_the_round_trip(
        fid in prop_oneof![3 => proptest::sample::select(&PSCI_FIDS[..]), 1 => any::<u64>()], args: [u64; 3],
    ) {
        let regs = [fid, args[0], args[1], args[2]];
        let call = PsciCall::from_regs(&regs);
        let written = call.to_regs();
        prop_assert_eq!(PsciCall::from_regs(&written), call);
        prop_assert_eq!(written[0], fid);
        prop_assert_eq!(call.name().is_some(), PSCI_FIDS.contains(&fid));
        if call.name().is_some() {
            prop_assert!(PsciCall::in_range(fid));
        } else {
            prop_assert_eq!(written, regs);
        }
    }

    #[test]
    fn replies_survive_the_round_trip(regs: [u64; 5]) {
        prop_assert_eq!(RmiReply::from_regs(&regs).to_regs(), regs);
        let regs = [regs[0], regs[1], regs[2], regs[3]];
        prop_assert_eq!(El3Reply::from_regs(&regs).to_regs(), regs);
    }

    #[test]
    fn a_return_code_is_made_of_its_parts(status: u8, index: u8) {
        let code = ReturnCode::new(Status(status), index);
        prop_assert_eq!((code.status(), code.index()), (Status(status), index));
    }

    #[test]
    fn a_version_is_made_of_its_parts(major in 0_u16..0x8000, minor: u16) {
        let version = Version::new(major, minor);
        prop_assert_eq!((version.major(), version.minor()), (major, minor));
        prop_assert_eq!(version.to_string(), format!("{major}.{minor}"));
    }

    #[test]
    fn replacing_one_feature_leaves_the_others(word: u64, value: u64) {
        type Field = (fn(FeatureRegister0) -> u64, fn(FeatureRegister0, u64) -> FeatureRegister0, u32);
        use FeatureRegister0 as F;
        let fields: [Field; 12] = [
            (F::s2sz, F::with_s2sz, 8),
            (F::lpa2, F::with_lpa2, 1),
            (F::sve_en, F::with_sve_en, 1),
            (F::sve_vl, F::with_sve_vl, 4),
            (F::num_bps, F::with_num_bps, 6),
            (F::num_wps, F::with_num_wps, 6),
            (F::pmu_en, F::with_pmu_en, 1),
            (F::pmu_num_ctrs, F::with_pmu_num_ctrs, 5),
            (F::hash_sha_256, F::with_hash_sha_256, 1),
            (F::hash_sha_512, F::with_hash_sha_512, 1),
            (F::gicv3_num_lrs, F::with_gicv3_num_lrs, 4),
            (F::max_recs_order, F::with_max_recs_order, 4),
        ];
        let mut at = 0;
        for (get, with, width) in fields {
            let mask = (1_u64 << width) - 1;
            let changed = with(F(word), value);
            prop_assert_eq!(get(changed), value & mask);
            prop_assert_eq!(changed.0 & !(mask << at), word & !(mask << at));
            at += width;
        }
        prop_assert_eq!(at, 42, "the fields are those of the reference, without a gap");
    }
}

/// The function identifiers of RMM 1.0 (RMI, RSI), PSCI and the RMM-EL3 interface.
#[test]
fn the_tables_hold_the_identifiers_of_the_reference() {
    let rmi = [
        (0x150, "RMI_VERSION"),
        (0x151, "RMI_GRANULE_DELEGATE"),
        (0x152, "RMI_GRANULE_UNDELEGATE"),
        (0x153, "RMI_DATA_CREATE"),
        (0x154, "RMI_DATA_CREATE_UNKNOWN"),
        (0x155, "RMI_DATA_DESTROY"),
        (0x157, "RMI_REALM_ACTIVATE"),
        (0x158, "RMI_REALM_CREATE"),
        (0x159, "RMI_REALM_DESTROY"),
        (0x15A, "RMI_REC_CREATE"),
        (0x15B, "RMI_REC_DESTROY"),
        (0x15C, "RMI_REC_ENTER"),
        (0x15D, "RMI_RTT_CREATE"),
        (0x15E, "RMI_RTT_DESTROY"),
        (0x15F, "RMI_RTT_MAP_UNPROTECTED"),
        (0x161, "RMI_RTT_READ_ENTRY"),
        (0x162, "RMI_RTT_UNMAP_UNPROTECTED"),
        (0x164, "RMI_PSCI_COMPLETE"),
        (0x165, "RMI_FEATURES"),
        (0x166, "RMI_RTT_FOLD"),
        (0x167, "RMI_REC_AUX_COUNT"),
        (0x168, "RMI_RTT_INIT_RIPAS"),
        (0x169, "RMI_RTT_SET_RIPAS"),
    ];
    let rsi = [
        (0x190, "RSI_VERSION"),
        (0x191, "RSI_FEATURES"),
        (0x192, "RSI_MEASUREMENT_READ"),
        (0x193, "RSI_MEASUREMENT_EXTEND"),
        (0x194, "RSI_ATTESTATION_TOKEN_INIT"),
        (0x195, "RSI_ATTESTATION_TOKEN_CONTINUE"),
        (0x196, "RSI_REALM_CONFIG"),
        (0x197, "RSI_IPA_STATE_SET"),
        (0x198, "RSI_IPA_STATE_GET"),
        (0x199, "RSI_HOST_CALL"),
    ];
    let el3 = [
        (0x18F, "RMM_RMI_REQ_COMPLETE"),
        (0x1B0, "RMM_GTSI_DELEGATE"),
        (0x1B1, "RMM_GTSI_UNDELEGATE"),
        (0x1B2, "RMM_ATTEST_GET_REALM_KEY"),
        (0x1B3, "RMM_ATTEST_GET_PLAT_TOKEN"),
        (0x1B4, "RMM_EL3_FEATURES"),
        (0x1B5, "RMM_EL3_TOKEN_SIGN"),
        (0x1B6, "RMM_MEC_REFRESH"),
        (0x1B7, "RMM_IDE_KEY_PROG"),
        (0x1B8, "RMM_IDE_KEY_SET_GO"),
        (0x1B9, "RMM_IDE_KEY_SET_STOP"),
        (0x1BA, "RMM_IDE_KM_PULL_RESPONSE"),
        (0x1BB, "RMM_RESERVE_MEMORY"),
        (0x1CF, "RMM_BOOT_COMPLETE"),
    ];
    let full = |table: &[(u64, &'static str)]| -> Vec<(u64, &'static str)> {
        table.iter().map(|(number, name)| (0xC400_0000 | number, *name)).collect()
    };
    assert_eq!(RmiCommand::TABLE, full(&rmi));
    assert_eq!(RsiCall::TABLE, full(&rsi));
    assert_eq!(El3Call::TABLE, full(&el3));
}

#[test]
fn fields_travel_in_the_registers_of_the_reference() {
    let command = RmiCommand::from_regs(&[0xC400_0153, 1, 2, 3, 4, 1, 6, 7]);
    assert_eq!(command.to_regs(), [0xC400_0153, 1, 2, 3, 4, 1, 0, 0], "rd, data, ipa, src, flags");
    let command = RmiCommand::RttCreate { rd: 1, rtt: 2, ipa: 3, level: -1 };
    assert_eq!(command.to_regs(), [0xC400_015D, 1, 2, 3, u64::MAX, 0, 0, 0]);
    let call = RsiCall::MeasurementExtend { index: 1, size: 64, value: [9; 8] };
    assert_eq!(call.to_regs(), [0xC400_0193, 1, 64, 9, 9, 9, 9, 9, 9, 9, 9]);
    let call = PsciCall::from_regs(&[psci::fid::CPU_ON_32, u64::MAX, u64::MAX, 1 << 32]);
    assert_eq!(call.to_regs(), [psci::fid::CPU_ON_32, 0xffff_ffff, 0xffff_ffff, 0], "32-bit arguments");
}

#[test]
fn read_entry_takes_the_low_bytes_of_state_and_ripas() {
    let reply = RmiReply::success([3, 0x101, 0x8000_0000, 0x1_0000_0001]);
    assert_eq!(reply.read_entry(), (3, RttEntryState::ASSIGNED, 0x8000_0000, Ripas::RAM));
}

#[test]
fn values_are_shown_by_the_names_of_the_specification() {
    assert_eq!(ReturnCode::SUCCESS.to_string(), "RMI_SUCCESS");
    assert_eq!(ReturnCode::ERROR_INPUT.to_string(), "RMI_ERROR_INPUT");
    assert_eq!(ReturnCode::new(Status::ERROR_REALM, 1).to_string(), "RMI_ERROR_REALM(1)");
    assert_eq!(ReturnCode::error_rtt(-1).to_string(), "RMI_ERROR_RTT(level -1)");
    assert_eq!(ReturnCode::NOT_SUPPORTED.to_string(), "NOT_SUPPORTED");
    assert_eq!(ReturnCode(0x1_0000).to_string(), "ReturnCode(0x10000)");
    assert_eq!(Ripas(7).to_string(), "Ripas(0x7)");
    assert_eq!(HashAlgorithm::SHA_512.to_string(), "SHA_512");
    assert_eq!(RsiStatus::INCOMPLETE.to_string(), "INCOMPLETE");
    assert_eq!(PsciStatus::DENIED.to_string(), "DENIED");
}

#[test]
fn levels_of_return_codes_are_signed() {
    for level in -1..=3 {
        let code = ReturnCode::error_rtt(level);
        assert!(code.is_error_rtt());
        assert_eq!(code.level(), level);
    }
    assert!(!ReturnCode::NOT_SUPPORTED.is_error_rtt());
}

#[test]
fn a_normal_mapping_has_the_attributes_of_write_back() {
    assert_eq!(UnprotectedDesc::normal_rw(0x8000_0000).0, 0x8000_00d8);
}
