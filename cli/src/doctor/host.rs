//! This computer as a Host of realms.

use super::Need;
use std::fs::OpenOptions;
use std::path::Path;

const REALM_MACHINE: &str = "use an Arm machine with the Realm Management Extension, or --machine hosted";

/// An Arm machine with Linux, KVM and an RMM.
pub(super) fn needs() -> Vec<Need> {
    vec![
        Need::new("arm64 Linux", arm64_linux(), REALM_MACHINE),
        Need::new(
            "/dev/kvm",
            kvm(Path::new("/dev/kvm")),
            "sudo modprobe kvm; sudo usermod -aG kvm $USER, then log in again",
        ),
        Need::new("RMM behind KVM", rmm(), REALM_MACHINE),
    ]
}

fn arm64_linux() -> Result<String, String> {
    let system = format!("{} {}", std::env::consts::ARCH, std::env::consts::OS);
    if system == "aarch64 linux" { Ok(system) } else { Err(system) }
}

fn kvm(device: &Path) -> Result<String, String> {
    match OpenOptions::new().read(true).write(true).open(device) {
        Ok(_) => Ok("can be opened".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether an RMM answers can be known only through the Linux module, which this version does not have.
fn rmm() -> Result<String, String> {
    match arm64_linux() {
        Ok(_) => Err("not known: this version has no Linux module to ask it".into()),
        Err(system) => Err(format!("none: {system} has no realms")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_told() {
        assert!(kvm(Path::new("/no/such/device")).unwrap_err().contains("No such file"));
    }
}
