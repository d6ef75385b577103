//! Translations the CPUs remember until the RMM invalidates them, so that a missing invalidate is seen.

use crate::probe::log::lock;
use realm_rmm::platform::TlbScope;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// Where a 4 KiB page of IPAs leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// Physical address of the page.
    pub pa: u64,
    /// The descriptor's NS bit: Non-secure output.
    pub ns: bool,
    /// S2AP: readable.
    pub read: bool,
    /// S2AP: writable.
    pub write: bool,
    /// Not XN for EL1.
    pub execute: bool,
    /// Level of the descriptor.
    pub level: i8,
}

#[derive(Debug, Default)]
struct Entries {
    /// By IPA of the page.
    pages: BTreeMap<u64, Leaf>,
    /// Level 3 tables by the first IPA they map: what a CPU's walk cache holds.
    tables: BTreeMap<u64, u64>,
    /// By CPU, whose stage 1 translations it holds: the affinity of the virtual CPU that ran.
    virtual_cpus: HashMap<usize, u64>,
}

/// Bytes a level 3 table maps.
const TABLE_SPAN: u64 = 1 << 21;

/// What all CPUs remember of one VMID.
#[derive(Debug, Default)]
pub(crate) struct VmidTlb {
    generation: AtomicU64,
    entries: Mutex<Entries>,
}

impl VmidTlb {
    /// Changes with every invalidation. A translation is good for an access that happens while its generation lasts.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
    pub fn page(&self, ipa: u64) -> Option<Leaf> {
        lock(&self.entries).pages.get(&(ipa & !0xfff)).copied()
    }
    pub fn table(&self, ipa: u64) -> Option<u64> {
        lock(&self.entries).tables.get(&(ipa & !(TABLE_SPAN - 1))).copied()
    }
    /// Remembers a page found by a walk that began in `generation`, unless that has passed.
    pub fn fill_page(&self, generation: u64, ipa: u64, leaf: Leaf) {
        let mut entries = lock(&self.entries);
        if self.generation() == generation {
            entries.pages.insert(ipa & !0xfff, leaf);
        }
    }
    /// Remembers a level 3 table found by a walk that began in `generation`, unless that has passed.
    pub fn fill_table(&self, generation: u64, ipa: u64, table: u64) {
        let mut entries = lock(&self.entries);
        if self.generation() == generation {
            entries.tables.insert(ipa & !(TABLE_SPAN - 1), table);
        }
    }
    /// Notes that a virtual CPU runs on `cpu`; the one whose stage 1 translations are still there, if it is another.
    pub fn runs(&self, cpu: usize, affinity: u64) -> Option<u64> {
        lock(&self.entries).virtual_cpus.insert(cpu, affinity).filter(|before| *before != affinity)
    }
    /// Forgets stage 1 on one CPU.
    pub fn forget_virtual_cpu(&self, cpu: usize) {
        lock(&self.entries).virtual_cpus.remove(&cpu);
    }
    fn invalidate(&self, scope: TlbScope) {
        let mut entries = lock(&self.entries);
        self.generation.fetch_add(1, Ordering::AcqRel);
        match scope {
            TlbScope::All => *entries = Entries::default(),
            TlbScope::Range { base, size } => {
                let end = base.saturating_add(size);
                remove_range(&mut entries.pages, base & !0xfff, end);
                remove_range(&mut entries.tables, base & !(TABLE_SPAN - 1), end);
            }
        }
    }
}

fn remove_range<T>(map: &mut BTreeMap<u64, T>, base: u64, end: u64) {
    let keys: Vec<u64> = map.range(base..end.max(base)).map(|(key, _)| *key).collect();
    for key in keys {
        map.remove(&key);
    }
}

/// The translations of all VMIDs.
#[derive(Debug, Default)]
pub(crate) struct Tlb(RwLock<HashMap<u16, Arc<VmidTlb>>>);

impl Tlb {
    pub fn vmid(&self, vmid: u16) -> Arc<VmidTlb> {
        if let Some(tlb) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&vmid) {
            return Arc::clone(tlb);
        }
        Arc::clone(self.0.write().unwrap_or_else(PoisonError::into_inner).entry(vmid).or_default())
    }
    pub fn invalidate(&self, vmid: u16, scope: TlbScope) {
        self.vmid(vmid).invalidate(scope);
    }
}
