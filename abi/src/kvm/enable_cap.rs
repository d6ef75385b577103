//! The argument of KVM_ENABLE_CAP, which carries the realm commands (docs/kvm-realm-abi.md section 2.1).

use super::{Generation, RealmCommand};
use crate::layout::assert_layout;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct kvm_enable_cap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EnableCap {
    /// [`Cap`](super::Cap).
    pub cap: u32,
    /// Zero.
    pub flags: u32,
    /// For the realm capability: the [`RealmCommand`], then the user address of its structure.
    pub args: [u64; 4],
    /// Zero.
    pub pad: [u8; 64],
}

assert_layout!(EnableCap, 104, { cap: 0, flags: 4, args: 8, pad: 40 });

impl EnableCap {
    /// A realm command with the user address of its structure (0 where it has none).
    #[must_use]
    pub const fn realm(generation: &Generation, command: RealmCommand, arg: u64) -> Self {
        Self { cap: generation.cap_realm.0, flags: 0, args: [command.0, arg, 0, 0], pad: [0; 64] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_realm_command_carries_number_and_address() {
        let cap = EnableCap::realm(&Generation::V8, RealmCommand::POPULATE_REALM, 0x1234);
        assert_eq!((cap.cap, cap.flags, cap.args), (240, 0, [3, 0x1234, 0, 0]));
    }
}
