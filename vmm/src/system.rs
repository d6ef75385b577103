//! What a VMM process needs of its operating system.

use realm_abi::Errno;

/// An open file of the KVM world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fd(pub i32);

/// The operating system as the VMM's process sees it. All methods may be called on many threads at once; addresses are
/// those of the process.
pub trait System: Send + Sync {
    /// Maps `size` bytes (a multiple of the page size) of zeroed memory and returns the address, page aligned.
    ///
    /// # Errors
    /// `ENOMEM`.
    fn map(&self, size: u64) -> Result<u64, Errno>;

    /// Gives back what [`Self::map`] or [`Self::map_run`] returned, whole.
    ///
    /// # Errors
    /// `EINVAL` if there is no such mapping.
    fn unmap(&self, addr: u64, size: u64) -> Result<(), Errno>;

    /// Drops the pages of a part of a mapping (both page aligned); they read as zero afterwards.
    ///
    /// # Errors
    /// `EINVAL` if the range is not mapped.
    fn discard(&self, addr: u64, size: u64) -> Result<(), Errno>;

    /// Reads from mapped memory. Aligned 2, 4 and 8 bytes are read as one: a realm may write them at the same time.
    ///
    /// # Errors
    /// `EFAULT` if any byte is not mapped; a real process would be killed instead.
    fn read(&self, addr: u64, out: &mut [u8]) -> Result<(), Errno>;

    /// Writes to mapped memory, aligned 2, 4 and 8 bytes as one.
    ///
    /// # Errors
    /// `EFAULT` if any byte is not mapped; a real process would be killed instead.
    fn write(&self, addr: u64, bytes: &[u8]) -> Result<(), Errno>;

    /// Opens `/dev/kvm`.
    ///
    /// # Errors
    /// `ENOENT` where there is no KVM, `EACCES` without permission.
    fn open_device(&self) -> Result<Fd, Errno>;

    /// Makes an ioctl. Returns what the kernel returned if it is not an error.
    ///
    /// # Errors
    /// What the kernel answered.
    fn ioctl(&self, fd: Fd, cmd: u32, arg: u64) -> Result<i64, Errno>;

    /// Maps the page a vCPU shares with its VMM; `size` is what KVM_GET_VCPU_MMAP_SIZE answered. Returns the address.
    ///
    /// # Errors
    /// `EINVAL` if the file is no vCPU, `ENOMEM`.
    fn map_run(&self, vcpu: Fd, size: u64) -> Result<u64, Errno>;

    /// Makes the KVM_RUN in progress on this vCPU return `EINTR`, or the next one if none is in progress.
    fn kick(&self, vcpu: Fd);

    /// Closes a file. What it stood for ends when the last file and mapping that need it are gone.
    fn close(&self, fd: Fd);
}
