//! What programs on the emulated machine report over its UART, so that a run is judged by a program, not by eye.
//!
//! A report is a line that begins with `@`; all other lines are talk. A *run* is one program's work under one name. It begins,
//! checks things, and ends with the number of checks it made, so that a run cut short is not taken for one that passed:
//!
//! ```text
//! @begin rsi
//! @state rsi reading measurements
//! @ok rsi version
//! @bad rsi features: X1 is 7, not 0
//! @value bench RMI_VERSION 533
//! @end rsi 2
//! ```
//!
//! Names of runs and checks have no spaces; [`Record::parse`] refuses what does not fit. The side that judges is the feature `judge`:
//! it needs a heap, which not every program has.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

#[cfg(feature = "judge")]
mod judge;

#[cfg(feature = "judge")]
extern crate alloc;

#[cfg(feature = "judge")]
pub use judge::{Journal, Problem};

use core::fmt;

/// One line of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A run begins.
    Begin {
        /// Its name.
        run: &'a str,
    },
    /// What a run is about to do: the last thing known of one that hangs.
    State {
        /// Which run.
        run: &'a str,
        /// In words.
        what: &'a str,
    },
    /// A check held.
    Ok {
        /// Which run.
        run: &'a str,
        /// What was checked, one word.
        check: &'a str,
    },
    /// A check did not hold.
    Bad {
        /// Which run.
        run: &'a str,
        /// What was checked, one word.
        check: &'a str,
        /// What was found.
        why: &'a str,
    },
    /// A measured number.
    Value {
        /// Which run.
        run: &'a str,
        /// What was measured, one word.
        name: &'a str,
        /// The number.
        value: u64,
    },
    /// A run ends.
    End {
        /// Which run.
        run: &'a str,
        /// How many checks it made.
        checks: u64,
    },
}

impl<'a> Record<'a> {
    /// The name of the run it belongs to.
    #[must_use]
    pub const fn run(&self) -> &'a str {
        match self {
            Self::Begin { run }
            | Self::State { run, .. }
            | Self::Ok { run, .. }
            | Self::Bad { run, .. }
            | Self::Value { run, .. }
            | Self::End { run, .. } => run,
        }
    }

    /// Reads a line without its end. `None` for a line that is no report, or a broken one.
    #[must_use]
    pub fn parse(line: &'a str) -> Option<Self> {
        let (kind, rest) = line.strip_prefix('@')?.split_once(' ')?;
        let (run, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        if !is_word(run) {
            return None;
        }
        let record = match kind {
            "begin" if rest.is_empty() => Self::Begin { run },
            "state" => Self::State { run, what: rest },
            "ok" if is_word(rest) => Self::Ok { run, check: rest },
            "bad" => {
                let (check, why) = rest.split_once(": ")?;
                if !is_word(check) {
                    return None;
                }
                Self::Bad { run, check, why }
            }
            "value" => {
                let (name, value) = rest.split_once(' ')?;
                if !is_word(name) {
                    return None;
                }
                Self::Value { run, name, value: value.parse().ok()? }
            }
            "end" => Self::End { run, checks: rest.parse().ok()? },
            _ => return None,
        };
        Some(record)
    }
}

/// Whether `text` can be the name of a run or a check.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':')
}

impl fmt::Display for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begin { run } => write!(f, "@begin {run}"),
            Self::State { run, what } => write!(f, "@state {run} {what}"),
            Self::Ok { run, check } => write!(f, "@ok {run} {check}"),
            Self::Bad { run, check, why } => write!(f, "@bad {run} {check}: {why}"),
            Self::Value { run, name, value } => write!(f, "@value {run} {name} {value}"),
            Self::End { run, checks } => write!(f, "@end {run} {checks}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn word() -> impl Strategy<Value = String> {
        "[a-zA-Z0-9_./-]{1,12}"
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            kind in 0..6, run in word(), check in word(), text in "[ -~]{0,30}", number in any::<u64>(),
        ) {
            let record = match kind {
                0 => Record::Begin { run: &run },
                1 => Record::State { run: &run, what: &text },
                2 => Record::Ok { run: &run, check: &check },
                3 => Record::Bad { run: &run, check: &check, why: &text },
                4 => Record::Value { run: &run, name: &check, value: number },
                _ => Record::End { run: &run, checks: number },
            };
            let line = record.to_string();
            prop_assert_eq!(Record::parse(&line), Some(record));
        }

        #[test]
        fn no_line_makes_the_reader_panic(line in "\\PC{0,60}") {
            let _ = Record::parse(&line);
        }
    }

    #[test]
    fn a_line_that_is_no_whole_report_is_none() {
        for line in [
            "",
            "@",
            "@ok",
            "@ok rsi",
            "@ok rsi two words",
            "@bad rsi check",
            "@bad rsi two words: x",
            "@end rsi x",
            "@begin",
            "@begin rsi x",
            "ok rsi x",
            "@value rsi name -1",
            "@unheard rsi x",
        ] {
            assert_eq!(Record::parse(line), None, "{line}");
        }
    }
}
