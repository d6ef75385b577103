//! A machine of nothing but memory, for tests: it panics where a [`Platform`] would be undefined, above all when two
//! hold the same granule at once or the RMM touches a granule that is not the Realm world's.

extern crate std;

use crate::Platform;
use crate::cpu::{CpuContext, RealmExit, RunControls};
use crate::granule::{Bank, Exclusive, Granule};
use crate::platform::{Broken, CpuFeatures, El3Error, NsFault, SysReg, TlbScope};
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use realm_abi::GRANULE_SIZE;
use sha2::block_api::{compress256, compress512};
use std::boxed::Box;
use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, TryLockError};
use std::vec::Vec;
use zerocopy::IntoBytes;

/// Where [`FakePlatform`]'s delegable memory begins.
pub const BASE: u64 = 0x8000_0000;

/// Which world a granule belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pas {
    /// The Host's.
    NonSecure,
    /// The Realm world's.
    Realm,
    /// The Secure world's, which neither Host nor RMM may touch.
    Secure,
}

/// What a virtual CPU does on one run.
pub type Run = Box<dyn FnMut(&mut CpuContext, &RunControls) -> RealmExit + Send>;

/// A machine with `granules` granules of delegable memory from [`BASE`] on.
#[expect(missing_debug_implementations, reason = "it holds closures and megabytes")]
pub struct FakePlatform {
    memory: Vec<Mutex<(Pas, Granule)>>,
    /// The CPUs' features; change them before the RMM is made.
    pub features: CpuFeatures,
    /// What every ID register reads; every feature there can be, if it is not changed.
    pub id_registers: u64,
    /// Every TLB invalidation so far.
    pub tlb: Mutex<Vec<(u16, TlbScope)>>,
    /// The VMIDs of which a CPU forgot what another virtual CPU had left, and that CPU.
    pub forgotten: Mutex<Vec<(usize, u16)>>,
    /// The CPU commands are run on.
    pub cpu: AtomicUsize,
    /// What the next runs of virtual CPUs do; with none left they end with an IRQ.
    pub runs: Mutex<VecDeque<Run>>,
    /// Granules whose NS accesses fault although they are Non-secure.
    pub faulty: Mutex<HashSet<u64>>,
    /// NS accesses after which all others fault.
    pub ns_accesses_left: AtomicUsize,
    /// Makes EL3 refuse delegations and undelegations.
    pub el3_refuses: AtomicBool,
    /// Whether an interrupt waits.
    pub interrupt: AtomicBool,
    /// The counter.
    pub counter: AtomicU64,
}

/// What stands in for a compression function under Miri, where hashing would take nearly all the time: every word of the
/// blocks changes the state.
fn mix<W: Copy>(state: &mut [W; 8], words: impl Iterator<Item = W>, step: impl Fn(W, W) -> W) {
    for (index, word) in words.enumerate() {
        state[index % 8] = step(state[index % 8], word);
    }
}

impl FakePlatform {
    /// A machine with 48-bit addresses, no LPA2, no SVE, six breakpoints, four watchpoints, six PMU counters.
    #[must_use]
    pub fn new(granules: usize) -> Self {
        Self {
            memory: (0..granules).map(|_| Mutex::new((Pas::NonSecure, Granule::zeroed()))).collect(),
            features: CpuFeatures {
                pa_bits: 48,
                lpa2: false,
                vmid16: true,
                sve_vl: None,
                num_bps: 5,
                num_wps: 3,
                pmu_counters: Some(6),
                hpmn0: false,
                gic_num_lrs: 3,
                gic_priority_bits: 5,
                gic_id_bits: 16,
                gic_extended_range: false,
            },
            id_registers: u64::MAX,
            tlb: Mutex::default(),
            forgotten: Mutex::default(),
            cpu: AtomicUsize::new(0),
            runs: Mutex::default(),
            faulty: Mutex::default(),
            ns_accesses_left: AtomicUsize::new(usize::MAX),
            el3_refuses: AtomicBool::new(false),
            interrupt: AtomicBool::new(false),
            counter: AtomicU64::new(0),
        }
    }

