//! Messages. The kernel has them written into a buffer of its own, so that none is on the stack of an ioctl.

use crate::shim;
use core::ffi::c_void;
use core::fmt::{Arguments, Result, Write};

/// Hands a message to the kernel's log.
pub fn log(warning: bool, message: Arguments<'_>) {
    // SAFETY: `message` lives until the call returns, and goes to nothing but `realm_format`.
    unsafe { shim::k_log(warning, (&raw const message).cast()) }
}

/// A buffer that drops what does not fit.
struct Line<'a>(&'a mut [u8]);

impl Write for Line<'_> {
    fn write_str(&mut self, text: &str) -> Result {
        let mut written = 0_usize;
        for (to, from) in self.0.iter_mut().zip(text.bytes()) {
            *to = from;
            written = written.wrapping_add(1);
        }
        let room = core::mem::take(&mut self.0);
        self.0 = room.get_mut(written..).unwrap_or_default();
        Ok(())
    }
}

/// Writes the text of a message; returns its bytes.
///
/// # Safety
/// `message` is what [`shim::k_log`] was called with and has not returned; `buffer` is `size` bytes of the caller's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realm_format(message: *const c_void, buffer: *mut u8, size: usize) -> usize {
    // SAFETY: the caller says so.
    let message = unsafe { &*message.cast::<Arguments<'_>>() };
    // SAFETY: the caller says so.
    write_line(unsafe { core::slice::from_raw_parts_mut(buffer, size) }, *message)
}

/// Writes as much of a message as fits; returns its bytes.
pub fn write_line(buffer: &mut [u8], message: Arguments<'_>) -> usize {
    let size = buffer.len();
    let mut line = Line(buffer);
    // A line that ends early is better than none.
    let _: Result = line.write_fmt(message);
    size.wrapping_sub(line.0.len())
}
