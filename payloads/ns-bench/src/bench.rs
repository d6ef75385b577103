//! The report.

use crate::call::{self, Times};
use core::fmt::{self, Write};
use realm_abi::psci::fid;
use realm_abi::rmi::{RmiCommand, RmiReply};
use realm_report::Record;

/// The name of this program's run in its report: each value is what was between two marks.
const RUN: &str = "bench";
/// Where what the CPU has is reported.
const CPU_RUN: &str = "cpu";
/// Where the realm's own look at the counter is reported.
const REALM_RUN: &str = "realm";

struct Uart;

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // SAFETY: the UART's data register.
            unsafe { (0x0900_0000 as *mut u32).write_volatile(byte.into()) };
        }
        Ok(())
    }
}

fn report(record: Record<'_>) {
    let _ = writeln!(Uart, "{record}");
}

/// What is measured and checked.
pub struct Bench {
    checks: u64,
}

impl Bench {
    pub fn new() -> Self {
        report(Record::Begin { run: RUN });
        report(Record::Begin { run: REALM_RUN });
        report(Record::Begin { run: CPU_RUN });
        Self { checks: 0 }
    }

    /// Says what comes next.
    pub fn state(&self, what: &str) {
        report(Record::State { run: RUN, what });
    }

    /// A number that was measured.
    pub fn value(&self, name: &str, value: u64) {
        report(Record::Value { run: RUN, name, value });
    }

    /// A number the realm had a part in measuring.
    pub fn realm_value(&self, name: &str, value: u64) {
        report(Record::Value { run: REALM_RUN, name, value });
    }

    /// Something the CPU has, or how much of it.
    pub fn cpu_value(&self, name: &str, value: u64) {
        report(Record::Value { run: CPU_RUN, name, value });
    }

    /// Something held, or this is the end.
    pub fn check(&mut self, check: &str, holds: bool, why: fmt::Arguments<'_>) {
        self.checks += 1;
        if !holds {
            let _ = writeln!(Uart, "@bad {RUN} {check}: {why}");
            self.finish()
        }
        report(Record::Ok { run: RUN, check });
    }

    /// Makes a call that must succeed. Each call to the monitor between the marks is reported, under `name`.
    pub fn call(&mut self, name: &str, command: &RmiCommand) -> (RmiReply, Times) {
        let (answer, times) = call::timed(&command.to_regs());
        let reply = RmiReply::from_regs(&answer);
        self.value(name, times.ticks());
        if !reply.code.is_success() {
            self.check(name, false, format_args!("{command:x?}: {}", reply.code));
        }
        (reply, times)
    }

    /// Everything was measured.
    pub fn end(&self) -> ! {
        self.finish()
    }

    fn finish(&self) -> ! {
        report(Record::End { run: RUN, checks: self.checks });
        report(Record::End { run: REALM_RUN, checks: 0 });
        report(Record::End { run: CPU_RUN, checks: 0 });
        power_off()
    }
}

fn power_off() -> ! {
    call::last(fid::SYSTEM_OFF)
}

/// The program cannot go on, and its run does not end.
pub fn give_up(why: fmt::Arguments<'_>) -> ! {
    let _ = writeln!(Uart, "ns-bench: {why}");
    power_off()
}
