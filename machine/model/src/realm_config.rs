//! What makes a realm's stage 2 geometry and features valid (RMM 1.0, RMI_REALM_CREATE).

use crate::Config;
use realm_abi::rmi::{HashAlgorithm, RealmFlags, RealmParams};

/// How many starting-level tables an IPA space of `ipa_bits` needs from `start_level`, `None` if that pair does not exist.
///
/// One table of a level resolves 9 bits; up to 16 tables can be concatenated, except at level -1, and at level 0 only
/// with LPA2 (there the space is wider than 48 bits).
#[must_use]
pub fn start_table_count(ipa_bits: u8, start_level: i64, lpa2: bool) -> Option<u32> {
    if !(if lpa2 { -1..=3 } else { 0..=3 }).contains(&start_level) {
        return None;
    }
    let levels = 3 - start_level;
    let least = 9 * levels + 13;
    let one_table = if start_level == -1 { least + 3 } else { least + 8 };
    let most = if start_level >= 1 || (start_level == 0 && lpa2) { one_table + 4 } else { one_table };
    let bits = i64::from(ipa_bits);
    if bits < least || bits > most {
        return None;
    }
    Some(1 << (bits - one_table).max(0))
}

/// Whether start level and table count fit the width on this machine: `(start level, tables)` pairs that REALM_CREATE
/// accepts for `ipa_bits`.
#[must_use]
pub fn rtt_config(config: &Config, ipa_bits: u8, lpa2: bool) -> Vec<(i64, u32)> {
    (-1..=3)
        // SL0 for a level 0 start exists from 44 physical address bits on (VMSAv8-64, 4 KiB granule).
        .filter(|level| *level > 0 || config.pa_bits >= 44)
        .filter_map(|level| Some((level, start_table_count(ipa_bits, level, lpa2)?)))
        .collect()
}

/// `params_valid`: no reserved encoding.
pub(crate) fn valid(params: &RealmParams) -> bool {
    params.num_bps != 0
        && params.num_wps != 0
        && matches!(params.hash_algo, HashAlgorithm::SHA_256 | HashAlgorithm::SHA_512)
}

/// `params_supp`: no more than the machine offers.
pub(crate) fn supported(config: &Config, params: &RealmParams) -> bool {
    let features = config.features;
    let flags = RealmFlags::from_bits_retain(params.flags);
    let lpa2 = flags.contains(RealmFlags::LPA2);
    let sve = flags.contains(RealmFlags::SVE);
    let pmu = flags.contains(RealmFlags::PMU);
    let widest = features.s2sz().min(if lpa2 { 52 } else { 48 });
    let counters = u64::from(params.pmu_num_ctrs);
    (!lpa2 || features.lpa2() == 1)
        && (32..=widest).contains(&u64::from(params.s2sz))
        && u64::from(params.num_bps) <= features.num_bps()
        && u64::from(params.num_wps) <= features.num_wps()
        && (!sve || (features.sve_en() == 1 && u64::from(params.sve_vl) <= features.sve_vl()))
        && (!pmu
            || (features.pmu_en() == 1
                && counters <= features.pmu_num_ctrs()
                && (counters != 0 || config.hpmn0)))
        && features.supports_hash(params.hash_algo)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_width_and_level_table_holds() {
        // (level, one table from, to, concatenated to) without and with LPA2.
        let table = [(0, 40, 48, 48, 52), (1, 31, 39, 43, 43), (2, 22, 30, 34, 34), (3, 13, 21, 25, 25)];
        for (level, from, one, most, most_lpa2) in table {
            for bits in 1..=60u8 {
                for (lpa2, most) in [(false, most), (true, most_lpa2)] {
                    let expected = match bits {
                        b if b < from || b > most => None,
                        b if b <= one => Some(1),
                        b => Some(1 << (b - one)),
                    };
                    assert_eq!(
                        start_table_count(bits, level, lpa2),
                        expected,
                        "{bits} bits from level {level}"
                    );
                }
            }
        }
        for bits in 1..=60u8 {
            assert_eq!(start_table_count(bits, -1, true), (49..=52).contains(&bits).then_some(1));
            assert_eq!(start_table_count(bits, -1, false), None);
            assert_eq!(start_table_count(bits, 4, true), None);
        }
    }
}
