//! A Host for unit tests: pages with an owner, a small RMM, and faults on demand.

mod rmm;

pub(crate) use rmm::{Entry, MiniRmm};

use crate::host::{Event, PageBlock};
use crate::rmm::Rmm;
use crate::rmm::ledger::MAX_LOSSES;
use crate::{Errno, File, Host, Lock};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::{ReturnCode, RmiCommand, RmiReply};
use std::cell::Cell;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// First byte of the fake's memory.
const MEMORY_BASE: u64 = 0x8000_0000;
/// What undelegated memory holds: nothing of the realm, and not zeros either.
const WIPED: u8 = 0xaa;

std::thread_local! {
    /// Locks this thread holds.
    static HELD: Cell<u32> = const { Cell::new(0) };
    /// How many of them may be held while it yields: those an ioctl holds from its beginning to its end.
    pub(crate) static OVER_IOCTLS: Cell<u32> = const { Cell::new(0) };
    /// What another thread does whenever this one lets go of a lock.
    pub(crate) static ON_UNLOCK: Cell<Option<Box<dyn FnMut()>>> = const { Cell::new(None) };
}

pub(crate) struct FakeLock<T>(Mutex<T>);

/// It holds the lock, except while it is dropped.
pub(crate) struct FakeGuard<'a, T>(Option<MutexGuard<'a, T>>);

impl<T> core::ops::Deref for FakeGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.0.as_ref().expect("the lock is held")
    }
}

impl<T> core::ops::DerefMut for FakeGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("the lock is held")
    }
}

impl<T> Drop for FakeGuard<'_, T> {
    fn drop(&mut self) {
        HELD.set(HELD.get() - 1);
        self.0 = None;
        if let Ok(Some(mut act)) = ON_UNLOCK.try_with(Cell::take) {
            act();
            ON_UNLOCK.set(Some(act));
        }
    }
}

impl<T: Send> Lock<T> for FakeLock<T> {
    type Guard<'a>
        = FakeGuard<'a, T>
    where
        T: 'a;
    fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }
    fn lock(&self) -> FakeGuard<'_, T> {
        let guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        HELD.set(HELD.get() + 1);
        FakeGuard(Some(guard))
    }
}

#[derive(Default)]
pub(crate) struct FakeEvent(Mutex<bool>, Condvar);

impl Event for FakeEvent {
    fn new() -> Self {
        Self::default()
    }
    fn wait(&self, _deadline: Option<u64>) {
        let mut signalled = self
            .1
            .wait_while(self.0.lock().unwrap_or_else(PoisonError::into_inner), |signalled| !*signalled)
            .unwrap();
        *signalled = false;
    }
    fn signal(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.1.notify_one();
    }
}

/// Something that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// An allocation of so many host pages.
    Alloc(usize),
    /// An RMI command.
    Call(RmiCommand),
}

/// Which steps fail: of those `chosen` matches, `count` from number `from` on.
pub(crate) struct Fault {
    pub(crate) chosen: fn(Step) -> bool,
    pub(crate) from: u64,
    pub(crate) count: u64,
}

type Mangle = Box<dyn FnMut(&RmiCommand, &mut RmiReply) + Send>;

#[derive(Default)]
struct Machine {
    /// Allocated blocks, host pages by address.
    blocks: BTreeMap<u64, usize>,
    next: u64,
    contents: BTreeMap<u64, Box<[u8; GRANULE_SIZE as usize]>>,
    rmm: MiniRmm,
    fault: Option<Fault>,
    matched: u64,
    injected: u64,
    mangle: Option<Mangle>,
    largest: Option<usize>,
    commands: Vec<RmiCommand>,
}

pub(crate) struct FakeHost {
    page_shift: u32,
    machine: Mutex<Machine>,
    calls_since_yield: AtomicU64,
    most_calls_without_yield: AtomicU64,
    yields: AtomicU64,
    warnings: AtomicU64,
}

impl FakeHost {
    pub(crate) fn new(page_shift: u32) -> Self {
        let machine = Machine { next: MEMORY_BASE, ..Machine::default() };
        Self {
            page_shift,
            machine: Mutex::new(machine),
            calls_since_yield: AtomicU64::new(0),
            most_calls_without_yield: AtomicU64::new(0),
            yields: AtomicU64::new(0),
            warnings: AtomicU64::new(0),
        }
    }

    /// The machine after start-up.
    pub(crate) fn started(page_shift: u32) -> Arc<Rmm<Self>> {
        Arc::new(Rmm::start(Self::new(page_shift)))
    }

