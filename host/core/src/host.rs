//! What the Host core needs of its surroundings, and which of it may be used when.
//!
//! There are two contexts:
//!
//! * **process context**: a thread of a VMM in an ioctl or in the release of a file. It may sleep, allocate and touch user
//!   memory, but does the last two only while it holds no lock of the Host core but that of the vCPU it runs itself
//!   ([`LockClass::Vcpu`]): whoever reclaims memory or serves a page fault may need any other. It also allocates with the lock
//!   of a VM's layout ([`LockClass::Layout`]), which only ioctls that change slots and attributes need.
//! * **atomic context**: between [`Host::vcpu_load`] and [`Host::vcpu_put`], and wherever an interrupt is raised or a vCPU
//!   woken (a kernel does that with interrupts off). Nothing there sleeps, allocates, frees, or holds the last reference to
//!   anything.
//!
//! What each method is called in is in its documentation; where nothing is said it is process context.

mod lock;
pub(crate) mod user;

pub use lock::{Event, Lock, LockClass};

use crate::run::irqchip::{GicConfig, Irqchip};
use crate::{Errno, File};
use core::fmt::Arguments;
use realm_abi::GRANULE_SIZE;
use realm_alloc::Arc;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A granule's bytes, aligned as it is, so that the structures of RMI can be built and read in them.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(4096))]
pub struct GranuleBytes(pub [u8; GRANULE_SIZE as usize]);

/// What pages are for: a kernel accounts them to the process by it, and chooses where they come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Realm Descriptors, tables, RECs and their auxiliary granules: to be delegated.
    Realm,
    /// Private memory of a guest: to be delegated.
    Guest,
    /// What the Host hands to the RMM and reads back. It stays Non-secure, and the RMM has to take it for memory that can be
    /// delegated (RMM 1.0, PaIsDelegable).
    Exchange,
    /// The page a VMM maps from a vCPU's file. The RMM never sees it.
    RunPage,
}

/// Pages the Host core owns: `pages` host pages from `pa` on. Not `Clone`: whoever holds it may free it.
#[derive(Debug, PartialEq, Eq)]
pub struct PageBlock {
    /// Physical address, aligned to the block's size.
    pub pa: u64,
    /// Host pages, a power of two.
    pub pages: usize,
}

/// Memory of the VMM, held in place. Give it back with [`Host::unpin`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "memory that is dropped stays in place for ever"]
pub struct Pinned {
    /// Physical address of the first byte.
    pub pa: u64,
    /// Bytes, all of them held: a host page, or a larger power of two to which `pa` is aligned.
    pub size: u64,
}

/// How long memory is held in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// For the time of one ioctl.
    Briefly,
    /// For as long as a realm can reach it, as a device would. A kernel moves it out of where such memory must not be, and
    /// charges it to the process.
    Lasting,
}

/// Who owns a process, for what one user may have of what all share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its user.
    pub user: u32,
    /// Whether limits of users do not apply to it.
    pub privileged: bool,
}

/// The process that makes an ioctl: its memory, its identity, and what else its thread has to do. Process context.
pub trait UserMemory {
    /// Reads.
    ///
    /// # Errors
    /// `EFAULT` if any byte is not readable.
    fn read(&self, addr: u64, out: &mut [u8]) -> Result<(), Errno>;
    /// Writes.
    ///
    /// # Errors
    /// `EFAULT` if any byte is not writable.
    fn write(&self, addr: u64, bytes: &[u8]) -> Result<(), Errno>;
    /// Faults in and holds the memory at `addr` (a multiple of the host page), for reading and writing: the block of `most`
    /// bytes around it if the process maps all of it as one, physically contiguous and aligned to its size in both address
    /// spaces (a huge page); else the host page alone, also where it lies in a block of another size.
    ///
    /// # Errors
    /// `EFAULT` if nothing is mapped there or it is not writable, `ENOMEM`.
    fn pin(&self, addr: u64, most: u64, hold: Hold) -> Result<Pinned, Errno>;
    /// The address space of the process: the same number for its threads and for nobody else who lives.
    fn process(&self) -> u64;
    /// Who owns it.
    fn owner(&self) -> Owner;
    /// Whether the calling thread must return to user space: it has a signal. Also in atomic context.
    fn must_return(&self) -> bool;
    /// Whether the calling thread is about to die: it stops even in the middle of long work. It then must return as well.
    fn must_die(&self) -> bool;
    /// Whether a kernel has work for the calling thread before it may enter a realm (another thread's turn, say). Also in
    /// atomic context.
    fn has_work(&self) -> bool {
        false
    }
    /// Does that work.
    fn do_work(&self) {}
}

/// How a realm is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The vCPU's [`number`](crate::Vcpu::number).
    pub vcpu: u32,
    /// The realm has an overflow of its own PMU to handle: the physical PMU interrupt, whose line its counters hold up, must
    /// not end the run (RMM 1.0, RmiRecExit, `pmu_ovf_status`). Everything else, also what the Host itself measures by the
    /// PMU, is unmasked again by [`Host::vcpu_put`].
    pub mask_pmu: bool,
}

