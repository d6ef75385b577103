//! What the RMM needs of the machine it runs on.

use crate::cpu::{CpuContext, RealmExit, RunControls};
use crate::granule::content::{Exclusive, Granule};

/// Non-secure memory could not be accessed: a granule protection fault, at any byte of the access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NsFault;

/// An EL3 service failed (RMM-EL3 communication specification, `E_RMM_*`); the code EL3 gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct El3Error(pub i64);

/// The CPU features realms can be offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuFeatures {
    /// Implemented physical address bits (32 to 52), also the widest IPA space.
    pub pa_bits: u8,
    /// LPA2 for 4 KiB granules at stage 1 and stage 2.
    pub lpa2: bool,
    /// 16-bit VMIDs.
    pub vmid16: bool,
    /// Longest SVE vector in quadwords minus one, `None` without SVE.
    pub sve_vl: Option<u8>,
    /// Breakpoints minus one, at least 1.
    pub num_bps: u8,
    /// Watchpoints minus one, at least 1.
    pub num_wps: u8,
    /// PMU event counters, `None` without a PMU.
    pub pmu_counters: Option<u8>,
    /// FEAT_HPMN0: a PMU with no event counter is possible.
    pub hpmn0: bool,
    /// GICv3 list registers minus one.
    pub gic_num_lrs: u8,
    /// ICH_VTR_EL2.PRIbits + 1: implemented priority bits.
    pub gic_priority_bits: u8,
    /// Bits of an interrupt identifier: 16 or 24.
    pub gic_id_bits: u8,
    /// GICv3.1 extended PPI and SPI ranges.
    pub gic_extended_range: bool,
}

/// An encoding in the system register space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the architecture's")]
pub struct SysReg {
    pub op0: u8,
    pub op1: u8,
    pub crn: u8,
    pub crm: u8,
    pub op2: u8,
}

/// What the RMM relies on and found not to be so: it is broken, or somebody wrote its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// A reference count would leave its range, or is not what it counts.
    Count,
    /// A granule that belongs to a realm is in another state than its owner says.
    State,
    /// A realm gave back a VMID that none had.
    Vmid,
}

/// What to forget of a realm's translations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlbScope {
    /// Every translation of IPAs in `[base, base + size)`, at any level, and cached table walks to them.
    Range {
        /// First IPA.
        base: u64,
        /// Bytes.
        size: u64,
    },
    /// Everything of the VMID.
    All,
}

/// The machine under the RMM. Methods take `&self`: they are called on several CPUs at once.
pub trait Platform {
    /// Runs `f` on the content of a granule in the Realm physical address space, mapped at least for the time of the
    /// call. Calls nest, for different granules.
    fn with_granule<E: Exclusive, R>(&self, granule: &mut E, f: impl FnOnce(&mut Granule) -> R) -> R;

    /// Fills a granule with zeros; platforms that have a faster way than [`Granule::wipe`] override it.
    fn wipe<E: Exclusive>(&self, granule: &mut E) {
        self.with_granule(granule, Granule::wipe);
    }

    /// Makes what was written to a granule what instruction fetches of any CPU find there, whatever they fetched from it
    /// before. Nothing has to be done where instruction caches follow data.
    fn sync_instructions<E: Exclusive>(&self, _granule: &mut E) {}

    /// Copies from a DATA granule that a realm may be writing to at the same time. `offset + out.len()` is at most
    /// the granule size.
    fn read_data<E: Exclusive>(&self, data: &mut E, offset: usize, out: &mut [u8]);

    /// Copies to a DATA granule that a realm may be reading at the same time.
    fn write_data<E: Exclusive>(&self, data: &mut E, offset: usize, bytes: &[u8]);

    /// Copies from Non-secure memory. `pa` is 8-byte aligned and the range stays in one granule.
    ///
    /// # Errors
    /// [`NsFault`] if any byte is not Non-secure; `out` is then unspecified.
    fn read_ns(&self, pa: u64, out: &mut [u8]) -> Result<(), NsFault>;

