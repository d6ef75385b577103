//! A VMM's process on the machine's Host: memory, file descriptors, signals, ioctls. It is the operating system that
//! realm-vmm drives.

mod space;

use crate::hardware::memory::report;
use crate::host::event_state::EventState;
use crate::host::machine_host::MachineHost;
use crate::host::rules;
use crate::machine::Machine;
use crate::pas::Pas;
use crate::probe::fault::{Point, mix};
use crate::probe::log::lock;
use realm_abi::Errno;
use realm_host::host::{Hold, Owner, Pinned};
use realm_host::{Device, File, UserMemory};
use realm_vmm::{Fd, System};
use space::{Resolved, Space};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

thread_local! {
    /// The system call this thread is in.
    static CALL: RefCell<Option<Arc<Call>>> = const { RefCell::new(None) };
}

/// The system call the calling thread is in.
pub(crate) fn current_call() -> Option<Arc<Call>> {
    CALL.with_borrow(Clone::clone)
}

/// [`OpenFile::signal`]: no signal.
const NONE: u8 = 0;
/// [`OpenFile::signal`]: one of [`Shared::disturbed`], after which the call is made again.
const DISTURBANCE: u8 = 1;
/// [`OpenFile::signal`]: somebody sent one.
const SENT: u8 = 2;

/// An open file: released when its last descriptor, mapping and system call are gone.
struct OpenFile {
    file: File<MachineHost>,
    /// A signal waits for the thread that runs this vCPU.
    signal: AtomicU8,
    /// What the thread that runs this vCPU sleeps on.
    sleeping_on: Mutex<Option<Arc<EventState>>>,
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.file.release();
    }
}

struct Shared {
    device: realm_host::Arc<Device<MachineHost>>,
    owner: Owner,
    space: Mutex<Space>,
    files: Mutex<BTreeMap<i32, Arc<OpenFile>>>,
    /// Files that mappings keep, by address.
    mapped: Mutex<BTreeMap<u64, Arc<OpenFile>>>,
    dying: AtomicBool,
    /// ioctls made so far, where they are disturbed.
    calls: AtomicU64,
    /// Those made again.
    repeated: AtomicU64,
}

impl Shared {
    fn host(&self) -> &MachineHost {
        self.device.host()
    }

    fn machine(&self) -> &Machine {
        self.host().machine()
    }

    fn install(&self, file: File<MachineHost>) -> i32 {
        let mut files = lock(&self.files);
        let mut fd = 3;
        while files.contains_key(&fd) {
            fd += 1;
        }
        let open = OpenFile { file, signal: AtomicU8::new(NONE), sleeping_on: Mutex::new(None) };
        files.insert(fd, Arc::new(open));
        fd
    }

    fn open_file(&self, fd: i32) -> Result<Arc<OpenFile>, Errno> {
        lock(&self.files).get(&fd).cloned().ok_or(Errno::EBADF)
    }

    /// Runs `f` on the pieces of `[addr, addr + len)` that lie in one page each: physical address, range of bytes.
    fn for_pieces(
        &self,
        addr: u64,
        len: usize,
        write: bool,
        mut f: impl FnMut(u64, std::ops::Range<usize>),
    ) -> Result<(), Errno> {
        let page_size = 1_u64 << self.machine().config().host_page_shift;
        let mut done = 0;
        while done < len {
            let at = addr.checked_add(done as u64).ok_or(Errno::EFAULT)?;
            let now = (len - done).min(usize::try_from(page_size - at % page_size).unwrap_or(usize::MAX));
            let mut space = lock(&self.space);
            let pa = space.resolve(self.host(), at, write)?.pa;
            f(pa, done..done + now);
            drop(space);
            done += now;
        }
        Ok(())
    }

    fn read(&self, addr: u64, out: &mut [u8]) -> Result<(), Errno> {
        let machine = self.machine();
        self.for_pieces(addr, out.len(), false, |pa, range| {
            let result = machine.memory().read(Pas::NonSecure, Pas::NonSecure, pa, &mut out[range]);
            report(machine.log(), result);
        })
    }

