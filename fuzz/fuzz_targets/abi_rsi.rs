//! RSI: calls and structures.
#![no_main]

use arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use realm_abi::rsi::{HostCall, RealmConfig, RsiCall};
use realmkit_fuzz::{check_call, check_structure, registers};

fn run(mut input: Unstructured<'_>) -> arbitrary::Result<()> {
    let regs = registers::<11>(&mut input, RsiCall::TABLE)?;
    check_call!(RsiCall, regs);
    let rest = input.take_rest();
    check_structure::<RealmConfig>(rest);
    check_structure::<HostCall>(rest);
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let _ = run(Unstructured::new(data));
});
