//! The hardware as [`realm_rmm`] sees it.

use crate::features::{self, Optional};
use crate::simd::area_size;
use crate::slots::Mapping;
use crate::stop::{self, Stoppable};
use crate::sysreg::{instruction, mrs, msr};
use crate::{copy, el3, hash, mmu, run};
use realm_abi::rmm_el3::{CURVE_P384, El3Call, El3Code, P384_KEY_SIZE, SHARED_BUFFER_SIZE};
use realm_abi::{GRANULE_SHIFT, GRANULE_SIZE};
use realm_rmm::Platform;
use realm_rmm::cpu::{CpuContext, RealmExit, RunControls};
use realm_rmm::granule::{Exclusive, Granule};
use realm_rmm::platform::{Broken, CpuFeatures, El3Error, NsFault, SysReg, TlbScope};
use spin::RelaxStrategy;
use spin::mutex::SpinMutex;

/// This machine.
pub struct Machine {
    pub cpu: CpuFeatures,
    optional: Optional,
    identity: [u64; features::IDENTITY_LEN],
    shared: SpinMutex<SharedPage, Stoppable>,
}

impl Machine {
    /// Looks at the CPU; `shared_buffer` is the page EL3 named.
    pub fn new(shared_buffer: u64) -> Self {
        let optional = features::optional();
        Self {
            cpu: features::offered(&optional),
            identity: features::identity(),
            optional,
            shared: SpinMutex::new(SharedPage { pa: shared_buffer }),
        }
    }

    /// Whether this CPU has what the first has: what realms were told, and what is saved of them, must be so everywhere.
    pub fn is_like_this_cpu(&self) -> bool {
        let optional = features::optional();
        self.optional == optional
            && self.cpu == features::offered(&optional)
            && self.identity == features::identity()
    }
}

/// The page EL3 and the RMM share; one CPU uses it at a time.
struct SharedPage {
    pa: u64,
}

impl SharedPage {
    fn read(&mut self, out: &mut [u8]) {
        assert!(out.len() <= SHARED_BUFFER_SIZE);
        // SAFETY: the page is mapped, and EL3 does not write it between calls.
        own(unsafe { copy::copy(out.as_mut_ptr(), mmu::SHARED_VA as *const u8, out.len()) });
    }
    fn write(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= SHARED_BUFFER_SIZE);
        // SAFETY: the page is mapped, and EL3 does not use it between calls.
        own(unsafe { copy::copy(mmu::SHARED_VA as *mut u8, bytes.as_ptr(), bytes.len()) });
    }
    /// Leaves no secret in it.
    fn wipe(&mut self) {
        // SAFETY: as for `write`.
        unsafe { copy::wipe(mmu::SHARED_VA as *mut u8, SHARED_BUFFER_SIZE) };
    }
}

fn service(call: El3Call) -> Result<[u64; 3], El3Error> {
    el3::service(call).map_err(|code| El3Error(code.0))
}

/// A copy within the Realm world's memory. If that does not answer, nothing is as it should be.
fn own(copied: Result<(), copy::Fault>) {
    copied.expect("the Realm world's memory answers");
}

/// A mapped granule and where in it to go on.
fn inside(mapping: &Mapping, offset: usize, len: usize) -> *mut u8 {
    assert!(offset + len <= GRANULE_SIZE as usize);
    mapping.address().wrapping_add(offset)
}

const OFFSET: u64 = GRANULE_SIZE - 1;

/// Fills a granule with zeros. It gets an address, so that callers need not put a guard into memory.
///
/// # Safety
/// The granule must be the caller's alone.
unsafe fn wipe(pa: u64) {
    let mapping = Mapping::new(pa, false);
    // SAFETY: the mapping is a whole granule, which is the caller's alone.
    unsafe { copy::wipe(mapping.address(), GRANULE_SIZE as usize) };
}

impl Platform for Machine {
    #[inline]
    fn with_granule<E: Exclusive, R>(&self, granule: &mut E, f: impl FnOnce(&mut Granule) -> R) -> R {
        let mapping = Mapping::new(granule.pa(), false);
        // SAFETY: the mapping is a whole, aligned granule; `Exclusive` says that nobody else accesses it meanwhile but MMUs,
        // for which its words are atomic; any bits are a `Granule`.
        f(unsafe { &mut *mapping.address().cast::<Granule>() })
    }

    #[inline(always)]
    fn wipe<E: Exclusive>(&self, granule: &mut E) {
        // SAFETY: `Exclusive` says that the granule is the caller's alone.
        unsafe { wipe(granule.pa()) };
    }

    #[inline]
    fn sync_instructions<E: Exclusive>(&self, granule: &mut E) {
        /// CTR_EL0: DIC and IDC, which say that instruction fetches need no invalidation, and no cleaning.
        const DIC: u64 = 1 << 29;
        const IDC: u64 = 1 << 28;
        let ctr = mrs!("ctr_el0");
        if ctr & (DIC | IDC) != DIC | IDC {
            let mapping = Mapping::new(granule.pa(), false);
            copy::sync_instructions(&mapping, ctr & IDC == 0);
        }
    }

    fn read_data<E: Exclusive>(&self, data: &mut E, offset: usize, out: &mut [u8]) {
        let mapping = Mapping::new(data.pa(), false);
        let from = inside(&mapping, offset, out.len());
        // SAFETY: the range is in the mapping; a realm may write it meanwhile, which the routine copes with.
        own(unsafe { copy::copy(out.as_mut_ptr(), from, out.len()) });
    }

