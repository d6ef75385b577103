//! A signal that does nothing but end a system call.

use crate::answered;
use realm_abi::Errno;

fn number() -> i32 {
    libc::SIGRTMIN()
}

extern "C" fn nothing(_: i32) {}

/// Takes the signal, for all threads.
pub fn install() -> Result<(), Errno> {
    // SAFETY: all zeros is a sigaction with an empty mask and without SA_RESTART, so that a call is ended.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as *const () as libc::sighandler_t;
    let mut signals = action.sa_mask;
    // SAFETY: a set of signals and a signal.
    unsafe { libc::sigaddset(&raw mut signals, number()) };
    // Whoever started this program may have left it blocked. Threads that come have what this one has.
    // SAFETY: a set of signals.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const signals, std::ptr::null_mut()) };
    // SAFETY: the handler does nothing, which is safe at any time.
    answered(unsafe { libc::sigaction(number(), &raw const action, std::ptr::null_mut()) }.into()).map(|_| ())
}

/// Ends what system call a thread of this process is in.
pub fn send(thread: libc::pid_t) {
    // SAFETY: only tells.
    let process = unsafe { libc::getpid() };
    // SAFETY: at most another thread of this process gets a signal that does nothing.
    unsafe { libc::syscall(libc::SYS_tgkill, process, thread, number()) };
}
