//! The realm's devices: its accesses to them, and what a person does with them.

use super::calls::Caller;
use super::{RealmVm, VmError};
use crate::devices::Access;
use crate::{Fd, System, dtb, lock};
use realm_abi::kvm::{Ioctl, IrqLevel, IrqLine};
use realm_devices::{Console, Dma, Env, GuestMemory, Interrupts, NoMemory, PortId, VirtioPci};
use std::cell::RefCell;
use std::io::Write;
use std::sync::atomic::Ordering;

/// The first interrupt number the device tree counts from.
const FIRST_SPI: u32 = 32;

/// The shared side of RAM, as this process sees it. What is private reads as zero.
struct SharedRam<'a, S> {
    system: &'a S,
    base: u64,
    shared: u64,
}

impl<S: System> GuestMemory for SharedRam<'_, S> {
    fn read(&self, ipa: u64, out: &mut [u8]) -> Result<(), NoMemory> {
        let offset = ipa.checked_sub(self.base).ok_or(NoMemory)?;
        self.system.read(self.shared + offset, out).map_err(|_| NoMemory)
    }

    fn write(&self, ipa: u64, bytes: &[u8]) -> Result<(), NoMemory> {
        let offset = ipa.checked_sub(self.base).ok_or(NoMemory)?;
        self.system.write(self.shared + offset, bytes).map_err(|_| NoMemory)
    }
}

/// KVM's interrupt controller, from one thread.
struct Gic<'a, 'c, S: System> {
    caller: &'a Caller<'c, S>,
    vm: Fd,
    /// The first that failed.
    failed: RefCell<Option<VmError>>,
}

impl<S: System> Interrupts for Gic<'_, '_, S> {
    fn pulse(&self, spi: u32) {
        let irq = IrqLine::spi(spi as u16).0;
        for level in [1, 0] {
            if let Err(error) = self.caller.with(self.vm, Ioctl::IrqLine, &IrqLevel { irq, level }) {
                self.failed.borrow_mut().get_or_insert(error);
            }
        }
    }
}

