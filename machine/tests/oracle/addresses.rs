//! The small world the oracle plays in: few granules, so that calls meet, and IPAs around every boundary.

use realm_machine::config::DRAM_BASE;
use realm_model::Model;

/// Bytes of DRAM.
pub const DRAM_SIZE: u64 = 6 << 20;
/// Two runs of granules, each aligned to a 2 MiB block.
pub const BLOCK: u64 = DRAM_BASE + (2 << 20);
/// Where a realm sees such a run.
pub const RUN_IPA: u64 = 0x60_0000;
/// The widths and tables of realms: IPA bits, starting level, tables.
pub const GEOMETRIES: [(u8, i64, u32); 6] =
    [(33, 1, 1), (33, 1, 1), (40, 0, 1), (42, 1, 8), (32, 2, 4), (48, 0, 1)];

/// Granules that calls take what they need from.
pub fn pool() -> Vec<u64> {
    (0..88).map(|i| DRAM_BASE + i * 0x1000).collect()
}

/// Granules that stay the Host's, mostly: parameters, run structures, content.
pub fn host_pages() -> Vec<u64> {
    (0..6).map(|i| DRAM_BASE + 0x10_0000 + i * 0x1000).collect()
}

/// Physical addresses that are wrong, each in its own way.
pub const BAD_PAS: [u64; 9] = [
    0,
    0x1000,
    DRAM_BASE - 0x1000,
    DRAM_BASE + DRAM_SIZE,
    DRAM_BASE + 0x800,
    DRAM_BASE + 1,
    1 << 48,
    1 << 63,
    u64::MAX,
];

/// IPAs around the boundaries of a realm; the common ones more than once.
pub fn interesting_ipas(model: &Model, rd: u64) -> Vec<u64> {
    let end = model.realms().get(&rd).map_or(1 << 40, |realm| realm.ipa_end());
    let half = end / 2;
    vec![
        0,
        0,
        0x1000,
        0x1000,
        0x2000,
        0x2000,
        0x3000,
        0x4000,
        0x1f_f000,
        0x20_0000,
        0x20_0000,
        0x20_1000,
        0x40_0000,
        RUN_IPA,
        RUN_IPA + 0x1000,
        0x4000_0000,
        half - 0x1000,
        half,
        half,
        half + 0x1000,
        half + 0x2000,
        half + 0x20_0000,
        half + RUN_IPA,
        end - 0x1000,
        end,
        end + 0x1000,
        1 << 63,
        !0xfff,
    ]
}
