//! A process that makes ioctls.

use super::FakeHost;
use super::heap::Pause;
use super::rules::{self, KILLED};
use crate::host::{Hold, Owner, Pinned};
use crate::rmm::Rmm;
use crate::{Errno, File, UserMemory};
use alloc::boxed::Box;
use core::cell::{Cell, RefCell};
use realm_alloc::Arc;
use zerocopy::{Immutable, IntoBytes};

/// Where the argument of an ioctl lies.
const ARGUMENT: u64 = 0x1000;
/// Where from there on what it points to lies.
const POINTED: usize = 0x80;
/// Physical address of what the process has at address 0: all its memory lies there in one piece.
pub(crate) const USER_PA: u64 = 0x9_0000_0000;

/// What is done before memory is pinned; it is told how often that was.
type OnPin = Box<dyn FnMut(u64)>;

pub(crate) struct Process {
    rmm: Arc<Rmm<FakeHost>>,
    number: u64,
    pub(crate) owner: Owner,
    /// Bytes of the pages it maps: a host page, or more.
    pub(crate) block: Cell<u64>,
    /// What happens before memory is pinned.
    pub(crate) on_pin: RefCell<Option<OnPin>>,
    pins: Cell<u64>,
    argument: RefCell<[u8; 0x100]>,
    /// The thread dies when it was asked this often.
    pub(crate) dies_after: Cell<Option<u64>>,
}

impl Process {
    pub(crate) fn new(rmm: &Arc<Rmm<FakeHost>>, number: u64) -> Self {
        Self {
            rmm: rmm.clone(),
            number,
            owner: Owner { user: 1000, privileged: false },
            block: Cell::new(rmm.host().page_size()),
            on_pin: RefCell::new(None),
            pins: Cell::new(0),
            argument: RefCell::new([0; 0x100]),
            dies_after: Cell::new(None),
        }
    }

    /// An ioctl whose argument is a value.
    pub(crate) fn ioctl(&self, file: &File<FakeHost>, cmd: u32, arg: u64) -> Result<i64, Errno> {
        file.ioctl(self, cmd, arg)
    }

    /// Puts a structure where the argument of an ioctl is; its address.
    pub(crate) fn put_argument<T: IntoBytes + Immutable>(&self, argument: &T) -> u64 {
        let bytes = argument.as_bytes();
        self.argument.borrow_mut()[..bytes.len()].copy_from_slice(bytes);
        ARGUMENT
    }

    /// An ioctl whose argument is a structure.
    pub(crate) fn ioctl_with<T: IntoBytes + Immutable>(
        &self,
        file: &File<FakeHost>,
        cmd: u32,
        argument: &T,
    ) -> Result<i64, Errno> {
        let bytes = argument.as_bytes();
        self.argument.borrow_mut()[..bytes.len()].copy_from_slice(bytes);
        file.ioctl(self, cmd, ARGUMENT)
    }

    /// Puts a structure where the argument of an ioctl points to; its address.
    pub(crate) fn put<T: IntoBytes + Immutable>(&self, value: &T) -> u64 {
        let bytes = value.as_bytes();
        self.argument.borrow_mut()[POINTED..POINTED + bytes.len()].copy_from_slice(bytes);
        ARGUMENT + POINTED as u64
    }

    /// Whether it has this number.
    pub(crate) fn is(&self, number: u64) -> bool {
        self.number == number
    }

    /// How often memory was pinned.
    pub(crate) fn pins(&self) -> u64 {
        self.pins.get()
    }
}

impl UserMemory for Process {
    fn read(&self, addr: u64, out: &mut [u8]) -> Result<(), Errno> {
        rules::check_user_access("user memory is read");
        let offset = usize::try_from(addr.checked_sub(ARGUMENT).ok_or(Errno::EFAULT)?).unwrap();
        out.copy_from_slice(self.argument.borrow().get(offset..offset + out.len()).ok_or(Errno::EFAULT)?);
        Ok(())
    }

    fn write(&self, addr: u64, bytes: &[u8]) -> Result<(), Errno> {
        rules::check_user_access("user memory is written");
        let offset = usize::try_from(addr.checked_sub(ARGUMENT).ok_or(Errno::EFAULT)?).unwrap();
        let mut argument = self.argument.borrow_mut();
        argument.get_mut(offset..offset + bytes.len()).ok_or(Errno::EFAULT)?.copy_from_slice(bytes);
        Ok(())
    }

    fn pin(&self, addr: u64, most: u64, _hold: Hold) -> Result<Pinned, Errno> {
        rules::check_user_access("user memory is pinned");
        let _pause = Pause::new();
        if let Some(act) = &mut *self.on_pin.borrow_mut() {
            act(self.pins.get());
        }
        self.pins.set(self.pins.get() + 1);
        let size = if self.block.get() == most { most } else { self.rmm.host().page_size() };
        Ok(self.rmm.host().hold(USER_PA + (addr & !(size - 1)), size))
    }

    fn process(&self) -> u64 {
        self.number
    }

    fn owner(&self) -> Owner {
        self.owner
    }

    fn must_return(&self) -> bool {
        self.must_die()
    }

    fn must_die(&self) -> bool {
        if let Some(left) = self.dies_after.get() {
            self.dies_after.set(left.checked_sub(1));
            if left == 0 {
                KILLED.set(true);
            }
        }
        KILLED.get()
    }
}
