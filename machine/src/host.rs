//! The Host core's surroundings in this process: std locks, pages from the machine's DRAM, its CPUs and its time.

mod pages;
pub(crate) mod rules;

use crate::config::DRAM_BASE;
use crate::fault::Point;
use crate::log::{Event, lock};
use crate::machine::Machine;
use crate::memory::{Pas, report};
use crate::process;
use pages::Pages;
use realm_abi::{Errno, GRANULE_SIZE};
use realm_host::host::{self, Entry, GranuleBytes, LockClass, PageBlock, Pinned, Purpose};
use realm_host::{Device, File, Host, Limits};
use realm_simple_gic::SimpleGic;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// [`host::Lock`] over std's, with its rules checked ([`rules`]).
pub struct StdLock<T> {
    class: LockClass,
    lock: Mutex<T>,
}

/// A held lock.
pub struct StdGuard<'a, T> {
    guard: MutexGuard<'a, T>,
    _held: rules::Held,
}

impl<T> std::ops::Deref for StdGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> std::ops::DerefMut for StdGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

impl<T: Send> host::Lock<T> for StdLock<T> {
    type Guard<'a>
        = StdGuard<'a, T>
    where
        T: 'a;
    fn new(class: LockClass, value: T) -> Result<Self, Errno> {
        Ok(Self { class, lock: Mutex::new(value) })
    }
    fn lock(&self) -> StdGuard<'_, T> {
        let held = rules::Held::of(self.class);
        StdGuard { guard: lock(&self.lock), _held: held }
    }
    fn lock_killable(&self) -> Result<StdGuard<'_, T>, Errno> {
        if process::current_call().is_some_and(|call| call.is_dying()) {
            return Err(Errno::EINTR);
        }
        Ok(self.lock())
    }
}

/// What [`StdEvent`] shares with the call that waits on it.
#[derive(Debug, Default)]
pub(crate) struct EventState {
    signalled: Mutex<bool>,
    wake: Condvar,
}

impl EventState {
    /// Makes a waiter look at its conditions again.
    pub fn poke(&self) {
        // Under the lock: a waiter is then either before its look or asleep, never between.
        let _state = lock(&self.signalled);
        self.wake.notify_all();
    }
}

/// [`host::Event`] over std's condition variable.
#[derive(Default)]
pub struct StdEvent(Arc<EventState>);

impl host::Event for StdEvent {
    fn new() -> Result<Self, Errno> {
        Ok(Self::default())
    }
    fn wait(&self, deadline: Option<u64>) {
        rules::may_sleep("an event");
        let call = process::current_call();
        let _waiting = call.as_ref().map(|call| call.wait_on(&self.0));
        let mut signalled = lock(&self.0.signalled);
        loop {
            if std::mem::take(&mut *signalled) || call.as_ref().is_some_and(|call| call.is_interrupted()) {
                return;
            }
            let timeout = match (deadline, call.as_ref()) {
                (Some(deadline), Some(call)) => match call.machine().clock().until(deadline) {
                    Some(timeout) => Some(timeout),
                    None => return,
                },
                _ => None,
            };
            signalled = match timeout {
                Some(timeout) => match self.0.wake.wait_timeout(signalled, timeout) {
                    Ok((guard, _)) => guard,
                    Err(poisoned) => poisoned.into_inner().0,
                },
                None => self.0.wake.wait(signalled).unwrap_or_else(std::sync::PoisonError::into_inner),
            };
        }
    }
    fn signal(&self) {
        *lock(&self.0.signalled) = true;
        self.0.wake.notify_one();
    }
}

/// Explanations kept.
const MAX_EXPLANATIONS: usize = 64;

#[derive(Debug)]
struct PageState {
    pages: Pages,
    /// Holders of each page of a process: its mapping, and pins.
    user: HashMap<u64, u32>,
    /// Pins alone.
    pins: u64,
}

/// The Host of a machine: implements [`Host`] for the Host core.
pub struct MachineHost {
    machine: Arc<Machine>,
    /// log2 of the page size.
    shift: u32,
    state: Mutex<PageState>,
    explanations: Mutex<VecDeque<String>>,
}

impl MachineHost {
    /// A Host that owns all DRAM of `machine`.
    #[must_use]
    pub fn new(machine: Arc<Machine>) -> Self {
        let shift = machine.config().host_page_shift;
        let pages = Pages::new(machine.memory().size() >> shift);
        let state = Mutex::new(PageState { pages, user: HashMap::new(), pins: 0 });
        Self { machine, shift, state, explanations: Mutex::default() }
    }