impl<S: System> RealmVm<'_, S> {
    /// Lets `work` have what devices reach, with the interrupts made through `caller`.
    fn with_env<T>(&self, caller: &Caller<'_, S>, work: impl FnOnce(&Env<'_>) -> T) -> Result<T, VmError> {
        let (base, shared) = (self.layout.ram.base, self.shared_ram);
        let memory = SharedRam { system: self.resources.system(), base, shared };
        let gic = Gic { caller, vm: self.vm, failed: RefCell::default() };
        let dma = Dma { memory: &memory, ram: self.devices.ram };
        let env = Env { dma, frame: self.devices.frame, interrupts: &gic };
        let result = work(&env);
        match gic.failed.take() {
            Some(error) => Err(error),
            None => Ok(result),
        }
    }

    /// Goes on with what devices have left: they stop after a while so that this thread can be stopped.
    fn settle(&self, env: &Env<'_>) {
        while self.devices.pci.resume(env) && !self.stopping.load(Ordering::SeqCst) {}
    }

    /// A read of the realm: whether something is there.
    pub(super) fn mmio_read(
        &self,
        caller: &Caller<'_, S>,
        address: u64,
        out: &mut [u8],
    ) -> Result<bool, VmError> {
        let access = self.devices.read(address, out);
        self.accessed(caller, access)
    }

    /// A write of the realm: whether something is there.
    pub(super) fn mmio_write(
        &self,
        caller: &Caller<'_, S>,
        address: u64,
        bytes: &[u8],
    ) -> Result<bool, VmError> {
        let access = self.with_env(caller, |env| {
            let access = self.devices.write(env, address, bytes);
            if matches!(access, Access::Pci) {
                self.settle(env);
            }
            access
        })?;
        self.accessed(caller, access)
    }

    fn accessed(&self, caller: &Caller<'_, S>, access: Access) -> Result<bool, VmError> {
        match access {
            Access::Nobody => return Ok(false),
            Access::Pci | Access::Done => {}
            Access::Pulse(spi) => self.with_env(caller, |env| env.interrupts.pulse(spi))?,
            Access::Uart => {
                if lock(&self.devices.uart).take_interrupt() {
                    self.raise_uart(caller)?;
                }
            }
        }
        Ok(true)
    }

    /// The UART's interrupt is an edge.
    fn raise_uart(&self, caller: &Caller<'_, S>) -> Result<(), VmError> {
        self.with_env(caller, |env| env.interrupts.pulse(FIRST_SPI + dtb::UART_SPI))
    }

    /// A person does something with the console device.
    fn with_hvc<T>(&self, work: impl FnOnce(&mut VirtioPci<Console>, &Env<'_>) -> T) -> Result<T, VmError> {
        // One at a time: the scratch page is for one.
        let scratch = lock(&self.input_scratch);
        self.with_env(&self.caller(*scratch), |env| {
            let result = work(&mut lock(&self.devices.console), env);
            self.settle(env);
            result
        })
    }

    /// What the realm wrote to its UART, its first 16 MiB.
    #[must_use]
    pub fn output(&self) -> Vec<u8> {
        lock(&self.devices.uart).output().to_vec()
    }

    /// Shows what the realm writes to its UART from now on.
    pub fn show_console(&self, out: Box<dyn Write + Send>) {
        lock(&self.devices.uart).show(out);
    }

    /// Somebody types: as much as the UART has room for; how much that was.
    ///
    /// # Errors
    /// If the interrupt cannot be raised.
    pub fn type_in(&self, bytes: &[u8]) -> Result<usize, VmError> {
        // One at a time: the scratch page is for one.
        let scratch = lock(&self.input_scratch);
        let mut uart = lock(&self.devices.uart);
        let taken = uart.receive(bytes);
        let raise = uart.take_interrupt();
        drop(uart);
        if raise {
            self.raise_uart(&self.caller(*scratch))?;
        }
        Ok(taken)
    }

    /// What the realm wrote to hvc0, its first 16 MiB.
    #[must_use]
    pub fn hvc_output(&self) -> Vec<u8> {
        self.devices.hvc().kept().to_vec()
    }

    /// Shows what the realm writes to hvc0 from now on. Of a writer that would block the rest waits in the realm until
    /// [`Self::resume_hvc`]; one that blocks holds the vCPU that writes.
    pub fn show_hvc(&self, out: Box<dyn Write + Send>) {
        self.devices.hvc().show(out);
    }

    /// The writer of [`Self::show_hvc`] takes more.
    ///
    /// # Errors
    /// If an interrupt cannot be raised.
    pub fn resume_hvc(&self) -> Result<(), VmError> {
        self.with_hvc(|console, env| console.resume_output(env))
    }

    /// Somebody types on hvc0: as much as there is room for; how much that was. It waits there until the realm has opened it.
    ///
    /// # Errors
    /// If an interrupt cannot be raised.
    pub fn type_in_hvc(&self, bytes: &[u8]) -> Result<usize, VmError> {
        self.with_hvc(|console, env| console.input(env, PortId::CONSOLE, bytes))
    }

    /// The terminal behind hvc0 has this size.
    ///
    /// # Errors
    /// If an interrupt cannot be raised.
    pub fn resize_hvc(&self, columns: u16, rows: u16) -> Result<(), VmError> {
        self.with_hvc(|console, env| console.resize(env, columns, rows))
    }

    /// Whether the realm has opened hvc0.
    #[must_use]
    pub fn hvc_is_open(&self) -> bool {
        lock(&self.devices.console).is_open(PortId::CONSOLE)
    }

    /// What the realm wrote to the port `org.realmkit.verdict`, its first 4 KiB.
    #[must_use]
    pub fn verdict(&self) -> Vec<u8> {
        self.devices.verdict()
    }
}
