//! A whole sequence: its steps, and that everything comes back.

use crate::oracle::coverage::Coverage;
use crate::oracle::driver::Driver;
use crate::oracle::random::Choice;
use crate::oracle::steps::Step;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Where a sequence starts: what realms choose follows from the seed.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    pub seed: u64,
    /// On CPUs with LPA2, SVE and 8-bit VMIDs.
    pub wide: bool,
}

/// Does the steps, comparing the whole state now and then, and takes everything back at the end.
///
/// # Errors
/// The first difference between the RMM and the model, a panic being one.
pub fn run(start: Start, steps: &[Step]) -> Result<Coverage, String> {
    caught(|| {
        let mut driver = Driver::new(start);
        for (i, step) in steps.iter().enumerate() {
            driver.step(*step)?;
            if i % 10 == 9 {
                driver.compare(false)?;
            }
        }
        driver.finish()
    })
}

/// Boots a realm whose programs choose what they do by `numbers`, and runs it while the Host serves it.
///
/// # Errors
/// See [`run`].
pub fn run_realm(start: Start, numbers: &[u64]) -> Result<Coverage, String> {
    caught(|| {
        let mut driver = Driver::new(start);
        let mut choice = Choice::new(start.seed);
        driver.boot(&mut choice)?;
        driver.shared().choice.give(numbers.iter().copied());
        for i in 0..numbers.len().div_ceil(8) {
            if i % 3 == 2 {
                driver.service(&mut choice)?;
            }
            driver.enter(&mut choice)?;
        }
        driver.finish()
    })
}

fn caught(f: impl FnOnce() -> Result<Coverage, String>) -> Result<Coverage, String> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default())
    })
}

impl Driver {
    /// Compares everything, takes everything back and compares again.
    ///
    /// # Errors
    /// The first difference, or what cannot be destroyed.
    pub fn finish(mut self) -> Result<Coverage, String> {
        self.compare(true)?;
        self.tear_down()?;
        self.compare(true)?;
        let coverage = self.shared().coverage.clone();
        Ok(coverage)
    }
}

/// Leaves steps out, ever fewer at a time, while the sequence still fails.
pub fn shortest(start: Start, mut steps: Vec<Step>) -> (Vec<Step>, String) {
    let mut why = String::new();
    let mut chunk = steps.len().div_ceil(2);
    loop {
        let mut at = 0;
        let before = steps.len();
        while at < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + chunk).min(steps.len()));
            match run(start, &fewer) {
                Err(text) => (steps, why) = (fewer, text),
                Ok(_) => at += chunk,
            }
        }
        if chunk == 1 && steps.len() == before {
            return (steps, why);
        }
        chunk = chunk.div_ceil(2);
    }
}
