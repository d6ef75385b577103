//! Sequences of RMI calls, valid and not, and of RSI and PSCI calls between them, on the RMM core: every answer and the
//! whole state are compared with the model's, and at the end everything can be taken back.
#![no_main]

/// The driver of the property test.
#[path = "../../machine/tests/oracle/all.rs"]
#[allow(dead_code, reason = "the property test also counts what it has covered, and shortens what fails")]
mod oracle;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use oracle::sequence::{Start, run};
use oracle::steps::Step;
use realmkit_fuzz::structured;

/// Longer sequences find nothing more and take longer.
const MAX_STEPS: usize = 200;

#[derive(Arbitrary, Debug)]
struct Input {
    seed: u64,
    wide: bool,
    steps: Vec<(u8, u32)>,
}

fuzz_target!(|data: &[u8]| {
    let Ok(input) = structured::<Input>(data) else { return };
    let steps: Vec<Step> =
        input.steps.iter().take(MAX_STEPS).map(|&(kind, seed)| Step { kind, seed }).collect();
    if let Err(why) = run(Start { seed: input.seed, wide: input.wide }, &steps) {
        panic!("{why}\n{input:?}");
    }
});