    /// A Host on `machine` with its device opened for processes: what [`crate::process::Process::new`] takes.
    #[must_use]
    pub fn boot(machine: Arc<Machine>) -> realm_host::Arc<Device<Self>> {
        Self::boot_with(machine, Limits::default())
    }

    /// [`Self::boot`] with what an administrator chooses.
    ///
    /// # Panics
    /// If this process has no memory left.
    #[must_use]
    pub fn boot_with(machine: Arc<Machine>, limits: Limits) -> realm_host::Arc<Device<Self>> {
        Device::new(Self::new(machine), limits).expect("there is memory for a device")
    }

    /// The machine.
    #[must_use]
    pub const fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    /// Host pages that are allocated, by the Host core or for processes.
    #[must_use]
    pub fn pages_out(&self) -> u64 {
        lock(&self.state).pages.out()
    }

    /// Why ioctls failed, in the Host core's words; the last ones.
    #[must_use]
    pub fn explanations(&self) -> Vec<String> {
        lock(&self.explanations).iter().cloned().collect()
    }

    /// User pages held in place by the Host core.
    #[must_use]
    pub fn pinned(&self) -> u64 {
        lock(&self.state).pins
    }

    const fn page_size(&self) -> u64 {
        1 << self.shift
    }

    fn pa(&self, page: u64) -> u64 {
        DRAM_BASE + (page << self.shift)
    }

    fn page(&self, pa: u64) -> u64 {
        pa.wrapping_sub(DRAM_BASE) >> self.shift
    }

    fn alloc_block(&self, order: u32, split: bool) -> Option<u64> {
        let mut state = lock(&self.state);
        let page = state.pages.alloc(order)?;
        if split {
            state.pages.split(page);
        }
        drop(state);
        let pa = self.pa(page);
        for at in (pa..pa + (self.page_size() << order)).step_by(GRANULE_SIZE as usize) {
            report(self.machine.log(), self.machine.memory().clear(Pas::NonSecure, Pas::NonSecure, at));
        }
        Some(pa)
    }

    fn free_block(&self, pa: u64, order: u32) {
        let memory = self.machine.memory();
        let granules = (pa..pa + (self.page_size() << order)).step_by(GRANULE_SIZE as usize);
        if let Some(held) = granules.clone().find(|pa| memory.pas(*pa) != Some(Pas::NonSecure)) {
            let text = format!("freed {pa:#x}, but granule {held:#x} is {:?}", memory.pas(held));
            self.machine.log().push(Event::HostMisuse(text));
            return;
        }
        let mut state = lock(&self.state);
        if state.pages.free(self.page(pa), order).is_err() {
            let text = format!("freed {pa:#x} ({} pages), which is not allocated so", 1_u64 << order);
            self.machine.log().push(Event::HostMisuse(text));
        }
    }

    /// Pages for a process, one after the other from the address on: `1 << order` single pages.
    pub(crate) fn alloc_user(&self, order: u32) -> Option<u64> {
        let pa = self.alloc_block(order, true)?;
        let mut state = lock(&self.state);
        for page in 0..1 << order {
            state.user.insert(pa + (page << self.shift), 1);
        }
        Some(pa)
    }

    /// Holds a page of a process in place.
    pub(crate) fn pin_user(&self, pa: u64) {
        let mut state = lock(&self.state);
        *state.user.entry(pa).or_insert(0) += 1;
        state.pins += 1;
    }

    /// Whether nothing but its mapping holds a page of a process.
    pub(crate) fn is_movable(&self, pa: u64) -> bool {
        lock(&self.state).user.get(&pa) == Some(&1)
    }

    /// Moves a page of a process that nothing else holds; where it is then. Its old place belongs to nobody any more.
    pub(crate) fn move_user(&self, from: u64) -> Option<u64> {
        let to = self.alloc_user(0)?;
        let mut page = vec![0; usize::try_from(self.page_size()).ok()?];
        self.read_phys(from, &mut page);
        self.write_phys(to, &page);
        self.release_user(from);
        Some(to)
    }

    /// Ends [`Self::pin_user`] for a page.
    fn unpin_user(&self, pa: u64) {
        let mut state = lock(&self.state);
        match state.pins.checked_sub(1) {
            Some(pins) => state.pins = pins,
            None => self.machine.log().push(Event::HostMisuse(format!("unpinned {pa:#x} once too often"))),
        }
        drop(state);
        self.release_user(pa);
    }

