//! The Host of a machine: which pages of DRAM are whose.

use super::pages::Pages;
use crate::config::DRAM_BASE;
use crate::hardware::memory::report;
use crate::machine::Machine;
use crate::pas::Pas;
use crate::probe::log::{Event, lock};
use realm_abi::GRANULE_SIZE;
use realm_host::{Device, Host, Limits};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

/// Explanations kept.
pub(super) const MAX_EXPLANATIONS: usize = 64;

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
    pub(super) machine: Arc<Machine>,
    /// log2 of the page size.
    pub(super) shift: u32,
    state: Mutex<PageState>,
    pub(super) explanations: Mutex<VecDeque<String>>,
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

    /// A Host on `machine` with its device opened for processes: what [`crate::host::process::Process::new`] takes.
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

    pub(super) fn alloc_block(&self, order: u32, split: bool) -> Option<u64> {
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

    pub(super) fn free_block(&self, pa: u64, order: u32) {
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
    pub(super) fn unpin_user(&self, pa: u64) {
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
    pub(super) fn check_owned(&self, pa: u64) {
        if !lock(&self.state).pages.is_out(self.page(pa)) {
            self.machine.log().push(Event::HostMisuse(format!("access to {pa:#x}, which is not allocated")));
        }
    }
}