    pub(crate) fn page_size(&self) -> u64 {
        1 << self.page_shift
    }

    /// Looks at or changes the RMM.
    pub(crate) fn with_rmm<R>(&self, work: impl FnOnce(&mut MiniRmm) -> R) -> R {
        work(&mut self.machine.lock().unwrap_or_else(PoisonError::into_inner).rmm)
    }

    /// Lets steps fail from now on.
    pub(crate) fn inject(&self, chosen: fn(Step) -> bool, from: u64, count: u64) {
        let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        machine.fault = Some(Fault { chosen, from, count });
        (machine.matched, machine.injected) = (0, 0);
    }

    /// Ends the faults; how many steps failed.
    pub(crate) fn stop_injecting(&self) -> u64 {
        let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        machine.fault = None;
        machine.mangle = None;
        machine.injected
    }

    /// Changes replies of the RMM after it did what it was asked.
    pub(crate) fn mangle(&self, mangle: impl FnMut(&RmiCommand, &mut RmiReply) + Send + 'static) {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner).mangle = Some(Box::new(mangle));
    }

    /// Refuses allocations of more than `pages`.
    pub(crate) fn limit_allocations(&self, pages: usize) {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner).largest = Some(pages);
    }

    /// The commands since the last time, refused ones included.
    pub(crate) fn take_commands(&self) -> Vec<RmiCommand> {
        core::mem::take(&mut self.machine.lock().unwrap_or_else(PoisonError::into_inner).commands)
    }

    /// Most calls made in a row without a yield.
    pub(crate) fn most_calls_without_yield(&self) -> u64 {
        self.most_calls_without_yield.load(Ordering::Relaxed)
    }

    pub(crate) fn yields(&self) -> u64 {
        self.yields.load(Ordering::Relaxed)
    }

    pub(crate) fn warnings(&self) -> u64 {
        self.warnings.load(Ordering::Relaxed)
    }

    /// Host pages allocated now.
    pub(crate) fn pages(&self) -> usize {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner).blocks.values().sum()
    }

    /// Granules of allocated pages that the RMM holds.
    pub(crate) fn realm_granules(&self) -> BTreeSet<u64> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner).rmm.granules.keys().copied().collect()
    }

    /// Asserts that the pages which are still allocated are those with a lost granule in them, and that the ledger knows
    /// exactly the granules the RMM kept.
    pub(crate) fn assert_all_came_back_or_is_named(rmm: &Rmm<Self>) {
        let now = rmm.ledger().snapshot();
        let kept = rmm.host().realm_granules();
        assert_eq!(now.held(), 0, "granules the RMM holds that are not counted lost");
        assert_eq!(now.leaked, u64::try_from(kept.len()).unwrap());
        let named: BTreeSet<u64> = rmm.ledger().losses().iter().map(|loss| loss.pa).collect();
        assert!(
            named.is_subset(&kept) && named.len() == kept.len().min(MAX_LOSSES),
            "named {named:x?}, kept {kept:x?}"
        );
        let machine = rmm.host().machine.lock().unwrap_or_else(PoisonError::into_inner);
        let page = rmm.host().page_size();
        for (&base, &pages) in &machine.blocks {
            for base in (base..base + (pages as u64) * page).step_by(usize::try_from(page).unwrap()) {
                let lost = kept.range(base..base + page).next();
                assert!(lost.is_some(), "the page at {base:#x} leaked without a lost granule");
            }
        }
    }

    /// Granules with one byte all over, as a VMM's pinned page.
    pub(crate) fn source_page(&self, byte: u8) -> PageBlock {
        let page = self.machine.lock().unwrap_or_else(PoisonError::into_inner).alloc(1, self.page_size());
        for offset in (0..self.page_size()).step_by(GRANULE_SIZE as usize) {
            self.write_phys(page.pa + offset, &[byte; GRANULE_SIZE as usize]);
        }
        page
    }
}

impl Machine {
    fn alloc(&mut self, pages: usize, page_size: u64) -> PageBlock {
        let size = (pages as u64) * page_size;
        let pa = self.next.next_multiple_of(size);
        self.next = pa + size;
        self.blocks.insert(pa, pages);
        PageBlock { pa, pages }
    }

    fn fails(&mut self, step: Step) -> bool {
        let Some(fault) = &self.fault else { return false };
        if !(fault.chosen)(step) {
            return false;
        }
        let number = self.matched;
        self.matched += 1;
        let fails = number >= fault.from && number - fault.from < fault.count;
        self.injected += u64::from(fails);
        fails
    }
}

