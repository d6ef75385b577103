//! RMI: commands, replies, feature register and structures.
#![no_main]

use arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use realm_abi::rmi::{
    FeatureRegister0, RealmParams, RecParams, RecRun, RmiCommand, RmiReply, rtt_entry_size,
};
use realmkit_fuzz::{check_call, check_structure, registers};

fn run(mut input: Unstructured<'_>) -> arbitrary::Result<()> {
    let regs = registers::<8>(&mut input, RmiCommand::TABLE)?;
    let command = check_call!(RmiCommand, regs);
    if let RmiCommand::RttCreate { level, .. } = command {
        assert_eq!(rtt_entry_size(level).is_some(), (-1..=3).contains(&level));
    }
    let reply: [u64; 5] = input.arbitrary()?;
    let reply_read = RmiReply::from_regs(&reply);
    assert_eq!(reply_read.to_regs(), reply);
    assert_eq!(reply_read.code.is_success(), reply[0] == 0);
    assert!(!reply_read.code.is_error_rtt() || (reply_read.code.level() as u8) == reply_read.code.index());
    let _ = (format!("{}", reply_read.code), reply_read.read_entry());

    let features = FeatureRegister0(input.arbitrary()?);
    let value: u64 = input.arbitrary()?;
    assert_eq!(features.with_num_bps(value).num_bps(), value & 0x3f);
    assert_eq!(features.with_num_bps(features.num_bps()), features);
    let _ = format!("{features:?} {}", features.max_recs());

    let rest = input.take_rest();
    check_structure::<RealmParams>(rest);
    check_structure::<RecParams>(rest);
    check_structure::<RecRun>(rest);
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let _ = run(Unstructured::new(data));
});
