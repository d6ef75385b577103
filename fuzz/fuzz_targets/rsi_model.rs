//! What a realm does, RSI and PSCI calls and accesses, while its Host serves it as it should and not: every register it
//! goes on with and every exit are compared with the model's.
#![no_main]

/// The driver of the property test.
#[path = "../../machine/tests/oracle/all.rs"]
#[allow(dead_code, reason = "the property test also counts what it has covered, and shortens what fails")]
mod oracle;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use oracle::sequence::{Start, run_realm};
use realmkit_fuzz::structured;

/// Longer runs find nothing more and take longer.
const MAX_CHOICES: usize = 400;

#[derive(Arbitrary, Debug)]
struct Input {
    seed: u64,
    wide: bool,
    /// What the realm's programs choose.
    choices: Vec<u64>,
}

fuzz_target!(|data: &[u8]| {
    let Ok(mut input) = structured::<Input>(data) else { return };
    input.choices.truncate(MAX_CHOICES);
    if let Err(why) = run_realm(Start { seed: input.seed, wide: input.wide }, &input.choices) {
        panic!("{why}\n{input:?}");
    }
});
