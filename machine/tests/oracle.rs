//! The RMM against the model: random sequences of RMI, RSI and PSCI calls, valid and not; every answer and the whole state.
//!
//! `REALMKIT_ORACLE_CASES` (default 200) and `REALMKIT_ORACLE_STEPS` (default 100) say how many sequences of how many
//! steps; `REALMKIT_ORACLE_SEED` starts elsewhere.

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

use oracle::coverage::Coverage;
use oracle::driver::Driver;
use oracle::steps::Step;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use realm_abi::rmi::RmiCommand;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// [`compare`], with a panic as one more way to fail.
fn run(seed: u64, wide: bool, steps: &[Step], coverage: &Mutex<Coverage>) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| compare(seed, wide, steps, coverage))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default())
    })
}

/// Does the steps, comparing the whole state now and then, and takes everything back at the end.
fn compare(seed: u64, wide: bool, steps: &[Step], coverage: &Mutex<Coverage>) -> Result<(), String> {
    let mut driver = Driver::new(seed, wide);
    for (i, step) in steps.iter().enumerate() {
        driver.step(*step)?;
        if i % 10 == 9 {
            driver.compare(false)?;
        }
    }
    driver.compare(true)?;
    driver.tear_down()?;
    driver.compare(true)?;
    let mut sum = coverage.lock().map_err(|error| error.to_string())?;
    sum.add(&driver.shared().coverage);
    Ok(())
}

/// Leaves steps out, ever fewer at a time, while the sequence still fails.
fn shortest(seed: u64, wide: bool, mut steps: Vec<Step>) -> (Vec<Step>, String) {
    let coverage = Mutex::new(Coverage::default());
    let mut why = String::new();
    let mut chunk = steps.len().div_ceil(2);
    loop {
        let mut at = 0;
        let before = steps.len();
        while at < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + chunk).min(steps.len()));
            match run(seed, wide, &fewer, &coverage) {
                Err(text) => (steps, why) = (fewer, text),
                Ok(()) => at += chunk,
            }
        }
        if chunk == 1 && steps.len() == before {
            return (steps, why);
        }
        chunk = chunk.div_ceil(2);
    }
}

#[test]
fn the_rmm_does_what_the_model_says() {
    let cases = number("REALMKIT_ORACLE_CASES", 200);
    let steps = number("REALMKIT_ORACLE_STEPS", 100) as usize;
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&number("REALMKIT_ORACLE_SEED", 1).to_le_bytes());
    let config = Config {
        cases: cases as u32,
        failure_persistence: None,
        max_shrink_iters: 4000,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    let step = (any::<u8>(), any::<u32>()).prop_map(|(kind, seed)| Step { kind, seed });
    let sequence = (any::<u64>(), prop::bool::weighted(0.3), prop::collection::vec(step, steps));
    let coverage = Mutex::new(Coverage::default());
    let start = std::time::Instant::now();
    // Proptest would make a failing sequence simpler element by element; leaving steps out is faster and tells more.
    let failed = Mutex::new(None);
    let result = runner.run(&sequence, |(seed, wide, steps)| {
        let mut failed = failed.lock().unwrap();
        if failed.is_some() {
            return Ok(());
        }
        run(seed, wide, &steps, &coverage).map_err(|why| {
            *failed = Some((seed, wide, steps));
            TestCaseError::fail(why)
        })
    });
    if let Some((seed, wide, steps)) = failed.into_inner().unwrap() {
        let (steps, why) = shortest(seed, wide, steps);
        let first = result.err().map(|error| error.to_string()).unwrap_or_default();
        panic!(
            "{why}\nseed {seed}, wide {wide}, {steps:?}\nfirst seen as: {}",
            first.lines().next().unwrap_or_default()
        );
    }
    let coverage = coverage.into_inner().unwrap();
    println!(
        "{coverage}{} calls, {cases} sequences of {steps} steps in {:.1} s",
        coverage.calls(),
        start.elapsed().as_secs_f64()
    );
    if cases >= 200 && steps >= 100 {
        for (_, command) in RmiCommand::TABLE {
            assert!(coverage.of(command, "ok") > 0, "{command} never succeeded");
        }
        for class in [
            "RMI_SUCCESS",
            "RMI_ERROR_INPUT",
            "RMI_ERROR_REALM",
            "RMI_ERROR_REALM(1)",
            "RMI_ERROR_REC",
            "NOT_SUPPORTED",
        ] {
            assert!(coverage.of("returned", class) > 0, "{class} was never returned");
        }
        for level in 0..=3 {
            assert!(
                coverage.of("returned", &format!("RMI_ERROR_RTT(level {level})")) > 0,
                "no ERROR_RTT at level {level}"
            );
        }
        for reason in ["SYNC", "IRQ", "PSCI", "RIPAS_CHANGE", "HOST_CALL"] {
            assert!(coverage.of("exit reason", reason) > 0, "no REC exit {reason}");
        }
    }
}
