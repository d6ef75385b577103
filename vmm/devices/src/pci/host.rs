//! The host bridge: configuration space at fixed addresses (ECAM), and a window for the functions' memory.

use crate::{Env, lock};
use std::sync::{Arc, Mutex};

/// What a function answers to.
pub trait Function: Send {
    /// A read of its configuration space.
    fn read_config(&mut self, offset: usize, out: &mut [u8]);
    /// A write of its configuration space.
    fn write_config(&mut self, env: &Env<'_>, offset: usize, bytes: &[u8]);
    /// A read of memory: whether it is the function's.
    fn read(&mut self, address: u64, out: &mut [u8]) -> bool;
    /// A write of memory: whether it is the function's.
    fn write(&mut self, env: &Env<'_>, address: u64, bytes: &[u8]) -> bool;
    /// Goes on with work that was left; whether there is still more.
    fn resume(&mut self, env: &Env<'_>) -> bool;
}

/// Where the host bridge answers, in the protected half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciWindows {
    /// Configuration space.
    pub config_base: u64,
    /// Memory of the functions.
    pub memory_base: u64,
    /// Bytes of that.
    pub memory_size: u64,
}

impl PciWindows {
    /// Bytes of the configuration space of one bus.
    pub const CONFIG_SIZE: u64 = 1 << 20;
}

/// An address in one of the windows.
enum Place {
    /// A device, and a register in its function 0; other functions are nobody's.
    Config(Option<usize>, usize),
    Memory,
}

/// The host bridge and the functions of its only bus, each behind a lock of its own.
pub struct PciHost {
    windows: PciWindows,
    functions: Vec<Arc<Mutex<dyn Function>>>,
}

impl PciHost {
    /// Without functions.
    #[must_use]
    pub const fn new(windows: PciWindows) -> Self {
        Self { windows, functions: Vec::new() }
    }

    /// Adds a function; its device number is one more than that of the last one, from 0 on. At most 32 are found.
    pub fn add(&mut self, function: Arc<Mutex<dyn Function>>) {
        self.functions.push(function);
    }

    fn place(&self, address: u64, len: usize) -> Option<Place> {
        let within = |base: u64, size: u64| {
            let offset = address.checked_sub(base)?;
            (offset.checked_add(len as u64)? <= size).then_some(offset)
        };
        if let Some(offset) = within(self.windows.config_base, PciWindows::CONFIG_SIZE) {
            let (device, function, register) = (offset >> 15, offset >> 12 & 7, offset & 0xfff);
            let device = (function == 0).then_some(device as usize);
            return Some(Place::Config(device, register as usize));
        }
        within(self.windows.memory_base, self.windows.memory_size).map(|_| Place::Memory)
    }

    fn function(&self, device: Option<usize>) -> Option<&Mutex<dyn Function>> {
        self.functions.get(device?).map(|function| &**function)
    }

    /// A read of the realm: whether it was in one of the windows. Where nothing is all bits are set.
    pub fn read(&self, address: u64, out: &mut [u8]) -> bool {
        out.fill(0xff);
        match self.place(address, out.len()) {
            Some(Place::Config(device, register)) => {
                if let Some(function) = self.function(device) {
                    lock(function).read_config(register, out);
                }
                true
            }
            Some(Place::Memory) => {
                let _ = self.functions.iter().any(|function| lock(function).read(address, out));
                true
            }
            None => false,
        }
    }

    /// A write of the realm: whether it was in one of the windows.
    pub fn write(&self, env: &Env<'_>, address: u64, bytes: &[u8]) -> bool {
        match self.place(address, bytes.len()) {
            Some(Place::Config(device, register)) => {
                if let Some(function) = self.function(device) {
                    lock(function).write_config(env, register, bytes);
                }
                true
            }
            Some(Place::Memory) => {
                let _ = self.functions.iter().any(|function| lock(function).write(env, address, bytes));
                true
            }
            None => false,
        }
    }

    /// Goes on with work that a device left, because a driver added to it as fast as it was done. Whether there is more.
    pub fn resume(&self, env: &Env<'_>) -> bool {
        let mut more = false;
        for function in &self.functions {
            more |= lock(function).resume(env);
        }
        more
    }
}