    /// Its delegable memory.
    #[must_use]
    pub fn bank(&self) -> Bank {
        Bank { base: BASE, size: self.memory.len() as u64 * GRANULE_SIZE }
    }

    /// The address of its `index`th granule.
    #[must_use]
    pub const fn granule(index: u64) -> u64 {
        BASE + index * GRANULE_SIZE
    }

    /// What `f` makes of the granule at `pa`, which no one else may hold. Only 48 bits of an address count, so the same
    /// memory can serve as a bank above them.
    ///
    /// # Panics
    /// If someone does, or there is no such granule.
    pub fn memory<R>(&self, pa: u64, f: impl FnOnce(&mut Pas, &mut Granule) -> R) -> R {
        let index = usize::try_from(((pa & 0xffff_ffff_ffff) - BASE) / GRANULE_SIZE).expect("an index");
        match self.memory[index].try_lock() {
            Ok(mut granule) => {
                let (pas, content) = &mut *granule;
                f(pas, content)
            }
            Err(TryLockError::WouldBlock) => panic!("granule {pa:#x} is in use by two at once"),
            Err(TryLockError::Poisoned(_)) => panic!("an earlier user of granule {pa:#x} panicked"),
        }
    }

    /// The world of the granule at `pa`.
    pub fn pas(&self, pa: u64) -> Pas {
        self.memory(pa, |pas, _| *pas)
    }

    /// Writes to memory as the Host.
    ///
    /// # Panics
    /// If the granule is not Non-secure.
    pub fn host_write(&self, pa: u64, bytes: &[u8]) {
        self.write_ns(pa, bytes).expect("the Host writes to its own memory");
    }

    /// A copy of a granule's content, whoever's it is.
    pub fn content(&self, pa: u64) -> [u8; 4096] {
        self.memory(pa, |_, granule| {
            let mut copy = [0; 4096];
            copy.copy_from_slice(granule.as_mut_bytes());
            copy
        })
    }

    /// The TLB invalidations since the last call.
    pub fn take_invalidations(&self) -> Vec<(u16, TlbScope)> {
        core::mem::take(&mut *self.tlb.lock().expect("no test panicked with it"))
    }

    fn ns<R>(&self, pa: u64, len: usize, f: impl FnOnce(&mut [u8]) -> R) -> Result<R, NsFault> {
        let offset = usize::try_from(pa % GRANULE_SIZE).expect("an offset");
        assert!(pa.is_multiple_of(8) && offset + len <= 4096, "an access to NS memory stays in a granule");
        let left = self.ns_accesses_left.load(Ordering::Relaxed);
        self.ns_accesses_left.store(left.saturating_sub(1), Ordering::Relaxed);
        if left == 0 || self.faulty.lock().expect("no test panicked with it").contains(&(pa - offset as u64))
        {
            return Err(NsFault);
        }
        self.memory(pa, |pas, granule| {
            if *pas == Pas::NonSecure {
                Ok(f(&mut granule.as_mut_bytes()[offset..offset + len]))
            } else {
                Err(NsFault)
            }
        })
    }

    fn transition(&self, pa: u64, from: Pas, to: Pas) -> Result<(), El3Error> {
        const E_RMM_BAD_PAS: El3Error = El3Error(-3);
        if self.el3_refuses.load(Ordering::Relaxed) {
            return Err(E_RMM_BAD_PAS);
        }
        self.memory(pa, |pas, _| {
            if *pas != from {
                return Err(E_RMM_BAD_PAS);
            }
            *pas = to;
            Ok(())
        })
    }
}

impl Platform for FakePlatform {
    fn with_granule<E: Exclusive, R>(&self, granule: &mut E, f: impl FnOnce(&mut Granule) -> R) -> R {
        self.memory(granule.pa(), |pas, content| {
            assert_eq!(*pas, Pas::Realm, "the RMM uses granules of the Realm world only");
            f(content)
        })
    }

