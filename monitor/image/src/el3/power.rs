//! The board's power: a PL061 that only the Secure and Root worlds reach. Line 0 turns off, line 1 resets.

use super::sysreg;
use realm_monitor::layout;

const DATA: usize = 0x000;
const DIRECTION: usize = 0x400;

fn raise(line: u32) -> ! {
    let base = layout::SECURE_GPIO.base as usize;
    let bit = 1_u32 << line;
    // The address bits 9:2 of a data access select the lines it touches.
    let data = (base + DATA + ((bit as usize) << 2)) as *mut u32;
    // SAFETY: the GPIO's registers are at this address, mapped as a device; nothing else uses them.
    unsafe { ((base + DIRECTION) as *mut u32).write_volatile(bit) };
    // SAFETY: as above.
    unsafe { data.write_volatile(0) };
    // SAFETY: as above.
    unsafe { data.write_volatile(bit) };
    halt()
}

/// Turns the machine off.
pub fn off() -> ! {
    raise(0)
}

/// Resets the machine.
pub fn reset() -> ! {
    raise(1)
}

/// Stops this CPU for good.
pub fn halt() -> ! {
    loop {
        sysreg::wfi();
    }
}
