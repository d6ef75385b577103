//! A run of checks, reported as it goes.

use alloc::string::ToString;
use core::fmt::Display;
use realm_el2::uart;
use realm_report::Record;

/// A run that has begun.
pub struct Checks {
    run: &'static str,
    made: u64,
}

impl Checks {
    /// Begins a run.
    pub fn begin(run: &'static str) -> Self {
        uart::report(Record::Begin { run });
        Self { run, made: 0 }
    }

    /// Says what comes next.
    pub fn state(&self, what: impl Display) {
        uart::report(Record::State { run: self.run, what: &what.to_string() });
    }

    /// A check: `holds`, or else `why` not.
    pub fn that<W: Display>(&mut self, check: &str, holds: bool, why: impl FnOnce() -> W) {
        self.made += 1;
        if holds {
            uart::report(Record::Ok { run: self.run, check });
        } else {
            uart::report(Record::Bad { run: self.run, check, why: &why().to_string() });
        }
    }

    /// A check that two values are the same.
    pub fn equal<T: PartialEq + core::fmt::Debug>(&mut self, check: &str, found: T, wanted: T) {
        let holds = found == wanted;
        self.that(check, holds, || alloc::format!("{found:x?}, not {wanted:x?}"));
    }

    /// A number the run has found.
    pub fn value(&self, name: &str, value: u64) {
        uart::report(Record::Value { run: self.run, name, value });
    }

    /// Ends the run.
    pub fn end(self) {
        uart::report(Record::End { run: self.run, checks: self.made });
    }
}
