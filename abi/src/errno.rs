//! Error numbers of Linux arm64, as the ioctls return them.

/// A positive errno value.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

macro_rules! errnos {
    ($($(#[$meta:meta])* $name:ident = $value:literal,)*) => {
        impl Errno {
            $($(#[$meta])* pub const $name: Self = Self($value);)*

            /// The symbolic name, if the value is one of those used here.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

errnos! {
    /// Operation not permitted.
    EPERM = 1,
    /// No such entry.
    ENOENT = 2,
    /// Interrupted by a signal.
    EINTR = 4,
    /// I/O error: the VM is dead.
    EIO = 5,
    /// No such device or address: an RMI command failed.
    ENXIO = 6,
    /// Argument list too long: a buffer of the caller is too small.
    E2BIG = 7,
    /// Not executable: the vCPU is not initialised.
    ENOEXEC = 8,
    /// Bad file descriptor.
    EBADF = 9,
    /// Try again.
    EAGAIN = 11,
    /// Out of memory.
    ENOMEM = 12,
    /// Permission denied.
    EACCES = 13,
    /// Bad address.
    EFAULT = 14,
    /// Busy.
    EBUSY = 16,
    /// Exists.
    EEXIST = 17,
    /// No such device.
    ENODEV = 19,
    /// Invalid argument.
    EINVAL = 22,
    /// Too many open files.
    EMFILE = 24,
    /// Not an ioctl of this file.
    ENOTTY = 25,
    /// No space left.
    ENOSPC = 28,
    /// Not supported.
    EOPNOTSUPP = 95,
}

impl core::fmt::Debug for Errno {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl core::fmt::Display for Errno {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Debug::fmt(self, f)
    }
}
