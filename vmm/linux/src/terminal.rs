//! The terminal the user types into.

use std::io::{IsTerminal, Read};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A terminal that hands over each key as it is typed, until this is dropped.
pub struct RawMode {
    before: libc::termios,
}

impl RawMode {
    /// Standard input, if it is a terminal.
    #[must_use]
    pub fn enter() -> Option<Self> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        let mut before = MaybeUninit::uninit();
        // SAFETY: the kernel fills it, or says that it has not.
        if unsafe { libc::tcgetattr(stdin.as_raw_fd(), before.as_mut_ptr()) } != 0 {
            return None;
        }
        // SAFETY: it was filled.
        let before = unsafe { before.assume_init() };
        let mut raw = before;
        // SAFETY: it is a termios.
        unsafe { libc::cfmakeraw(&raw mut raw) };
        // What is printed still ends its lines as before.
        raw.c_oflag = before.c_oflag;
        set(&raw);
        Some(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        set(&self.before);
    }
}

fn set(mode: &libc::termios) {
    // SAFETY: it is a termios. That a terminal which went away cannot be set is nothing to tell.
    unsafe { libc::tcsetattr(std::io::stdin().as_raw_fd(), libc::TCSANOW, mode) };
}

/// Columns and rows of the terminal on standard output, if it is one and knows.
#[must_use]
pub fn size() -> Option<(u16, u16)> {
    size_of(std::io::stdout().as_raw_fd())
}

fn size_of(terminal: i32) -> Option<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel fills it, or leaves it as it is.
    let told = unsafe { libc::ioctl(terminal, libc::TIOCGWINSZ, &raw mut size) } == 0;
    (told && size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// Waits until there is something to read from standard input, or its end; `false` if `over` became true before.
#[must_use]
pub fn wait_for_input(over: &AtomicBool) -> bool {
    /// After which `over` is looked at.
    const LOOK: Duration = Duration::from_millis(100);
    loop {
        let ready = has_input(LOOK);
        if over.load(Ordering::SeqCst) {
            return false;
        }
        if ready {
            return true;
        }
    }
}

/// Whether there is something to read from standard input, or its end, before `limit` has passed.
#[must_use]
pub fn has_input(limit: Duration) -> bool {
    let mut stdin = libc::pollfd { fd: std::io::stdin().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let limit = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: one pollfd.
    unsafe { libc::poll(&raw mut stdin, 1, limit) > 0 }
}

/// What a user typed.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    /// For the realm.
    Keys(Vec<u8>),
    /// Ctrl-A x: the user leaves.
    Leave,
    /// Ctrl-A h: the user asks what there is.
    Help,
    /// There is no more input.
    End,
}

/// Ctrl-A.
const ESCAPE: u8 = 1;

/// Reads what is typed, and finds what is not for the realm.
#[derive(Default)]
pub struct Keys {
    escaped: bool,
}

impl Keys {
    /// Waits for input. On a terminal (`escapes`) Ctrl-A begins a command to the VMM: x leaves, h asks, Ctrl-A is sent.
    pub fn read(&mut self, mut input: impl Read, escapes: bool) -> Typed {
        loop {
            // No less than what standard input would keep behind our back, where `has_input` does not see it.
            let mut bytes = [0; 8192];
            let count = match input.read(&mut bytes) {
                Ok(0) => return Typed::End,
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => return Typed::End,
            };
            if !escapes {
                return Typed::Keys(bytes[..count].to_vec());
            }
            let typed = self.sort(&bytes[..count]);
            if typed != Typed::Keys(Vec::new()) {
                return typed;
            }
        }
    }

    fn sort(&mut self, bytes: &[u8]) -> Typed {
        let mut keys = Vec::new();
        for &byte in bytes {
            match (std::mem::take(&mut self.escaped), byte) {
                (false, ESCAPE) => self.escaped = true,
                (true, b'x' | b'X') => return Typed::Leave,
                (true, b'h' | b'H') => return Typed::Help,
                _ => keys.push(byte),
            }
        }
        Typed::Keys(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_has_columns_and_rows_and_a_file_has_not() {
        let (mut master, mut terminal) = (-1, -1);
        let size = libc::winsize { ws_row: 43, ws_col: 132, ws_xpixel: 0, ws_ypixel: 0 };
        let (name, mode) = (std::ptr::null_mut(), std::ptr::null());
        // SAFETY: both files are written, the size is read.
        let opened =
            unsafe { libc::openpty(&raw mut master, &raw mut terminal, name, mode, &raw const size) };
        assert_eq!(opened, 0);
        assert_eq!(size_of(terminal), Some((132, 43)));
        let file = std::fs::File::open("/dev/null").expect("it is there");
        assert_eq!(size_of(file.as_raw_fd()), None);
        for fd in [master, terminal] {
            // SAFETY: it is this test's.
            unsafe { libc::close(fd) };
        }
    }

    #[test]
    fn control_a_begins_a_command() {
        let mut keys = Keys::default();
        assert_eq!(keys.read(&b"ls\r"[..], true), Typed::Keys(b"ls\r".to_vec()));
        assert_eq!(keys.read(&b"\x01\x01"[..], true), Typed::Keys(vec![1]));
        assert_eq!(keys.read(&b"\x01x"[..], true), Typed::Leave);
        assert_eq!(keys.sort(b"\x01"), Typed::Keys(Vec::new()));
        assert_eq!(keys.sort(b"h"), Typed::Help);
        assert_eq!(keys.read(&b""[..], true), Typed::End);
    }

    #[test]
    fn what_is_piped_is_not_looked_into() {
        assert_eq!(Keys::default().read(&b"\x01x"[..], false), Typed::Keys(vec![1, b'x']));
    }
}
