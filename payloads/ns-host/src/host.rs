//! The Host core's surroundings on bare metal: spin locks, pages, the counter, interrupts between CPUs.

use crate::memory;
use crate::registers::{Cycles, Guard, Mode};
use alloc::collections::BTreeMap;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use realm_abi::Errno;
use realm_abi::rmi::RmiCommand;
use realm_abi::smccc::SVE_HINT;
use realm_el2::lock::{Mutex, MutexGuard, relax};
use realm_el2::sysreg::{mask, mrs, unmask, wfi};
use realm_el2::{MAX_CPUS, cpu, gic, smc, timer, uart};
use realm_host::host::{
    Entry, Event, GranuleBytes, Hold, Lock, LockClass, Owner, PageBlock, Pinned, Purpose,
};
use realm_host::irqchip::GicConfig;
use realm_host::{File, Host, UserMemory};
use realm_vgic::{Locks, Vgic};

/// A spin lock: there is no scheduler.
pub struct SpinLock<T>(Mutex<T>);

impl<T: Send> Lock<T> for SpinLock<T> {
    type Guard<'a>
        = MutexGuard<'a, T>
    where
        T: 'a;
    fn new(_class: LockClass, value: T) -> Result<Self, Errno> {
        Ok(Self(Mutex::new(value)))
    }
    fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock()
    }
    fn lock_killable(&self) -> Result<MutexGuard<'_, T>, Errno> {
        Ok(self.0.lock())
    }
}

/// A spin lock that keeps interrupts away from the CPU that holds it.
pub struct MaskedLock<T>(Mutex<T>);

/// What holds it. Fields go in this order: the lock is let go before interrupts come.
pub struct MaskedGuard<'a, T> {
    guard: MutexGuard<'a, T>,
    _masked: Masked,
}

impl<T> Deref for MaskedGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for MaskedGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

impl<T: Send> realm_vgic::SpinLock<T> for MaskedLock<T> {
    type Guard<'a>
        = MaskedGuard<'a, T>
    where
        T: 'a;
    fn new(_order: realm_vgic::Order, value: T) -> Result<Self, Errno> {
        Ok(Self(Mutex::new(value)))
    }
    fn lock(&self) -> MaskedGuard<'_, T> {
        let masked = Masked::new();
        MaskedGuard { guard: self.0.lock(), _masked: masked }
    }
}

/// The locks of an interrupt controller.
pub struct MaskedLocks;

impl Locks for MaskedLocks {
    type Lock<T: Send> = MaskedLock<T>;
}

/// Interrupts are away until this goes, if they were not before.
struct Masked {
    before: bool,
}

impl Masked {
    /// PSTATE.I in DAIF.
    const I: u64 = 1 << 7;

    fn new() -> Self {
        let before = mrs!("daif") & Self::I != 0;
        mask();
        Self { before }
    }
}

impl Drop for Masked {
    fn drop(&mut self) {
        if !self.before {
            unmask();
        }
    }
}

/// What a CPU waits on.
pub struct CpuEvent {
    signalled: AtomicBool,
    /// The CPU that waits, plus one.
    waiter: AtomicUsize,
}

impl CpuEvent {
    /// One that nobody has signalled.
    pub const fn fresh() -> Self {
        Self { signalled: AtomicBool::new(false), waiter: AtomicUsize::new(0) }
    }
}

impl Event for CpuEvent {
    fn new() -> Result<Self, Errno> {
        Ok(Self::fresh())
    }

    fn wait(&self, deadline: Option<u64>) {
        self.waiter.store(cpu() + 1, Ordering::SeqCst);
        loop {
            mask();
            if self.signalled.swap(false, Ordering::SeqCst)
                || deadline.is_some_and(|deadline| deadline <= timer::now())
            {
                break;
            }
            if let Some(deadline) = deadline {
                timer::set(deadline);
            }
            // Whoever signals after the look above has interrupted this CPU, which ends the wait.
            wfi();
            unmask();
        }
        timer::clear();
        unmask();
        self.waiter.store(0, Ordering::SeqCst);
    }

    fn signal(&self) {
        self.signalled.store(true, Ordering::SeqCst);
        if let Some(cpu) = self.waiter.load(Ordering::SeqCst).checked_sub(1) {
            gic::wake(cpu);
        }
    }
}

/// Physical addresses of the last commands that named them, for attacks on what is there.
#[derive(Default)]
pub struct Seen {
    /// RD of the last realm that was made.
    pub rd: AtomicU64,
    /// REC that was made last.
    pub rec: AtomicU64,
    /// DATA granule that was filled last.
    pub data: AtomicU64,
    /// RTT that was made last.
    pub rtt: AtomicU64,
}

impl Seen {
    fn note(&self, command: &RmiCommand) {
        let (slot, pa) = match *command {
            RmiCommand::RealmCreate { rd, .. } => (&self.rd, rd),
            RmiCommand::RecCreate { rec, .. } => (&self.rec, rec),
            RmiCommand::DataCreate { data, .. } => (&self.data, data),
            RmiCommand::RttCreate { rtt, .. } => (&self.rtt, rtt),
            _ => return,
        };
        slot.store(pa, Ordering::Relaxed);
    }
}