    /// Drops one hold of a page of a process; frees it with the last.
    pub(crate) fn release_user(&self, pa: u64) {
        let mut state = lock(&self.state);
        let Some(holds) = state.user.get_mut(&pa) else {
            drop(state);
            self.machine.log().push(Event::HostMisuse(format!("released {pa:#x}, no page of a process")));
            return;
        };
        *holds -= 1;
        if *holds == 0 {
            state.user.remove(&pa);
            drop(state);
            self.free_block(pa, 0);
        }
    }

    /// The Host may only touch pages it has.
    fn check_owned(&self, pa: u64) {
        if !lock(&self.state).pages.is_out(self.page(pa)) {
            self.machine.log().push(Event::HostMisuse(format!("access to {pa:#x}, which is not allocated")));
        }
    }
}

impl Host for MachineHost {
    type Lock<T: Send> = StdLock<T>;
    type Event = StdEvent;
    type Irqchip = SimpleGic;

    fn page_shift(&self) -> u32 {
        self.shift
    }

    fn vmid_bits(&self) -> u32 {
        if self.machine.config().features.vmid16 { 16 } else { 8 }
    }

    fn alloc(&self, pages: usize, purpose: Purpose) -> Option<PageBlock> {
        rules::may_allocate("pages");
        process::reclaim(self);
        if self.machine.faults().hit(Point::Alloc).is_some() {
            return None;
        }
        if !pages.is_power_of_two() {
            self.machine.log().push(Event::HostMisuse(format!("{pages} pages are no power of two")));
            return None;
        }
        let _ = purpose;
        self.alloc_block(pages.ilog2(), false).map(|pa| PageBlock { pa, pages })
    }

    fn free(&self, block: PageBlock) {
        rules::not_atomic("free");
        self.free_block(block.pa, block.pages.max(1).ilog2());
    }

    fn unpin(&self, pinned: Pinned) {
        rules::not_atomic("unpin");
        for pa in (pinned.pa..pinned.pa + pinned.size).step_by(1 << self.shift) {
            self.unpin_user(pa);
        }
    }

    fn with_granule<R>(&self, pa: u64, work: impl FnOnce(&mut GranuleBytes) -> R) -> R {
        let mut bytes = Box::new(GranuleBytes([0; GRANULE_SIZE as usize]));
        self.read_phys(pa, &mut bytes.0);
        let before = bytes.clone();
        let result = work(&mut bytes);
        if bytes != before {
            self.write_phys(pa, &bytes.0);
        }
        result
    }

    fn read_phys(&self, pa: u64, out: &mut [u8]) {
        self.check_owned(pa);
        report(self.machine.log(), self.machine.memory().read(Pas::NonSecure, Pas::NonSecure, pa, out));
    }

    fn write_phys(&self, pa: u64, bytes: &[u8]) {
        self.check_owned(pa);
        report(self.machine.log(), self.machine.memory().write(Pas::NonSecure, Pas::NonSecure, pa, bytes));
    }

    fn smc(&self, regs: [u64; 8]) -> [u64; 5] {
        self.machine.smc(regs)
    }

    fn counter(&self) -> (u64, u64) {
        (self.machine.clock().now(), crate::clock::COUNTER_FREQUENCY)
    }

    fn yield_now(&self) {
        rules::may_yield();
        std::thread::yield_now();
    }

    fn kick(&self, vcpu: u32) {
        self.machine.kick(vcpu);
    }

    fn vcpu_load(&self, entry: &Entry) {
        self.machine.load(entry.vcpu);
        rules::begin_atomic();
    }

    fn vcpu_put(&self, entry: &Entry) {
        rules::end_atomic();
        self.machine.put(entry.vcpu);
    }

    fn install_file(&self, file: File<Self>) -> Result<i32, Errno> {
        process::current_call().ok_or(Errno::EBADF)?.install(file)
    }

    fn file(&self, fd: i32) -> Option<File<Self>> {
        process::current_call()?.file(fd)
    }

    fn create_irqchip(&self) -> Result<realm_host::Arc<SimpleGic>, Errno> {
        rules::may_allocate("an interrupt controller");
        Ok(realm_host::Arc::try_new(SimpleGic::default())?)
    }

    fn explain(&self, message: std::fmt::Arguments<'_>) {
        let mut explanations = lock(&self.explanations);
        if explanations.len() == MAX_EXPLANATIONS {
            explanations.pop_front();
        }
        explanations.push_back(message.to_string());
    }

    fn warn(&self, message: std::fmt::Arguments<'_>) {
        self.machine.log().push(Event::HostWarning(message.to_string()));
    }
}
