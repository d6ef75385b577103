//! How much of the VMMs' memory is held in place because realms can reach it, and how much may be: of a VM, and of all VMs of
//! a user.

use crate::error::RealmError;
use core::sync::atomic::{AtomicU64, Ordering};
use realm_alloc::Arc;

/// What all VMs of a user hold.
#[derive(Debug)]
pub struct UserPins {
    user: u32,
    bytes: AtomicU64,
}

impl UserPins {
    /// Nothing yet.
    #[must_use]
    pub const fn new(user: u32) -> Self {
        Self { user, bytes: AtomicU64::new(0) }
    }

    /// The user.
    #[must_use]
    pub const fn user(&self) -> u32 {
        self.user
    }

    /// Bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// What a VM holds. Nothing of it is released by dropping it.
#[derive(Debug)]
pub struct Pins {
    bytes: AtomicU64,
    limit: u64,
    of_user: Arc<UserPins>,
    user_limit: u64,
}

impl Pins {
    /// Nothing yet, of `limit` bytes of this VM and `user_limit` of all VMs of its user.
    #[must_use]
    pub const fn new(limit: u64, of_user: Arc<UserPins>, user_limit: u64) -> Self {
        Self { bytes: AtomicU64::new(0), limit, of_user, user_limit }
    }

    /// Bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// What all VMs of the user hold.
    #[must_use]
    pub const fn of_user(&self) -> &Arc<UserPins> {
        &self.of_user
    }

    /// Counts memory that is going to be held.
    pub(super) fn charge(&self, size: u64) -> Result<(), RealmError> {
        if !add(&self.bytes, size, self.limit) {
            return Err(RealmError::TooMuchPinned { limit: self.limit });
        }
        if !add(&self.of_user.bytes, size, self.user_limit) {
            self.bytes.fetch_sub(size, Ordering::Relaxed);
            return Err(RealmError::TooMuchPinnedByUser { limit: self.user_limit });
        }
        Ok(())
    }

    /// Memory that was counted is not held any more.
    pub(super) fn discharge(&self, size: u64) {
        self.bytes.fetch_sub(size, Ordering::Relaxed);
        self.of_user.bytes.fetch_sub(size, Ordering::Relaxed);
    }
}

/// Adds to a sum that has a limit; whether it stays within it.
fn add(sum: &AtomicU64, size: u64, limit: u64) -> bool {
    let more = |now: u64| now.checked_add(size).filter(|sum| *sum <= limit);
    sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "too many steps for an interpreter")]
    fn vms_that_pin_at_once_get_no_more_than_their_user_may_hold() {
        // Of four VMs three can have what they want at a time.
        const EACH: u64 = 3;
        let of_user = Arc::try_new(UserPins::new(7)).unwrap();
        let vms: std::vec::Vec<_> = (0..4).map(|_| Pins::new(EACH, of_user.clone(), 3 * EACH)).collect();
        let start = std::sync::Barrier::new(vms.len());
        std::thread::scope(|threads| {
            for vm in &vms {
                threads.spawn(|| {
                    start.wait();
                    for _ in 0..500_000 {
                        let charged = vm.charge(EACH);
                        assert!(of_user.bytes() <= 3 * EACH);
                        if charged.is_ok() {
                            vm.discharge(EACH);
                        }
                    }
                });
            }
        });
        assert_eq!((of_user.bytes(), vms.iter().map(Pins::bytes).sum::<u64>()), (0, 0));
        let charged = vms.iter().map(|vm| vm.charge(EACH)).filter(Result::is_ok);
        assert_eq!((charged.count(), of_user.bytes()), (3, 3 * EACH));
    }
}
