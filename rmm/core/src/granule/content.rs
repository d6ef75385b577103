//! What is in a granule, and who may touch it.

use core::sync::atomic::AtomicU64;
use zerocopy::{FromBytes, IntoBytes, KnownLayout};

/// The content of one granule. Words are atomic because the MMU reads tables while the RMM writes them.
#[derive(FromBytes, IntoBytes, KnownLayout)]
#[repr(C, align(4096))]
pub struct Granule {
    /// The granule as the 512 words of a table.
    pub words: [AtomicU64; 512],
}

impl Granule {
    /// A granule of zeros.
    #[must_use]
    pub const fn zeroed() -> Self {
        Self { words: [const { AtomicU64::new(0) }; 512] }
    }
    /// Fills the granule with zeros.
    pub fn wipe(&mut self) {
        self.as_mut_bytes().fill(0);
    }
}

/// A structure that begins a granule of its own. Implemented by `granule_content!`.
pub trait Content {
    /// The structure at the beginning of `granule`.
    fn of(granule: &mut Granule) -> &mut Self;
}

/// Lets a structure live in a granule: that it fits is checked when it is compiled.
macro_rules! granule_content {
    ($ty:ty) => {
        impl $crate::granule::Content for $ty {
            fn of(granule: &mut $crate::granule::Granule) -> &mut Self {
                #[derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout)]
                #[repr(C)]
                struct Whole {
                    content: $ty,
                    rest: [u8; 4096 - size_of::<$ty>()],
                }
                let whole: &mut Whole = zerocopy::transmute_mut!(granule);
                &mut whole.content
            }
        }
    };
}
pub(crate) use granule_content;

pub(super) mod sealed {
    pub trait Sealed {}
}

/// Proof that the caller has a granule's content for itself: its lock. Only this crate can make one, so a
/// [`Platform`](crate::Platform) may rely on it for memory safety.
pub trait Exclusive: sealed::Sealed {
    /// The granule's physical address.
    fn pa(&self) -> u64;
}
