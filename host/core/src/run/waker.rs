//! Waking vCPUs. All of it may be called in atomic context: it takes no lock of the Host core, allocates nothing, and holds
//! no vCPU or VM, which could be the last to do so.

use crate::host::Event;
use crate::rmm::Rmm;
use crate::run::irqchip::Wake;
use crate::{Errno, Host};
use core::sync::atomic::{AtomicBool, Ordering};
use realm_alloc::{Arc, Vec};

/// What it takes to make a vCPU's thread look around.
pub(crate) struct Waker<H: Host> {
    /// What the Host knows the vCPU by.
    number: u32,
    /// The thread is to look around before it enters the realm again.
    kicked: AtomicBool,
    event: H::Event,
}

impl<H: Host> Waker<H> {
    /// The waker of a vCPU with this number.
    pub(crate) fn new(number: u32) -> Result<Self, Errno> {
        Ok(Self { number, kicked: AtomicBool::new(false), event: H::Event::new()? })
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Makes the thread look around: at signals it has, interrupts, the state of the VM.
    pub(crate) fn wake(&self, host: &H) {
        self.kicked.store(true, Ordering::SeqCst);
        self.event.signal();
        host.kick(self.number);
    }

    pub(crate) fn take_kick(&self) -> bool {
        self.kicked.swap(false, Ordering::SeqCst)
    }

    pub(crate) fn is_kicked(&self) -> bool {
        self.kicked.load(Ordering::SeqCst)
    }

    /// Sleeps until [`Self::wake`], a signal or the deadline.
    pub(crate) fn wait(&self, deadline: Option<u64>) {
        self.event.wait(deadline);
    }
}

/// The vCPUs of a VM by id, as they are when its interrupt controller starts: none comes after that.
pub(crate) struct Wakers<H: Host> {
    rmm: Arc<Rmm<H>>,
    by_id: Vec<Option<Arc<Waker<H>>>>,
}

impl<H: Host> Wakers<H> {
    /// Room for ids below `count`.
    pub(crate) fn new(rmm: Arc<Rmm<H>>, count: u32) -> Result<Self, Errno> {
        let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
        let by_id = Vec::try_from_iter(core::iter::repeat_with(|| None).take(count))?;
        Ok(Self { rmm, by_id })
    }

    pub(crate) fn set(&mut self, id: u32, waker: Arc<Waker<H>>) {
        if let Some(place) = usize::try_from(id).ok().and_then(|id| self.by_id.get_mut(id)) {
            *place = Some(waker);
        }
    }
}

impl<H: Host> Wake for Wakers<H> {
    fn wake(&self, vcpu: u32) {
        let place = usize::try_from(vcpu).ok().and_then(|id| self.by_id.get(id));
        if let Some(Some(waker)) = place {
            waker.wake(self.rmm.host());
        }
    }
}
