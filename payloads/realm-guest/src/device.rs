//! The VMM's devices, behind the unprotected alias (see `payloads/ns-host`).

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

const UART: u64 = 0x0100_0000;
const SCRATCH: u64 = 0x0100_1000;
const CONTROL: u64 = 0x0100_2000;
const ABSENT: u64 = 0x0100_3000;

static ALIAS: AtomicU64 = AtomicU64::new(0);

/// Learns which bit makes an address unprotected.
pub fn init(alias: u64) {
    ALIAS.store(alias, Ordering::Relaxed);
}

fn at(address: u64) -> u64 {
    ALIAS.load(Ordering::Relaxed) | address
}

/// Memory-like bytes.
pub fn scratch() -> u64 {
    at(SCRATCH)
}

/// Where the VMM answers with an external abort.
pub fn absent() -> u64 {
    at(ABSENT)
}

/// The distributor; the redistributors end where it begins.
pub fn distributor() -> u64 {
    at(0x3fff_0000)
}

/// Prints a byte.
pub fn print(byte: u8) {
    // SAFETY: a device's address, at which there is no memory. The form of the store is one the VMM can emulate.
    unsafe { asm!("strb {0:w}, [{1}]", in(reg) u64::from(byte), in(reg) at(UART), options(nostack)) };
}

/// What the realm can ask of the VMM.
#[derive(Clone, Copy, Debug)]
pub enum Command {
    /// Makes a private page shared, without the realm's consent.
    MakeShared(u64),
    /// Drives the line of a shared interrupt.
    SpiHigh(u64),
    SpiLow(u64),
    /// Writes a pattern over a shared page, [`pattern`].
    SharedFill(u64),
    /// The sum of a shared page's bytes.
    SharedSum(u64),
    /// Interrupts the next so many entries.
    Preempt(u64),
}

/// The byte [`Command::SharedFill`] writes.
pub fn pattern(ipa: u64) -> u8 {
    (ipa >> 12) as u8
}

/// Gives a command, and returns its result.
pub fn control(command: Command) -> u64 {
    give(command);
    let result: u64;
    // SAFETY: a device's address.
    unsafe { asm!("ldr {0}, [{1}]", out(reg) result, in(reg) at(CONTROL), options(nostack)) };
    result
}

/// Gives a command.
pub fn give(command: Command) {
    let (operation, argument) = match command {
        Command::MakeShared(ipa) => (1, ipa),
        Command::SpiHigh(intid) => (3, intid),
        Command::SpiLow(intid) => (4, intid),
        Command::SharedFill(ipa) => (5, ipa),
        Command::SharedSum(ipa) => (6, ipa),
        Command::Preempt(entries) => (7, entries),
    };
    // SAFETY: a device's address; the memory it changes is no object's.
    unsafe {
        asm!("str {0}, [{1}]", in(reg) operation << 56 | argument, in(reg) at(CONTROL), options(nostack));
    }
}
