//! The life of a VM: in which part of it it is, and who is inside of its ioctls.

use crate::host::Event;
use crate::{Errno, Host};
use core::sync::atomic::{AtomicU32, Ordering};

/// Parts of a life; each leads to later ones only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Life {
    /// Everything is possible.
    Runs,
    /// The realm switched itself off: no vCPU of it can be entered again.
    Off,
    /// Nothing but closing files is left.
    Over,
}

/// Bits of the word that hold the part of life; those above count who is inside.
const PART: u32 = 3;
const ONE_INSIDE: u32 = 4;

/// See the module.
pub(crate) struct LifeCycle<H: Host> {
    word: AtomicU32,
    /// Signalled when the last one leaves after the end.
    left: H::Event,
}

/// Somebody inside of an ioctl of the VM: until it is dropped nothing is taken down.
pub(crate) struct Inside<'a, H: Host>(&'a LifeCycle<H>);

impl<H: Host> LifeCycle<H> {
    pub(crate) fn new() -> Result<Self, Errno> {
        Ok(Self { word: AtomicU32::new(0), left: H::Event::new()? })
    }

    pub(crate) fn get(&self) -> Life {
        match self.word.load(Ordering::SeqCst) & PART {
            0 => Life::Runs,
            1 => Life::Off,
            _ => Life::Over,
        }
    }

    /// Goes on to `part`, unless it is further already.
    fn advance(&self, part: Life) {
        let further = |word: u32| Some(word & !PART | (word & PART).max(part as u32));
        // The closure always has a new value.
        let _ = self.word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, further);
    }

    pub(crate) fn switch_off(&self) {
        self.advance(Life::Off);
    }

    pub(crate) fn end(&self) {
        self.advance(Life::Over);
    }

    /// Enters an ioctl.
    ///
    /// # Errors
    /// `EIO` when life is over.
    pub(crate) fn enter(&self) -> Result<Inside<'_, H>, Errno> {
        let more = |word: u32| (word & PART < Life::Over as u32).then(|| word.wrapping_add(ONE_INSIDE));
        let entered = self.word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more);
        entered.map(|_| Inside(self)).map_err(|_| Errno::EIO)
    }

    /// Waits until nobody is inside. After [`Self::end`], or it may never be so.
    pub(crate) fn wait_until_empty(&self, host: &H) {
        while self.word.load(Ordering::SeqCst) >= ONE_INSIDE {
            // It returns at once where the caller has a signal.
            self.left.wait(None);
            host.yield_now();
        }
        // Others who wait for the same may be asleep.
        self.left.signal();
    }
}

impl<H: Host> Drop for Inside<'_, H> {
    fn drop(&mut self) {
        let before = self.0.word.fetch_sub(ONE_INSIDE, Ordering::SeqCst);
        if before & PART >= Life::Over as u32 {
            self.0.left.signal();
        }
    }
}