/// The machine as the Host core sees it.
pub struct BareHost {
    files: Mutex<BTreeMap<i32, File<Self>>>,
    /// The vCPU each CPU is about to run or runs, plus one.
    loaded: [AtomicU64; MAX_CPUS],
    /// Entries of realms that are still to be cut short by an interrupt.
    preempt: AtomicU64,
    warnings: AtomicU64,
    /// Whether registers of this world get patterns around every call after which SIMD registers may be others'.
    guard: AtomicBool,
    /// How many runs, and how many hashes, were guarded.
    guarded: [AtomicU64; 2],
    /// The modes they were made in.
    modes: [AtomicU64; 2],
    /// The first register that did not survive a run.
    changed: Mutex<Option<(&'static str, u64, u64)>>,
    /// What commands named.
    pub seen: Seen,
}

/// Ticks of the counter after which a realm is cut short: 60 to 960 microseconds, so that wherever the end of a slice falls, and
/// however slow the machine, some are long enough for the realm to get on.
fn slice(entry: u64) -> u64 {
    timer::frequency() * (1 + entry % 16) * 6 / 100_000
}

impl BareHost {
    /// A host without files.
    pub fn new() -> Self {
        Self {
            files: Mutex::default(),
            loaded: [const { AtomicU64::new(0) }; MAX_CPUS],
            preempt: AtomicU64::new(0),
            warnings: AtomicU64::new(0),
            guard: AtomicBool::new(false),
            guarded: Default::default(),
            modes: Default::default(),
            changed: Mutex::new(None),
            seen: Seen::default(),
        }
    }

    /// Cuts the next `entries` of realms short.
    pub fn preempt(&self, entries: u64) {
        self.preempt.store(entries, Ordering::Relaxed);
    }

    /// Lets an interrupt end the run that begins now, if it is one of those to be cut short. It is taken after `vcpu_put`.
    fn cut_short(&self) {
        let left =
            self.preempt.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if let Ok(left) = left {
            timer::set(timer::now() + slice(left));
        }
    }

    /// Guards this world's registers in every run of a realm and around every measurement from now on, or no longer.
    pub fn guard(&self, on: bool) {
        self.guard.store(on, Ordering::Relaxed);
    }

    /// The modes of SIMD in which realms were run and hashes were made.
    pub fn modes(&self) -> [u64; 2] {
        self.modes.each_ref().map(|modes| modes.load(Ordering::Relaxed))
    }

    /// Which kind of guarded call it is, if it is one.
    const fn guarded(command: &RmiCommand) -> Option<usize> {
        match command {
            RmiCommand::RecEnter { .. } => Some(0),
            RmiCommand::RealmCreate { .. }
            | RmiCommand::RecCreate { .. }
            | RmiCommand::DataCreate { .. }
            | RmiCommand::RttInitRipas { .. } => Some(1),
            _ => None,
        }
    }

    /// Guards a call of this kind: the mode is the next.
    fn guard_call(&self, kind: usize) -> (Guard, Mode) {
        let mode = Mode::new(self.guarded[kind].fetch_add(1, Ordering::Relaxed));
        self.modes[kind].fetch_or(mode.bit(), Ordering::Relaxed);
        (Guard::set(timer::now(), mode), mode)
    }

    /// The first register that did not survive a guarded call: name, what it was after the call and before.
    pub fn changed(&self) -> Option<(&'static str, u64, u64)> {
        *self.changed.lock()
    }

    /// How often the Host core had something to say an administrator should know.
    pub fn warnings(&self) -> u64 {
        self.warnings.load(Ordering::Relaxed)
    }

    /// Closes a file.
    pub fn close(&self, fd: i32) {
        let file = self.files.lock().remove(&fd);
        if let Some(file) = file {
            file.release();
        }
    }
}

impl Host for BareHost {
    type Lock<T: Send> = SpinLock<T>;
    type Event = CpuEvent;
    type Irqchip = Vgic<MaskedLocks>;

    fn page_shift(&self) -> u32 {
        12
    }

    fn vmid_bits(&self) -> u32 {
        if mrs!("id_aa64mmfr1_el1") >> 4 & 0xf == 2 { 16 } else { 8 }
    }

    fn cpus(&self) -> usize {
        MAX_CPUS
    }

    fn cpu(&self) -> usize {
        cpu()
    }

    fn alloc(&self, pages: usize, _purpose: Purpose) -> Option<PageBlock> {
        memory::alloc(pages).map(|pa| PageBlock { pa, pages })
    }

    fn free(&self, block: PageBlock) {
        if let Err(granule) = memory::free(block.pa, block.pages) {
            self.warn(format_args!("{granule:#x} was freed while another world has it"));
        }
    }

    fn unpin(&self, _pinned: Pinned) {}

    fn with_granule<R>(&self, pa: u64, work: impl FnOnce(&mut GranuleBytes) -> R) -> R {
        memory::with_page(pa, work)
    }

    fn read_phys(&self, pa: u64, out: &mut [u8]) {
        memory::read(pa, out);
    }

