//! Random sequences of what a VM does with its memory, against a model of sets; and the same with failures, and from
//! many threads.

use crate::Host;
use crate::error::RealmError;
use crate::fake::{ALWAYS, Entry, FakeHost, NEVER, Step, many_pins};
use crate::memory::guest_memfd::{GuestMemfd, PrivateRange};
use crate::realm::{CpuParams, Fault, Realm, SharedFault, Supply};
use crate::rmm::Rmm;
use alloc::collections::{BTreeMap, BTreeSet};
use core::ops::Range;
use proptest::prelude::*;
use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::UnprotectedDesc;
use realm_alloc::Arc;

const RAM: u64 = 0x4000_0000;
const ALIAS: u64 = 1 << 32;
const BLOCK: u64 = 512;
const PAGES: u64 = 3 * BLOCK;
/// Host memory that is shared, somewhere else for each page of the realm and block-aligned for each block.
const SHARED: u64 = 0x10_0000_0000;

/// One thing done to the memory; addresses and sizes in granules.
#[derive(Clone, Copy, Debug)]
enum Action {
    /// A private fault, with all memory around it or only its own granule.
    Fault { page: u64, around: bool },
    /// Private memory taken away.
    Unmap { page: u64, count: u64 },
    /// A host page shared, from one of two places.
    Share { page: u64, other: bool },
    /// The block around a page shared.
    ShareBlock { page: u64 },
    /// Shared memory taken away.
    Unshare { page: u64, count: u64 },
    /// Unused private memory freed.
    Punch { page: u64, count: u64 },
}

fn action() -> impl Strategy<Value = Action> {
    let page = 0..PAGES;
    let count = prop_oneof![1..8_u64, Just(BLOCK), 500..PAGES];
    prop_oneof![
        4 => (page.clone(), any::<bool>()).prop_map(|(page, around)| Action::Fault { page, around }),
        3 => (page.clone(), count.clone()).prop_map(|(page, count)| Action::Unmap { page, count }),
        3 => (page.clone(), any::<bool>()).prop_map(|(page, other)| Action::Share { page, other }),
        1 => page.clone().prop_map(|page| Action::ShareBlock { page }),
        2 => (page.clone(), count.clone()).prop_map(|(page, count)| Action::Unshare { page, count }),
        1 => (page, count).prop_map(|(page, count)| Action::Punch { page, count }),
    ]
}

/// What came of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    Fault(Fault),
    Shared(SharedFault),
}

struct Vm {
    realm: Realm<FakeHost>,
    memfd: GuestMemfd<FakeHost>,
    rmm: Arc<Rmm<FakeHost>>,
}

impl Vm {
    fn active(page_shift: u32) -> Self {
        let rmm = FakeHost::started(page_shift);
        let realm = Realm::new(rmm.clone(), 33, many_pins()).unwrap();
        realm.create(&CpuParams { sve_vl: None, num_bps: 1, num_wps: 1, pmu_num_ctrs: None }).unwrap();
        realm.init_ripas(RAM, PAGES * GRANULE_SIZE, &NEVER).unwrap();
        realm.activate().unwrap();
        Self { realm, memfd: GuestMemfd::new(rmm.clone(), PAGES * GRANULE_SIZE).unwrap(), rmm }
    }

