//! The RMM-EL3 communication interface, versions 0.3 to 0.8: how EL3 starts the RMM, and what the RMM asks of EL3
//! (rmm-1.0 reference, chapter 8).

mod boot;
mod call;
pub mod manifest;
mod token_sign;

pub use boot::{BootCode, ColdBoot, WarmBoot};
pub use call::{El3Call, El3Code, El3Features, El3Reply, MecRefresh, TokenSignOp};
pub use token_sign::{HASH_SHA_384, SIG_ECDSA_P384, TokenSignRequest, TokenSignResponse};

use crate::rmi::Version;

/// The oldest interface an RMM 1.0 can use: the platform token comes in pieces since then.
pub const VERSION_MIN: Version = Version::new(0, 3);
/// The newest interface described here.
pub const VERSION_MAX: Version = Version::new(0, 8);
/// Bytes of the buffer EL3 and the RMM share.
pub const SHARED_BUFFER_SIZE: usize = 4096;
/// Curve P-384 in ATTEST_GET_REALM_KEY and TOKEN_SIGN.
pub const CURVE_P384: u64 = 0;
/// Bytes of the private scalar of [`CURVE_P384`], big-endian.
pub const P384_KEY_SIZE: usize = 48;