    /// Copies to Non-secure memory. `pa` is 8-byte aligned and the range stays in one granule.
    ///
    /// # Errors
    /// [`NsFault`] if any byte is not Non-secure; part may then be written.
    fn write_ns(&self, pa: u64, bytes: &[u8]) -> Result<(), NsFault>;

    /// RMM_GTSI_DELEGATE: Non-secure to Realm.
    ///
    /// # Errors
    /// What EL3 said; nothing has changed.
    fn gtsi_delegate(&self, pa: u64) -> Result<(), El3Error>;

    /// RMM_GTSI_UNDELEGATE: Realm to Non-secure.
    ///
    /// # Errors
    /// What EL3 said; nothing has changed.
    fn gtsi_undelegate(&self, pa: u64) -> Result<(), El3Error>;

    /// RMM_ATTEST_GET_REALM_KEY: writes the P-384 private scalar of the Realm Attestation Key, big-endian, to `key`, and keeps no
    /// copy.
    ///
    /// # Errors
    /// What EL3 said.
    fn realm_attestation_key(&self, key: &mut [u8; 48]) -> Result<(), El3Error>;

    /// RMM_ATTEST_GET_PLAT_TOKEN, all hunks: the platform token (a tagged COSE_Sign1) bound to `challenge` (32, 48 or
    /// 64 bytes). Returns its length.
    ///
    /// # Errors
    /// What EL3 said, or `E_RMM_NOMEM` if `out` is too short.
    fn platform_token(&self, challenge: &[u8], out: &mut [u8]) -> Result<usize, El3Error>;

    /// The features of the CPUs, the same on all of them.
    fn features(&self) -> CpuFeatures;

    /// The hardware value of an ID register (op0 3, op1 0, CRn 0); 0 for one that does not exist.
    fn id_register(&self, reg: SysReg) -> u64;

    /// The physical counter, CNTPCT_EL0.
    fn counter(&self) -> u64;

    /// Whether a physical interrupt waits for this CPU.
    fn interrupt_pending(&self) -> bool;

    /// Makes stage 2 table writes so far visible to walks (DSB ISHST) and invalidates translations on all CPUs.
    fn tlb_invalidate(&self, vmid: u16, scope: TlbScope);

    /// The number of the CPU this is called on; what EL3 counts them by.
    fn cpu(&self) -> usize;

    /// Forgets on this CPU alone what it has cached of the realm with this VMID: translations of both stages, and the
    /// instructions it has fetched. Another virtual CPU of the realm is about to run where one ran last.
    fn forget_virtual_cpu(&self, vmid: u16);

    /// Stops the RMM on all CPUs for good: no command is served and no REC is entered any more, as going on could free what is in
    /// use. What the caller has locked stays locked.
    fn stop(&self, why: Broken) -> !;

    /// Called again and again while another CPU has what this one needs: a granule, for the time of a command at most. Does not return
    /// once the RMM has stopped, as whoever has the granule then keeps it.
    fn wait_for_lock();

    /// How many auxiliary granules the SIMD state of a REC takes.
    fn simd_aux_granules(&self) -> usize;

    /// Runs a virtual CPU on this CPU until something traps. `simd` are the auxiliary granules for its SIMD state, which
    /// the caller's REC owns.
    fn run_realm(&self, context: &mut CpuContext, controls: &RunControls, simd: &[u64]) -> RealmExit;

    /// One block of SHA-256 (FIPS 180-4) into `state`; with the CPU's instructions where there are any.
    fn sha256_compress(&self, state: &mut [u32; 8], blocks: &[[u8; 64]]);

    /// One block of SHA-512 (FIPS 180-4) into `state`.
    fn sha512_compress(&self, state: &mut [u64; 8], blocks: &[[u8; 128]]);
}