    fn pages(&self, page: u64, count: u64) -> PrivateRange<'_, FakeHost> {
        let size = count.min(PAGES - page) * GRANULE_SIZE;
        PrivateRange { memfd: &self.memfd, offset: page * GRANULE_SIZE, ipa: RAM + page * GRANULE_SIZE, size }
    }

    /// Granules in a host page.
    fn per_page(&self) -> u64 {
        self.rmm.host().page_size() / GRANULE_SIZE
    }

    /// The host pages around some granules.
    fn whole_pages(&self, page: u64, count: u64) -> Range<u64> {
        let (mask, end) = (self.per_page() - 1, (page + count).min(PAGES));
        page & !mask..(end + mask) & !mask
    }

    /// Whether the memory around a granule is one block.
    fn is_block(&self, page: u64) -> bool {
        let first = page - page % BLOCK;
        self.pages(first, BLOCK).with_existing_chunk(|chunk, _| chunk.is_block()) == Some(true)
    }

    /// Does it.
    fn act(&self, action: Action) -> Result<Outcome, RealmError> {
        let at = |page: u64| RAM + page * GRANULE_SIZE;
        // Each ioctl is a piece of work of its own.
        self.rmm.host().yield_now();
        match action {
            Action::Fault { page, around } => {
                let range = if around { self.pages(0, PAGES) } else { self.pages(page, 1) };
                self.realm.fault_private(&range, at(page), &ALWAYS, &ALWAYS).map(Outcome::Fault)
            }
            Action::Unmap { page, count } => self
                .realm
                .unmap_private(&self.pages(page, count), &mut Supply::HostOrReserve, &NEVER, &ALWAYS)
                .map(|()| Outcome::Done),
            Action::Share { page, other } => {
                let page = page & !(self.per_page() - 1);
                let pinned = self.rmm.host().hold(shared_pa(page, other), self.rmm.host().page_size());
                self.realm.map_shared(at(page), pinned, &ALWAYS).map(Outcome::Shared)
            }
            Action::ShareBlock { page } => {
                let (first, page) = (page - page % BLOCK, page & !(self.per_page() - 1));
                let pinned = self.rmm.host().hold(shared_pa(first, false), BLOCK * GRANULE_SIZE);
                self.realm.map_shared(at(page), pinned, &ALWAYS).map(Outcome::Shared)
            }
            Action::Unshare { page, count } => {
                let pages = self.whole_pages(page, count);
                let size = (pages.end - pages.start) * GRANULE_SIZE;
                self.realm
                    .unmap_shared(at(pages.start), size, &mut Supply::HostOrReserve, &NEVER)
                    .map(|()| Outcome::Done)
            }
            Action::Punch { page, count } => {
                self.memfd.punch_hole(page * GRANULE_SIZE, count * GRANULE_SIZE);
                Ok(Outcome::Done)
            }
        }
    }

    fn end(self) {
        let mut ended = Err(());
        // One failure at most is left to come.
        for _ in 0..2 {
            let shared = self.realm.unmap_shared(0, u64::MAX, &mut Supply::HostOrReserve, &NEVER);
            let private =
                self.realm.unmap_private(&self.pages(0, PAGES), &mut Supply::HostOrReserve, &NEVER, &ALWAYS);
            ended = shared.and(private).and_then(|()| self.realm.destroy()).map_err(|_| ());
            if ended.is_ok() {
                break;
            }
        }
        assert_eq!(ended, Ok(()));
        let rmm = self.rmm.clone();
        drop(self);
        FakeHost::assert_all_came_back_or_is_named(&rmm);
    }

    /// What is mapped: private granules, and shared ones with their descriptors.
    fn mapped(&self) -> (BTreeSet<u64>, BTreeMap<u64, u64>) {
        let rd = self.realm.rd().unwrap();
        self.rmm.host().with_rmm(|mini| {
            let realm = &mini.realms[&rd];
            let entry = |page: u64, half: u64| realm.entry(RAM + half + page * GRANULE_SIZE, 3);
            let private =
                (0..PAGES).filter(|&page| matches!(entry(page, 0).1, Entry::Assigned(..))).collect();
            let shared = (0..PAGES).filter_map(|page| match entry(page, ALIAS) {
                (2, Entry::AssignedNs(desc)) => Some((page, desc.0 + page % BLOCK * GRANULE_SIZE)),
                (_, Entry::AssignedNs(desc)) => Some((page, desc.0)),
                _ => None,
            });
            (private, shared.collect())
        })
    }
}

fn shared_pa(page: u64, other: bool) -> u64 {
    SHARED + (page + if other { PAGES } else { 0 }) * GRANULE_SIZE
}

/// The descriptor of a shared granule.
fn shared_desc(page: u64, other: bool) -> u64 {
    UnprotectedDesc::normal_rw(shared_pa(page, other)).0
}

/// What should be mapped.
#[derive(Default)]
struct Model {
    private: BTreeSet<u64>,
    /// Pages whose memory was taken away: the realm, which does nothing here, never agrees to that.
    destroyed: BTreeSet<u64>,
    shared: BTreeMap<u64, u64>,
}

