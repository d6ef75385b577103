//! The RMM against the model: random sequences of RMI, RSI and PSCI calls, valid and not; every answer and the whole state.
//!
//! `REALMKIT_ORACLE_CASES` (default 200) and `REALMKIT_ORACLE_STEPS` (default 100) say how many sequences of how many
//! steps; `REALMKIT_ORACLE_SEED` starts elsewhere.

#[path = "oracle/all.rs"]
mod oracle;

use oracle::coverage::Coverage;
use oracle::sequence::{Start, run, run_realm, shortest};
use oracle::steps::Step;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use realm_abi::rmi::RmiCommand;
use std::sync::Mutex;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn a_realm_that_runs_is_served_as_the_model_says() {
    let config = Config { cases: 40, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[3; 32]));
    let input = (any::<u64>(), any::<bool>(), prop::collection::vec(any::<u64>(), 400));
    let coverage = Mutex::new(Coverage::default());
    let result = runner.run(&input, |(seed, wide, numbers)| {
        let covered = run_realm(Start { seed, wide }, &numbers).map_err(TestCaseError::fail)?;
        coverage.lock().unwrap().add(&covered);
        Ok(())
    });
    let coverage = coverage.into_inner().unwrap();
    println!("{coverage}");
    if let Err(error) = result {
        panic!("{error}");
    }
    for call in ["RSI_HOST_CALL", "RSI_IPA_STATE_SET", "PSCI_CPU_ON", "data abort, emulatable"] {
        assert!(coverage.of("exit", call) > 0, "no exit for {call}");
    }
    for call in ["RSI_REALM_CONFIG", "RSI_MEASUREMENT_EXTEND", "enter after a host call", "undefined"] {
        assert!(coverage.of("realm goes on", call) > 0, "no realm went on after {call}");
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
    let began = std::time::Instant::now();
    // Proptest would make a failing sequence simpler element by element; leaving steps out is faster and tells more.
    let failed = Mutex::new(None);
    let result = runner.run(&sequence, |(seed, wide, steps)| {
        let mut failed = failed.lock().unwrap();
        if failed.is_some() {
            return Ok(());
        }
        match run(Start { seed, wide }, &steps) {
            Ok(covered) => {
                coverage.lock().unwrap().add(&covered);
                Ok(())
            }
            Err(why) => {
                *failed = Some((Start { seed, wide }, steps));
                Err(TestCaseError::fail(why))
            }
        }
    });
    if let Some((start, steps)) = failed.into_inner().unwrap() {
        let (steps, why) = shortest(start, steps);
        let first = result.err().map(|error| error.to_string()).unwrap_or_default();
        panic!("{why}\n{start:?}, {steps:?}\nfirst seen as: {}", first.lines().next().unwrap_or_default());
    }
    let coverage = coverage.into_inner().unwrap();
    println!(
        "{coverage}{} calls, {cases} sequences of {steps} steps in {:.1} s",
        coverage.calls(),
        began.elapsed().as_secs_f64()
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
