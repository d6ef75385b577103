//! This computer as a Host of realms.

use super::Need;
use std::fs::OpenOptions;
use std::path::Path;

/// The device of the module kvm-realm.
const DEVICE: &str = "/dev/kvm-realm";

const REALM_MACHINE: &str = "use an Arm machine with the Realm Management Extension, or --machine qemu";

/// An Arm machine with Linux, an RMM, and the module that speaks to it: it loads only where there is one.
pub(super) fn needs() -> Vec<Need> {
    vec![
        Need::new("arm64 Linux", arm64_linux(), REALM_MACHINE),
        Need::new(
            DEVICE,
            device(Path::new(DEVICE)),
            "cargo xtask module, insmod kvm-realm.ko (the kernel's log says why if it cannot be loaded), and be in group kvm",
        ),
    ]
}

fn arm64_linux() -> Result<String, String> {
    let system = format!("{} {}", std::env::consts::ARCH, std::env::consts::OS);
    if system == "aarch64 linux" { Ok(system) } else { Err(system) }
}

fn device(device: &Path) -> Result<String, String> {
    match OpenOptions::new().read(true).write(true).open(device) {
        Ok(_) => Ok("can be opened".into()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_told() {
        assert!(device(Path::new("/no/such/device")).unwrap_err().contains("No such file"));
    }
}
