//! Judging a whole console.

use crate::Record;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

/// What a console's reports say, by run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journal {
    runs: BTreeMap<String, Run>,
    broken: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Run {
    begun: u32,
    ended: Vec<u64>,
    good: u64,
    bad: Vec<String>,
    state: Option<String>,
    values: Vec<(String, u64)>,
}

/// Why a console is not one of a machine where all went well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// A line looks like a report and is none.
    Broken(String),
    /// A run that was expected did not begin.
    Missing(String),
    /// A run that was not expected is there.
    Unexpected(String),
    /// A run did not end; with the last it said.
    Unfinished(String, String),
    /// A run began or ended twice.
    Repeated(String),
    /// A check did not hold: run, and check with what was found.
    Bad(String, String),
    /// A run counted other checks than arrived: run, counted, arrived.
    Miscounted(String, u64, u64),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(line) => write!(f, "broken report `{line}`"),
            Self::Missing(run) => write!(f, "run `{run}` is missing"),
            Self::Unexpected(run) => write!(f, "run `{run}` is not one that was expected"),
            Self::Unfinished(run, state) => write!(f, "run `{run}` did not end; its last state: {state}"),
            Self::Repeated(run) => write!(f, "run `{run}` began or ended more than once"),
            Self::Bad(run, what) => write!(f, "{run}: {what}"),
            Self::Miscounted(run, counted, arrived) => {
                write!(f, "run `{run}` made {counted} checks, {arrived} arrived")
            }
        }
    }
}

impl Journal {
    /// Reads everything a console said.
    #[must_use]
    pub fn read(console: &str) -> Self {
        let mut journal = Self::default();
        for line in console.lines().map(str::trim_end) {
            if !line.starts_with('@') {
                continue;
            }
            let Some(record) = Record::parse(line) else {
                journal.broken.push(line.to_string());
                continue;
            };
            let run = journal.runs.entry(record.run().to_string()).or_default();
            match record {
                Record::Begin { .. } => run.begun = run.begun.saturating_add(1),
                Record::State { what, .. } => run.state = Some(what.to_string()),
                Record::Ok { .. } => run.good = run.good.saturating_add(1),
                Record::Bad { check, why, .. } => run.bad.push(format!("{check}: {why}")),
                Record::Value { name, value, .. } => run.values.push((name.to_string(), value)),
                Record::End { checks, .. } => run.ended.push(checks),
            }
        }
        journal
    }

    /// What is wrong, if the runs named in `expected` and no others should have passed.
    #[must_use]
    pub fn problems(&self, expected: &[&str]) -> Vec<Problem> {
        let mut problems: Vec<_> = self.broken.iter().cloned().map(Problem::Broken).collect();
        problems.extend(self.unfinished());
        let missing = expected.iter().filter(|name| !self.runs.contains_key(**name));
        problems.extend(missing.map(|name| Problem::Missing((*name).to_string())));
        for (name, run) in &self.runs {
            let arrived = run.good.saturating_add(run.bad.len() as u64);
            if !expected.contains(&name.as_str()) {
                problems.push(Problem::Unexpected(name.clone()));
            }
            problems.extend(run.bad.iter().map(|what| Problem::Bad(name.clone(), what.clone())));
            if let [counted] = *run.ended
                && counted != arrived
            {
                problems.push(Problem::Miscounted(name.clone(), counted, arrived));
            }
            if run.begun != 1 || run.ended.len() > 1 {
                problems.push(Problem::Repeated(name.clone()));
            }
        }
        problems
    }

    /// The runs that did not end, each with its last state.
    pub fn unfinished(&self) -> impl Iterator<Item = Problem> + '_ {
        self.runs.iter().filter(|(_, run)| run.ended.is_empty()).map(|(name, run)| {
            let state = run.state.clone().unwrap_or_else(|| "none".to_string());
            Problem::Unfinished(name.clone(), state)
        })
    }

    /// How many checks held.
    #[must_use]
    pub fn checks(&self) -> u64 {
        self.runs.values().map(|run| run.good).sum()
    }

    /// What a run measured under a name, in the order it came.
    pub fn values<'a>(&'a self, run: &str, name: &'a str) -> impl Iterator<Item = u64> + 'a {
        let values = self.runs.get(run).map_or(&[][..], |run| run.values.as_slice());
        values.iter().filter(move |(found, _)| found == name).map(|(_, value)| *value)
    }

    /// What a run measured, names and numbers in the order they came.
    pub fn all_values(&self, run: &str) -> impl Iterator<Item = (&str, u64)> {
        let values = self.runs.get(run).map_or(&[][..], |run| run.values.as_slice());
        values.iter().map(|(name, value)| (name.as_str(), *value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(console: &str, expected: &[&str]) -> Vec<String> {
        Journal::read(console).problems(expected).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_run_that_began_checked_and_ended_is_fine() {
        let console = "talk\n@begin a\n@ok a one\n@value a n 7\n@ok a two\r\n@end a 2\n";
        assert_eq!(problems(console, &["a"]), Vec::<String>::new());
        let journal = Journal::read(console);
        assert_eq!((journal.checks(), journal.values("a", "n").collect::<Vec<_>>()), (2, vec![7]));
        assert_eq!(journal.all_values("a").collect::<Vec<_>>(), [("n", 7)]);
    }

    #[test]
    fn every_way_to_go_wrong_is_told() {
        assert_eq!(problems("", &["a"]), ["run `a` is missing"]);
        assert_eq!(problems("@begin b\n@end b 0\n", &[]), ["run `b` is not one that was expected"]);
        assert_eq!(
            problems("@begin a\n@state a looking\n", &["a"]),
            ["run `a` did not end; its last state: looking"]
        );
        assert_eq!(problems("@begin a\n@ok a x\n@end a 2\n", &["a"]), ["run `a` made 2 checks, 1 arrived"]);
        assert_eq!(problems("@begin a\n@bad a x: 3\n@end a 1\n", &["a"]), ["a: x: 3"]);
        assert_eq!(problems("@begin a\n@end a 0\n@ok\n", &["a"]), ["broken report `@ok`"]);
        for twice in ["@begin a\n@begin a\n@end a 0\n", "@begin a\n@end a 0\n@end a 0\n", "@end a 0\n"] {
            assert_eq!(problems(twice, &["a"]), ["run `a` began or ended more than once"]);
        }
    }
}
