//! Physical address spaces, and what an access to one that is not its own is.

use std::fmt;

/// A physical address space; also the security state that owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Pas {
    /// Secure.
    Secure = 8,
    /// Non-secure.
    NonSecure = 9,
    /// Root.
    Root = 10,
    /// Realm.
    Realm = 11,
}

impl Pas {
    /// Whether software in this state may make accesses to `pas` at all.
    #[must_use]
    pub const fn may_use(self, pas: Self) -> bool {
        matches!(
            (self, pas),
            (Self::Root, _)
                | (_, Self::NonSecure)
                | (Self::Realm, Self::Realm)
                | (Self::Secure, Self::Secure)
        )
    }

    pub(crate) const fn from_gpi(gpi: u8) -> Self {
        match gpi {
            8 => Self::Secure,
            9 => Self::NonSecure,
            11 => Self::Realm,
            _ => Self::Root,
        }
    }
}

/// An access the Granule Protection Table refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GranuleFault {
    /// Who made the access.
    pub world: Pas,
    /// To what address.
    pub pa: u64,
    /// In what address space.
    pub pas: Pas,
    /// What the granule was; `None` where there is no memory.
    pub found: Option<Pas>,
}

impl fmt::Display for GranuleFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { world, pa, pas, found } = self;
        match found {
            Some(found) => write!(f, "{world:?} world, access to {pas:?} {pa:#x}, which is {found:?}"),
            None => write!(f, "{world:?} world, access to {pas:?} {pa:#x}, where there is no memory"),
        }
    }
}
