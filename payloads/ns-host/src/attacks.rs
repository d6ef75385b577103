//! What a hostile host tries: commands on granules in use, RECs on two CPUs, memory that changes under a command's eyes,
//! memory of other worlds, garbage. The firmware refuses, the realms live on, and nothing leaks.

mod garbage;
mod live;
mod race;
mod weapons;

use crate::checks::Checks;
use crate::host::BareHost;
use crate::programs::Balance;
use realm_host::Device;

/// Makes all attacks, on at least two CPUs.
pub fn run(device: &realm_host::Arc<Device<BareHost>>) {
    let mut checks = Checks::begin("attacks");
    let before = Balance::of(device);
    live::run(&mut checks, device);
    race::run(&mut checks, device);
    garbage::run(&mut checks, device);
    let found = Balance::of(device);
    found.check(&mut checks, "balance", &before);
    checks.end();
}
