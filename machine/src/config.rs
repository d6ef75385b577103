//! What machine to build.

use realm_rmm::platform::CpuFeatures;

/// First physical address of DRAM.
pub const DRAM_BASE: u64 = 0x8000_0000;

/// How time passes on the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockKind {
    /// The counter follows this computer's clock.
    Real,
    /// The counter stands still until a CPU waits for a timer, then jumps to it: runs repeat exactly.
    Manual,
}

/// The machine's size and shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineConfig {
    /// Bytes of DRAM from [`DRAM_BASE`] on, a multiple of 2 MiB. Only granules that are written take memory here.
    pub dram_size: u64,
    /// Physical CPUs, at least 1.
    pub cpus: usize,
    /// What the CPUs can do.
    pub features: CpuFeatures,
    /// log2 of the Host's page size: 12, 14 or 16.
    pub host_page_shift: u32,
    /// How time passes.
    pub clock: ClockKind,
    /// Whether every register value and every write that the Host can see is kept for comparison.
    pub record_host_view: bool,
    /// Whether the Host moves the pages of a process that nothing holds whenever it allocates, as one short of memory may.
    pub reclaim: bool,
    /// Whether allocations fail and signals arrive in the middle of ioctls. An ioctl that fails for one of them is made once more.
    pub disturb: bool,
}

impl MachineConfig {
    /// The features of the machine most tests use: 48 address bits, no SVE, 4 event counters, 16-bit VMIDs.
    pub const FEATURES: CpuFeatures = CpuFeatures {
        pa_bits: 48,
        lpa2: false,
        vmid16: true,
        sve_vl: None,
        num_bps: 5,
        num_wps: 3,
        pmu_counters: Some(4),
        hpmn0: false,
        gic_num_lrs: 3,
        gic_priority_bits: 5,
        gic_id_bits: 16,
        gic_extended_range: false,
    };

    /// A machine with `dram_size` bytes, `cpus` CPUs, 4 KiB Host pages and real time.
    #[must_use]
    pub const fn new(dram_size: u64, cpus: usize) -> Self {
        Self {
            dram_size,
            cpus,
            features: Self::FEATURES,
            host_page_shift: 12,
            clock: ClockKind::Real,
            record_host_view: false,
            reclaim: false,
            disturb: false,
        }
    }
}

impl Default for MachineConfig {
    /// 256 MiB and 4 CPUs.
    fn default() -> Self {
        Self::new(256 << 20, 4)
    }
}
