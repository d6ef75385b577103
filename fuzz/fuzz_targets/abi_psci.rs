//! PSCI: calls of both widths, and the fields of function identifiers.
#![no_main]

use arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use realm_abi::psci::PsciCall;
use realm_abi::smccc::FunctionId;
use realmkit_fuzz::check_call;

fn run(mut input: Unstructured<'_>) -> arbitrary::Result<()> {
    let mut regs: [u64; 4] = input.arbitrary()?;
    if input.ratio(7, 8)? {
        let wide = if input.arbitrary()? { 0xC400_0000 } else { 0x8400_0000 };
        regs[0] = wide | input.int_in_range(0..=0x20)?;
    }
    let call = check_call!(PsciCall, regs);
    if call.name().is_some() {
        assert!(PsciCall::in_range(regs[0]));
        let function = FunctionId(regs[0] as u32);
        assert!(function.is_fast() && function.owner() == 4 && !function.sve_hint());
        let written = call.to_regs();
        if !function.is_smc64() {
            assert!(
                written.iter().all(|reg| *reg <= u64::from(u32::MAX)),
                "32-bit arguments only: {written:x?}"
            );
        }
    }
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let _ = run(Unstructured::new(data));
});
