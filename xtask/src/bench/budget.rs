//! What calls may cost, in instructions as the Host sees them. SPECIFICATION.md shows them beside what was measured.

use super::samples::Cost;
use serde::Serialize;

/// A budget, and what it is held against.
#[derive(Debug, Serialize)]
pub struct Budget {
    /// Of what.
    pub name: &'static str,
    /// The most it may be.
    pub budget: u64,
    /// What it is.
    pub measured: u64,
}

impl Budget {
    /// Whether it is more than it may be.
    pub const fn is_missed(&self) -> bool {
        self.measured > self.budget
    }
}

/// A measured call, and the most instructions it may take.
const CALLS: &[(&str, u64)] = &[
    ("RMI_VERSION", 600),
    ("RMI_FEATURES", 600),
    ("RMI_GRANULE_DELEGATE", 1_250),
    ("RMI_GRANULE_UNDELEGATE", 1_200),
    ("RMI_DATA_CREATE", 12_000),
    ("RMI_DATA_CREATE/unmeasured", 4_000),
    ("RMI_DATA_CREATE_UNKNOWN", 2_000),
    ("RMI_DATA_DESTROY", 2_000),
    ("RMI_DATA_DESTROY/next-live", 2_000),
    ("RMI_DATA_DESTROY/far-live", 3_000),
    ("RMI_RTT_CREATE", 2_500),
    ("RMI_RTT_DESTROY", 3_000),
    ("RMI_RTT_DESTROY/next-live", 3_000),
    ("RMI_RTT_DESTROY/far-live", 3_000),
    ("RMI_RTT_READ_ENTRY", 1_200),
    ("RMI_RTT_INIT_RIPAS", 5_000),
    ("RMI_REALM_CREATE", 12_000),
    ("RMI_REC_ENTER", 5_000),
];

/// What each page of a RIPAS change in a realm that is being built may take after the first.
const FURTHER_PAGE: (&str, u64) = ("RMI_RTT_INIT_RIPAS, each further page", 2_500);
/// Pages of the longer range, as `payloads/ns-bench` measures it.
const RANGE: u64 = 9;

/// All budgets there are measurements for; the name of one there is none for, if there is such.
pub fn compare(costs: &[Cost]) -> Result<Vec<Budget>, String> {
    let find = |name: &str| {
        let cost = costs.iter().find(|cost| cost.name == name);
        cost.map(|cost| cost.instructions).ok_or_else(|| name.to_owned())
    };
    let mut budgets = Vec::new();
    for (name, budget) in CALLS.iter().copied() {
        budgets.push(Budget { name, budget, measured: find(name)? });
    }
    let further =
        find("RMI_RTT_INIT_RIPAS/9-pages")?.saturating_sub(find("RMI_RTT_INIT_RIPAS")?) / (RANGE - 1);
    budgets.push(Budget { name: FURTHER_PAGE.0, budget: FURTHER_PAGE.1, measured: further });
    Ok(budgets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_budget_needs_its_measurement_and_is_missed_above_it() {
        let mut costs: Vec<_> = CALLS.iter().map(|(name, budget)| Cost::of(name, *budget)).collect();
        assert_eq!(compare(&costs).unwrap_err(), "RMI_RTT_INIT_RIPAS/9-pages");
        costs.push(Cost::of("RMI_RTT_INIT_RIPAS/9-pages", 5_000 + 8 * 2_500));
        assert!(compare(&costs).expect("all there").iter().all(|budget| !budget.is_missed()));
        costs[0].instructions += 1;
        let missed: Vec<_> =
            compare(&costs).expect("all there").into_iter().filter(Budget::is_missed).collect();
        assert_eq!(missed.iter().map(|budget| budget.name).collect::<Vec<_>>(), ["RMI_VERSION"]);
    }
}