impl Model {
    /// What comes of an action in `vm`, whose memory decides what is mapped around a fault.
    fn act(&mut self, vm: &Vm, action: Action) -> Outcome {
        match action {
            Action::Fault { page, around } => {
                if self.private.contains(&page) {
                    let destroyed = self.destroyed.contains(&page);
                    return Outcome::Fault(if destroyed { Fault::Destroyed } else { Fault::AlreadyMapped });
                }
                let first = page - page % BLOCK;
                let pages = if around && vm.is_block(page) { first..first + BLOCK } else { page..page + 1 };
                self.private.extend(pages);
                return Outcome::Fault(Fault::Mapped);
            }
            Action::Unmap { page, count } => {
                let gone = page..(page + count).min(PAGES);
                self.destroyed.extend(self.private.range(gone.clone()));
                self.private.retain(|at| !gone.contains(at));
            }
            Action::Share { page, other } => {
                let pages = vm.whole_pages(page, 1);
                if self.shared.contains_key(&page) {
                    return Outcome::Shared(SharedFault::AlreadyMapped);
                }
                self.shared.extend(pages.map(|page| (page, shared_desc(page, other))));
                return Outcome::Shared(SharedFault::Mapped);
            }
            Action::ShareBlock { page } => {
                let first = page - page % BLOCK;
                if self.shared.contains_key(&page) {
                    return Outcome::Shared(SharedFault::AlreadyMapped);
                }
                if self.shared.range(first..first + BLOCK).next().is_some() {
                    return Outcome::Shared(SharedFault::NotAsBlock);
                }
                self.shared.extend((first..first + BLOCK).map(|page| (page, shared_desc(page, false))));
                return Outcome::Shared(SharedFault::Mapped);
            }
            Action::Unshare { page, count } => {
                let gone = vm.whole_pages(page, count);
                self.shared.retain(|at, _| !gone.contains(at));
            }
            Action::Punch { .. } => {}
        }
        Outcome::Done
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    #[cfg_attr(miri, ignore = "too many steps for an interpreter")]
    fn memory_is_mapped_where_the_vm_put_it_and_nowhere_else(
        shift in prop_oneof![Just(12), Just(14), Just(16)],
        actions in prop::collection::vec(action(), 1..24),
    ) {
        let vm = Vm::active(shift);
        let mut model = Model::default();
        for action in actions {
            let outcome = vm.act(action);
            prop_assert_eq!(outcome, Ok(model.act(&vm, action)), "{:?}", action);
            let (private, shared) = vm.mapped();
            prop_assert!(private == model.private && shared == model.shared, "after {:?}", action);
            let held = u64::try_from(model.shared.len()).unwrap() * GRANULE_SIZE;
            prop_assert_eq!((vm.realm.pinned(), vm.rmm.host().held()), (held, held), "after {:?}", action);
        }
        // Two commands for each granule of a piece, and what the tables need.
        let most = vm.rmm.host().most_calls_without_yield();
        prop_assert!(most < 64, "{} commands", most);
        vm.end();
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many steps for an interpreter")]
    fn failures_at_any_time_lose_only_what_is_named(
        shift in prop_oneof![Just(12), Just(14), Just(16)],
        actions in prop::collection::vec((action(), prop::option::of(0..700_u64)), 1..16),
    ) {
        let vm = Vm::active(shift);
        for (action, failure) in actions {
            if let Some(from) = failure {
                vm.rmm.host().inject(any_step, from, 1);
            }
            // What fails is none of the model's business.
            let _ = vm.act(action);
        }
        vm.end();
    }
}

fn any_step(_: Step) -> bool {
    true
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn vcpus_that_fault_together_while_memory_is_taken_away_lose_nothing() {
    let vm = Vm::active(12);
    let served = std::thread::scope(|threads| {
        let faulters: std::vec::Vec<_> = (0..3_u64)
            .map(|vcpu| {
                let vm = &vm;
                threads.spawn(move || {
                    let mut mapped = 0;
                    for step in 0..200 {
                        let page = (step * 37 + vcpu * 5) % PAGES;
                        match vm.act(Action::Fault { page, around: step % 16 == 0 }) {
                            Ok(Outcome::Fault(Fault::Mapped)) => mapped += 1,
                            Ok(Outcome::Fault(Fault::AlreadyMapped | Fault::Destroyed)) => {}
                            other => panic!("page {page}: {other:?}"),
                        }
                    }
                    mapped
                })
            })
            .collect();
        for step in 0..12 {
            vm.act(Action::Unmap { page: step * 100 % PAGES, count: 300 }).unwrap();
            vm.act(Action::Punch { page: 0, count: PAGES }).unwrap();
        }
        faulters.into_iter().map(|thread| thread.join().unwrap()).sum::<u64>()
    });
    assert!(served > 0);
    let (private, _) = vm.mapped();
    let held = u64::try_from(private.len()).unwrap();
    assert!(vm.rmm.ledger().snapshot().held() > held, "RD, root tables and every mapped granule");
    vm.end();
}