impl Host for FakeHost {
    type Lock<T: Send> = FakeLock<T>;
    type Event = FakeEvent;

    fn page_shift(&self) -> u32 {
        self.page_shift
    }

    fn alloc(&self, pages: usize) -> Option<PageBlock> {
        assert!(pages.is_power_of_two());
        let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        if machine.fails(Step::Alloc(pages)) || machine.largest.is_some_and(|largest| pages > largest) {
            return None;
        }
        Some(machine.alloc(pages, self.page_size()))
    }

    fn free(&self, block: PageBlock) {
        let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        let size = (block.pages as u64) * self.page_size();
        let around = machine.blocks.range(..=block.pa).next_back().map(|(&pa, &pages)| (pa, pages));
        let (base, pages) = around.expect("freed memory was allocated");
        let before = usize::try_from((block.pa - base) / self.page_size()).expect("a number of pages");
        let behind = pages.checked_sub(before + block.pages).expect("freed memory was allocated");
        machine.blocks.remove(&base);
        for (pa, pages) in [(base, before), (block.pa + size, behind)] {
            if pages > 0 {
                machine.blocks.insert(pa, pages);
            }
        }
        let held = machine.rmm.granules.range(block.pa..block.pa + size).next();
        assert!(held.is_none(), "freed memory the RMM holds: {held:?}");
        let gone: Vec<u64> = machine.contents.range(block.pa..block.pa + size).map(|(&pa, _)| pa).collect();
        for pa in gone {
            machine.contents.remove(&pa);
        }
    }

    fn read_phys(&self, pa: u64, out: &mut [u8]) {
        let machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        let base = pa & !(GRANULE_SIZE - 1);
        assert!(!machine.rmm.granules.contains_key(&base), "granule protection fault at {pa:#x}");
        let offset = usize::try_from(pa - base).unwrap();
        match machine.contents.get(&base) {
            Some(content) => out.copy_from_slice(&content[offset..offset + out.len()]),
            None => out.fill(0),
        }
    }

    fn write_phys(&self, pa: u64, bytes: &[u8]) {
        let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        let base = pa & !(GRANULE_SIZE - 1);
        assert!(!machine.rmm.granules.contains_key(&base), "granule protection fault at {pa:#x}");
        let offset = usize::try_from(pa - base).unwrap();
        let content = machine.contents.entry(base).or_insert_with(|| Box::new([0; GRANULE_SIZE as usize]));
        content[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn smc(&self, regs: [u64; 8]) -> [u64; 5] {
        let calls = self.calls_since_yield.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_calls_without_yield.fetch_max(calls, Ordering::Relaxed);
        let command = RmiCommand::from_regs(&regs);
        let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        machine.commands.push(command);
        if machine.fails(Step::Call(command)) {
            return RmiReply::failed(ReturnCode::ERROR_INPUT).to_regs();
        }
        let Machine { rmm, contents, blocks, mangle, .. } = &mut *machine;
        if let RmiCommand::GranuleDelegate { addr } = command {
            let block = blocks.range(..=addr).next_back();
            let owned = block.is_some_and(|(&base, &pages)| addr < base + (pages as u64) * self.page_size());
            assert!(owned, "delegated memory at {addr:#x} that is not allocated");
        }
        let mut reply = rmm.handle(command, contents);
        if let (RmiCommand::GranuleUndelegate { addr }, true) = (command, reply.code.is_success()) {
            contents.insert(addr, Box::new([WIPED; GRANULE_SIZE as usize]));
        }
        if let Some(mangle) = mangle {
            mangle(&command, &mut reply);
        }
        reply.to_regs()
    }

    fn counter(&self) -> (u64, u64) {
        (0, 1_000_000_000)
    }

    fn yield_now(&self) {
        assert!(HELD.get() <= OVER_IOCTLS.get(), "yielded with {} locks held", HELD.get());
        self.calls_since_yield.store(0, Ordering::Relaxed);
        self.yields.fetch_add(1, Ordering::Relaxed);
    }

    fn kick(&self, _vcpu: u32) {}

    fn install_file(&self, _file: File<Self>) -> Result<i32, Errno> {
        Err(Errno::ENOMEM)
    }

    fn file(&self, _fd: i32) -> Option<File<Self>> {
        None
    }

    fn warn(&self, _message: core::fmt::Arguments<'_>) {
        self.warnings.fetch_add(1, Ordering::Relaxed);
    }
}