    fn read_data<E: Exclusive>(&self, data: &mut E, offset: usize, out: &mut [u8]) {
        let len = out.len();
        self.with_granule(data, |granule| out.copy_from_slice(&granule.as_mut_bytes()[offset..offset + len]));
    }

    fn write_data<E: Exclusive>(&self, data: &mut E, offset: usize, bytes: &[u8]) {
        self.with_granule(data, |granule| {
            granule.as_mut_bytes()[offset..offset + bytes.len()].copy_from_slice(bytes);
        });
    }

    fn read_ns(&self, pa: u64, out: &mut [u8]) -> Result<(), NsFault> {
        self.ns(pa, out.len(), |bytes| out.copy_from_slice(bytes))
    }

    fn write_ns(&self, pa: u64, bytes: &[u8]) -> Result<(), NsFault> {
        self.ns(pa, bytes.len(), |to| to.copy_from_slice(bytes))
    }

    fn gtsi_delegate(&self, pa: u64) -> Result<(), El3Error> {
        self.transition(pa, Pas::NonSecure, Pas::Realm)
    }

    fn gtsi_undelegate(&self, pa: u64) -> Result<(), El3Error> {
        self.transition(pa, Pas::Realm, Pas::NonSecure)
    }

    fn realm_attestation_key(&self, key: &mut [u8; 48]) -> Result<(), El3Error> {
        *key = [0x42; 48];
        Ok(())
    }

    fn platform_token(&self, challenge: &[u8], out: &mut [u8]) -> Result<usize, El3Error> {
        out[..challenge.len()].copy_from_slice(challenge);
        Ok(challenge.len())
    }

    fn features(&self) -> CpuFeatures {
        self.features
    }

    fn id_register(&self, _reg: SysReg) -> u64 {
        self.id_registers
    }

    fn counter(&self) -> u64 {
        self.counter.load(Ordering::Relaxed)
    }

    fn interrupt_pending(&self) -> bool {
        self.interrupt.load(Ordering::Relaxed)
    }

    fn tlb_invalidate(&self, vmid: u16, scope: TlbScope) {
        self.tlb.lock().expect("no test panicked with it").push((vmid, scope));
    }

    fn cpu(&self) -> usize {
        self.cpu.load(Ordering::Relaxed)
    }

    fn forget_virtual_cpu(&self, vmid: u16) {
        self.forgotten.lock().expect("no test panicked with it").push((self.cpu(), vmid));
    }

    fn stop(&self, why: Broken) -> ! {
        panic!("the RMM stops: {why:?}")
    }

    fn wait_for_lock() {
        std::thread::yield_now();
    }

    fn simd_aux_granules(&self) -> usize {
        1
    }

    fn run_realm(&self, context: &mut CpuContext, controls: &RunControls, _simd: &[u64]) -> RealmExit {
        let run = self.runs.lock().expect("no test panicked with it").pop_front();
        run.map_or(RealmExit::Irq, |mut run| run(context, controls))
    }

    fn sha256_compress(&self, state: &mut [u32; 8], blocks: &[[u8; 64]]) {
        if cfg!(miri) {
            let bytes = blocks.as_flattened().chunks_exact(4);
            let words = bytes.map(|word| u32::from_le_bytes(word.try_into().expect("four bytes")));
            mix(state, words, |state, word| state.rotate_left(5).wrapping_mul(0x9e37_79b1) ^ word);
        } else {
            compress256(state, blocks);
        }
    }

    fn sha512_compress(&self, state: &mut [u64; 8], blocks: &[[u8; 128]]) {
        if cfg!(miri) {
            let bytes = blocks.as_flattened().chunks_exact(8);
            let words = bytes.map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")));
            mix(state, words, |state, word| state.rotate_left(5).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ word);
        } else {
            compress512(state, blocks);
        }
    }
}
