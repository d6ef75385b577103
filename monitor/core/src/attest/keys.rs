//! Test keys. They protect nothing: whoever reads this file has them. A platform has its own.

/// The private scalar of the Realm Attestation Key, big-endian: RMM_ATTEST_GET_REALM_KEY.
pub const REALM_ATTESTATION_KEY: [u8; 48] = *b"realmkit TEST realm attestation key: not secret!";

/// The private scalar of the key that signs platform tokens (the Initial Attestation Key), big-endian. Its public half is
/// `attest/keys/test-platform-key.pub.pem`.
pub const PLATFORM_KEY: [u8; 48] = *b"realmkit TEST platform attestation key: no secre";
