//! How often each call ended in each way.

use std::collections::BTreeMap;
use std::fmt;

/// Counts by call and by what it ended in: "ok", or the condition that failed, with how it was reported.
#[derive(Clone, Debug, Default)]
pub struct Coverage(BTreeMap<String, BTreeMap<String, u64>>);

impl Coverage {
    pub fn count(&mut self, call: &str, end: &str) {
        let ends = match self.0.get_mut(call) {
            Some(ends) => ends,
            None => self.0.entry(call.to_owned()).or_default(),
        };
        match ends.get_mut(end) {
            Some(count) => *count += 1,
            None => drop(ends.insert(end.to_owned(), 1)),
        }
    }

    pub fn add(&mut self, other: &Self) {
        for (call, ends) in &other.0 {
            for (end, count) in ends {
                *self.0.entry(call.clone()).or_default().entry(end.clone()).or_default() += count;
            }
        }
    }

    pub fn of(&self, call: &str, end: &str) -> u64 {
        self.0.get(call).and_then(|ends| ends.get(end)).copied().unwrap_or(0)
    }

    pub fn calls(&self) -> u64 {
        self.0.get("returned").into_iter().flat_map(BTreeMap::values).sum()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (call, ends) in &self.0 {
            let ends: Vec<String> = ends.iter().map(|(end, count)| format!("{end} {count}")).collect();
            writeln!(f, "{call:30} {}", ends.join(", "))?;
        }
        Ok(())
    }
}
