//! What the payload and the plugin say, joined.
//!
//! The payload reports a name and ticks for each pair of marks, the plugin what it counted between them. Both know the
//! number of instructions: if they differ by a single one, one of them is wrong, and so is what is read from it.

use crate::shell::{Error, Result};
use serde::Serialize;
use std::collections::BTreeMap;

/// What the plugin calls the worlds.
pub const WORLDS: [&str; 4] = ["el3", "rmm", "host", "elsewhere"];
/// The name under which the payload reports two marks with nothing in between.
const NOTHING: &str = "nothing";
/// The name under which it reports the counter at its first instruction.
pub const BOOT: &str = "boot";

/// Counts of the plugin for one world, by kind.
type Kinds = BTreeMap<String, u64>;
/// For all worlds.
type Counts = BTreeMap<String, Kinds>;

/// A pair of marks.
#[derive(Debug)]
pub struct Sample {
    /// What was measured.
    pub name: String,
    /// Which of the plugin's samples it is.
    pub number: usize,
    instructions: u64,
    counts: Counts,
}

impl Sample {
    /// Of one kind, or of all if none is named, in one world or in all.
    fn count(&self, world: Option<&str>, kinds: &[&str]) -> u64 {
        let worlds = self.counts.iter().filter(|(name, _)| world.is_none_or(|world| *name == world));
        let counts = worlds.flat_map(|(_, counts)| counts);
        counts.filter(|(kind, _)| kinds.is_empty() || kinds.contains(&kind.as_str())).map(|(_, n)| n).sum()
    }
}

/// What a call costs: the sample in the middle by instructions, so that its parts are those of one call.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    /// What was called.
    pub name: String,
    /// How often.
    pub calls: usize,
    /// The median.
    pub instructions: u64,
    /// The least.
    pub min: u64,
    /// The most.
    pub max: u64,
    /// Of the median, those at EL3.
    pub el3: u64,
    /// In the RMM.
    pub rmm: u64,
    /// In the realm.
    pub realm: u64,
    /// DSB, DMB, ISB and SB.
    pub barriers: u64,
    /// TLBI.
    pub tlb_invalidations: u64,
    /// DC and IC, those that zero apart.
    pub cache_maintenance: u64,
    /// DC ZVA.
    pub zeroing: u64,
    /// MRS and MSR.
    pub system_registers: u64,
    /// Exceptions: ERETs, as each that is taken is returned from.
    pub exceptions: u64,
    /// The number of the sample in the middle.
    #[serde(skip)]
    pub sample: usize,
}

impl Cost {
    /// Of the samples of one name.
    fn of_samples(mut samples: Vec<Sample>) -> Option<Self> {
        samples.sort_by_key(|sample| sample.instructions);
        let median = samples.get((samples.len().max(1) - 1) / 2)?;
        Some(Self {
            name: median.name.clone(),
            calls: samples.len(),
            instructions: median.instructions,
            min: samples.first()?.instructions,
            max: samples.last()?.instructions,
            el3: median.count(Some("el3"), &[]),
            rmm: median.count(Some("rmm"), &[]),
            realm: median.count(Some("elsewhere"), &[]),
            barriers: median.count(None, &["dsb", "dmb", "isb"]),
            tlb_invalidations: median.count(None, &["tlbi"]),
            cache_maintenance: median.count(None, &["cache"]),
            zeroing: median.count(None, &["zero"]),
            system_registers: median.count(None, &["system_register"]),
            exceptions: median.count(None, &["return"]),
            sample: median.number,
        })
    }

    #[cfg(test)]
    pub fn of(name: &str, instructions: u64) -> Self {
        let sample = Sample { name: name.into(), number: 0, instructions, counts: Counts::new() };
        Self::of_samples(vec![sample]).expect("a sample")
    }
}

/// Joins the payload's values, in their order, with what the plugin wrote.
pub fn join<'a>(values: impl Iterator<Item = (&'a str, u64)>, written: &str) -> Result<Vec<Sample>> {
    let values: Vec<_> = values.collect();
    let counted: Vec<&str> = written.lines().collect();
    if values.len() != counted.len() {
        return Err(Error::Other(format!(
            "the payload measured {} times, the plugin counted {} times",
            values.len(),
            counted.len()
        )));
    }
    let nothing = values.iter().filter(|(name, _)| *name == NOTHING).map(|(_, ticks)| *ticks).max();
    let nothing = nothing.ok_or_else(|| Error::Other("the payload did not measure nothing".into()))?;
    let mut samples = Vec::new();
    for (number, ((name, ticks), line)) in values.into_iter().zip(counted).enumerate() {
        let counts: Counts = serde_json::from_str(line)
            .map_err(|error| Error::Other(format!("the plugin wrote no sample: {error}: {line}")))?;
        // The first sample is not between two looks at the counter.
        let instructions = if name == BOOT { ticks } else { ticks.saturating_sub(nothing) };
        let sample = Sample { name: name.to_owned(), number, instructions, counts };
        let counted = sample.count(None, &[]);
        if counted != instructions {
            return Err(Error::Other(format!(
                "sample {number}, {name}: {instructions} instructions by the counter, {counted} by the plugin"
            )));
        }
        samples.push(sample);
    }
    Ok(samples)
}

/// What each call costs, in the order in which the payload first made it.
pub fn costs(samples: Vec<Sample>) -> Vec<Cost> {
    let mut by_name: Vec<(String, Vec<Sample>)> = Vec::new();
    for sample in samples {
        match by_name.iter_mut().find(|(name, _)| *name == sample.name) {
            Some((_, samples)) => samples.push(sample),
            None => by_name.push((sample.name.clone(), vec![sample])),
        }
    }
    let measured = by_name.into_iter().filter(|(name, _)| name != NOTHING);
    measured.filter_map(|(_, samples)| Cost::of_samples(samples)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(el3: u64, rmm: u64, dsb: u64) -> String {
        format!(r#"{{"el3": {{"plain": {el3}}}, "rmm": {{"plain": {rmm}, "dsb": {dsb}}}}}"#)
    }

    #[test]
    fn a_cost_is_that_of_the_call_in_the_middle() {
        let values = [("nothing", 5), ("A", 105), ("B", 15), ("A", 305), ("A", 205)];
        let lines = [line(0, 0, 0), line(50, 48, 2), line(10, 0, 0), line(100, 199, 1), line(150, 47, 3)];
        let samples = join(values.into_iter(), &lines.join("\n")).expect("they agree");
        let costs = costs(samples);
        assert_eq!(costs.iter().map(|cost| cost.name.as_str()).collect::<Vec<_>>(), ["A", "B"]);
        let a = &costs[0];
        assert_eq!((a.calls, a.min, a.instructions, a.max), (3, 100, 200, 300));
        assert_eq!((a.el3, a.rmm, a.barriers, a.sample), (150, 50, 3, 4));
    }

    #[test]
    fn payload_and_plugin_must_agree() {
        let joined = |ticks: u64, lines: &[String]| {
            let values = [("nothing", 5), ("A", ticks)];
            join(values.into_iter(), &lines.join("\n")).map(|_| ()).map_err(|error| error.to_string())
        };
        let lines = [line(0, 0, 0), line(60, 39, 1)];
        assert!(joined(105, &lines).is_ok());
        assert!(
            joined(106, &lines).unwrap_err().contains("101 instructions by the counter, 100 by the plugin")
        );
        assert!(joined(105, &lines[..1]).unwrap_err().contains("2 times, the plugin counted 1"));
        assert!(joined(105, &[line(0, 0, 0), "x".into()]).unwrap_err().contains("no sample"));
    }
}
