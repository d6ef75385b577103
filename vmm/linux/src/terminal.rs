//! The terminal the user types into.

use std::io::{IsTerminal, Read};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

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

/// Waits until there is something to read from standard input, or its end; `false` if `over` became true before.
#[must_use]
pub fn wait_for_input(over: &AtomicBool) -> bool {
    /// Milliseconds after which `over` is looked at.
    const LOOK: i32 = 100;
    loop {
        let mut stdin = libc::pollfd { fd: std::io::stdin().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd.
        let ready = unsafe { libc::poll(&raw mut stdin, 1, LOOK) };
        if over.load(Ordering::SeqCst) {
            return false;
        }
        if ready > 0 {
            return true;
        }
    }
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
            let mut bytes = [0; 256];
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
