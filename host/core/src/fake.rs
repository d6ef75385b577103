//! A Host for unit tests: pages with an owner, a small RMM, faults on demand, and the rules of [`crate::host`] enforced.

pub(crate) mod heap;
mod host;
mod irqchip;
mod process;
mod rmm;
mod rules;

pub(crate) use irqchip::FakeIrqchip;
pub(crate) use process::{Process, USER_PA};
pub(crate) use rmm::{Entry, Granule, MiniRmm};
pub(crate) use rules::{KILLED, ON_ALLOC, ON_UNLOCK};

use crate::host::{GranuleBytes, PageBlock, Pinned};
use crate::realm::{Pins, UserPins};
use crate::rmm::Rmm;
use crate::rmm::ledger::{Loss, MAX_LOSSES};
use crate::{File, Host};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use heap::Pause;
use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::{RecRun, ReturnCode, RmiCommand, RmiReply};
use realm_alloc::Arc;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// First byte of the fake's memory.
const MEMORY_BASE: u64 = 0x8000_0000;
/// What undelegated memory holds: nothing of the realm, and not zeros either.
const WIPED: u8 = 0xaa;

/// What a caller says that never stops, or whose view never changes.
pub(crate) const ALWAYS: fn() -> bool = || true;
pub(crate) const NEVER: fn() -> bool = || false;
/// Pins of a VM that may hold so much, of a user without a limit.
pub(crate) fn pins(limit: u64) -> Pins {
    Pins::new(limit, Arc::try_new(UserPins::new(0)).unwrap(), u64::MAX)
}

/// Pins with more room than any test needs.
pub(crate) fn many_pins() -> Pins {
    pins(1 << 30)
}

/// Something that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// An allocation of so many host pages.
    Alloc(usize),
    /// An RMI command.
    Call(RmiCommand),
}

/// Which steps fail: of those that `chosen` matches, `count` from number `from` on.
pub(crate) struct Fault {
    pub(crate) chosen: fn(Step) -> bool,
    pub(crate) from: u64,
    pub(crate) count: u64,
    /// What a command that fails returns.
    pub(crate) code: ReturnCode,
}

/// What a realm does when a REC of it is entered; `None` ends the run by a physical interrupt.
pub(crate) type Guest = Box<dyn FnMut(&mut RecRun) + Send>;

type Mangle = Box<dyn FnMut(&RmiCommand, &mut RmiReply) + Send>;
type Answer = Box<dyn FnMut(&RmiCommand) -> Option<RmiReply> + Send>;

#[derive(Default)]
struct Machine {
    /// Allocated blocks, host pages by address.
    blocks: BTreeMap<u64, usize>,
    next: u64,
    contents: BTreeMap<u64, Box<GranuleBytes>>,
    rmm: MiniRmm,
    fault: Option<Fault>,
    matched: u64,
    injected: u64,
    mangle: Option<Mangle>,
    answer: Option<Answer>,
    largest: Option<usize>,
    commands: Vec<RmiCommand>,
    /// The granules of VMMs that are held: how often.
    pins: BTreeMap<u64, u64>,
    /// Pages that came back because the RMM refused them.
    refused: Vec<PageBlock>,
    /// State of the generator by which one allocation in so many fails.
    random: Option<(u64, u64)>,
    files: Vec<Option<File<FakeHost>>>,
    guest: Option<Guest>,
}

/// The machine, locked; what is done with it is not done by the Host core.
struct Locked<'a> {
    machine: MutexGuard<'a, Machine>,
    _pause: Pause,
}

