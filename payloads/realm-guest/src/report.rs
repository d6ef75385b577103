//! What a program reports: lines of `payloads/report`, each written as a whole.

use crate::{device, smc};
use core::cell::Cell;
use core::fmt::{self, Debug, Write};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use realm_report::Record;

/// Only one vCPU writes at a time.
static BUSY: AtomicBool = AtomicBool::new(false);
/// The name of the program that runs, for failures outside of it.
static CURRENT: AtomicPtr<&'static str> = AtomicPtr::new(ptr::null_mut());

struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(device::print);
        Ok(())
    }
}

fn line(text: fmt::Arguments<'_>) {
    while BUSY.swap(true, Ordering::Acquire) {
        core::hint::spin_loop();
    }
    let _ = writeln!(Console, "{text}");
    BUSY.store(false, Ordering::Release);
}

/// A line that is no report: bytes in hexadecimal digits, for whoever started the machine.
pub fn bytes(name: &str, bytes: &[u8]) {
    line(format_args!("{name} {}", Hex(bytes)));
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Text of limited length; what does not fit is cut.
struct Text {
    bytes: [u8; 240],
    len: usize,
}

impl Text {
    fn new(text: fmt::Arguments<'_>) -> Self {
        let mut new = Self { bytes: [0; 240], len: 0 };
        let _ = new.write_fmt(text);
        new
    }
    fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or("?")
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // One line, and nothing that is more than a byte.
        let plain = text.bytes().map(|byte| if (b' '..=b'~').contains(&byte) { byte } else { b'?' });
        for (to, byte) in self.bytes[self.len..].iter_mut().zip(plain) {
            *to = byte;
            self.len += 1;
        }
        Ok(())
    }
}

/// A program's work.
pub struct Run {
    name: &'static str,
    checks: Cell<u64>,
}

impl Run {
    /// Begins.
    pub fn begin(name: &'static &'static str) -> Self {
        CURRENT.store(ptr::from_ref(name).cast_mut(), Ordering::Relaxed);
        let run = Self { name, checks: Cell::new(0) };
        run.put(&Record::Begin { run: name });
        run
    }
    fn put(&self, record: &Record<'_>) {
        line(format_args!("{record}"));
    }
    /// What comes next.
    pub fn state(&self, what: &str) {
        self.put(&Record::State { run: self.name, what });
    }
    /// Whether something holds; `why` tells what was found.
    pub fn check(&self, check: &str, holds: bool, why: fmt::Arguments<'_>) {
        self.checks.set(self.checks.get() + 1);
        if holds {
            self.put(&Record::Ok { run: self.name, check });
        } else {
            self.put(&Record::Bad { run: self.name, check, why: Text::new(why).as_str() });
        }
    }
    /// Whether something is what it has to be.
    pub fn equal<T: PartialEq + Debug>(&self, check: &str, found: T, wanted: T) {
        self.check(check, found == wanted, format_args!("{found:x?}, not {wanted:x?}"));
    }
    /// A number.
    pub fn value(&self, name: &str, value: u64) {
        self.put(&Record::Value { run: self.name, name, value });
    }
    /// Ends.
    pub fn end(&self) {
        self.put(&Record::End { run: self.name, checks: self.checks.get() });
    }
}

/// What went wrong in the run there is, outside of its checks.
pub fn failed(what: fmt::Arguments<'_>) {
    // SAFETY: it is null, or a reference to what is never changed and lives for ever.
    let name = unsafe { CURRENT.load(Ordering::Relaxed).as_ref() };
    let run = name.unwrap_or(&"guest");
    // The vCPU that holds the console may be this one, or stopped: better two lines in one than none.
    for _ in 0..1_000_000 {
        if !BUSY.load(Ordering::Relaxed) {
            break;
        }
        core::hint::spin_loop();
    }
    let _ = writeln!(Console, "{}", Record::Bad { run, check: "unexpected", why: Text::new(what).as_str() });
}

/// Ends the realm: nothing that is not expected is survived.
pub fn fail(what: fmt::Arguments<'_>) -> ! {
    failed(what);
    smc::system_off()
}
