//! The machine.

mod boot;
mod console;
mod context;
mod cpu;
mod gic;
mod gpt;
mod measure;
mod memory;
mod power;
mod reflect;
mod registers;
mod run;
mod services;
mod stage1;
mod sysreg;

use core::panic::PanicInfo;

/// An impossible state of the monitor itself: nothing may run below it any more.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    console::print(format_args!("monitor: PANIC: {info}\n"));
    power::halt()
}
