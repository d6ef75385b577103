//! Sequences of RMI calls, valid and not, and of RSI and PSCI calls between them, on the RMM core: every answer and the
//! whole state are compared with the model's, and at the end everything can be taken back.
#![no_main]

/// The driver of the property test.
#[path = "../../machine/tests/oracle"]
#[allow(dead_code, reason = "the property test also counts what it has covered")]
mod oracle {
    pub mod addresses;
    pub mod coverage;
    pub mod driver;
    pub mod enter;
    pub mod guest;
    pub mod random;
    pub mod state;
    pub mod steps;
}

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use oracle::driver::Driver;
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

fn run(input: &Input) -> Result<(), String> {
    let mut driver = Driver::new(input.seed, input.wide);
    for (index, &(kind, seed)) in input.steps.iter().take(MAX_STEPS).enumerate() {
        driver.step(Step { kind, seed })?;
        if index % 10 == 9 {
            driver.compare(false)?;
        }
    }
    driver.compare(true)?;
    driver.tear_down()?;
    driver.compare(true)
}

fuzz_target!(|data: &[u8]| {
    let Ok(input) = structured::<Input>(data) else { return };
    if let Err(why) = run(&input) {
        panic!("{why}\n{input:?}");
    }
});
