//! The terminal between a person and a realm.

use realm_vmm_linux::terminal::{Keys, RawMode, Typed, wait_for_input};
use std::io::Write;
use std::process::ChildStdin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What Ctrl-A h says.
pub const HELP: &str = "\r\nCtrl-A x ends the realm, Ctrl-A Ctrl-A is Ctrl-A, Ctrl-A h is this.\r\n";
/// Ctrl-D, by which a person ends a shell.
pub const END: u8 = 4;
/// How often it is typed where input has ended.
pub const AGAIN: Duration = Duration::from_secs(1);
/// What is typed to leave.
const LEAVE: &[u8] = b"\x01x";

/// Hands what is typed to a machine, whose VMM knows what Ctrl-A means, until that is over. `leaves` becomes true when the user
/// leaves.
pub fn forward(machine: &Mutex<Option<ChildStdin>>, over: &AtomicBool, leaves: &AtomicBool) {
    let raw = RawMode::enter();
    let mut keys = Keys::default();
    while wait_for_input(over) {
        match keys.read(std::io::stdin().lock(), raw.is_some()) {
            // A Ctrl-A of the user's is not one for the VMM; what is piped may hold any.
            Typed::Keys(bytes) => send(machine, &doubled(&bytes)),
            Typed::Leave => {
                leave(machine);
                leaves.store(true, Ordering::SeqCst);
                return;
            }
            Typed::Help => {
                let _ = std::io::stderr().write_all(HELP.as_bytes());
            }
            Typed::End => return end(machine, over),
        }
    }
}

/// Tells a shell that there is no more input, as a person does. It may not be there yet, or be busy: so again and again.
fn end(machine: &Mutex<Option<ChildStdin>>, over: &AtomicBool) {
    let mut last: Option<Instant> = None;
    while !over.load(Ordering::SeqCst) {
        if last.is_none_or(|last| last.elapsed() >= AGAIN) {
            send(machine, &[END]);
            last = Some(Instant::now());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Tells a machine's VMM that the user leaves.
pub fn leave(machine: &Mutex<Option<ChildStdin>>) {
    send(machine, LEAVE);
}

fn doubled(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|byte| std::iter::repeat_n(*byte, if *byte == LEAVE[0] { 2 } else { 1 })).collect()
}

fn send(machine: &Mutex<Option<ChildStdin>>, bytes: &[u8]) {
    if let Some(stdin) = &mut *machine.lock().unwrap_or_else(PoisonError::into_inner) {
        // A machine that is off hears nothing.
        let _ = stdin.write_all(bytes).and_then(|()| stdin.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_a_that_was_typed_is_not_the_vmms() {
        assert_eq!(doubled(b"a\x01x"), b"a\x01\x01x");
    }
}
