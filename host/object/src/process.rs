//! The process that makes an ioctl.

use crate::shim;
use realm_abi::Errno;
use realm_host::UserMemory;
use realm_host::host::{Hold, Owner, Pinned};

/// `current`.
pub struct Current;

/// What a function of the C code returned.
pub fn result(returned: i32) -> Result<i32, Errno> {
    if returned >= 0 { Ok(returned) } else { Err(Errno(returned.wrapping_neg())) }
}

impl UserMemory for Current {
    fn read(&self, addr: u64, out: &mut [u8]) -> Result<(), Errno> {
        // SAFETY: `out` is that many bytes.
        result(unsafe { shim::k_copy_from_user(out.as_mut_ptr(), addr, out.len()) }).map(|_| ())
    }

    fn write(&self, addr: u64, bytes: &[u8]) -> Result<(), Errno> {
        // SAFETY: `bytes` is that many bytes.
        result(unsafe { shim::k_copy_to_user(addr, bytes.as_ptr(), bytes.len()) }).map(|_| ())
    }

    fn pin(&self, addr: u64, most: u64, hold: Hold) -> Result<Pinned, Errno> {
        let mut block = [0; 2];
        // SAFETY: `block` is two words.
        result(unsafe { shim::k_pin(addr, most, hold == Hold::Lasting, block.as_mut_ptr()) })?;
        let [pa, size] = block;
        Ok(Pinned { pa, size })
    }

    fn process(&self) -> u64 {
        shim::k_process()
    }

    fn owner(&self) -> Owner {
        Owner { user: shim::k_user(), privileged: shim::k_privileged() }
    }

    fn must_return(&self) -> bool {
        shim::k_must_return()
    }

    fn must_die(&self) -> bool {
        shim::k_must_die()
    }

    fn has_work(&self) -> bool {
        shim::k_has_work()
    }

    fn do_work(&self) {
        shim::k_do_work();
    }
}
