//! What of the virtual interrupt state a Host may load (RMM 1.0, RmiRecEnter).

use crate::Config;
use realm_abi::rmi::{GICV3_HCR_HOST_BITS, RecEnter};
use std::collections::BTreeSet;

/// `rec_gicv3`: whether every field is valid.
pub(crate) fn valid(config: &Config, enter: &RecEnter) -> bool {
    if enter.gicv3_hcr & !GICV3_HCR_HOST_BITS != 0 {
        return false;
    }
    let count = usize::try_from(config.features.gicv3_num_lrs() + 1).unwrap_or(16);
    let lrs = &enter.gicv3_lrs[..count.min(16)];
    // HW must be 0 in every list register, also in one that is not in use (the text).
    if lrs.iter().any(|lr| lr >> 61 & 1 == 1) {
        return false;
    }
    let used: Vec<u64> = lrs.iter().copied().filter(|lr| lr >> 62 != 0).collect();
    let ids: BTreeSet<u64> = used.iter().map(|lr| lr & 0xffff_ffff).collect();
    ids.len() == used.len() && used.iter().all(|lr| lr_valid(config, *lr))
}

fn lr_valid(config: &Config, lr: u64) -> bool {
    let priority = lr >> 48 & 0xff;
    let unimplemented = 0xffu64 >> config.gic_priority_bits;
    let pintid = lr >> 32 & 0x1fff;
    let id = lr & 0xffff_ffff;
    let known = match id {
        0..=1019 => true,
        1056..=1119 | 4096..=5119 => config.gic_extended_range,
        _ => id >= 8192 && id < 1 << config.gic_id_bits,
    };
    // Only the request for a maintenance interrupt (bit 41) is left of the pINTID when HW is 0.
    priority & unimplemented == 0 && pintid & !(1 << 9) == 0 && known
}