    fn write(&self, addr: u64, bytes: &[u8]) -> Result<(), Errno> {
        let machine = self.machine();
        self.for_pieces(addr, bytes.len(), true, |pa, range| {
            let result = machine.memory().write(Pas::NonSecure, Pas::NonSecure, pa, &bytes[range]);
            report(machine.log(), result);
        })
    }

    fn release_pages(&self, pages: Vec<u64>) {
        for pa in pages {
            self.host().release_user(pa);
        }
    }

    fn ioctl(&self, call: &Arc<Call>, cmd: u32, arg: u64) -> Result<i64, Errno> {
        loop {
            let outer = CALL.replace(Some(Arc::clone(call)));
            let result = call.open.file.ioctl(&**call, cmd, arg);
            CALL.set(outer);
            let interrupted = result == Err(Errno::EINTR);
            if !interrupted || call.open.signal.swap(NONE, Ordering::AcqRel) != DISTURBANCE {
                return result;
            }
            self.repeated.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// An ioctl in which an allocation fails or a signal arrives. It is made once more if it fails for that.
    fn disturbed(&self, call: &Arc<Call>, cmd: u32, arg: u64) -> Result<i64, Errno> {
        let chance = mix(self.calls.fetch_add(1, Ordering::Relaxed));
        let disturbance = if chance & 1 == 0 { &call.signal_at } else { &call.short_at };
        disturbance.store((chance >> 1 & 3) + 1, Ordering::Relaxed);
        let result = self.ioctl(call, cmd, arg);
        let was_short = chance & 1 != 0 && call.short_at.load(Ordering::Relaxed) == 0;
        if !was_short || result != Err(Errno::ENOMEM) {
            return result;
        }
        self.repeated.fetch_add(1, Ordering::Relaxed);
        self.ioctl(call, cmd, arg)
    }

    fn fault(&self, point: Point) -> Result<(), Errno> {
        match self.machine().faults().hit(point) {
            Some(errno) => Err(Errno(i32::try_from(errno).unwrap_or(Errno::EFAULT.0))),
            None => Ok(()),
        }
    }
}

/// A system call in progress: who made it, and on which file.
pub(crate) struct Call {
    process: Arc<Shared>,
    open: Arc<OpenFile>,
    /// The allocation during which a signal arrives, counted from 1; 0 if none does.
    signal_at: AtomicU64,
    /// The allocation that fails, counted from 1; 0 if none does.
    short_at: AtomicU64,
}

/// Whether it is the turn of what comes once after so many times.
fn is_due(after: &AtomicU64) -> bool {
    after.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)) == Ok(1)
}

impl Call {
    pub fn machine(&self) -> &Machine {
        self.process.machine()
    }
    pub fn install(&self, file: File<MachineHost>) -> Result<i32, Errno> {
        self.process.fault(Point::InstallFile)?;
        Ok(self.process.install(file))
    }
    pub fn file(&self, fd: i32) -> Option<File<MachineHost>> {
        self.process.open_file(fd).ok().map(|open| open.file.clone())
    }
    pub fn is_dying(&self) -> bool {
        self.process.dying.load(Ordering::Acquire)
    }
    pub fn is_interrupted(&self) -> bool {
        self.open.signal.load(Ordering::Acquire) != NONE || self.process.dying.load(Ordering::Acquire)
    }
    /// Lets a signal for this call poke `event` until the result is dropped.
    pub fn wait_on<'a>(self: &'a Arc<Self>, event: &Arc<EventState>) -> impl Drop + use<'a> {
        struct Waiting<'a>(&'a OpenFile);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                *lock(&self.0.sleeping_on) = None;
            }
        }
        *lock(&self.open.sleeping_on) = Some(Arc::clone(event));
        Waiting(&self.open)
    }
}

