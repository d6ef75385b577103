//! What the Host core needs of its surroundings.

pub(crate) mod user;

use crate::{Errno, File, irqchip::Irqchip};
use alloc::sync::Arc;
use core::ops::DerefMut;

/// A mutual exclusion lock; a sleeping one where there is a scheduler.
pub trait Lock<T>: Send + Sync {
    /// Access to the value while the lock is held.
    type Guard<'a>: DerefMut<Target = T>
    where
        Self: 'a,
        T: 'a;
    /// A free lock around `value`.
    fn new(value: T) -> Self;
    /// Waits for the lock and takes it.
    fn lock(&self) -> Self::Guard<'_>;
}

/// Something a vCPU thread sleeps on.
pub trait Event: Send + Sync {
    /// An event nobody has signalled.
    fn new() -> Self;
    /// Sleeps until [`Self::signal`] (also one that came before), the deadline ([`Host::counter`] ticks) or a signal
    /// for the calling thread; consumes the signalled state.
    fn wait(&self, deadline: Option<u64>);
    /// Wakes the sleeper, or the next one.
    fn signal(&self);
}

/// Pages the Host core owns: `pages` host pages from `pa` on. Not `Clone`: whoever holds it may free it.
#[derive(Debug, PartialEq, Eq)]
pub struct PageBlock {
    /// Physical address, aligned to the block's size.
    pub pa: u64,
    /// Host pages, a power of two.
    pub pages: usize,
}

/// A user page held in place. Give it back with [`UserMemory::unpin`].
#[derive(Debug, PartialEq, Eq)]
pub struct PinnedPage {
    /// Physical address of the host page.
    pub pa: u64,
    /// Whether it may be written through the user mapping.
    pub writable: bool,
    /// Bytes of the block of user memory around the page that the process maps as one, physically contiguous, with the
    /// same rights, and aligned to its size in both address spaces: a huge page, which a kernel knows from the folio and
    /// the level of the process's entry. A power of two; the size of a host page where there is no such block. Only the
    /// page is held: of the rest the Host core is told by [`Vm::invalidation_begins`](crate::Vm::invalidation_begins).
    pub block: u64,
}

/// The memory of the process that makes an ioctl.
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
    /// Faults in and holds the host page at `addr` (page aligned), and tells what it is a part of.
    ///
    /// # Errors
    /// `EFAULT` if nothing is mapped there or it is not writable although `write` asks for it, `ENOMEM`.
    fn pin(&self, addr: u64, write: bool) -> Result<PinnedPage, Errno>;
    /// Releases a held page.
    fn unpin(&self, page: PinnedPage);
    /// Whether the calling thread must return to user space (a signal, or the VMM is dying).
    fn interrupted(&self) -> bool;
}

/// Everything under and around the Host core. One value serves all VMs; all methods may be called on many threads at
/// once.
pub trait Host: Sized + Send + Sync + 'static {
    /// The lock for data that several ioctls share.
    type Lock<T: Send>: Lock<T>;
    /// What blocked vCPUs sleep on.
    type Event: Event;

    /// log2 of the host page size: 12, 14 or 16.
    fn page_shift(&self) -> u32;

    /// Bits of a VMID on this machine: 8, or 16 with FEAT_VMID16.
    fn vmid_bits(&self) -> u32 {
        8
    }

    /// Allocates `pages` (a power of two) contiguous host pages, aligned to their total size, filled with zeros.
    /// `None` when there are none; large requests may fail where single pages succeed.
    fn alloc(&self, pages: usize) -> Option<PageBlock>;

    /// Gives pages back: an allocation, or a part of one (a power of two of pages, aligned to its size) when another
    /// part is lost. Every granule of them must be Non-secure.
    fn free(&self, block: PageBlock);

    /// Copies from a page the Host core owns or has pinned.
    fn read_phys(&self, pa: u64, out: &mut [u8]);

    /// Copies to a page the Host core owns or has pinned.
    fn write_phys(&self, pa: u64, bytes: &[u8]);

    /// Secure monitor call. X0 to X7 in, X0 to X4 out. For REC_ENTER it takes as long as the realm runs; the
    /// implementation keeps the thread on its CPU and lets interrupts end the run.
    fn smc(&self, regs: [u64; 8]) -> [u64; 5];

    /// The counter timers are measured against (CNTPCT_EL0) and its ticks per second.
    fn counter(&self) -> (u64, u64);

    /// Lets others run. Called between bounded pieces of long operations, never with a lock held that an interrupt
    /// handler takes.
    fn yield_now(&self);

    /// Makes the thread that is between [`Self::vcpu_load`] and [`Self::vcpu_put`] of this vCPU (its
    /// [`number`](crate::Vcpu::number)) leave the realm soon: a REC_ENTER that runs now or starts before `vcpu_put`
    /// returns promptly, as after a physical interrupt. Nothing happens if there is no such thread.
    fn kick(&self, vcpu: u32);

    /// The calling thread is about to enter a realm as this vCPU. Until [`Self::vcpu_put`] the Host core takes no
    /// lock, does not sleep and makes one SMC; it looks for a request to leave after this call, so a [`Self::kick`]
    /// from here on must not be lost. A kernel disables preemption and interrupts here.
    fn vcpu_load(&self, _vcpu: u32) {}

    /// The calling thread no longer is this vCPU. A kernel takes its pending interrupts here.
    fn vcpu_put(&self, _vcpu: u32) {}

    /// Gives the calling process a file descriptor for `file`, close-on-exec.
    ///
    /// When the last descriptor of the file goes away, also because the process dies, call [`File::release`].
    ///
    /// # Errors
    /// `EMFILE` or `ENOMEM`; the file is then released by the caller of this function.
    fn install_file(&self, file: File<Self>) -> Result<i32, Errno>;

    /// The file behind a descriptor of the calling process, `None` if it is none of ours.
    fn file(&self, fd: i32) -> Option<File<Self>>;

    /// An emulated GICv3 for a new VM.
    ///
    /// # Errors
    /// `ENODEV` if this host has none.
    fn create_irqchip(&self) -> Result<Arc<dyn Irqchip>, Errno> {
        Err(Errno::ENODEV)
    }

    /// Says why an ioctl is about to fail or a vCPU to stop, in words for who debugs a VMM. Rate-limit it: a VMM can
    /// cause any number.
    fn explain(&self, _message: core::fmt::Arguments<'_>) {}

    /// Says something an administrator should know. Never because of what a VMM asked for.
    fn warn(&self, message: core::fmt::Arguments<'_>);
}