/// Everything under and around the Host core. One value serves all VMs; all methods may be called on many threads at
/// once.
pub trait Host: Sized + Send + Sync + 'static {
    /// The lock for data that several ioctls share.
    type Lock<T: Send>: Lock<T>;
    /// What blocked vCPUs sleep on.
    type Event: Event;
    /// The interrupt controller of a VM.
    type Irqchip: Irqchip;

    /// log2 of the host page size: 12, 14 or 16.
    fn page_shift(&self) -> u32;

    /// Bits of a VMID on this machine: 8, or 16 with FEAT_VMID16.
    fn vmid_bits(&self) -> u32 {
        8
    }

    /// How many CPUs the machine can have.
    fn cpus(&self) -> usize {
        1
    }

    /// The CPU the caller runs on, below [`Self::cpus`]; it may be another one by the time this returns. Any context.
    fn cpu(&self) -> usize {
        0
    }

    /// Allocates `pages` (a power of two) contiguous host pages, aligned to their total size, filled with zeros.
    /// `None` when there are none; large requests may fail where single pages succeed.
    fn alloc(&self, pages: usize, purpose: Purpose) -> Option<PageBlock>;

    /// Gives pages back: an allocation, or a part of one (a power of two of pages, aligned to its size) when another
    /// part is lost. Every granule of them must be Non-secure. Needs no memory.
    fn free(&self, block: PageBlock);

    /// Gives a page back of which the RMM would not take a granule. Not all memory can be delegated below every EL3: such
    /// a page is best kept for something else, and [`Self::alloc`] should not offer it for a realm again.
    fn free_refused(&self, block: PageBlock) {
        self.free(block);
    }

    /// Releases memory that [`UserMemory::pin`] held, all of it or some of its pages, in the context of any process. Needs no
    /// memory.
    fn unpin(&self, pinned: Pinned);

    /// Lets `work` read and build what is in a granule that the Host core owns or has pinned, in place. Nobody else writes it
    /// meanwhile. Also between [`Self::vcpu_load`] and [`Self::vcpu_put`].
    fn with_granule<R>(&self, pa: u64, work: impl FnOnce(&mut GranuleBytes) -> R) -> R;

    /// Copies from a page the Host core owns or has pinned, which a VMM may write at the same time.
    fn read_phys(&self, pa: u64, out: &mut [u8]);

    /// Copies to a page the Host core owns, which a VMM may read and write at the same time.
    fn write_phys(&self, pa: u64, bytes: &[u8]);

    /// Secure monitor call. X0 to X7 in, X0 to X4 out. For REC_ENTER it takes as long as the realm runs; the
    /// implementation keeps the thread on its CPU and lets interrupts end the run.
    fn smc(&self, regs: [u64; 8]) -> [u64; 5];

    /// The counter timers are measured against (CNTPCT_EL0) and its ticks per second. Any context.
    fn counter(&self) -> (u64, u64);

    /// Lets others run: called between the pieces of long work, with no lock held that others need to get on
    /// ([`LockClass::allows_yield`]).
    fn yield_now(&self);

    /// Makes the thread that is between [`Self::vcpu_load`] and [`Self::vcpu_put`] of this vCPU (its
    /// [`number`](crate::Vcpu::number)) leave the realm soon: a REC_ENTER that runs now or starts before `vcpu_put`
    /// returns promptly, as after a physical interrupt. Nothing happens if there is no such thread. Any context.
    fn kick(&self, vcpu: u32);

    /// The calling thread is about to enter a realm. Until [`Self::vcpu_put`] the context is atomic and one SMC is made; the
    /// Host core looks for a request to leave after this call, so a [`Self::kick`] from here on must not be lost. A kernel
    /// disables preemption and interrupts here.
    fn vcpu_load(&self, entry: &Entry);

    /// The calling thread no longer is this vCPU. A kernel takes its pending interrupts here.
    fn vcpu_put(&self, entry: &Entry);

    /// Gives the calling process a file descriptor for `file`, close-on-exec.
    ///
    /// When the last descriptor of the file goes away, also because the process dies, call [`File::release`].
    ///
    /// # Errors
    /// `EMFILE` or `ENOMEM`; the file is then released by the caller of this function.
    fn install_file(&self, file: File<Self>) -> Result<i32, Errno>;

    /// The file behind a descriptor of the calling process, `None` if it is none of ours.
    fn file(&self, fd: i32) -> Option<File<Self>>;

    /// An emulated GICv3 for a VM, as it is after a reset, with all the memory it ever needs.
    ///
    /// # Errors
    /// `ENOMEM`, or `EINVAL` for a configuration it cannot have.
    fn create_irqchip(&self, config: &GicConfig) -> Result<Arc<Self::Irqchip>, Errno>;

    /// Says why an ioctl is about to fail or a vCPU to stop, in words for who debugs a VMM. Rate-limit it: a VMM can
    /// cause any number.
    fn explain(&self, _message: Arguments<'_>) {}

    /// Says something an administrator should know. Never because of what a VMM asked for.
    fn warn(&self, message: Arguments<'_>);
}