impl UserMemory for Call {
    fn read(&self, addr: u64, out: &mut [u8]) -> Result<(), Errno> {
        rules::may_allocate("user memory");
        self.process.fault(Point::UserRead)?;
        self.process.read(addr, out)
    }
    fn write(&self, addr: u64, bytes: &[u8]) -> Result<(), Errno> {
        rules::may_allocate("user memory");
        self.process.fault(Point::UserWrite)?;
        self.process.write(addr, bytes)
    }
    fn pin(&self, addr: u64, most: u64, _hold: Hold) -> Result<Pinned, Errno> {
        rules::may_allocate("user memory");
        self.process.fault(Point::Pin)?;
        // Under the lock until the pins count: nobody unmaps or moves the pages in between.
        let mut space = lock(&self.process.space);
        let host = self.process.host();
        let page = 1_u64 << host.machine().config().host_page_shift;
        let Resolved { pa, block } = space.resolve(host, addr, true)?;
        let size = if block == most { block } else { page };
        let pa = pa & !(size - 1);
        (pa..pa + size).step_by(usize::try_from(page).unwrap_or(usize::MAX)).for_each(|pa| host.pin_user(pa));
        drop(space);
        Ok(Pinned { pa, size })
    }
    fn process(&self) -> u64 {
        Arc::as_ptr(&self.process).addr() as u64
    }
    fn owner(&self) -> Owner {
        self.process.owner
    }
    fn must_return(&self) -> bool {
        self.is_interrupted()
    }
    fn must_die(&self) -> bool {
        self.is_dying()
    }
}

