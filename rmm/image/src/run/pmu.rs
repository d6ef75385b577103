//! Performance monitors, switched for realms that have them (RMM 1.0 section A6.3); for all others the Host's stand still.

use crate::features::Optional;
use crate::sysreg::{instruction, mrs, msr};
use realm_rmm::cpu::Pmu;

/// PMCR_EL0: C and P reset the counters when written, and are read as zero.
const PMCR_RESET_COUNTERS: u64 = 0b110;
const ALL: u64 = 0xffff_ffff;
/// And the instruction counter of FEAT_PMUv3_ICNTR, bit 32, which is RES0 without.
const ALL_ENABLES: u64 = 0x1_ffff_ffff;

/// Stops counting; what counted.
pub fn stop() -> u64 {
    let enabled = mrs!("pmcntenset_el0");
    msr!("pmcntenclr_el0", ALL_ENABLES);
    enabled
}

/// Lets those count again that did before [`stop`].
pub fn go_on(enabled: u64) {
    msr!("pmcntenset_el0", enabled);
}

/// Stores all of it and stops counting.
pub fn save(optional: &Optional) -> Pmu {
    let mut to = Pmu { pmcr: mrs!("pmcr_el0"), ..Pmu::default() };
    to.pmcnten = stop();
    to.pminten = mrs!("pmintenset_el1");
    to.pmovs = mrs!("pmovsset_el0");
    to.pmccfiltr = mrs!("pmccfiltr_el0");
    to.pmccntr = mrs!("pmccntr_el0");
    to.pmselr = mrs!("pmselr_el0");
    to.pmuserenr = mrs!("pmuserenr_el0");
    let counters = to.pmevcntr.iter_mut().zip(&mut to.pmevtyper).zip(0..optional.event_counters);
    for ((counter, event), n) in counters {
        msr!("pmselr_el0", n);
        instruction!("isb");
        *counter = mrs!("pmxevcntr_el0");
        *event = mrs!("pmxevtyper_el0");
    }
    to
}

/// Loads all of it.
pub fn load(optional: &Optional, from: &Pmu) {
    msr!("pmcntenclr_el0", ALL_ENABLES);
    msr!("pmintenclr_el1", ALL);
    msr!("pmovsclr_el0", ALL);
    msr!("pmcr_el0", from.pmcr & !PMCR_RESET_COUNTERS);
    let counters = from.pmevcntr.iter().zip(&from.pmevtyper).zip(0..optional.event_counters);
    for ((counter, event), n) in counters {
        msr!("pmselr_el0", n);
        instruction!("isb");
        msr!("pmxevcntr_el0", *counter);
        msr!("pmxevtyper_el0", *event);
    }
    msr!("pmccfiltr_el0", from.pmccfiltr);
    msr!("pmccntr_el0", from.pmccntr);
    msr!("pmselr_el0", from.pmselr);
    msr!("pmuserenr_el0", from.pmuserenr);
    msr!("pmovsset_el0", from.pmovs);
    msr!("pmintenset_el1", from.pminten);
    msr!("pmcntenset_el0", from.pmcnten);
}
