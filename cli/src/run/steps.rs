//! What each step of a realm's life cost.

use indicatif::{ProgressBar, ProgressStyle};
use realm_vmm::{Guest, Progress, Step};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// What a machine counts, at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// RMI calls by command.
    pub rmi_calls: BTreeMap<&'static str, u64>,
    /// Granules given to the RMM.
    pub delegated: u64,
    /// Granules that came back.
    pub undelegated: u64,
    /// Granules that are lost.
    pub leaked: u64,
    /// REC exits by reason.
    pub exits: BTreeMap<&'static str, u64>,
}

/// What a step cost.
#[derive(Clone, Debug, Serialize)]
pub struct StepCost {
    /// Its name.
    pub name: String,
    /// RMI calls.
    pub rmi_calls: u64,
    /// Granules given to the RMM.
    pub delegated: u64,
    /// Granules that came back.
    pub undelegated: u64,
    /// Bytes of the realm's memory it was about.
    pub bytes: u64,
    /// Wall time.
    pub seconds: f64,
}

/// Everything that was counted in a realm's life.
#[derive(Debug)]
pub struct Statistics {
    /// The steps.
    pub steps: Vec<StepCost>,
    /// The sums.
    pub total: Counters,
}

/// Counts as steps begin and end, and shows on a terminal which one is under way.
pub struct Recorder<'a> {
    guest: &'a Guest,
    counters: Box<dyn Fn() -> Counters + 'a>,
    begun: Option<(Counters, Instant)>,
    steps: Vec<StepCost>,
    bar: ProgressBar,
}

impl Counters {
    /// What was counted since `before`.
    pub fn since(&self, before: &Self) -> Self {
        let less = |now: &BTreeMap<&'static str, u64>, then: &BTreeMap<&'static str, u64>| {
            now.iter().map(|(name, count)| (*name, count - then.get(name).unwrap_or(&0))).collect()
        };
        Self {
            rmi_calls: less(&self.rmi_calls, &before.rmi_calls),
            delegated: self.delegated - before.delegated,
            undelegated: self.undelegated - before.undelegated,
            leaked: self.leaked - before.leaked,
            exits: less(&self.exits, &before.exits),
        }
    }
}

impl<'a> Recorder<'a> {
    /// A recorder for the life of a realm on a machine whose counters `counters` reads.
    pub fn new(guest: &'a Guest, counters: impl Fn() -> Counters + 'a) -> Self {
        let bar =
            if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        bar.set_style(ProgressStyle::default_spinner());
        Self { guest, counters: Box::new(counters), begun: None, steps: Vec::new(), bar }
    }

    /// Shows nothing any more: the terminal is the realm's.
    pub fn hide(&mut self) {
        self.bar.finish_and_clear();
        self.bar = ProgressBar::hidden();
    }

    /// What was counted.
    pub fn finish(self) -> Statistics {
        self.bar.finish_and_clear();
        Statistics { steps: self.steps, total: (self.counters)() }
    }

    /// Bytes of the realm's memory a step is about.
    fn bytes(&self, step: Step) -> u64 {
        let parts = &self.guest.parts;
        match step {
            Step::InitRipas => self.guest.layout.ram.size,
            Step::LoadImages => parts.iter().map(|part| part.region.size).sum(),
            Step::Populate(name) => {
                parts.iter().find(|part| part.name == name).map_or(0, |part| part.region.size)
            }
            _ => 0,
        }
    }
}

impl Progress for Recorder<'_> {
    fn begin(&mut self, step: Step) {
        self.bar.set_message(step.to_string());
        self.bar.enable_steady_tick(Duration::from_millis(100));
        self.begun = Some(((self.counters)(), Instant::now()));
    }

    fn end(&mut self, step: Step) {
        let Some((before, start)) = self.begun.take() else { return };
        let seconds = start.elapsed().as_secs_f64();
        let after = (self.counters)();
        let calls = |counters: &Counters| counters.rmi_calls.values().sum::<u64>();
        self.steps.push(StepCost {
            name: step.to_string(),
            rmi_calls: calls(&after) - calls(&before),
            delegated: after.delegated - before.delegated,
            undelegated: after.undelegated - before.undelegated,
            bytes: self.bytes(step),
            seconds,
        });
    }
}