/// What may happen while a Host allocates: a signal arrives, there is no memory (the result), and, as it is short, the pages of the
/// calling process that nothing holds move.
pub(crate) fn allocates(host: &MachineHost) -> bool {
    let Some(call) = current_call() else { return true };
    let signal = &call.open.signal;
    if is_due(&call.signal_at)
        && signal.compare_exchange(NONE, DISTURBANCE, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    {
        interrupt(host, &call.open);
    }
    if host.machine().config().reclaim {
        let mut space = lock(&call.process.space);
        space.move_pages(host);
    }
    !is_due(&call.short_at)
}

/// A process. Its files and memory go when it is dropped.
pub struct Process(Arc<Shared>);

impl Process {
    /// A process on the Host behind `device`.
    #[must_use]
    pub fn new(device: &realm_host::Arc<Device<MachineHost>>) -> Self {
        Self::of(device, Owner { user: 1000, privileged: false })
    }

    /// A process of this owner.
    #[must_use]
    pub fn of(device: &realm_host::Arc<Device<MachineHost>>, owner: Owner) -> Self {
        Self(Arc::new(Shared {
            device: device.clone(),
            owner,
            space: Mutex::default(),
            files: Mutex::default(),
            mapped: Mutex::default(),
            dying: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
        }))
    }

    /// A child with the same open files, and memory of its own.
    #[must_use]
    pub fn fork(&self) -> Self {
        let child = Self::of(&self.0.device, self.0.owner);
        lock(&child.0.files).extend(lock(&self.0.files).iter().map(|(fd, file)| (*fd, Arc::clone(file))));
        child
    }

    /// The Host it runs on.
    #[must_use]
    pub fn host(&self) -> &MachineHost {
        self.0.host()
    }

    /// ioctls that were made again as an allocation had failed or a signal had come ([`disturb`](crate::MachineConfig::disturb)).
    #[must_use]
    pub fn repeated(&self) -> u64 {
        self.0.repeated.load(Ordering::Relaxed)
    }

    /// mmap and munmap round sizes up.
    fn whole_pages(&self, size: u64) -> u64 {
        size.next_multiple_of(1 << self.0.machine().config().host_page_shift)
    }

    /// Address and size of all mappings.
    #[must_use]
    pub fn mappings(&self) -> Vec<(u64, u64)> {
        lock(&self.0.space).mappings()
    }

    /// [`System::map`] without huge pages: MADV_NOHUGEPAGE.
    ///
    /// # Errors
    /// See [`System::map`].
    pub fn map_without_huge_pages(&self, size: u64) -> Result<u64, Errno> {
        self.map_anonymous(size, false)
    }

    fn map_anonymous(&self, size: u64, huge: bool) -> Result<u64, Errno> {
        if size == 0 {
            return Err(Errno::EINVAL);
        }
        let size = self.whole_pages(size);
        Ok(lock(&self.0.space).map(size, huge))
    }

    /// Makes a part of a mapping (page aligned) writable or not. A huge page is split if it is only partly in it.
    ///
    /// # Errors
    /// `EINVAL` if the range is not mapped.
    pub fn protect(&self, addr: u64, size: u64, writable: bool) -> Result<(), Errno> {
        let size = self.whole_pages(size);
        let page_size = self.whole_pages(1);
        lock(&self.0.space).protect(addr, size, writable, page_size)
    }

    /// Dies: system calls in progress are interrupted, then files and mappings go.
    pub fn exit(&self) {
        self.0.dying.store(true, Ordering::Release);
        let files: Vec<_> = lock(&self.0.files).values().cloned().collect();
        for open in &files {
            interrupt(self.host(), open);
        }
        drop(files);
        let files = std::mem::take(&mut *lock(&self.0.files));
        let mapped = std::mem::take(&mut *lock(&self.0.mapped));
        drop((files, mapped));
        let pages = lock(&self.0.space).clear();
        self.0.release_pages(pages);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.exit();
    }
}

/// Delivers what a signal does to the thread that runs a vCPU.
fn interrupt(host: &MachineHost, open: &OpenFile) {
    if let File::Vcpu(vcpu) = &open.file {
        host.machine().kick(vcpu.number());
    }
    if let Some(event) = lock(&open.sleeping_on).as_ref() {
        event.poke();
    }
}

impl System for Process {
    /// Backed by huge pages of 2 MiB where the mapping has room for them and the Host has them; those of which a part is
    /// discarded or protected are split.
    fn map(&self, size: u64) -> Result<u64, Errno> {
        self.map_anonymous(size, true)
    }

    fn unmap(&self, addr: u64, size: u64) -> Result<(), Errno> {
        let size = self.whole_pages(size);
        if !lock(&self.0.space).is_mapping(addr, size) {
            return Err(Errno::EINVAL);
        }
        let pages = lock(&self.0.space).unmap(addr);
        self.0.release_pages(pages);
        let file = lock(&self.0.mapped).remove(&addr);
        drop(file);
        Ok(())
    }

    fn discard(&self, addr: u64, size: u64) -> Result<(), Errno> {
        let pages = lock(&self.0.space).discard(addr, size)?;
        self.0.release_pages(pages);
        Ok(())
    }

    fn read(&self, addr: u64, out: &mut [u8]) -> Result<(), Errno> {
        self.0.read(addr, out)
    }

    fn write(&self, addr: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.0.write(addr, bytes)
    }

    fn open_device(&self) -> Result<Fd, Errno> {
        Ok(Fd(self.0.install(File::Device(self.0.device.clone()))))
    }

    fn ioctl(&self, fd: Fd, cmd: u32, arg: u64) -> Result<i64, Errno> {
        let open = self.0.open_file(fd.0)?;
        let call = Arc::new(Call {
            process: Arc::clone(&self.0),
            open,
            signal_at: AtomicU64::new(0),
            short_at: AtomicU64::new(0),
        });
        let disturb = self.0.machine().config().disturb;
        if disturb { self.0.disturbed(&call, cmd, arg) } else { self.0.ioctl(&call, cmd, arg) }
    }

    fn map_run(&self, vcpu: Fd, size: u64) -> Result<u64, Errno> {
        let open = self.0.open_file(vcpu.0)?;
        let File::Vcpu(file) = &open.file else { return Err(Errno::EINVAL) };
        let addr = lock(&self.0.space).map_file_page(file.run_page(), self.whole_pages(size));
        lock(&self.0.mapped).insert(addr, open);
        Ok(addr)
    }

    fn kick(&self, vcpu: Fd) {
        if let Ok(open) = self.0.open_file(vcpu.0) {
            open.signal.store(SENT, Ordering::Release);
            interrupt(self.host(), &open);
        }
    }

    fn close(&self, fd: Fd) {
        let file = lock(&self.0.files).remove(&fd.0);
        drop(file);
    }
}
