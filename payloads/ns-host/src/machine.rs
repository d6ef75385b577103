//! Where the program starts and ends.

use crate::checks::Checks;
use crate::host::BareHost;
use crate::{attacks, cpus, lives, memory, programs};
use core::panic::PanicInfo;
use realm_el2::{gic, power, uart};
use realm_host::{Device, Limits};

realm_el2::entry!(main);

fn main(cpu: usize, device_tree: u64) -> ! {
    gic::init(cpu);
    if cpu != 0 {
        cpus::work(cpu);
    }
    memory::init(device_tree);
    let mut checks = Checks::begin("host");
    let cpus = cpus::start();
    uart::line(format_args!("host: {cpus} CPUs, {} MiB for realms", memory::free_pages() >> 8));
    let device = Device::new(BareHost::new(), Limits::default()).expect("memory for the device");
    checks.that("rmm", device.rmm().info().is_some(), || device.status());
    if let Some(info) = device.rmm().info() {
        // What the CPU decides of a realm's parameters, for who wants to know its measurement.
        checks.value("breakpoints", info.features.num_bps() + 1);
        checks.value("watchpoints", info.features.num_wps() + 1);
    }
    programs::run(&mut checks, &device, cpus);
    lives::run(&mut checks, &device, cpus);
    if cpus > 1 {
        attacks::run(&device);
    }
    checks.end();
    power::off()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    uart::panicked(info);
    power::off()
}
