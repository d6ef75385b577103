//! Locks and events, as a kernel makes them.

use crate::Errno;
use core::ops::DerefMut;

/// The kinds of locks, in the order in which they may be taken: a thread that holds one takes only later ones. A kernel
/// makes a class of its lock checker of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LockClass {
    /// A vCPU's own state: held by the thread that makes an ioctl of the vCPU, from its beginning to its end, over user
    /// memory, allocations and sleep too. No other thread needs it but to make an ioctl of the same vCPU.
    Vcpu,
    /// A change of a VM's slots or attributes, as a whole: over the calls that take memory away from the realm.
    Layout,
    /// A VM's configuration.
    Config,
    /// The list of a VM's vCPUs.
    Vcpus,
    /// A share of a realm's 2 MiB blocks: their tables and what is mapped in them. Over one piece of work.
    Blocks,
    /// A share of the chunks of a guest_memfd.
    Memfd,
    /// A realm's tables above those of the last level. Over one command.
    UpperTables,
    /// A VM's slots and attributes, to look at them.
    Slots,
    /// A realm's state.
    Realm,
    /// The granule a realm keeps for a table without which memory could not be taken away from it.
    Reserve,
    /// What other threads ask of a vCPU: whether it is on, its vector lengths.
    VcpuPublic,
    /// The VMs of the machine.
    Vms,
    /// Host pages larger than a granule, of which a part is in use.
    Granules,
    /// VMIDs, and numbers of vCPUs.
    Numbers,
    /// Granules that were lost.
    Losses,
}

impl LockClass {
    /// All of them, in order.
    pub const ALL: [Self; 15] = [
        Self::Vcpu,
        Self::Layout,
        Self::Config,
        Self::Vcpus,
        Self::Blocks,
        Self::Memfd,
        Self::UpperTables,
        Self::Slots,
        Self::Realm,
        Self::Reserve,
        Self::VcpuPublic,
        Self::Vms,
        Self::Granules,
        Self::Numbers,
        Self::Losses,
    ];

    /// Its name for a lock checker.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vcpu => "realm_vcpu",
            Self::Layout => "realm_layout",
            Self::Config => "realm_config",
            Self::Vcpus => "realm_vcpus",
            Self::Blocks => "realm_blocks",
            Self::Memfd => "realm_memfd",
            Self::UpperTables => "realm_upper_tables",
            Self::Slots => "realm_slots",
            Self::Realm => "realm_state",
            Self::Reserve => "realm_reserve",
            Self::VcpuPublic => "realm_vcpu_public",
            Self::Vms => "realm_vms",
            Self::Granules => "realm_granules",
            Self::Numbers => "realm_numbers",
            Self::Losses => "realm_losses",
        }
    }

    /// Whether a thread that holds such a lock may touch user memory and wait for other threads.
    #[must_use]
    pub const fn allows_sleep(self) -> bool {
        matches!(self, Self::Vcpu)
    }

    /// Whether a thread that holds such a lock may let others run ([`Host::yield_now`](crate::Host::yield_now)): it is held
    /// over long work, and nobody needs it to get on.
    #[must_use]
    pub const fn allows_yield(self) -> bool {
        matches!(self, Self::Vcpu | Self::Layout)
    }
}

/// A mutual exclusion lock that sleeps where there is a scheduler. Process context.
pub trait Lock<T>: Send + Sync + Sized {
    /// Access to the value while the lock is held.
    type Guard<'a>: DerefMut<Target = T>
    where
        Self: 'a,
        T: 'a;
    /// A free lock around `value`. It may be moved; a kernel whose locks must not move puts them into memory of their own.
    ///
    /// # Errors
    /// `ENOMEM`.
    fn new(class: LockClass, value: T) -> Result<Self, Errno>;
    /// Waits for the lock and takes it: for what is held for bounded work of the Host core.
    fn lock(&self) -> Self::Guard<'_>;
    /// Waits for the lock and takes it, unless the thread is killed: where a user can make another one wait.
    ///
    /// # Errors
    /// `EINTR` if the thread is about to die.
    fn lock_killable(&self) -> Result<Self::Guard<'_>, Errno>;
}

/// Something a vCPU thread sleeps on.
pub trait Event: Send + Sync + Sized {
    /// An event nobody has signalled. It may be moved.
    ///
    /// # Errors
    /// `ENOMEM`.
    fn new() -> Result<Self, Errno>;
    /// Sleeps until [`Self::signal`] (also one that came before), the deadline ([`Host::counter`](crate::Host::counter)
    /// ticks) or a signal for the calling thread; consumes the signalled state. Process context.
    fn wait(&self, deadline: Option<u64>);
    /// Wakes the sleeper, or the next one. Any context.
    fn signal(&self);
}