    fn write_phys(&self, pa: u64, bytes: &[u8]) {
        memory::write(pa, bytes);
    }

    fn smc(&self, mut regs: [u64; 8]) -> [u64; 5] {
        let command = RmiCommand::from_regs(&regs);
        self.seen.note(&command);
        let kind = Self::guarded(&command).filter(|_| self.guard.load(Ordering::Relaxed));
        let guard = kind.map(|kind| self.guard_call(kind));
        if guard.as_ref().is_some_and(|(_, mode)| mode.has_hint()) {
            regs[0] |= SVE_HINT;
        }
        let enters = matches!(command, RmiCommand::RecEnter { .. });
        if enters {
            self.cut_short();
        }
        let cycles = enters.then(Cycles::start);
        let [x0, x1, x2, x3, x4, ..] = smc::call(regs);
        if let Some(counted @ 1..) = cycles.map(Cycles::stop) {
            self.changed.lock().get_or_insert(("pmccntr_el0 of a run", counted, 0));
        }
        // A page is measured with the CPU's instructions.
        let hashed = matches!(command, RmiCommand::DataCreate { .. }) && x0 == 0;
        if let Some(changed) = guard.and_then(|(guard, _)| guard.changed(hashed)) {
            self.changed.lock().get_or_insert(changed);
        }
        [x0, x1, x2, x3, x4]
    }

    fn counter(&self) -> (u64, u64) {
        (timer::now(), timer::frequency())
    }

    fn yield_now(&self) {
        relax();
    }

    fn kick(&self, vcpu: u32) {
        for (cpu, loaded) in self.loaded.iter().enumerate() {
            if loaded.load(Ordering::SeqCst) == u64::from(vcpu) + 1 {
                gic::wake(cpu);
            }
        }
    }

    fn vcpu_load(&self, entry: &Entry) {
        mask();
        if entry.mask_pmu {
            gic::disable(gic::PMU);
        }
        self.loaded[cpu()].store(u64::from(entry.vcpu) + 1, Ordering::SeqCst);
    }

    fn vcpu_put(&self, entry: &Entry) {
        self.loaded[cpu()].store(0, Ordering::SeqCst);
        if entry.mask_pmu {
            gic::enable(gic::PMU);
        }
        unmask();
        timer::clear();
    }

    fn install_file(&self, file: File<Self>) -> Result<i32, Errno> {
        let mut files = self.files.lock();
        let fd = (3..).find(|fd| !files.contains_key(fd)).ok_or(Errno::EMFILE)?;
        files.insert(fd, file);
        Ok(fd)
    }

    fn file(&self, fd: i32) -> Option<File<Self>> {
        self.files.lock().get(&fd).cloned()
    }

    fn create_irqchip(&self, config: &GicConfig) -> Result<realm_host::Arc<Vgic<MaskedLocks>>, Errno> {
        Ok(realm_host::Arc::try_new(Vgic::new(config)?)?)
    }

    fn explain(&self, message: core::fmt::Arguments<'_>) {
        uart::line(format_args!("host: {message}"));
    }

    fn warn(&self, message: core::fmt::Arguments<'_>) {
        self.warnings.fetch_add(1, Ordering::Relaxed);
        uart::line(format_args!("host: WARNING: {message}"));
    }
}

/// The program's own memory, as that of the process that makes ioctls: addresses mean what they mean to the program.
pub struct User<'a> {
    /// Whether calls in progress are to return.
    pub stop: &'a AtomicBool,
    /// How often it may still be asked before they are to return anyway; `u32::MAX` for no limit.
    pub patience: AtomicU32,
}

impl UserMemory for User<'_> {
    fn read(&self, addr: u64, out: &mut [u8]) -> Result<(), Errno> {
        if !memory::is_memory(addr, out.len()) {
            return Err(Errno::EFAULT);
        }
        memory::read(addr, out);
        Ok(())
    }

    fn write(&self, addr: u64, bytes: &[u8]) -> Result<(), Errno> {
        if !memory::is_memory(addr, bytes.len()) {
            return Err(Errno::EFAULT);
        }
        memory::write(addr, bytes);
        Ok(())
    }

    fn pin(&self, addr: u64, most: u64, _hold: Hold) -> Result<Pinned, Errno> {
        /// What a realm shares is mapped in blocks of this: see [`crate::realm`].
        const BLOCK: u64 = 2 << 20;
        if !memory::is_memory(addr, memory::PAGE as usize) {
            return Err(Errno::EFAULT);
        }
        let size = if most >= BLOCK { BLOCK } else { memory::PAGE };
        Ok(Pinned { pa: addr & !(size - 1), size })
    }

    fn process(&self) -> u64 {
        1
    }

    fn owner(&self) -> Owner {
        Owner { user: 0, privileged: true }
    }

    fn must_return(&self) -> bool {
        let less = |left: u32| if left == u32::MAX { Some(left) } else { left.checked_sub(1) };
        let patient = self.patience.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok();
        self.stop.load(Ordering::SeqCst) || !patient
    }

    fn must_die(&self) -> bool {
        false
    }
}
