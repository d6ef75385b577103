//! What the platform token says of the software below the Realm world.

use super::memory;
use realm_monitor::attest::Platform;
use realm_monitor::layout;
use realm_monitor::package::Package;
use sha2::{Digest, Sha256};
use spin::Once;

static COMPONENTS: Once<[(&str, [u8; 32]); 2]> = Once::new();

/// The platform, with its components as they lie in the flash.
pub fn platform() -> Platform<'static> {
    let components = COMPONENTS.call_once(|| {
        let rmm = Package::parse(memory::package(), layout::RMM_IMAGE.size, layout::PAYLOAD_MAX)
            .map_or(&[][..], |package| package.rmm);
        [("EL3", Sha256::digest(memory::monitor()).into()), ("RMM", Sha256::digest(rmm).into())]
    });
    Platform { config: "QEMU virt with RME", components }
}
