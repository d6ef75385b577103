//! What the module's C code calls. A file is what `realm_device_new` and `k_install_file` gave it.

use crate::kernel::Kernel;
use crate::log::write_line;
use crate::process::Current;
use realm_abi::Errno;
use realm_alloc::{Box, try_uninit_box};
use realm_host::{Device, File, Gic, Limits};

/// What an ioctl returns to the kernel.
fn returned(result: Result<i64, Errno>) -> i64 {
    result.unwrap_or_else(|errno| i64::from(errno.0).wrapping_neg())
}

/// The device's file, null if there is no memory. Once, when the module starts. The limits are those of [`Limits`].
#[unsafe(no_mangle)]
pub extern "C" fn realm_device_new(pinned: u64, pinned_by_user: u64, users: u32) -> *mut File<Kernel> {
    let Ok(place) = try_uninit_box() else { return core::ptr::null_mut() };
    match Device::new(Kernel, Limits { pinned, pinned_by_user, users }) {
        Ok(device) => Box::into_raw(Box::write(place, File::Device(device))),
        Err(_) => core::ptr::null_mut(),
    }
}

/// Writes what the machine offers, or why it makes no realms, in a line; returns its bytes.
///
/// # Safety
/// `file` is a file that is not released; `buffer` is `size` bytes of the caller's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realm_describe(file: *const File<Kernel>, buffer: *mut u8, size: usize) -> usize {
    // SAFETY: the caller says so.
    let File::Device(device) = (unsafe { &*file }) else { return 0 };
    // SAFETY: the caller says so.
    write_line(unsafe { core::slice::from_raw_parts_mut(buffer, size) }, format_args!("{}", device.status()))
}

/// Whether the machine can have realms.
///
/// # Safety
/// `file` is a file that is not released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realm_makes_realms(file: *const File<Kernel>) -> bool {
    // SAFETY: the caller says so.
    matches!(unsafe { &*file }, File::Device(device) if device.rmm().info().is_some())
}

/// The device is not used any more; the module goes.
///
/// # Safety
/// `file` is from [`realm_device_new`] and not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realm_device_free(file: *mut File<Kernel>) {
    // SAFETY: the caller says so.
    drop(unsafe { Box::from_raw(file) });
}

/// `unlocked_ioctl`.
///
/// # Safety
/// `file` is a file that is not released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realm_file_ioctl(file: *const File<Kernel>, cmd: u32, arg: u64) -> i64 {
    // SAFETY: the caller says so.
    returned(unsafe { &*file }.ioctl(&Current, cmd, arg))
}

/// `release`.
///
/// # Safety
/// `file` is from `k_install_file` and not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realm_file_release(file: *mut File<Kernel>) {
    // SAFETY: the caller says so.
    let file = unsafe { Box::from_raw(file) };
    file.release();
}

/// The last descriptor of the device went away; the device stays.
///
/// # Safety
/// `file` is a file that is not released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realm_device_close(file: *const File<Kernel>) {
    // SAFETY: the caller says so.
    unsafe { &*file }.release();
}

/// Physical address of the page to map, 0 for another file than a vCPU's.
///
/// # Safety
/// `file` is a file that is not released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realm_vcpu_run_page(file: *const File<Kernel>) -> u64 {
    // SAFETY: the caller says so.
    match unsafe { &*file } {
        File::Vcpu(vcpu) => vcpu.run_page(),
        _ => 0,
    }
}

/// Makes the thread of a vCPU look at its signals. Any context.
///
/// # Safety
/// `file` is a file that is not released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realm_vcpu_kick(file: *const File<Kernel>) {
    // SAFETY: the caller says so.
    if let File::Vcpu(vcpu) = unsafe { &*file } {
        vcpu.kick();
    }
}

/// Drives a shared interrupt. Any context.
///
/// # Safety
/// `gic` is one that is held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realm_gic_set_shared(gic: *const Gic<Kernel>, intid: u32, level: bool) -> i64 {
    // SAFETY: the caller says so.
    returned(unsafe { &*gic }.set_shared(intid, level).map(|()| 0))
}

/// Drives a private interrupt. Any context.
///
/// # Safety
/// `gic` is one that is held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realm_gic_set_private(
    gic: *const Gic<Kernel>,
    vcpu: u32,
    intid: u32,
    level: bool,
) -> i64 {
    // SAFETY: the caller says so.
    returned(unsafe { &*gic }.set_private(vcpu, intid, level).map(|()| 0))
}

/// The kernel goes down, or the module: how many granules and VMs could not be taken back.
///
/// # Safety
/// `file` is a file that is not released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realm_shut_down(file: *const File<Kernel>) -> u64 {
    // SAFETY: the caller says so.
    match unsafe { &*file } {
        File::Device(device) => match device.shut_down() {
            Ok(()) => 0,
            Err(held) => held.granules.saturating_add(held.vms as u64),
        },
        _ => 0,
    }
}

/// What happened so far.
#[repr(C)]
pub struct Counts {
    /// REC exits.
    pub exits: u64,
    /// RMI calls.
    pub calls: u64,
    /// Granules the RMM has.
    pub held: u64,
    /// Granules that were lost.
    pub leaked: u64,
    /// VMs without files that the RMM has not let go of.
    pub unfinished: u64,
    /// Granules the RMM was given.
    pub delegated: u64,
    /// Granules it gave back.
    pub undelegated: u64,
}

/// Statistics of the device.
///
/// # Safety
/// `file` is a file that is not released; `counts` is the caller's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realm_statistics(file: *const File<Kernel>, counts: *mut Counts) {
    // SAFETY: the caller says so.
    let File::Device(device) = (unsafe { &*file }) else { return };
    let now = device.statistics();
    let new = Counts {
        exits: now.exits.total(),
        calls: now.ledger.total_calls(),
        held: now.ledger.held(),
        leaked: now.ledger.leaked,
        unfinished: now.unfinished_vms as u64,
        delegated: now.ledger.delegated,
        undelegated: now.ledger.undelegated,
    };
    // SAFETY: the caller says so.
    unsafe { counts.write(new) };
}
