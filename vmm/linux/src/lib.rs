//! Linux as the VMM's [`System`]: memory mapped by this process, and the ioctls of `/dev/kvm-realm`.
#![cfg(target_os = "linux")]

mod memory;
mod signal;
pub mod terminal;

use memory::Mappings;
use realm_abi::Errno;
use realm_abi::kvm::{Generation, Ioctl, Run};
use realm_vmm::{Fd, System};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::mem::offset_of;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where the module shows what it has counted.
const COUNTERS: &str = "/sys/class/misc/kvm-realm/counters";

/// KVM_RUN, which is the same in every generation.
const RUN: Option<u32> = Ioctl::Run.number(&Generation::V8);

/// The device of the module kvm-realm.
pub const DEVICE: &str = "/dev/kvm-realm";

/// What the device has counted since the module was loaded, by name; empty where there is no module.
#[must_use]
pub fn device_counters() -> BTreeMap<String, u64> {
    let Ok(files) = std::fs::read_dir(COUNTERS) else { return BTreeMap::new() };
    let read = |file: std::fs::DirEntry| {
        let value = std::fs::read_to_string(file.path()).ok()?.trim().parse().ok()?;
        Some((file.file_name().into_string().ok()?, value))
    };
    files.flatten().filter_map(read).collect()
}

/// This process on this kernel.
pub struct Linux {
    device: PathBuf,
    mappings: Mappings,
    vcpus: Mutex<BTreeMap<Fd, Vcpu>>,
}

/// A vCPU whose page is mapped.
#[derive(Clone, Copy)]
struct Vcpu {
    run: u64,
    /// The thread in KVM_RUN.
    thread: Option<libc::pid_t>,
}

impl Linux {
    /// With the device at `device`, [`DEVICE`] on most systems. Takes the signal SIGRTMIN for itself.
    ///
    /// # Errors
    /// If the signal cannot be taken.
    pub fn new(device: &Path) -> Result<Self, Errno> {
        signal::install()?;
        Ok(Self { device: device.to_owned(), mappings: Mappings::default(), vcpus: Mutex::default() })
    }

    fn vcpus(&self) -> MutexGuard<'_, BTreeMap<Fd, Vcpu>> {
        self.vcpus.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes which thread is in KVM_RUN of `fd`.
    fn runs(&self, fd: Fd, thread: Option<libc::pid_t>) {
        if let Some(vcpu) = self.vcpus().get_mut(&fd) {
            vcpu.thread = thread;
        }
    }

    /// Sets `immediate_exit` of the page at `run`.
    fn set_immediate_exit(run: u64, value: u8) {
        let place = run + offset_of!(Run, immediate_exit) as u64;
        // SAFETY: the page is mapped as long as its vCPU is in the table, whose lock the caller holds; the kernel and other threads
        // touch the byte only as a whole.
        unsafe { AtomicU8::from_ptr(place as *mut u8) }.store(value, Ordering::SeqCst);
    }
}

/// What the kernel answered: not an error, or `errno`.
fn answered(result: i64) -> Result<i64, Errno> {
    if result >= 0 {
        return Ok(result);
    }
    let errno = std::io::Error::last_os_error().raw_os_error();
    Err(errno.map_or(Errno::EINVAL, Errno))
}

impl System for Linux {
    fn map(&self, size: u64) -> Result<u64, Errno> {
        self.mappings.anonymous(size)
    }

    fn unmap(&self, addr: u64, size: u64) -> Result<(), Errno> {
        self.vcpus().retain(|_, vcpu| vcpu.run != addr);
        self.mappings.unmap(addr, size)
    }

    fn discard(&self, addr: u64, size: u64) -> Result<(), Errno> {
        self.mappings.discard(addr, size)
    }

    fn read(&self, addr: u64, out: &mut [u8]) -> Result<(), Errno> {
        self.mappings.read(addr, out)
    }

    fn write(&self, addr: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.mappings.write(addr, bytes)
    }

    fn open_device(&self) -> Result<Fd, Errno> {
        let path = CString::new(self.device.as_os_str().as_bytes()).map_err(|_| Errno::ENOENT)?;
        // SAFETY: the path is a string that ends.
        let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
        answered(fd.into()).map(|fd| Fd(fd as i32))
    }

    fn ioctl(&self, fd: Fd, cmd: u32, arg: u64) -> Result<i64, Errno> {
        let runs = Some(cmd) == RUN;
        if runs {
            // SAFETY: only tells.
            self.runs(fd, Some(unsafe { libc::gettid() }));
        }
        // SAFETY: the kernel writes only to what the argument names, which is memory of a mapping: nothing of Rust's is there.
        let result = answered(unsafe { libc::ioctl(fd.0, cmd as _, arg) }.into());
        if runs && let Some(vcpu) = self.vcpus().get_mut(&fd) {
            vcpu.thread = None;
            // Who asked for this one to return has been served.
            if result == Err(Errno::EINTR) {
                Self::set_immediate_exit(vcpu.run, 0);
            }
        }
        result
    }

    fn map_run(&self, vcpu: Fd, size: u64) -> Result<u64, Errno> {
        let run = self.mappings.file(vcpu.0, size)?;
        self.vcpus().insert(vcpu, Vcpu { run, thread: None });
        Ok(run)
    }

    fn kick(&self, vcpu: Fd) {
        // With the lock held: the thread stays in the table, so it has not ended, and the page is there.
        let vcpus = self.vcpus();
        let Some(vcpu) = vcpus.get(&vcpu) else { return };
        Self::set_immediate_exit(vcpu.run, 1);
        if let Some(thread) = vcpu.thread {
            signal::send(thread);
        }
    }

    fn close(&self, fd: Fd) {
        // SAFETY: the file is the VMM's, which does not use it any more.
        unsafe { libc::close(fd.0) };
    }
}