impl Deref for Locked<'_> {
    type Target = Machine;
    fn deref(&self) -> &Machine {
        &self.machine
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Machine {
        &mut self.machine
    }
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
        Arc::try_new(Rmm::start(Self::new(page_shift)).unwrap()).unwrap()
    }

    fn machine(&self) -> Locked<'_> {
        let _pause = Pause::new();
        Locked { machine: self.machine.lock().unwrap_or_else(PoisonError::into_inner), _pause }
    }

    pub(crate) fn page_size(&self) -> u64 {
        1 << self.page_shift
    }

    /// Looks at or changes the RMM.
    pub(crate) fn with_rmm<R>(&self, work: impl FnOnce(&mut MiniRmm) -> R) -> R {
        work(&mut self.machine().rmm)
    }

    /// Lets steps fail from now on.
    pub(crate) fn inject(&self, chosen: fn(Step) -> bool, from: u64, count: u64) {
        self.inject_code(chosen, from, count, ReturnCode::ERROR_INPUT);
    }

    /// Lets steps fail from now on, commands with this code.
    pub(crate) fn inject_code(&self, chosen: fn(Step) -> bool, from: u64, count: u64, code: ReturnCode) {
        let mut machine = self.machine();
        machine.fault = Some(Fault { chosen, from, count, code });
        (machine.matched, machine.injected) = (0, 0);
    }

    /// Ends the faults; how many steps failed.
    pub(crate) fn stop_injecting(&self) -> u64 {
        let mut machine = self.machine();
        machine.fault = None;
        machine.mangle = None;
        machine.answer = None;
        machine.injected
    }

    /// Changes replies of the RMM after it did what it was asked.
    pub(crate) fn mangle(&self, mangle: impl FnMut(&RmiCommand, &mut RmiReply) + Send + 'static) {
        self.machine().mangle = Some(Box::new(mangle));
    }

    /// Lets the RMM answer without doing what it was asked, where `answer` has one.
    pub(crate) fn answer(&self, answer: impl FnMut(&RmiCommand) -> Option<RmiReply> + Send + 'static) {
        self.machine().answer = Some(Box::new(answer));
    }

    /// Refuses allocations of more than `pages`.
    pub(crate) fn limit_allocations(&self, pages: usize) {
        self.machine().largest = Some(pages);
    }

    /// Lets one allocation of pages in `one_in` fail from now on, as `seed` says; 0 ends that.
    pub(crate) fn fail_allocations_at_random(&self, seed: u64, one_in: u64) {
        self.machine().random = (one_in > 0).then_some((seed, one_in));
    }

    /// The RMM refuses the memory that is allocated next, so many bytes of it from now on.
    pub(crate) fn refuse_next(&self, size: u64) {
        let mut machine = self.machine();
        let from = machine.next;
        machine.rmm.refused.push(from..from + size);
    }

    /// Pages that came back because the RMM refused them.
    pub(crate) fn refused_pages(&self) -> usize {
        self.machine().refused.iter().map(|block| block.pages).sum()
    }

    /// Memory of a VMM at this address, held once more.
    pub(crate) fn hold(&self, pa: u64, size: u64) -> Pinned {
        let mut machine = self.machine();
        for granule in (pa..pa + size).step_by(GRANULE_SIZE as usize) {
            *machine.pins.entry(granule).or_default() += 1;
        }
        Pinned { pa, size }
    }

    /// Bytes of VMMs that are held.
    pub(crate) fn held(&self) -> u64 {
        self.machine().pins.values().sum::<u64>() * GRANULE_SIZE
    }

    /// What realms do from now on when they run.
    pub(crate) fn run_guest(&self, guest: impl FnMut(&mut RecRun) + Send + 'static) {
        self.machine().guest = Some(Box::new(guest));
    }

    /// Closes a file as a process does.
    pub(crate) fn close(&self, fd: i64) {
        let file = self.machine().files[usize::try_from(fd).unwrap()].take();
        file.expect("the file is open").release();
    }

    /// Closes all files, the first ones first.
    pub(crate) fn close_all(&self) {
        let files = core::mem::take(&mut self.machine().files);
        files.into_iter().flatten().for_each(|file| file.release());
    }

    /// The commands since the last time, refused ones included.
    pub(crate) fn take_commands(&self) -> Vec<RmiCommand> {
        core::mem::take(&mut self.machine().commands)
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
        self.machine().blocks.values().sum()
    }

    /// Whether the page around this address is allocated.
    pub(crate) fn is_allocated(&self, pa: u64) -> bool {
        let machine = self.machine();
        let block = machine.blocks.range(..=pa).next_back();
        block.is_some_and(|(&base, &pages)| pa < base + (pages as u64) * self.page_size())
    }

    /// Granules of allocated pages that the RMM holds.
    pub(crate) fn realm_granules(&self) -> BTreeSet<u64> {
        self.machine().rmm.granules.keys().copied().collect()
    }

    /// Asserts that the pages which are still allocated are those with a lost granule in them, and that the ledger knows
    /// exactly the granules the RMM kept.
    pub(crate) fn assert_all_came_back_or_is_named(rmm: &Rmm<Self>) {
        let now = rmm.ledger().snapshot();
        let kept = rmm.host().realm_granules();
        assert_eq!(now.held(), 0, "granules the RMM holds that are not counted lost");
        assert_eq!(now.leaked, u64::try_from(kept.len()).unwrap());
        let named: BTreeSet<u64> = Self::losses(rmm).iter().map(|loss| loss.pa).collect();
        assert!(
            named.is_subset(&kept) && named.len() == kept.len().min(MAX_LOSSES),
            "named {named:x?}, kept {kept:x?}"
        );
        let machine = rmm.host().machine();
        let page = rmm.host().page_size();
        let reached = machine.rmm.shared();
        for &pa in machine.pins.keys() {
            // Of a host page that could not be unmapped a part may be.
            let host_page = pa & !(page - 1)..(pa | (page - 1)) + 1;
            let held = reached.iter().any(|range| range.start < host_page.end && host_page.start < range.end);
            assert!(held, "memory at {pa:#x} stays in place, and no realm can reach it");
        }
        for (&base, &pages) in &machine.blocks {
            for base in (base..base + (pages as u64) * page).step_by(usize::try_from(page).unwrap()) {
                let lost = kept.range(base..base + page).next();
                assert!(lost.is_some(), "the page at {base:#x} leaked without a lost granule");
            }
        }
    }

    /// The granules that were lost, as far as they are named.
    pub(crate) fn losses(rmm: &Rmm<Self>) -> Vec<Loss> {
        rmm.ledger().losses().collect()
    }

    /// Granules with one byte all over, as a VMM's page.
    pub(crate) fn source_page(&self, byte: u8) -> PageBlock {
        let page = self.machine().alloc(1, self.page_size());
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

    fn fails_at_random(&mut self) -> bool {
        let Some((state, one_in)) = &mut self.random else { return false };
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33).is_multiple_of(*one_in)
    }

    /// Takes a block, or a part of one, out of what is allocated.
    fn take(&mut self, block: &PageBlock, page_size: u64) {
        let size = (block.pages as u64) * page_size;
        let around = self.blocks.range(..=block.pa).next_back().map(|(&pa, &pages)| (pa, pages));
        let (base, pages) = around.expect("freed memory was allocated");
        let before = usize::try_from((block.pa - base) / page_size).expect("a number of pages");
        let behind = pages.checked_sub(before + block.pages).expect("freed memory was allocated");
        self.blocks.remove(&base);
        for (pa, pages) in [(base, before), (block.pa + size, behind)] {
            if pages > 0 {
                self.blocks.insert(pa, pages);
            }
        }
        let held = self.rmm.granules.range(block.pa..block.pa + size).next();
        assert!(held.is_none(), "freed memory the RMM holds: {held:?}");
        let gone: Vec<u64> = self.contents.range(block.pa..block.pa + size).map(|(&pa, _)| pa).collect();
        for pa in gone {
            self.contents.remove(&pa);
        }
    }

    fn content(&mut self, pa: u64) -> &mut GranuleBytes {
        let base = pa & !(GRANULE_SIZE - 1);
        assert!(!self.rmm.granules.contains_key(&base), "granule protection fault at {pa:#x}");
        self.contents.entry(base).or_insert_with(|| Box::new(GranuleBytes([0; GRANULE_SIZE as usize])))
    }
}