    fn write_data<E: Exclusive>(&self, data: &mut E, offset: usize, bytes: &[u8]) {
        let mapping = Mapping::new(data.pa(), false);
        let to = inside(&mapping, offset, bytes.len());
        // SAFETY: as for `read_data`.
        own(unsafe { copy::copy(to, bytes.as_ptr(), bytes.len()) });
    }

    fn read_ns(&self, pa: u64, out: &mut [u8]) -> Result<(), NsFault> {
        let mapping = Mapping::new(pa & !OFFSET, true);
        let from = inside(&mapping, (pa & OFFSET) as usize, out.len());
        // SAFETY: the range is in the mapping, which is not memory of this image; all else the routine copes with.
        unsafe { copy::copy(out.as_mut_ptr(), from, out.len()) }.map_err(|copy::Fault| NsFault)
    }

    fn write_ns(&self, pa: u64, bytes: &[u8]) -> Result<(), NsFault> {
        let mapping = Mapping::new(pa & !OFFSET, true);
        let to = inside(&mapping, (pa & OFFSET) as usize, bytes.len());
        // SAFETY: as for `read_ns`.
        unsafe { copy::copy(to, bytes.as_ptr(), bytes.len()) }.map_err(|copy::Fault| NsFault)
    }

    fn gtsi_delegate(&self, pa: u64) -> Result<(), El3Error> {
        service(El3Call::GtsiDelegate { pa }).map(|_| ())
    }

    fn gtsi_undelegate(&self, pa: u64) -> Result<(), El3Error> {
        service(El3Call::GtsiUndelegate { pa }).map(|_| ())
    }

    fn realm_attestation_key(&self, key: &mut [u8; P384_KEY_SIZE]) -> Result<(), El3Error> {
        let mut page = self.shared.lock();
        let call = El3Call::AttestGetRealmKey {
            buffer: page.pa,
            size: SHARED_BUFFER_SIZE as u64,
            curve: CURVE_P384,
        };
        let [size, ..] = service(call)?;
        page.read(key);
        page.wipe();
        if size == P384_KEY_SIZE as u64 { Ok(()) } else { Err(El3Error(El3Code::INVAL.0)) }
    }

    fn platform_token(&self, challenge: &[u8], out: &mut [u8]) -> Result<usize, El3Error> {
        let mut page = self.shared.lock();
        page.write(challenge);
        let mut challenge_size = challenge.len() as u64;
        let mut length = 0;
        loop {
            let call = El3Call::AttestGetPlatToken {
                buffer: page.pa,
                size: SHARED_BUFFER_SIZE as u64,
                challenge_size,
            };
            let [hunk, left, _] = match el3::service(call) {
                Err(El3Code::AGAIN) => continue,
                other => other.map_err(|code| El3Error(code.0))?,
            };
            challenge_size = 0;
            let hunk = usize::try_from(hunk).ok().filter(|hunk| *hunk <= SHARED_BUFFER_SIZE);
            let slot = hunk.and_then(|hunk| out.get_mut(length..length + hunk));
            let slot = slot.ok_or(El3Error(El3Code::NOMEM.0))?;
            page.read(slot);
            length += slot.len();
            if left == 0 {
                return Ok(length);
            }
            if slot.is_empty() {
                return Err(El3Error(El3Code::UNKNOWN.0));
            }
        }
    }

    fn features(&self) -> CpuFeatures {
        self.cpu
    }

    fn id_register(&self, reg: SysReg) -> u64 {
        features::id_register(reg)
    }

    fn counter(&self) -> u64 {
        // The counter must not be read ahead of what came before.
        instruction!("isb");
        mrs!("cntpct_el0")
    }

    fn interrupt_pending(&self) -> bool {
        /// IRQ and FIQ.
        const PENDING: u64 = 1 << 7 | 1 << 6;
        mrs!("isr_el1") & PENDING != 0
    }

    fn tlb_invalidate(&self, vmid: u16, scope: TlbScope) {
        // Few ranges are longer than a page, and an invalidation by IPA takes another one of all combined entries of the
        // VMID: one of both stages is as much for the realm and fewer barriers.
        let (TlbScope::Range { .. } | TlbScope::All) = scope;
        instruction!("dsb ishst");
        msr!("vttbr_el2", u64::from(vmid) << 48);
        instruction!("isb\ntlbi vmalls12e1is\ndsb ish\nisb");
    }

    fn cpu(&self) -> usize {
        crate::slots::area().cpu.get() as usize
    }

    fn forget_virtual_cpu(&self, vmid: u16) {
        // What a virtual CPU with its caches off has fetched is not what one with them on may find: fetched instructions too.
        msr!("vttbr_el2", u64::from(vmid) << 48);
        instruction!("isb\ntlbi vmalls12e1\nic iallu\ndsb nsh\nisb");
    }

    fn stop(&self, why: Broken) -> ! {
        stop::stop(why)
    }

    fn wait_for_lock() {
        Stoppable::relax();
    }

    fn simd_aux_granules(&self) -> usize {
        area_size(self.cpu.sve_vl).div_ceil(1 << GRANULE_SHIFT)
    }

    fn run_realm(&self, context: &mut CpuContext, controls: &RunControls, simd: &[u64]) -> RealmExit {
        run::run(&self.optional, context, controls, simd)
    }

    fn sha256_compress(&self, state: &mut [u32; 8], blocks: &[[u8; 64]]) {
        hash::sha256(&self.optional, state, blocks);
    }

    fn sha512_compress(&self, state: &mut [u64; 8], blocks: &[[u8; 128]]) {
        hash::sha512(&self.optional, state, blocks);
    }
}
